//! `type = "tcp"`: a server that accepts a connection works. The connection is reset at once, so that neither side keeps
//! anything of it (a FIN would leave a socket in TIME_WAIT for a minute, RFC 9293 §3.6).

use super::{Probe, Step};

/// The probe.
#[derive(Debug)]
pub struct Tcp;

impl Probe for Tcp {
    fn connected(&mut self) -> Step {
        Step::Done { outcome: Ok(()), reset: true }
    }

    fn received(&mut self, _: &[u8]) -> Step {
        self.connected()
    }

    fn closed(&mut self) -> Step {
        self.connected()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_all_it_asks_for() {
        assert_eq!(Tcp.connected(), Step::Done { outcome: Ok(()), reset: true });
    }
}
