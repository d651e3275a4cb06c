//! TLS of checks: who a server must be, and the bytes of one connection through it.
//!
//! A [`Tunnel`] is TLS without a socket: what the socket has read goes in at one end and comes out plain, what is said goes
//! in plain, and [`Tunnel::take_out`] has it for the socket. A certificate is looked at when the handshake has come to its
//! end ([`Tunnel::verify`]), before anything is said: so a protocol that must be ended in good manners can be (MySQL's),
//! and a reason can be told in our own words. That the peer holds the key of its certificate is made sure of at once.
//!
//! [`Secured`] puts a whole [`Probe`] into a tunnel:
//!
//! | phase | waits for | then |
//! |---|---|---|
//! | `Apart` | a connection | `Greeting`: the handshake begins |
//! | `Greeting` | the end of the handshake | `Within`, if the certificate is right; else the check has failed |
//! | `Within` | what the probe within waits for | – |

use std::io::{Read, Write};
use std::sync::{Arc, LazyLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error as TlsError,
    RootCertStore, SignatureScheme,
};

use super::{Fault as CheckFault, Probe, Step, excerpt};

/// Kinds of a TLS record: what the first byte of a server that speaks TLS is one of (RFC 8446 §5.1).
const RECORD_KINDS: std::ops::RangeInclusive<u8> = 20..=23;
/// Names of a certificate that are told when none of them is right.
const NAMES_TOLD: usize = 4;

/// Why TLS with a server came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It did not come about, or broke.
    #[error("TLS: {0}")]
    Broken(String),
    /// The server is not who it should be.
    #[error("the server's certificate: {0}")]
    Certificate(String),
}

/// Authorities whose word on who a server is counts.
#[derive(Clone, Debug)]
pub struct Authorities(Arc<WebPkiServerVerifier>);

impl Authorities {
    /// These, each of which must be one that can be understood.
    ///
    /// # Errors
    ///
    /// What is wrong with one, in words; or that there is none.
    pub fn of(certificates: Vec<CertificateDer<'static>>) -> Result<Self, String> {
        let mut store = RootCertStore::empty();
        for certificate in certificates {
            store.add(certificate).map_err(|error| error.to_string())?;
        }
        Self::of_store(store)
    }

    /// Those of these that can be understood: a system has some of all times.
    ///
    /// # Errors
    ///
    /// That there is none.
    pub fn of_some(certificates: Vec<CertificateDer<'static>>) -> Result<Self, String> {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(certificates);
        Self::of_store(store)
    }

    fn of_store(store: RootCertStore) -> Result<Self, String> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider).build();
        verifier.map(Self).map_err(|error| error.to_string())
    }
}

/// Who a server must be.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Anybody: nobody can listen, but who answers is not known.
    Anybody,
    /// One with a certificate of these authorities, for whatever name.
    Signed(Authorities),
    /// And for the name that is asked for.
    Named(Authorities),
}

/// TLS towards a server.
#[derive(Debug)]
pub struct Tls {
    name: ServerName<'static>,
    trust: Trust,
}

/// What all connections have in common; whom they trust is not in it.
static CONFIG: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the provider has ciphers of both versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Later(provider)))
        .with_no_client_auth();
    // Each check sees the certificate as it is now.
    config.resumption = Resumption::disabled();
    Arc::new(config)
});

impl Tls {
    /// TLS with one of `trust`. `name` is told to the server (SNI), unless it is an address, and is the one its certificate
    /// must be for.
    ///
    /// # Errors
    ///
    /// That the name is none.
    pub fn new(trust: Trust, name: Option<&str>) -> Result<Self, String> {
        // An address is never told; of this one no certificate is.
        let name = name.unwrap_or("0.0.0.0");
        let parsed = ServerName::try_from(name.to_owned());
        let name = parsed.map_err(|_| format!("\"{name}\" is neither a DNS name nor an address"))?;
        Ok(Self { name, trust })
    }

    /// Begins a connection.
    ///
    /// # Errors
    ///
    /// Something is wrong with this end.
    pub fn begin(self: &Arc<Self>) -> Result<Tunnel, Fault> {
        let tls = ClientConnection::new(Arc::clone(&CONFIG), self.name.clone()).map_err(|error| broken(&error))?;
        Ok(Tunnel { tls: Box::new(tls), wanted: Arc::clone(self), heard: false, ended: false })
    }

    /// Whether a peer who has shown that it holds the key of its certificate is the right one.
    fn verify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Fault> {
        let (Authorities(verifier), any_name) = match &self.trust {
            Trust::Anybody => return Ok(()),
            Trust::Signed(authorities) => (authorities, true),
            Trust::Named(authorities) => (authorities, false),
        };
        let (first, others) = chain.split_first().ok_or_else(|| Fault::Certificate("there is none".to_owned()))?;
        match verifier.verify_server_cert(first, others, &self.name, &[], now) {
            Ok(_) => Ok(()),
            // The name is looked at last: all else is well.
            Err(TlsError::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if any_name => Ok(()),
            Err(TlsError::InvalidCertificate(error)) => Err(Fault::Certificate(self.blame(&error))),
            Err(error) => Err(Fault::Certificate(error.to_string())),
        }
    }

    /// What is wrong with a certificate.
    fn blame(&self, error: &CertificateError) -> String {
        let name = self.name.to_str();
        match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired".to_owned(),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "it is not valid yet".to_owned()
            }
            CertificateError::UnknownIssuer => "it is signed by nobody who is trusted".to_owned(),
            CertificateError::BadSignature => "the authority it names is trusted, but has not signed it".to_owned(),
            CertificateError::NotValidForNameContext { presented, .. } if !presented.is_empty() => {
                let more = if presented.len() > NAMES_TOLD { "…" } else { "" };
                let told: Vec<&str> = presented.iter().take(NAMES_TOLD).map(|name| bare(name)).collect();
                format!("it is not for {name}, but for {}{more}", told.join(", "))
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!("it is not for {name}")
            }
            other => other.to_string(),
        }
    }
}

/// The name in `DnsName("a.example.com")`.
fn bare(name: &str) -> &str {
    name.split_once('(').map_or(name, |(_, rest)| rest.trim_end_matches(')').trim_matches('"'))
}

fn broken(error: &TlsError) -> Fault {
    Fault::Broken(match error {
        TlsError::AlertReceived(AlertDescription::UnrecognisedName) => "the server has nothing of that name".to_owned(),
        TlsError::AlertReceived(alert) => format!("the server breaks it off: {alert:?}"),
        other => other.to_string(),
    })
}

/// Lets every certificate pass for the moment: [`Tunnel::verify`] says afterwards whether it was the right one.
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

/// One connection through TLS.
#[derive(Debug)]
pub struct Tunnel {
    tls: Box<ClientConnection>,
    wanted: Arc<Tls>,
    /// The server has said something.
    heard: bool,
    /// It has said that it says nothing more.
    ended: bool,
}

impl Tunnel {
    /// Takes bytes that the socket has read; what they say, plain.
    ///
    /// # Errors
    ///
    /// The connection is of no more use; [`Tunnel::take_out`] has what tells the server why.
    pub fn received(&mut self, mut bytes: &[u8]) -> Result<Vec<u8>, Fault> {
        if let (false, Some(first)) = (self.heard, bytes.first())
            && !RECORD_KINDS.contains(first)
        {
            return Err(Fault::Broken(format!("the server does not speak it, but says {}", excerpt(bytes))));
        }
        self.heard = true;
        let mut plain = Vec::new();
        while !bytes.is_empty() {
            let taken = self.tls.read_tls(&mut bytes).map_err(|error| Fault::Broken(error.to_string()))?;
            let state = self.tls.process_new_packets().map_err(|error| broken(&error))?;
            let from = plain.len();
            plain.resize(from + state.plaintext_bytes_to_read(), 0);
            self.tls.reader().read_exact(&mut plain[from..]).map_err(|error| Fault::Broken(error.to_string()))?;
            if state.peer_has_closed() {
                self.ended = true;
                break;
            }
            if taken == 0 {
                return Err(Fault::Broken("the server sends too much at once".to_owned()));
            }
        }
        Ok(plain)
    }

    /// Says something plain.
    pub fn say(&mut self, plain: &[u8]) {
        // Into memory: it cannot fail.
        let _ = self.tls.writer().write_all(plain);
    }

    /// Says that nothing more is to be said.
    pub fn farewell(&mut self) {
        self.tls.send_close_notify();
    }

    /// What the socket is to send, taken out.
    pub fn take_out(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        while self.tls.wants_write() && self.tls.write_tls(&mut out).is_ok() {}
        out
    }

    /// Whether the handshake is still under way.
    pub fn is_shaking_hands(&self) -> bool {
        self.tls.is_handshaking()
    }

    /// Whether the server has said that it says nothing more.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether the server is who it should be. After the handshake, and before anything is said.
    ///
    /// # Errors
    ///
    /// What is wrong with its certificate.
    pub fn verify(&self) -> Result<(), Fault> {
        self.wanted.verify(self.tls.peer_certificates().unwrap_or_default(), UnixTime::now())
    }
}

/// A probe that asks through TLS.
#[derive(Debug)]
pub struct Secured {
    within: Box<dyn Probe>,
    tls: Arc<Tls>,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Apart,
    Greeting(Tunnel),
    Within(Tunnel),
}

impl Secured {
    /// Has `within` ask through `tls`.
    pub fn new(within: Box<dyn Probe>, tls: Arc<Tls>) -> Self {
        Self { within, tls, phase: Phase::Apart }
    }

    /// The probe within has spoken, or has come to its end.
    fn pass(&mut self, mut tunnel: Tunnel, step: Step) -> Step {
        match step {
            Step::Send(plain) => tunnel.say(&plain),
            Step::Read => {}
            done @ Step::Done { .. } => return done,
        }
        let out = tunnel.take_out();
        self.phase = Phase::Within(tunnel);
        if out.is_empty() { Step::Read } else { Step::Send(out) }
    }
}

fn over(fault: &Fault) -> Step {
    Step::over(Err(CheckFault::Tls(fault.to_string())))
}

impl Probe for Secured {
    fn connected(&mut self) -> Step {
        match self.tls.begin() {
            Ok(mut tunnel) => {
                let hello = tunnel.take_out();
                self.phase = Phase::Greeting(tunnel);
                Step::Send(hello)
            }
            Err(fault) => over(&fault),
        }
    }

    fn received(&mut self, bytes: &[u8]) -> Step {
        let (mut tunnel, greeting) = match std::mem::replace(&mut self.phase, Phase::Apart) {
            Phase::Apart => return Step::over(Err(CheckFault::Ended)),
            Phase::Greeting(tunnel) => (tunnel, true),
            Phase::Within(tunnel) => (tunnel, false),
        };
        let plain = match tunnel.received(bytes) {
            Ok(plain) => plain,
            Err(fault) => return over(&fault),
        };
        if tunnel.is_shaking_hands() {
            let out = tunnel.take_out();
            self.phase = Phase::Greeting(tunnel);
            return if out.is_empty() { Step::Read } else { Step::Send(out) };
        }
        let mut step = Step::Read;
        if greeting {
            if let Err(fault) = tunnel.verify() {
                return over(&fault);
            }
            step = self.within.connected();
        }
        if !plain.is_empty() && !matches!(step, Step::Done { .. }) {
            if let Step::Send(plain) = step {
                tunnel.say(&plain);
            }
            step = self.within.received(&plain);
        }
        if tunnel.has_ended() && !matches!(step, Step::Done { .. }) {
            return self.within.closed();
        }
        self.pass(tunnel, step)
    }

    fn closed(&mut self) -> Step {
        match std::mem::replace(&mut self.phase, Phase::Apart) {
            Phase::Apart | Phase::Within(_) => self.within.closed(),
            Phase::Greeting(_) => over(&Fault::Broken("the server closed the connection in the handshake".to_owned())),
        }
    }

    fn waiting_for(&self) -> &'static str {
        match &self.phase {
            Phase::Apart | Phase::Greeting(_) => "the TLS handshake",
            Phase::Within(_) => self.within.waiting_for(),
        }
    }
}

#[cfg(test)]
mod tests;
