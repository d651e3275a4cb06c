//! MySQL and MariaDB servers: which of them is the primary, which are replicas, and how far those are behind.
//!
//! ```text
//! bytes ⇄ Line (TLS or not) ⇄ Client (greeting, login, queries) ⇄ Round (the questions) ─▶ Report ─▶ Brain ─▶ roles
//! ```
//!
//! Nothing here touches a socket or a clock: whoever drives a check moves the bytes. The protocol is MySQL's own
//! ("Client/Server Protocol" of the MySQL source code documentation), of which a check needs little: no compression, no
//! prepared statements, one answer at a time.
//!
//! A handshake that was begun is brought to its end, whatever is wrong with it: servers count those that break off, and
//! lock out the host they come from after `max_connect_errors` of them. So a login that cannot go on (no TLS where it is
//! wanted, a wrong certificate, a strange plugin) goes on *without the password* and is refused by the server, which
//! counts as a wrong password and locks nobody out.

mod client;
mod greeting;
mod line;
mod packet;
mod password;
pub mod probe;
pub mod report;
pub mod roles;
mod table;
#[cfg(test)]
mod testing;

pub use client::Login;
pub use greeting::Flavour;
pub use line::{Happening, Line, Security};
pub use password::Password;
pub use table::Table;

use super::tls;

/// An error the server has told of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("error {code}: {message}")]
pub struct ServerError {
    /// Its number ("Server Error Message Reference").
    pub code: u16,
    /// Its words, shortened and without control characters.
    pub message: String,
}

impl Fault {
    /// Whether the server is there, and it is the check that is wrong: its account, its TLS.
    pub fn answers(&self) -> bool {
        // Access denied, in all its forms; not too many connections, a host locked out, a shutdown.
        const DENIED: [u16; 8] = [1044, 1045, 1130, 1227, 1251, 1698, 3118, 3159];
        match self {
            Fault::Refused(error) | Fault::Question { error, .. } => DENIED.contains(&error.code),
            Fault::NoTls | Fault::Certificate(_) | Fault::Plugin(_) | Fault::PasswordTooLong => true,
            Fault::Malformed(_)
            | Fault::TooLarge(_)
            | Fault::Tls(_)
            | Fault::Connect(_)
            | Fault::Late(_)
            | Fault::Closed(_) => false,
        }
    }
}

impl From<tls::Fault> for Fault {
    fn from(fault: tls::Fault) -> Self {
        match fault {
            tls::Fault::Broken(why) => Fault::Tls(why),
            tls::Fault::Certificate(why) => Fault::Certificate(why),
        }
    }
}

/// Why a connection to a server came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The server refuses the connection or the login: too many connections (1040), a blocked host (1129), a wrong
    /// password (1045)…
    #[error("the server refuses: {0}")]
    Refused(ServerError),
    /// A question was answered with an error that has no other way.
    #[error("the server answers \"{question}\" with {error}")]
    Question {
        /// The SQL.
        question: &'static str,
        /// The answer.
        error: ServerError,
    },
    /// What the server says is not what the protocol says.
    #[error("not understood: {0}")]
    Malformed(&'static str),
    /// The server says more than a check wants to hear.
    #[error("{0} is larger than a check takes")]
    TooLarge(&'static str),
    /// TLS is wanted and the server has none.
    #[error("the server does not offer TLS")]
    NoTls,
    /// TLS did not come about.
    #[error("TLS: {0}")]
    Tls(String),
    /// The server is not who it should be.
    #[error("the server's certificate: {0}")]
    Certificate(String),
    /// The account logs in by a plugin that a check does not have.
    #[error(
        "the account does not exist, or it uses plugin \"{0}\"; give it caching_sha2_password, mysql_native_password or ed25519"
    )]
    Plugin(String),
    /// The password does not fit into the server's RSA key.
    #[error("the password is too long for the server's RSA key; use TLS, or a shorter one")]
    PasswordTooLong,
    /// No connection.
    #[error("no connection: {0}")]
    Connect(String),
    /// The time of a check was over.
    #[error("no answer in time: {0}")]
    Late(&'static str),
    /// The server closed the connection.
    #[error("the server closed the connection {0}")]
    Closed(&'static str),
}
