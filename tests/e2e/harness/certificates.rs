//! Authorities and certificates of a test, made by openssl(1).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::ground::{Ground, command_succeeds, need};

/// An authority that signs what a test wants.
pub struct Authority {
    dir: PathBuf,
}

/// A certificate and its key, as files.
pub struct Issued {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    /// A fresh one, in a directory of this name.
    pub fn new(ground: &Ground, name: &str) -> Self {
        need("openssl");
        let dir = ground.file(name);
        fs::create_dir_all(&dir).expect("own directory");
        let authority = Self { dir };
        // What the system's own openssl.cnf says does not matter.
        let config = "[req]\nprompt = no\ndistinguished_name = name\nx509_extensions = extensions\n[name]\nCN = of a test\n\
                      [extensions]\nbasicConstraints = critical, CA:TRUE\n";
        fs::write(authority.dir.join("config"), config).expect("own directory");
        authority.openssl(&format!("req -x509 {NEW_KEY} -config config -days 30 -keyout key -out ca.pem"));
        authority
    }

    /// Its certificate.
    pub fn file(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// A certificate for names like `DNS:a.example.com` and `IP:127.0.0.1`; one of no days has expired a second later.
    pub fn issue(&self, names: &[&str], days: u32) -> Issued {
        let count = fs::read_dir(&self.dir).expect("own directory").count();
        let file = |kind: &str| format!("{count}.{kind}");
        let (key, request, certificate) = (file("key"), file("csr"), file("pem"));
        let extensions = format!("subjectAltName = {}\n", names.join(", "));
        fs::write(self.dir.join("extensions"), extensions).expect("own directory");
        self.openssl(&format!("req -new {NEW_KEY} -config config -keyout {key} -out {request}"));
        self.openssl(&format!(
            "x509 -req -in {request} -CA ca.pem -CAkey key -set_serial {count} -days {days} -extfile extensions \
             -out {certificate}"
        ));
        Issued { certificate: self.dir.join(certificate), key: self.dir.join(key) }
    }

    fn openssl(&self, words: &str) {
        let dir: &Path = &self.dir;
        command_succeeds(Command::new("openssl").args(words.split_whitespace()).current_dir(dir));
    }
}

const NEW_KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
