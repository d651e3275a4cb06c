//! Packets, and the numbers and strings in them.
//!
//! ```text
//! ┌──────────┬──────────┬───────────────────┐
//! │ length 3 │ number 1 │ payload           │   integers have the least byte first
//! └──────────┴──────────┴───────────────────┘
//! ```
//!
//! MySQL client/server protocol, "MySQL Packets" and "Integer Types", "String Types". A payload longer than
//! [`PACKET_MAX`] is a fault: a check has no use for one. So are packets out of their order.

use super::Fault;
use crate::base::limits::{MYSQL_BUFFERED_MAX as BUFFERED_MAX, MYSQL_PACKET_MAX as PACKET_MAX};

const HEADER: usize = 4;

/// What has arrived and is not read yet.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    start: usize,
}

impl Inbox {
    /// Takes bytes in.
    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        if self.len() + bytes.len() > BUFFERED_MAX {
            return Err(Fault::TooLarge("what the server sends at once"));
        }
        self.bytes.drain(..self.start);
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// Gives back what nothing waits in: a thousand checks use the same warm memory one after the other.
    pub(super) fn rest(&mut self) {
        if self.len() == 0 {
            *self = Self::default();
        }
    }

    /// How many bytes wait.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// The payload of the next packet, if it is whole; its number must be `expected`.
    pub(super) fn take(&mut self, expected: u8) -> Result<Option<Vec<u8>>, Fault> {
        Ok(self.next(expected)?.map(<[u8]>::to_vec))
    }

    /// The same, where it lies: an answer about replication has sixty.
    pub(super) fn next(&mut self, expected: u8) -> Result<Option<&[u8]>, Fault> {
        let waiting = &self.bytes[self.start..];
        let [a, b, c, number, rest @ ..] = waiting else { return Ok(None) };
        let length = u32::from_le_bytes([*a, *b, *c, 0]) as usize;
        if length > PACKET_MAX {
            return Err(Fault::TooLarge("a packet"));
        }
        if *number != expected {
            return Err(Fault::Malformed("the number of a packet"));
        }
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        self.start += HEADER + length;
        Ok(Some(payload))
    }
}

/// Appends a packet to `out`.
///
/// # Panics
///
/// Never: what this client says is far below the 16 MiB a header can tell of.
pub(super) fn put(out: &mut Vec<u8>, number: u8, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("a payload of this client is short").to_le_bytes();
    out.extend_from_slice(&length[..3]);
    out.push(number);
    out.extend_from_slice(payload);
}

/// Reads a payload from its front to its back. `None`: it ends too early.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) fn new(payload: &'a [u8]) -> Self {
        Self(payload)
    }

    /// What is left.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// The next `count` bytes.
    pub(super) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.bytes(1).map(|bytes| bytes[0])
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.bytes(2).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.bytes(4).map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// Bytes up to a NUL, which is taken too.
    pub(super) fn until_nul(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|&byte| byte == 0)?;
        let taken = self.bytes(end)?;
        self.bytes(1)?;
        Some(taken)
    }

    /// A length-encoded integer.
    pub(super) fn number(&mut self) -> Option<u64> {
        let wide = match self.u8()? {
            0xFC => 2,
            0xFD => 3,
            0xFE => 8,
            0xFB | 0xFF => return None,
            small => return Some(u64::from(small)),
        };
        let bytes = self.bytes(wide)?;
        Some(bytes.iter().rev().fold(0, |number, &byte| (number << 8) | u64::from(byte)))
    }

    /// A length-encoded string.
    pub(super) fn string(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        self.bytes(length)
    }
}

/// Text of a server as it may be shown: at most `most` characters, none of them a control character.
pub(super) fn text(bytes: &[u8], most: usize) -> String {
    let harmless = |c: char| if c.is_control() { '\u{FFFD}' } else { c };
    String::from_utf8_lossy(bytes).chars().take(most).map(harmless).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn packets_arrive_in_any_pieces() {
        let mut wire = Vec::new();
        put(&mut wire, 0, b"first");
        put(&mut wire, 1, b"");
        put(&mut wire, 2, &[7; 300]);
        let mut inbox = Inbox::default();
        let mut got = Vec::new();
        for byte in wire {
            inbox.put(&[byte]).expect("room");
            while let Some(payload) = inbox.take(u8::try_from(got.len()).expect("three")).expect("in order") {
                got.push(payload);
            }
        }
        assert_eq!(got, [b"first".to_vec(), Vec::new(), vec![7; 300]]);
        assert_eq!(inbox.len(), 0);
    }

    #[test]
    fn what_is_too_large_or_out_of_order_is_a_fault() {
        let mut inbox = Inbox::default();
        inbox.put(&[0xFF, 0xFF, 0xFF, 0]).expect("room");
        assert!(matches!(inbox.take(0), Err(Fault::TooLarge(_))));
        let mut inbox = Inbox::default();
        inbox.put(&[1, 0, 0, 1, 9]).expect("room");
        assert!(matches!(inbox.take(0), Err(Fault::Malformed(_))));
        let mut inbox = Inbox::default();
        assert!(matches!(inbox.put(&vec![0; BUFFERED_MAX + 1]), Err(Fault::TooLarge(_))));
    }

    /// The protocol documentation, "Integer Types": "Protocol::LengthEncodedInteger".
    #[test]
    fn numbers_of_every_length() {
        let read = |bytes: &[u8]| Cursor::new(bytes).number();
        assert_eq!(read(&[0xFA]), Some(250));
        assert_eq!(read(&[0xFC, 0xFB, 0x00]), Some(251));
        assert_eq!(read(&[0xFD, 0x00, 0x00, 0x01]), Some(65_536));
        assert_eq!(read(&[0xFE, 0, 0, 0, 1, 0, 0, 0, 0]), Some(1 << 24));
        assert_eq!(read(&[0xFC, 1]), None);
        assert_eq!(read(&[0xFB]), None, "NULL is no number");
        assert_eq!(read(&[]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_cursor_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut cursor = Cursor::new(&bytes);
            while !cursor.rest().is_empty() {
                let before = cursor.rest().len();
                let _ = (cursor.clone().string(), cursor.clone().until_nul(), cursor.clone().u32());
                if cursor.string().is_none() && cursor.u8().is_none() {
                    break;
                }
                prop_assert!(cursor.rest().len() < before);
            }
        }
    }
}
