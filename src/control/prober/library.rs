//! What checks read from files: the authorities they trust, and secrets.
//!
//! Authorities are read once for all who trust them, and again when what was read is a minute old; so new ones count soon,
//! without a reload, and a thousand checks do not read the same file a thousand times.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::config::plan::{Address, HttpTls, MysqlQuestion, MysqlTls, Question, Verify};
use crate::health::mysql::{Password, Security};
use crate::health::tls::{Authorities, Tls, Trust};

/// How long what was read counts.
const FRESH: Duration = Duration::from_secs(60);
/// Longest file of certificates, in bytes.
const CERTIFICATES_MAX: u64 = 1024 * 1024;
/// Longest password file, in bytes.
const PASSWORD_MAX: u64 = 4096;

/// Authorities by the file they are in; `None`: those of the system.
#[derive(Debug, Default)]
pub struct Library {
    shelf: RefCell<HashMap<Option<Arc<Path>>, Volume>>,
}

#[derive(Debug)]
struct Volume {
    authorities: Authorities,
    read: Instant,
}

impl Library {
    /// What keeps a question from being asked here and now: a file that cannot be read, or does not hold what it should.
    pub fn hindrance(&self, question: &Question) -> Option<String> {
        match question {
            Question::Tcp | Question::SendExpect { .. } => None,
            // Any address will do: it only stands in for a name.
            Question::Http(_) => self.tls(question, &Address::Inet((Ipv4Addr::LOCALHOST, 0).into())).err(),
            Question::Mysql(question) => self.password(question).and_then(|_| self.security(question)).err(),
        }
    }

    /// What TLS a question is asked through at an address, if any.
    pub(super) fn tls(&self, question: &Question, address: &Address) -> Result<Option<Arc<Tls>>, String> {
        let Question::Http(http) = question else { return Ok(None) };
        let Some(HttpTls { name, verify }) = &http.tls else { return Ok(None) };
        let trust = match verify {
            Verify::Nothing => Trust::Anybody,
            Verify::System => Trust::Named(self.authorities(None)?),
            Verify::Authorities(file) => Trust::Named(self.authorities(Some(file))?),
        };
        // Without a name the certificate must be for the address.
        let name = match (name, address) {
            (Some(name), _) => Some(name.to_string()),
            (None, Address::Inet(inet)) => Some(inet.ip().to_string()),
            (None, Address::Unix(_)) => None,
        };
        Ok(Some(Arc::new(Tls::new(trust, name.as_deref())?)))
    }

    /// The password of a login, as it is now: it may have been changed.
    pub(super) fn password(&self, question: &MysqlQuestion) -> Result<Password, String> {
        let Some(file) = &question.password_file else { return Ok(Password::default()) };
        let text = read(file, PASSWORD_MAX)?;
        let line = text.strip_suffix('\n').unwrap_or(&text);
        let line = line.strip_suffix('\r').unwrap_or(line);
        Password::new(line.to_owned())
            .filter(|_| !line.contains('\n'))
            .ok_or_else(|| format!("{} holds more than a line", file.display()))
    }

    /// What TLS a login goes through.
    pub(super) fn security(&self, question: &MysqlQuestion) -> Result<Security, String> {
        match &question.tls {
            MysqlTls::Off => Ok(Security::Off),
            MysqlTls::Require => Security::tls(Trust::Anybody, None),
            MysqlTls::VerifyCa { ca } => Security::tls(Trust::Signed(self.authorities(Some(ca))?), None),
            MysqlTls::VerifyFull { ca, name } => Security::tls(Trust::Named(self.authorities(Some(ca))?), Some(name)),
        }
    }

    /// The authorities in a file, or those of the system.
    fn authorities(&self, file: Option<&Arc<Path>>) -> Result<Authorities, String> {
        let now = Instant::now();
        let mut shelf = self.shelf.borrow_mut();
        if let Some(volume) = shelf.get(&file.cloned())
            && now.duration_since(volume.read) < FRESH
        {
            return Ok(volume.authorities.clone());
        }
        // Those nobody asks for any more go as well.
        shelf.retain(|_, volume| now.duration_since(volume.read) < FRESH);
        let authorities = match file {
            Some(file) => of_file(file)?,
            None => of_system()?,
        };
        shelf.insert(file.cloned(), Volume { authorities: authorities.clone(), read: now });
        Ok(authorities)
    }
}

fn of_file(file: &Path) -> Result<Authorities, String> {
    let pem = read(file, CERTIFICATES_MAX)?;
    let list: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let list = list.map_err(|error| format!("{}: {error}", file.display()))?;
    if list.is_empty() {
        return Err(format!("{} holds no certificate (\"-----BEGIN CERTIFICATE-----\")", file.display()));
    }
    Authorities::of(list).map_err(|error| format!("{}: {error}", file.display()))
}

fn of_system() -> Result<Authorities, String> {
    const HELP: &str = "install ca-certificates, or give `verify` a file";
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let why = found.errors.first().map_or_else(String::new, |error| format!(" ({error})"));
        return Err(format!("this system has no certificates of authorities{why}: {HELP}"));
    }
    Authorities::of_some(found.certs).map_err(|error| format!("the system's authorities: {error}: {HELP}"))
}

/// The text of a file of at most so many bytes.
fn read(file: &Path, most: u64) -> Result<String, String> {
    let shown = |error: io::Error| match error.raw_os_error() {
        Some(errno) => format!("{}: {}", file.display(), Errno::from_raw(errno).desc().to_lowercase()),
        None => format!("{}: {error}", file.display()),
    };
    let mut text = String::new();
    let opened = File::open(file).map_err(shown)?;
    // A pipe or a device would hold everybody up.
    if !opened.metadata().map_err(shown)?.is_file() {
        return Err(format!("{} is no file", file.display()));
    }
    opened.take(most + 1).read_to_string(&mut text).map_err(shown)?;
    if text.len() as u64 > most { Err(format!("{} has more than {most} bytes", file.display())) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(file: &Path) -> String {
        Library::default().authorities(Some(&Arc::from(file))).expect_err("no authority")
    }

    #[test]
    fn what_hinders_a_login_is_said_beforehand() {
        let place = tempfile::tempdir().expect("a directory below TMPDIR");
        let [password, ca] = ["password", "ca.pem"].map(|name| Arc::<Path>::from(place.path().join(name)));
        let tls = MysqlTls::VerifyCa { ca };
        let question =
            Question::Mysql(MysqlQuestion { user: "lbcheck".into(), password_file: Some(Arc::clone(&password)), tls });
        let hindrance = || Library::default().hindrance(&question).expect("no authorities at least");
        assert!(hindrance().ends_with("password: no such file or directory"), "{}", hindrance());
        std::fs::write(&password, "two\nlines\n").expect("own directory");
        assert!(hindrance().ends_with("password holds more than a line"), "{}", hindrance());
        std::fs::write(&password, "one\n").expect("own directory");
        assert!(hindrance().ends_with("ca.pem: no such file or directory"), "{}", hindrance());
        assert_eq!(Library::default().hindrance(&Question::Tcp), None);
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said() {
        let place = tempfile::tempdir().expect("a directory below TMPDIR");
        let file = place.path().join("ca.pem");
        assert!(complaint(&file).ends_with("ca.pem: no such file or directory"), "{}", complaint(&file));
        assert!(complaint(place.path()).ends_with(" is no file"), "{}", complaint(place.path()));
        for (text, what) in [
            ("", "holds no certificate (\"-----BEGIN CERTIFICATE-----\")"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n", "ca.pem: "),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "ca.pem: "),
        ] {
            std::fs::write(&file, text).expect("own directory");
            assert!(complaint(&file).contains(what), "{}", complaint(&file));
        }
        std::fs::write(&file, vec![b'x'; 1024 * 1024 + 1]).expect("own directory");
        assert!(complaint(&file).ends_with("has more than 1048576 bytes"));
    }
}
