//! Proving a password without saying it; and, where MySQL insists, saying it so that only the server understands.
//!
//! | plugin | answer to the challenge |
//! |---|---|
//! | `mysql_native_password` | `SHA1(p) ^ SHA1(nonce, SHA1(SHA1(p)))` |
//! | `caching_sha2_password` | `SHA256(p) ^ SHA256(SHA256(SHA256(p)), nonce)`; when the server has not seen `p` since it started, `p` itself: through TLS, or enciphered with the server's RSA key |
//!
//! "Native Authentication", "Caching_sha2_password information" of the protocol documentation. MariaDB's documentation
//! writes the arguments of the last hash the other way round; its servers do it like MySQL's.

use aws_lc_rs::digest::{Algorithm, SHA1_FOR_LEGACY_USE_ONLY as SHA1, SHA256, digest};
use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPublicEncryptingKey, PublicEncryptingKey};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;

use super::Fault;
use super::greeting::NONCE;

/// A password; never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Keeps one. A NUL ends it for the server, so there can be none in it.
    pub fn new(password: String) -> Option<Self> {
        (!password.contains('\0')).then_some(Self(password))
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As it is said aloud: with a NUL at its end.
    pub(super) fn aloud(&self) -> Vec<u8> {
        [self.0.as_bytes(), &[0]].concat()
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// A way to log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plugin {
    Native,
    CachingSha2,
}

impl Plugin {
    /// By its name; a server that names none wants the oldest.
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "mysql_native_password" | "" => Some(Plugin::Native),
            "caching_sha2_password" => Some(Plugin::CachingSha2),
            _ => None,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Plugin::Native => "mysql_native_password",
            Plugin::CachingSha2 => "caching_sha2_password",
        }
    }

    /// The answer to a challenge. An empty password is proven by an empty answer.
    pub(super) fn answer(self, password: &Password, nonce: &[u8; NONCE]) -> Vec<u8> {
        if password.is_empty() {
            return Vec::new();
        }
        let password = password.0.as_bytes();
        match self {
            Plugin::Native => {
                let once = hash(&SHA1, &[password]);
                let twice = hash(&SHA1, &[&once]);
                xor(&once, &hash(&SHA1, &[nonce, &twice]))
            }
            Plugin::CachingSha2 => {
                let once = hash(&SHA256, &[password]);
                let twice = hash(&SHA256, &[&once]);
                xor(&once, &hash(&SHA256, &[&twice, nonce]))
            }
        }
    }
}

/// The password for the holder of an RSA key only ("Public Key Retrieval"): `RSA-OAEP((p, NUL) ^ nonce)`, the nonce over
/// and over. `key` is the PEM the server has sent.
pub(super) fn encipher(password: &Password, nonce: &[u8; NONCE], key: &[u8]) -> Result<Vec<u8>, Fault> {
    const NO_KEY: Fault = Fault::Malformed("the RSA key");
    let key = SubjectPublicKeyInfoDer::from_pem_slice(key).map_err(|_| NO_KEY)?;
    let key = PublicEncryptingKey::from_der(&key).map_err(|_| NO_KEY)?;
    let key = OaepPublicEncryptingKey::new(key).map_err(|_| NO_KEY)?;
    let hidden: Vec<u8> = password.aloud().iter().zip(nonce.iter().cycle()).map(|(a, b)| a ^ b).collect();
    if hidden.len() > key.max_plaintext_size(&OAEP_SHA1_MGF1SHA1) {
        return Err(Fault::PasswordTooLong);
    }
    let mut enciphered = vec![0; key.ciphertext_size()];
    let length = key
        .encrypt(&OAEP_SHA1_MGF1SHA1, &hidden, &mut enciphered, None)
        .map_err(|_| Fault::Malformed("the RSA key"))?
        .len();
    enciphered.truncate(length);
    Ok(enciphered)
}

fn hash(algorithm: &'static Algorithm, parts: &[&[u8]]) -> Vec<u8> {
    digest(algorithm, &parts.concat()).as_ref().to_vec()
}

fn xor(a: &[u8], b: &[u8]) -> Vec<u8> {
    a.iter().zip(b).map(|(a, b)| a ^ b).collect()
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
    use aws_lc_rs::rsa::{KeySize, OaepPrivateDecryptingKey, PrivateDecryptingKey};

    use super::super::testing::{base64, hex};
    use super::*;

    fn password(text: &str) -> Password {
        Password::new(text.to_owned()).expect("no NUL")
    }

    /// The answers that `mariadb` 10.11 gave MySQL 8.4.8, recorded with the greeting of the same connection.
    #[test]
    fn answers_as_recorded() {
        let nonce = |text: &str| <[u8; NONCE]>::try_from(hex(text)).expect("20 bytes");
        let native = Plugin::Native.answer(&password("secret"), &nonce(NATIVE.0));
        assert_eq!(native, hex(NATIVE.1));
        let sha2 = Plugin::CachingSha2.answer(&password("secret"), &nonce(SHA2.0));
        assert_eq!(sha2, hex(SHA2.1));
    }
    const NATIVE: (&str, &str) =
        ("6451602c3a096d2f0f6514010e5a175d174d2b12", "ff3eff2aeed1dee5eb20ca341e4dd06a80cc4552");
    const SHA2: (&str, &str) = (
        "2c4008584c39280f77663d0f107862071a285f66",
        "5743d2f27b22f250d8277388767ac90a6f4d38be3bb1d985ad4ae1e45063171e",
    );

    #[test]
    fn an_empty_password_is_an_empty_answer() {
        for plugin in [Plugin::Native, Plugin::CachingSha2] {
            assert!(plugin.answer(&Password::default(), &[1; NONCE]).is_empty());
            assert_eq!(Plugin::named(plugin.name()), Some(plugin));
        }
    }

    #[test]
    fn only_the_holder_of_the_key_reads_the_password() {
        let private = PrivateDecryptingKey::generate(KeySize::Rsa2048).expect("a key");
        let der: PublicKeyX509Der<'_> = private.public_key().as_der().expect("its public half");
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", base64(der.as_ref()));
        let nonce = [3; NONCE];
        let enciphered = encipher(&password("geheim"), &nonce, pem.as_bytes()).expect("enciphered");
        let private = OaepPrivateDecryptingKey::new(private).expect("a key");
        let mut plain = vec![0; private.min_output_size()];
        let plain = private.decrypt(&OAEP_SHA1_MGF1SHA1, &enciphered, &mut plain, None).expect("ours");
        assert_eq!(plain.iter().map(|byte| byte ^ 3).collect::<Vec<_>>(), b"geheim\0");

        let long = password(&"x".repeat(300));
        assert!(matches!(encipher(&long, &nonce, pem.as_bytes()), Err(Fault::PasswordTooLong)));
        for wrong in [b"".as_slice(), b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", &[0xFF; 80]] {
            assert!(matches!(encipher(&password("x"), &nonce, wrong), Err(Fault::Malformed(_))));
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        assert_eq!(format!("{:?}", password("geheim")), "***");
        assert!(Password::new("a\0b".to_owned()).is_none());
    }
}
