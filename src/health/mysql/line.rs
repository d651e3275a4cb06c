//! A connection as its socket sees it: a [`Client`], with TLS around it or without.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error as TlsError, RootCertStore,
    SignatureScheme,
};

use super::Fault;
use super::client::{Client, Event, Login};
use super::greeting::Greeting;
use super::table::Answer;

/// Bytes read out of TLS at once.
const PLAIN: usize = 4096;

/// Whether a check uses TLS, and what it asks of the server.
#[derive(Clone, Debug, Default)]
pub enum Security {
    /// No TLS.
    #[default]
    Off,
    /// TLS, or no login.
    Tls(Arc<Tls>),
}

/// TLS towards servers.
#[derive(Debug)]
pub struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    trust: Trust,
}

/// Who the server must be.
#[derive(Debug)]
enum Trust {
    /// Anybody: nobody can listen, but who answers is not known.
    Anybody,
    /// One with a certificate of these authorities.
    Authorities(Arc<WebPkiServerVerifier>),
    /// And for this name.
    Named(Arc<WebPkiServerVerifier>),
}

impl Security {
    /// TLS with a server who may be anybody (`roots` is `None`), or has a certificate of one of `roots`, for `name` if one
    /// is given.
    ///
    /// # Errors
    ///
    /// What is wrong with roots or name, in words.
    pub fn tls(roots: Option<Vec<CertificateDer<'static>>>, name: Option<&str>) -> Result<Self, String> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = roots.map(|roots| {
            let mut store = RootCertStore::empty();
            for root in roots {
                store.add(root).map_err(|error| error.to_string())?;
            }
            WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider))
                .build()
                .map_err(|error| error.to_string())
        });
        let trust = match (verifier.transpose()?, name) {
            (None, _) => Trust::Anybody,
            (Some(verifier), None) => Trust::Authorities(verifier),
            (Some(verifier), Some(_)) => Trust::Named(verifier),
        };
        // Without a name none is sent (SNI), and none is looked for in the certificate.
        let name = ServerName::try_from(name.unwrap_or("0.0.0.0").to_owned()).map_err(|error| error.to_string())?;
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Later(provider)))
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Security::Tls(Arc::new(Tls { config: Arc::new(config), name, trust })))
    }
}

impl Tls {
    /// Whether a peer who has shown that it holds the key of its certificate is the right one.
    fn verify(&self, chain: &[CertificateDer<'_>]) -> Result<(), Fault> {
        let (verifier, any_name) = match &self.trust {
            Trust::Anybody => return Ok(()),
            Trust::Authorities(verifier) => (verifier, true),
            Trust::Named(verifier) => (verifier, false),
        };
        let (first, others) = chain.split_first().ok_or_else(|| Fault::Certificate("there is none".to_owned()))?;
        match verifier.verify_server_cert(first, others, &self.name, &[], UnixTime::now()) {
            Ok(_) => Ok(()),
            // The name is looked at last: all else is well.
            Err(TlsError::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if any_name => Ok(()),
            Err(error) => Err(Fault::Certificate(error.to_string())),
        }
    }
}

/// Lets every certificate pass for the moment, so that TLS comes about and the handshake of MySQL can be ended in good
/// manners; [`Tls::verify`] says afterwards whether it was the right one, before anything secret is said.
#[derive(Debug)]
struct Later(Arc<CryptoProvider>);

impl ServerCertVerifier for Later {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// What a line has come to.
#[derive(Debug, PartialEq, Eq)]
pub enum Happening {
    /// Logged in: questions may be asked.
    Ready,
    /// The answer to the question.
    Answer(Answer),
}

/// One connection: bytes of a socket in and out, questions and answers.
#[derive(Debug)]
pub struct Line {
    login: Arc<Login>,
    security: Security,
    client: Client,
    tls: Option<Box<ClientConnection>>,
    out: Vec<u8>,
}

impl Line {
    /// The line of a socket that has just been connected.
    pub fn new(login: Arc<Login>, security: Security) -> Self {
        let wants_tls = matches!(security, Security::Tls(_));
        Self { login, security, client: Client::new(wants_tls), tls: None, out: Vec::new() }
    }

    /// Takes bytes that the socket has read. [`Line::advance`] says what they came to.
    ///
    /// # Errors
    ///
    /// The connection is of no more use; what [`Line::take_out`] has is still to be sent.
    pub fn received(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        while !bytes.is_empty() {
            let Some(tls) = &mut self.tls else { return self.client.put(bytes) };
            let taken = tls.read_tls(&mut bytes).map_err(|error| Fault::Tls(error.to_string()))?;
            self.decipher()?;
            if taken == 0 {
                return Err(Fault::TooLarge("what the server sends at once"));
            }
        }
        Ok(())
    }

    fn decipher(&mut self) -> Result<(), Fault> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        let state = tls.process_new_packets();
        let plain = state.as_ref().map_or(0, |state| state.plaintext_bytes_to_read());
        if let Err(error) = state {
            // The alert that tells the server why.
            self.seal();
            return Err(Fault::Tls(error.to_string()));
        }
        let mut left = plain;
        let mut buffer = [0; PLAIN];
        while left > 0 {
            let piece = &mut buffer[..left.min(PLAIN)];
            let read = std::io::Read::read(&mut tls.reader(), piece).map_err(|error| Fault::Tls(error.to_string()))?;
            self.client.put(&piece[..read])?;
            left -= read.max(1).min(left);
        }
        Ok(())
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
                    let begun = ClientConnection::new(Arc::clone(&tls.config), tls.name.clone());
                    self.tls = Some(Box::new(begun.map_err(|error| Fault::Tls(error.to_string()))?));
                }
                None
            }
        })
    }

    /// Goes on with the login as soon as TLS has come about.
    fn greet_through_tls(&mut self) {
        if let (Security::Tls(wanted), Some(tls)) = (&self.security, &self.tls)
            && self.client.waits_for_tls()
            && !tls.is_handshaking()
        {
            let verdict = wanted.verify(tls.peer_certificates().unwrap_or_default());
            self.client.secured(verdict, &self.login);
        }
    }

    /// Moves what is to be said to where the socket takes it.
    fn seal(&mut self) {
        let said = self.client.take_out();
        let Some(tls) = &mut self.tls else { return self.out.extend(said) };
        // Into memory: neither can fail.
        let _ = std::io::Write::write_all(&mut tls.writer(), &said);
        while tls.wants_write() {
            if tls.write_tls(&mut self.out).is_err() {
                return;
            }
        }
    }

    /// What the socket is to send, taken out.
    pub fn take_out(&mut self) -> Vec<u8> {
        self.seal();
        std::mem::take(&mut self.out)
    }

    /// Asks a question. Only when ready.
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
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
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
