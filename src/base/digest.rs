//! Hashes that never change.
//!
//! Two ringways that balance by source agree on a server without a word between them, also when one of them is older.
//! So nothing here may ever give another number, on any machine: no hasher whose authors may improve it.
//!
//! * A digest is FNV-1a, 64 bits (draft-eastlake-fnv: offset basis `cbf29ce484222325`, prime `100000001b3`), put through
//!   [`mix`], because the upper bits of FNV say little about short names.
//! * An IP address is digested as its 16 bytes in network order, an IPv4 address as `::ffff:a.b.c.d`: a client is the same
//!   on an IPv4 listener and on one for both families.

use std::net::{IpAddr, Ipv6Addr};

/// Every bit of `x` on every bit of the answer; no two answers are alike: the finisher of splitmix64 (Steele, Lea, Flood
/// 2014).
#[inline]
pub const fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// The digest of some bytes: a server's name.
pub fn digest(bytes: &[u8]) -> u64 {
    let fnv = bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash: u64, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3) // the prime of FNV
    });
    mix(fnv)
}

/// The digest of a client's address. Whoever has none (a unix socket) is one client with all others of that kind.
pub fn digest_of_client(address: Option<IpAddr>) -> u64 {
    let address = match address {
        Some(IpAddr::V4(v4)) => v4.to_ipv6_mapped(),
        Some(IpAddr::V6(v6)) => v6,
        None => Ipv6Addr::UNSPECIFIED,
    };
    digest(&address.octets())
}

/// A number below `below` for a random one, each as likely as the others: the upper half of their product.
#[inline]
pub fn scale(random: u64, below: usize) -> usize {
    ((u128::from(random) * below as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_fnv_and_splitmix_as_published() {
        // FNV-1a of "", "a" and "foobar" (draft-eastlake-fnv), and the first outputs of splitmix64 seeded with 0.
        assert_eq!(digest(b""), mix(0xCBF2_9CE4_8422_2325));
        assert_eq!(digest(b"a"), mix(0xAF63_DC4C_8601_EC8C));
        assert_eq!(digest(b"foobar"), mix(0x8594_4171_F739_67E8));
        assert_eq!(mix(0x9E37_79B9_7F4A_7C15), 0xE220_A839_7B1D_CDAF);
        assert_eq!(mix(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(2)), 0x6E78_9E6A_A1B9_65F4);
    }

    #[test]
    fn a_client_is_the_same_in_both_families() {
        let [v4, mapped] = ["192.0.2.7", "::ffff:192.0.2.7"].map(|text| text.parse().ok());
        assert_eq!(digest_of_client(v4), digest_of_client(mapped));
        assert_ne!(digest_of_client(v4), digest_of_client(None));
    }

    #[test]
    fn scaling_reaches_both_ends_and_no_further() {
        assert_eq!([scale(0, 3), scale(u64::MAX / 2, 3), scale(u64::MAX, 3)], [0, 1, 2]);
        assert_eq!(scale(u64::MAX, 1), 0);
    }
}
