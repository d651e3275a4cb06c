//! Bytes that never repeat, and whether they arrive as they were sent.

use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};

use super::facts::uninterrupted;
use super::peers::patient;

/// A sequence of random numbers that is the same each time: xorshift64 (Marsaglia 2003).
pub struct Dice(u64);

impl Dice {
    /// The sequence that belongs to `seed`.
    pub fn new(seed: u64) -> Self {
        Self((seed ^ 0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// The next number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.roll() % limit
    }
}

/// Sends `bytes` of noise that depends on `seed` and never repeats within a run; its hash.
pub fn send_noise(stream: &mut impl Write, seed: u64, bytes: u64) -> io::Result<u64> {
    let mut block = vec![0_u8; 256 * 1024];
    let mut dice = Dice::new(seed);
    for word in block.chunks_exact_mut(8) {
        word.copy_from_slice(&dice.roll().to_le_bytes());
    }
    let mut hash = DefaultHasher::new();
    let (mut left, mut number) = (bytes, 0_u64);
    while left > 0 {
        // A stamp makes each block its own; an odd length lets it cross every boundary.
        block[..8].copy_from_slice(&number.to_le_bytes());
        let length = left.min(block.len() as u64 - number % 1021) as usize;
        stream.write_all(&block[..length])?;
        hash.write(&block[..length]);
        left -= length as u64;
        number += 1;
    }
    Ok(hash.finish())
}

/// The same hash of so many bytes that arrive. Hashes in pieces as they were sent.
pub fn read_noise(stream: &mut impl Read, bytes: u64) -> io::Result<u64> {
    let mut block = vec![0_u8; 256 * 1024];
    let mut hash = DefaultHasher::new();
    let (mut left, mut number) = (bytes, 0_u64);
    while left > 0 {
        let length = left.min(block.len() as u64 - number % 1021) as usize;
        stream.read_exact(&mut block[..length])?;
        hash.write(&block[..length]);
        left -= length as u64;
        number += 1;
    }
    Ok(hash.finish())
}

/// Sends and reads at the same time, half-closes after sending, and expects the peer's end after reading. Hashes of what
/// was sent and of what came.
pub fn both_ways(mut stream: TcpStream, seed: u64, bytes_out: u64, bytes_in: u64) -> io::Result<(u64, u64)> {
    patient(&stream);
    let mut out = stream.try_clone()?;
    std::thread::scope(|scope| {
        let sending = scope.spawn(move || {
            let hash = send_noise(&mut out, seed, bytes_out)?;
            out.shutdown(Shutdown::Write)?;
            Ok::<_, io::Error>(hash)
        });
        let came = read_noise(&mut stream, bytes_in)?;
        let rest = uninterrupted(|| stream.read(&mut [0; 1]))?;
        assert_eq!(rest, 0, "more came than was sent");
        Ok((sending.join().expect("no panic")?, came))
    })
}
