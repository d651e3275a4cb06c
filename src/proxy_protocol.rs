//! The PROXY protocol: the header that tells a server whose connection it is.
//!
//! A server behind a balancer sees the balancer's address. With this header, which goes before the first byte of the client, it
//! learns the client's, and the address that the client has connected to ("The PROXY protocol", doc/proxy-protocol.txt of
//! HAProxy; version 1 is §2.1, a line of text, version 2 is §2.2, binary). The server must want one: it takes the header for
//! its own protocol otherwise. Nothing here has a socket.

use std::io::Write;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::Deref;

/// Longest header made here: the longest line of version 1, with two IPv6 addresses.
pub const HEADER_MAX: usize = 104;

/// What version 2 begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command LOCAL: a connection of the sender's own.
const LOCAL: u8 = 0x20;
/// Version 2, command PROXY: a connection of somebody else's.
const PROXY: u8 = 0x21;
/// No family, no transport.
const UNSPEC: u8 = 0x00;
/// `AF_INET`, `STREAM`.
const TCP4: u8 = 0x11;
/// `AF_INET6`, `STREAM`.
const TCP6: u8 = 0x21;

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

impl Version {
    /// The word in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Version::V1 => "v1",
            Version::V2 => "v2",
        }
    }
}

/// Both ends of a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Who has connected.
    pub source: SocketAddr,
    /// Where to.
    pub destination: SocketAddr,
}

/// A header, ready to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    bytes: [u8; HEADER_MAX],
    length: u8,
}

impl Header {
    /// That of a client's connection. `None`: it is not one of TCP (a unix socket's has no address that would mean anything
    /// elsewhere), or is no more; like HAProxy, version 1 then says `UNKNOWN` and version 2 `LOCAL`, by which a server
    /// is to go by the connection it sees.
    pub fn of_client(version: Version, ends: Option<Ends>) -> Self {
        let mut header = Self { bytes: [0; HEADER_MAX], length: 0 };
        match version {
            Version::V1 => header.write_line(ends.map(Pair::of)),
            Version::V2 => header.write_binary(ends.map(Pair::of)),
        }
        header
    }

    /// That of a connection of our own, such as a check's. Version 2 has a command for it; version 1 names the addresses of
    /// the connection itself, as servers are there that refuse `UNKNOWN` (§2.1). `ends` is asked only if it matters.
    pub fn of_own(version: Version, ends: impl FnOnce() -> Option<Ends>) -> Self {
        match version {
            Version::V1 => Self::of_client(version, ends()),
            Version::V2 => Self::of_client(version, None),
        }
    }

    fn write_line(&mut self, pair: Option<Pair>) {
        let mut rest = &mut self.bytes[..];
        let written = match pair {
            None => rest.write_all(b"PROXY UNKNOWN\r\n"),
            Some(Pair { addresses, ports: [from, to] }) => match addresses {
                Addresses::V4([source, destination]) => {
                    write!(rest, "PROXY TCP4 {source} {destination} {from} {to}\r\n")
                }
                Addresses::V6([source, destination]) => {
                    write!(rest, "PROXY TCP6 {source} {destination} {from} {to}\r\n")
                }
            },
        };
        written.expect("no address and no port is longer than those HEADER_MAX reckons with");
        let left = rest.len();
        self.length = (HEADER_MAX - left) as u8;
    }

    fn write_binary(&mut self, pair: Option<Pair>) {
        self.put(&SIGNATURE);
        let Some(Pair { addresses, ports: [from, to] }) = pair else { return self.put(&[LOCAL, UNSPEC, 0, 0]) };
        match addresses {
            Addresses::V4(both) => {
                self.put(&[PROXY, TCP4, 0, 12]);
                both.iter().for_each(|address| self.put(&address.octets()));
            }
            Addresses::V6(both) => {
                self.put(&[PROXY, TCP6, 0, 36]);
                both.iter().for_each(|address| self.put(&address.octets()));
            }
        }
        self.put(&from.to_be_bytes());
        self.put(&to.to_be_bytes());
    }

    fn put(&mut self, bytes: &[u8]) {
        let from = usize::from(self.length);
        self.bytes[from..from + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len() as u8;
    }
}

impl Deref for Header {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// Both ends in one family.
struct Pair {
    addresses: Addresses,
    ports: [u16; 2],
}

enum Addresses {
    V4([std::net::Ipv4Addr; 2]),
    V6([Ipv6Addr; 2]),
}

impl Pair {
    /// An IPv4 address in the clothes of IPv6 (`::ffff:192.0.2.1`, of a socket for both) is one of IPv4, unless the other end is
    /// none; then the other wears them, too.
    fn of(ends: Ends) -> Self {
        let both = [ends.source, ends.destination];
        let addresses = match both.map(|end| end.ip().to_canonical()) {
            [IpAddr::V4(source), IpAddr::V4(destination)] => Addresses::V4([source, destination]),
            others => Addresses::V6(others.map(|ip| match ip {
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                IpAddr::V6(v6) => v6,
            })),
        };
        Self { addresses, ports: both.map(|end| end.port()) }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddrV6};

    use proptest::prelude::*;

    use super::*;

    fn ends(source: &str, destination: &str) -> Option<Ends> {
        let [source, destination] = [source, destination].map(|text| text.parse().expect("an address and a port"));
        Some(Ends { source, destination })
    }

    fn line(source: &str, destination: &str) -> String {
        let header = Header::of_client(Version::V1, ends(source, destination));
        String::from_utf8(header.to_vec()).expect("US-ASCII")
    }

    fn binary(source: &str, destination: &str) -> Vec<u8> {
        Header::of_client(Version::V2, ends(source, destination)).to_vec()
    }

    /// The example and the forms of §2.1.
    #[test]
    fn a_line_is_as_the_specification_writes_it() {
        let example = "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n";
        assert_eq!(line("192.168.0.1:56324", "192.168.0.11:443"), example);
        let longest = "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n";
        assert_eq!(line("255.255.255.255:65535", "255.255.255.255:65535"), longest);
        assert_eq!(longest.len(), 56);
        let all = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let longest = format!("PROXY TCP6 {all} {all} 65535 65535\r\n");
        assert_eq!(line(&format!("[{all}]:65535"), &format!("[{all}]:65535")), longest);
        assert_eq!(longest.len(), HEADER_MAX);
        let short = "PROXY TCP6 2001:db8::1 ::1 1 0\r\n";
        assert_eq!(line("[2001:db8::1]:1", "[::1]:0"), short);
        assert_eq!(&*Header::of_client(Version::V1, None), b"PROXY UNKNOWN\r\n");
    }

    /// The bytes of §2.2.
    #[test]
    fn binary_is_as_the_specification_lays_it_out() {
        const BEGIN: [u8; 12] = [0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a];
        let tail = [0x21, 0x11, 0x00, 0x0c, 192, 168, 0, 1, 192, 168, 0, 11, 0xdc, 0x04, 0x01, 0xbb];
        assert_eq!(binary("192.168.0.1:56324", "192.168.0.11:443"), [&BEGIN[..], &tail].concat());
        let source = [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        let destination = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xab, 0xcd];
        let parts = [&BEGIN[..], &[0x21, 0x21, 0x00, 0x24], &source, &destination, &[0x00, 0x50, 0xff, 0xff]];
        assert_eq!(binary("[2001:db8::1]:80", "[fd00::abcd]:65535"), parts.concat());
        let local = [&BEGIN[..], &[0x20, 0x00, 0x00, 0x00]].concat();
        assert_eq!(&*Header::of_client(Version::V2, None), &local[..]);
    }

    #[test]
    fn an_address_of_ipv4_is_one_in_whatever_clothes() {
        let plain = ["192.0.2.1:1000", "192.0.2.2:80"];
        let mapped = ["[::ffff:192.0.2.1]:1000", "[::ffff:192.0.2.2]:80"];
        for write in [|both: [&str; 2]| line(both[0], both[1]).into_bytes(), |both: [&str; 2]| binary(both[0], both[1])]
        {
            assert_eq!(write(mapped), write(plain));
        }
        let mixed = "PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 1000 80\r\n";
        assert_eq!(line("192.0.2.1:1000", "[2001:db8::2]:80"), mixed);
        assert_eq!(line("[::ffff:192.0.2.1]:1000", "[2001:db8::2]:80"), mixed);
        let mixed = binary("[2001:db8::2]:80", "192.0.2.1:1000");
        assert_eq!(mixed[16 + 16..16 + 32], Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped().octets());
        // An interface means something only here.
        let scoped = SocketAddrV6::new("fe80::1".parse().expect("an address"), 7, 0, 3).into();
        let header = Header::of_client(Version::V1, Some(Ends { source: scoped, destination: scoped }));
        assert_eq!(&*header, b"PROXY TCP6 fe80::1 fe80::1 7 7\r\n");
    }

    #[test]
    fn what_is_our_own_is_said_to_be() {
        let own = || ends("10.0.0.1:40000", "10.0.0.2:80");
        assert_eq!(&*Header::of_own(Version::V1, own), b"PROXY TCP4 10.0.0.1 10.0.0.2 40000 80\r\n");
        assert_eq!(&*Header::of_own(Version::V1, || None), b"PROXY UNKNOWN\r\n");
        let local = Header::of_own(Version::V2, || panic!("nobody need be asked"));
        assert_eq!(local[12..], [0x20, 0, 0, 0]);
    }

    proptest! {
        #[test]
        fn every_header_reads_back(source: (IpAddr, u16), destination: (IpAddr, u16)) {
            let both = Ends { source: source.into(), destination: destination.into() };
            let text = Header::of_client(Version::V1, Some(both)).to_vec();
            let text = String::from_utf8(text).expect("US-ASCII");
            let fields: Vec<&str> = text.strip_suffix("\r\n").expect("a line").split(' ').collect();
            let [name, family, from, to, from_port, to_port] = fields[..] else { panic!("{text}") };
            prop_assert_eq!(name, "PROXY");
            let read: [IpAddr; 2] = [from, to].map(|address| address.parse().expect("an address"));
            prop_assert_eq!(read.map(|ip| ip.to_canonical()), [source.0.to_canonical(), destination.0.to_canonical()]);
            prop_assert!(read.iter().all(|ip| ip.is_ipv4() == (family == "TCP4")));
            prop_assert_eq!([from_port.parse(), to_port.parse()], [Ok(source.1), Ok(destination.1)]);

            let bytes = Header::of_client(Version::V2, Some(both)).to_vec();
            let length = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
            prop_assert_eq!(bytes.len(), 16 + length);
            let width = if bytes[13] == TCP4 { 4 } else { 16 };
            let read = [16, 16 + width].map(|at| address(&bytes[at..at + width]).to_canonical());
            prop_assert_eq!(read, [source.0.to_canonical(), destination.0.to_canonical()]);
        }
    }

    fn address(octets: &[u8]) -> IpAddr {
        match <[u8; 4]>::try_from(octets) {
            Ok(four) => four.into(),
            Err(_) => <[u8; 16]>::try_from(octets).expect("four or sixteen").into(),
        }
    }
}
