//! `type = "send-expect"`: something is sent, and the answer must contain something.

use std::sync::Arc;

use super::{Fault, Probe, Step, excerpt};

/// Bytes of an answer that are looked at.
pub const ANSWER_MAX: usize = 16 * 1024;

/// The probe.
#[derive(Debug)]
pub struct SendExpect {
    send: Arc<[u8]>,
    expect: Arc<[u8]>,
    answer: Vec<u8>,
}

impl SendExpect {
    /// Sends `send`, which may be empty, and looks for `expect`, which is not.
    pub fn new(send: Arc<[u8]>, expect: Arc<[u8]>) -> Self {
        Self { send, expect, answer: Vec::new() }
    }

    fn is_found(&self, from: usize) -> bool {
        self.answer[from..].windows(self.expect.len().max(1)).any(|window| *window == *self.expect)
    }

    fn other(&self) -> Step {
        let (found, wanted) = (excerpt(&self.answer), excerpt(&self.expect));
        Step::over(Err(Fault::Answer(format!("answer {found} where {wanted} was expected"))))
    }
}

impl Probe for SendExpect {
    fn connected(&mut self) -> Step {
        self.answer.clear();
        if self.send.is_empty() { Step::Read } else { Step::Send(self.send.to_vec()) }
    }

    fn received(&mut self, bytes: &[u8]) -> Step {
        // What is looked for may have begun in the bytes before.
        let from = (self.answer.len() + 1).saturating_sub(self.expect.len());
        self.answer.extend_from_slice(bytes);
        if self.is_found(from) {
            return Step::over(Ok(()));
        }
        if self.answer.len() >= ANSWER_MAX { self.other() } else { Step::Read }
    }

    fn closed(&mut self) -> Step {
        if self.answer.is_empty() { Step::over(Err(Fault::Ended)) } else { self.other() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn probe(send: &[u8], expect: &[u8]) -> SendExpect {
        SendExpect::new(send.into(), expect.into())
    }

    fn reason(step: Step) -> String {
        match step {
            Step::Done { outcome: Err(fault), .. } => fault.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn it_asks_and_listens() {
        let mut redis = probe(b"PING\r\n", b"+PONG");
        assert_eq!(redis.connected(), Step::Send(b"PING\r\n".to_vec()));
        assert_eq!(redis.received(b"+PO"), Step::Read);
        assert_eq!(redis.received(b"NG\r\n"), Step::over(Ok(())));
        redis.connected();
        assert_eq!(redis.received(b"-LOADING\r\n"), Step::Read);
        assert_eq!(reason(redis.closed()), r#"answer "-LOADING\r\n" where "+PONG" was expected"#);
        redis.connected();
        assert_eq!(redis.closed(), Step::over(Err(Fault::Ended)));
    }

    #[test]
    fn it_may_only_listen_and_does_not_listen_for_ever() {
        let mut greeting = probe(b"", b"220 ");
        assert_eq!(greeting.connected(), Step::Read);
        assert_eq!(greeting.received(&[b'x'; ANSWER_MAX - 1]), Step::Read);
        assert!(reason(greeting.received(b"x")).contains("xxxx…"));
    }

    proptest! {
        #[test]
        fn how_the_answer_is_cut_does_not_matter(
            answer in prop::collection::vec(0_u8..3, 1..60),
            expect in prop::collection::vec(0_u8..3, 1..5),
            cuts in prop::collection::vec(1_usize..9, 1..60),
        ) {
            let there = answer.windows(expect.len()).any(|window| window == expect);
            let mut probe = probe(b"", &expect);
            let (mut rest, mut cuts, mut last) = (&answer[..], cuts.iter().cycle(), Step::Read);
            while let (false, Step::Read) = (rest.is_empty(), &last) {
                let (head, tail) = rest.split_at(rest.len().min(*cuts.next().expect("endless")));
                last = probe.received(head);
                rest = tail;
            }
            prop_assert_eq!(last == Step::over(Ok(())), there);
        }
    }
}
