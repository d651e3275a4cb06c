//! The server's first words, and what every packet may be instead: an error.

use super::packet::{Cursor, text};
use super::{Fault, ServerError};

/// Abilities that are told in greeting and answer ("Capabilities Flags").
pub(super) mod can {
    pub(in super::super) const LONG_PASSWORD: u32 = 1;
    pub(in super::super) const LONG_FLAG: u32 = 1 << 2;
    pub(in super::super) const PROTOCOL_41: u32 = 1 << 9;
    pub(in super::super) const SSL: u32 = 1 << 11;
    pub(in super::super) const TRANSACTIONS: u32 = 1 << 13;
    pub(in super::super) const SECURE_CONNECTION: u32 = 1 << 15;
    pub(in super::super) const MULTI_STATEMENTS: u32 = 1 << 16;
    pub(in super::super) const MULTI_RESULTS: u32 = 1 << 17;
    pub(in super::super) const PLUGIN_AUTH: u32 = 1 << 19;
    pub(in super::super) const CONNECT_ATTRIBUTES: u32 = 1 << 20;

    pub(in super::super) const MANY: u32 = MULTI_STATEMENTS | MULTI_RESULTS;
}

/// Bytes of the challenge; the greeting carries them in two parts.
pub(super) const NONCE: usize = 20;
/// Longest version and error message that is kept, in characters.
const VERSION_MAX: usize = 80;
const MESSAGE_MAX: usize = 200;

/// Whose server it is: they differ in variables and in how they tell of replication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// MySQL, or one of its kin (Percona Server).
    MySql,
    /// MariaDB.
    MariaDb,
}

/// `Protocol::HandshakeV10`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Greeting {
    /// As the server calls itself, without the `5.5.5-` that MariaDB puts before it.
    pub(super) version: String,
    pub(super) flavour: Flavour,
    pub(super) abilities: u32,
    pub(super) nonce: [u8; NONCE],
    /// The login it would like; empty when it does not say.
    pub(super) plugin: String,
}

impl Greeting {
    /// Whether it takes several questions at once, and answers each.
    pub(super) fn takes_many(&self) -> bool {
        self.abilities & can::MANY == can::MANY
    }

    /// Reads it; an error instead of it (1040, 1129, 1130…) is [`Fault::Refused`].
    pub(super) fn read(payload: &[u8]) -> Result<Self, Fault> {
        if let Some(error) = error(payload) {
            return Err(Fault::Refused(error));
        }
        let greeting = Self::parse(payload).ok_or(Fault::Malformed("the greeting"))?;
        if greeting.abilities & can::PROTOCOL_41 == 0 || greeting.abilities & can::SECURE_CONNECTION == 0 {
            return Err(Fault::Malformed("the greeting: a server older than 4.1"));
        }
        Ok(greeting)
    }

    fn parse(payload: &[u8]) -> Option<Self> {
        const PROTOCOL: u8 = 10;
        let mut cursor = Cursor::new(payload);
        if cursor.u8()? != PROTOCOL {
            return None;
        }
        let whole = text(cursor.until_nul()?, VERSION_MAX);
        let _connection = cursor.u32()?;
        let first = cursor.bytes(8)?;
        cursor.u8()?;
        let low = cursor.u16()?;
        let _charset_and_status = cursor.bytes(3)?;
        let abilities = u32::from(low) | (u32::from(cursor.u16()?) << 16);
        let nonce_length = usize::from(cursor.u8()?);
        cursor.bytes(10)?;
        let second = cursor.bytes(nonce_length.saturating_sub(8).max(13))?;
        let mut nonce = [0; NONCE];
        nonce[..8].copy_from_slice(first);
        nonce[8..].copy_from_slice(second.get(..NONCE - 8)?);
        let plugin = match abilities & can::PLUGIN_AUTH {
            0 => String::new(),
            // Some servers left the NUL out (MySQL bug 59453).
            _ => text(cursor.rest().split(|&byte| byte == 0).next()?, VERSION_MAX),
        };
        let flavour = if whole.contains("MariaDB") { Flavour::MariaDb } else { Flavour::MySql };
        let version = whole.strip_prefix("5.5.5-").filter(|_| flavour == Flavour::MariaDb).unwrap_or(&whole).to_owned();
        Some(Self { version, flavour, abilities, nonce, plugin })
    }

    /// Major, minor and patch of its version; zeros where there are none.
    pub(super) fn number(&self) -> (u32, u32, u32) {
        let end = self.version.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(self.version.len());
        let mut parts = self.version[..end].split('.').map(|part| part.parse().unwrap_or(0));
        let mut next = || parts.next().unwrap_or(0);
        (next(), next(), next())
    }
}

/// Reads `ERR_Packet`; `None` when it is none.
pub(super) fn error(payload: &[u8]) -> Option<ServerError> {
    let mut cursor = Cursor::new(payload);
    if cursor.u8()? != 0xFF {
        return None;
    }
    let code = cursor.u16()?;
    let mut message = cursor.clone();
    // An error instead of a greeting has no state: nothing has been agreed yet.
    if message.u8() == Some(b'#') && message.bytes(5).is_some() {
        cursor = message;
    }
    Some(ServerError { code, message: text(cursor.rest(), MESSAGE_MAX) })
}

#[cfg(test)]
mod tests {
    use super::super::testing::hex;
    use super::*;

    /// Recorded from MySQL 8.4.8 (Ubuntu's build, default settings).
    pub(crate) const MYSQL_8_4: &str = "0a382e342e382d307562756e7475310009000000465a25180d7a777d00ffffff0200ffdf1500\
        00000000000000000071123502266436164b171f3b0063616368696e675f736861325f70617373776f726400";

    #[test]
    fn a_greeting_of_mysql() {
        let greeting = Greeting::read(&hex(MYSQL_8_4)).expect("a greeting");
        assert_eq!(greeting.version, "8.4.8-0ubuntu1");
        assert_eq!((greeting.flavour, greeting.number()), (Flavour::MySql, (8, 4, 8)));
        assert_eq!(greeting.plugin, "caching_sha2_password");
        assert_eq!(greeting.nonce.to_vec(), hex("465a25180d7a777d71123502266436164b171f3b"));
        assert_ne!(greeting.abilities & can::SSL, 0);
    }

    /// "Protocol::HandshakeV10" in the older MySQL Internals Manual has this example of a 5.5.2.
    #[test]
    fn a_greeting_without_a_plugin() {
        let payload = "0a352e352e322d6d32000b00000064764840492d434a00fff7080200";
        let zeros = "00000000000000000000000000";
        let rest = "2a34647c635a776b345e5d3a00";
        let payload = [payload, zeros, rest].concat();
        let greeting = Greeting::read(&hex(&payload)).expect("a greeting");
        assert_eq!((greeting.version.as_str(), greeting.plugin.as_str()), ("5.5.2-m2", ""));
        assert_eq!(greeting.nonce.as_slice(), b"dvH@I-CJ*4d|cZwk4^]:");
    }

    #[test]
    fn mariadb_says_its_version_behind_another() {
        let payload = hex(MYSQL_8_4);
        let end = payload.iter().position(|&byte| byte == 0).expect("a NUL");
        let renamed = [b"\x0a5.5.5-10.11.19-MariaDB-0+deb12u1".as_slice(), &payload[end..]].concat();
        let greeting = Greeting::read(&renamed).expect("a greeting");
        assert_eq!(greeting.version, "10.11.19-MariaDB-0+deb12u1");
        assert_eq!((greeting.flavour, greeting.number()), (Flavour::MariaDb, (10, 11, 19)));
    }

    #[test]
    fn an_error_instead_of_a_greeting() {
        // Recorded from MySQL 8.4.8 with max_connections reached. There is no SQL state in it.
        let fault = Greeting::read(&hex("ff1004546f6f206d616e7920636f6e6e656374696f6e73")).expect_err("an error");
        let Fault::Refused(error) = fault else { panic!("{fault:?}") };
        assert_eq!((error.code, error.message.as_str()), (1040, "Too many connections"));
        // "ERR_Packet" of the protocol documentation.
        let error = error_of("ff48042348593030304e6f207461626c65732075736564");
        assert_eq!((error.code, error.message.as_str()), (1096, "No tables used"));
    }

    fn error_of(payload: &str) -> ServerError {
        error(&hex(payload)).expect("an error")
    }

    #[test]
    fn half_a_greeting_is_malformed() {
        let whole = hex(MYSQL_8_4);
        for end in 0..whole.len() - 30 {
            assert!(matches!(Greeting::read(&whole[..end]), Err(Fault::Malformed(_))), "{end}");
        }
    }
}
