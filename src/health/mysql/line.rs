//! A connection as its socket sees it: a [`Client`], with TLS around it or without.

use std::sync::Arc;

use super::Fault;
use super::client::{Client, Event, Login};
use super::greeting::Greeting;
use super::table::Answer;
use crate::health::tls::{Tls, Trust, Tunnel};

/// Whether a check uses TLS, and what it asks of the server.
#[derive(Clone, Debug, Default)]
pub enum Security {
    /// No TLS.
    #[default]
    Off,
    /// TLS, or no login.
    Tls(Arc<Tls>),
}

impl Security {
    /// TLS with one of `trust`, for `name` if one is given.
    ///
    /// # Errors
    ///
    /// What is wrong with the name, in words.
    pub fn tls(trust: Trust, name: Option<&str>) -> Result<Self, String> {
        Ok(Security::Tls(Arc::new(Tls::new(trust, name)?)))
    }
}

/// What a line has come to.
#[derive(Debug, PartialEq, Eq)]
pub enum Happening {
    /// Logged in: questions may be asked.
    Ready,
    /// The answer to a question; the last of them when the line is ready again.
    Answer(Answer),
}

/// One connection: bytes of a socket in and out, questions and answers.
#[derive(Debug)]
pub struct Line {
    login: Arc<Login>,
    security: Security,
    client: Client,
    tunnel: Option<Tunnel>,
    out: Vec<u8>,
}

impl Line {
    /// The line of a socket that has just been connected.
    pub fn new(login: Arc<Login>, security: Security) -> Self {
        let wants_tls = matches!(security, Security::Tls(_));
        Self { login, security, client: Client::new(wants_tls), tunnel: None, out: Vec::new() }
    }

    /// Takes bytes that the socket has read. [`Line::advance`] says what they came to.
    ///
    /// # Errors
    ///
    /// The connection is of no more use; what [`Line::take_out`] has is still to be sent.
    pub fn received(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        match &mut self.tunnel {
            None => self.client.put(bytes),
            Some(tunnel) => {
                let plain = tunnel.received(bytes)?;
                self.client.put(&plain)
            }
        }
    }

    /// What has happened, one thing at a time; `None`: nothing more until bytes come.
    ///
    /// # Errors
    ///
    /// As [`Line::received`].
    pub fn advance(&mut self) -> Result<Option<Happening>, Fault> {
        let happened = self.proceed();
        self.seal();
        happened
    }

    fn proceed(&mut self) -> Result<Option<Happening>, Fault> {
        self.greet_through_tls();
        Ok(match self.client.advance(&self.login)? {
            None => None,
            Some(Event::Ready) => Some(Happening::Ready),
            Some(Event::Answer(answer)) => Some(Happening::Answer(answer)),
            Some(Event::StartTls) => {
                self.seal();
                if let Security::Tls(tls) = &self.security {
                    self.tunnel = Some(tls.begin()?);
                }
                None
            }
        })
    }

    /// Goes on with the login as soon as TLS has come about.
    fn greet_through_tls(&mut self) {
        if let Some(tunnel) = &self.tunnel
            && self.client.waits_for_tls()
            && !tunnel.is_shaking_hands()
        {
            self.client.secured(tunnel.verify().map_err(Fault::from), &self.login);
        }
    }

    /// Moves what is to be said to where the socket takes it.
    fn seal(&mut self) {
        let said = self.client.take_out();
        match &mut self.tunnel {
            None => self.out.extend(said),
            Some(tunnel) => {
                tunnel.say(&said);
                self.out.extend(tunnel.take_out());
            }
        }
    }

    /// What the socket is to send, taken out.
    pub fn take_out(&mut self) -> Vec<u8> {
        self.seal();
        std::mem::take(&mut self.out)
    }

    /// Asks a question, or several with a semicolon between them if the server takes many. Only when ready.
    pub fn ask(&mut self, question: &str) {
        self.client.ask(question);
    }

    /// Asks whether the server is there; answered by an empty table. Only when ready.
    pub fn ping(&mut self) {
        self.client.ping();
    }

    /// Says farewell; the socket may be closed when that is sent.
    pub fn quit(&mut self) {
        self.client.quit();
        self.seal();
        if let Some(tunnel) = &mut self.tunnel {
            tunnel.farewell();
        }
    }

    /// Whether a question may be asked.
    pub fn is_ready(&self) -> bool {
        self.client.is_ready()
    }

    /// Whether the server would take a close for a handshake broken off.
    pub fn is_shaking_hands(&self) -> bool {
        self.client.is_shaking_hands()
    }

    /// What it means that the server has closed.
    pub fn closed(&self) -> Fault {
        self.client.closed()
    }

    /// The greeting, once there was one.
    pub(super) fn greeting(&self) -> Option<&Greeting> {
        self.client.greeting()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::hex;
    use super::super::{Password, Table};
    use super::*;

    /// Recorded from MySQL 8.4.8, as are the tests of [`super::super::probe`].
    #[test]
    fn a_ping() {
        let greeting = "520000000a382e342e382d307562756e7475310010000000 2c4008584c39280f00ffffff0200ffdf1500000000000000\
            00000077663d0f107862071a285f66 0063616368696e675f736861325f70617373776f726400";
        let password = Password::new("secret".to_owned()).expect("no NUL");
        let mut line = Line::new(Arc::new(Login { user: "sha".to_owned(), password }), Security::Off);
        line.received(&hex(greeting)).expect("room");
        assert_eq!(line.advance(), Ok(None));
        assert!(line.is_shaking_hands() && !line.take_out().is_empty());
        line.received(&hex("0200000201030700000300000002000000")).expect("room");
        assert_eq!(line.advance(), Ok(Some(Happening::Ready)));
        line.ping();
        assert_eq!(line.take_out(), hex("01000000 0e"));
        line.received(&hex("0700000100000002000000")).expect("room");
        assert_eq!(line.advance(), Ok(Some(Happening::Answer(Ok(Table::default())))));
        assert!(line.is_ready() && !line.is_shaking_hands());
        line.quit();
        assert_eq!(line.take_out(), hex("01000000 01"));
    }
}
