//! Where to listen or connect: `ip:port`, `[v6]:port` or `unix:/path`.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use socket2::{Domain, SockAddr};

/// The longest path a Unix socket address holds, in bytes (unix(7): 108 with the closing zero).
const PATH_BYTES_MAX: usize = 107;

/// An address that needs no resolving.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// TCP over IPv4 or IPv6.
    Tcp(SocketAddr),
    /// A Unix stream socket at this path.
    Unix(PathBuf),
}

impl Target {
    /// The same as the kernel wants it.
    ///
    /// # Errors
    ///
    /// When a Unix path does not fit.
    pub fn sock_addr(&self) -> io::Result<SockAddr> {
        match self {
            Target::Tcp(address) => Ok((*address).into()),
            Target::Unix(path) => SockAddr::unix(path),
        }
    }

    /// The address family.
    pub fn domain(&self) -> Domain {
        match self {
            Target::Tcp(address) => Domain::for_address(*address),
            Target::Unix(_) => Domain::UNIX,
        }
    }

    /// True for TCP, false for Unix sockets.
    pub fn is_tcp(&self) -> bool {
        matches!(self, Target::Tcp(_))
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.len() {
                0 => Err("no path after unix:; write unix:/run/some.sock".to_owned()),
                1..=PATH_BYTES_MAX => Ok(Target::Unix(path.into())),
                _ => Err(format!("the path is longer than {PATH_BYTES_MAX} bytes")),
            };
        }
        if let Ok(address) = text.parse() {
            return Ok(Target::Tcp(address));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err("no port; write ip:port, [v6]:port or unix:/path".to_owned());
        };
        let Ok(port) = port.parse::<u16>() else {
            return Err(format!("\"{port}\" is not a port; use 0 to 65535"));
        };
        match host {
            "localhost" => Ok(Target::Tcp((Ipv4Addr::LOCALHOST, port).into())),
            _ if host.contains(':') => Err(format!("an IPv6 address needs brackets: write [{host}]:{port}")),
            _ => Err(format!("\"{host}\" is not an address; names are not resolved here, write the IP address")),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Tcp(address) => write!(f, "{address}"),
            Target::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Parses a local address to connect from, without a port.
///
/// # Errors
///
/// A sentence for the user.
pub fn source(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| "not an IP address; a source has no port".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        for text in ["127.0.0.1:80", "[::1]:0", "unix:/tmp/a b.sock"] {
            assert_eq!(text.parse::<Target>().expect("a target").to_string(), text);
        }
        assert_eq!("localhost:9".parse::<Target>().expect("a target").to_string(), "127.0.0.1:9");
    }

    #[test]
    fn says_what_to_do() {
        let complaint = |text: &str| text.parse::<Target>().expect_err("no target");
        assert!(complaint("example.com:80").contains("names are not resolved"));
        assert!(complaint("::1:80").contains("[::1]:80"));
        assert!(complaint("127.0.0.1").contains("no port"));
        assert!(complaint("127.0.0.1:99999").contains("99999"));
        assert!(complaint("unix:").contains("no path"));
        assert!(complaint(&format!("unix:/{}", "x".repeat(200))).contains("longer"));
    }
}
