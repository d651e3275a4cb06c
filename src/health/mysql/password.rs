//! Proving a password without saying it; and, where MySQL insists, saying it so that only the server understands.
//!
//! | plugin | answer to the challenge |
//! |---|---|
//! | `mysql_native_password` | `SHA1(p) ^ SHA1(nonce, SHA1(SHA1(p)))` |
//! | `caching_sha2_password` | `SHA256(p) ^ SHA256(SHA256(SHA256(p)), nonce)`; when the server has not seen `p` since it started, `p` itself: through TLS, or enciphered with the server's RSA key |
//!
//! | `client_ed25519` (MariaDB) | the Ed25519 signature of the nonce, with a key made of `SHA512(p)` |
//!
//! "Native Authentication", "Caching_sha2_password information" of the protocol documentation; "Connection" of MariaDB's. MariaDB's documentation
//! writes the arguments of the last hash the other way round; its servers do it like MySQL's.

use aws_lc_rs::digest::{Algorithm, SHA1_FOR_LEGACY_USE_ONLY as SHA1, SHA256, SHA512, digest};
use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPublicEncryptingKey, PublicEncryptingKey};
use ed25519_dalek::hazmat::{ExpandedSecretKey, raw_sign};
use ed25519_dalek::{Sha512, VerifyingKey};
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
    Ed25519,
}

impl Plugin {
    /// By its name; a server that names none wants the oldest.
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "mysql_native_password" | "" => Some(Plugin::Native),
            "caching_sha2_password" => Some(Plugin::CachingSha2),
            "client_ed25519" => Some(Plugin::Ed25519),
            _ => None,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Plugin::Native => "mysql_native_password",
            Plugin::CachingSha2 => "caching_sha2_password",
            Plugin::Ed25519 => "client_ed25519",
        }
    }

    /// Bytes of its challenge.
    pub(super) fn nonce_length(self) -> usize {
        match self {
            Plugin::Native | Plugin::CachingSha2 => NONCE,
            Plugin::Ed25519 => 32,
        }
    }

    /// The answer to a challenge. An empty password is proven by an empty answer, except to MariaDB's `ed25519`, which takes
    /// anything but a signature for a handshake broken off.
    pub(super) fn answer(self, password: &Password, nonce: &[u8]) -> Vec<u8> {
        if password.is_empty() && self != Plugin::Ed25519 {
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
            Plugin::Ed25519 => {
                // The usual way (RFC 8032 §5.1.5), but from a password of any length where others have a seed of 32 bytes.
                let key = ExpandedSecretKey::from_slice(&hash(&SHA512, &[password])).expect("SHA-512 has 64 bytes");
                raw_sign::<Sha512>(&key, nonce, &VerifyingKey::from(&key)).to_bytes().to_vec()
            }
        }
    }
}

/// The password for the holder of an RSA key only ("Public Key Retrieval"): `RSA-OAEP((p, NUL) ^ nonce)`, the nonce over
/// and over. `key` is the PEM the server has sent.
pub(super) fn encipher(password: &Password, nonce: &[u8], key: &[u8]) -> Result<Vec<u8>, Fault> {
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

    /// The signature that `mariadb` 10.11 gave MariaDB 10.11.19, recorded; and the key that the server has of the account
    /// (`ed25519_password('secret')`).
    #[test]
    fn a_signature_as_recorded() {
        let nonce = hex("7ce87aede21cbfa6ee94f5126afa5bb97caebd52f5f7feb184c52a3d91ffe4a1");
        let signature = Plugin::Ed25519.answer(&password("secret"), &nonce);
        assert_eq!(
            signature,
            hex("cae2797fbb6a520a09427120257280e64c065fd69b4f786cdfc5499e022e4093\
                 fcf81c7615b52a13b1d8f6bde6da9e95119d673ab11904560c3a2ad20bb3f905")
        );
        let key = ExpandedSecretKey::from_slice(&hash(&SHA512, &[b"secret"])).expect("64 bytes");
        let known = "ZIgUREUg5PVgQ6LskhXmO+eZLS0nC8be6HPjYWR4YJY=";
        assert_eq!(base64(VerifyingKey::from(&key).as_bytes()), known);
        // With no password there is a signature, too.
        let nonce = hex("a64cbc69716db617cf930e5654673fd40db233166d121a0259d7d86bbed520c6");
        assert_eq!(
            Plugin::Ed25519.answer(&Password::default(), &nonce),
            hex("51436ec42c65cb32c0ff8b7cae2b845886416b8fee31e7922b214c7215f22b1f\
                 35fd7ad06cc64680b83b8056e59bcac6f84e25fc2388029e47354b3a13040b02")
        );
    }
    const NATIVE: (&str, &str) =
        ("6451602c3a096d2f0f6514010e5a175d174d2b12", "ff3eff2aeed1dee5eb20ca341e4dd06a80cc4552");
    const SHA2: (&str, &str) = (
        "2c4008584c39280f77663d0f107862071a285f66",
        "5743d2f27b22f250d8277388767ac90a6f4d38be3bb1d985ad4ae1e45063171e",
    );

    #[test]
    fn an_empty_password_is_an_empty_answer() {
        for plugin in [Plugin::Native, Plugin::CachingSha2, Plugin::Ed25519] {
            let answer = plugin.answer(&Password::default(), &[1; NONCE]);
            assert_eq!(answer.is_empty(), plugin != Plugin::Ed25519);
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
