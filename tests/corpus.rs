//! Replays the fuzzing corpus (`fuzz/corpus/TARGET/*`), and small changes to each of its entries, through the very functions
//! that cargo-fuzz drives. What fuzzing finds becomes an entry.

use std::fs;
use std::path::{Path, PathBuf};

#[path = "../fuzz/targets.rs"]
mod targets;

/// Changes made to each entry.
const CHANGES: u64 = 100;
/// Entries above this size, in bytes, are replayed as they are: their changes would take too long.
const CHANGED_BYTES_MAX: usize = 4096;

fn entries(folder: &Path) -> Vec<PathBuf> {
    let found = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = found.map(|entry| entry.expect("a readable folder").path()).collect();
    files.sort();
    files
}

/// A change to `bytes`, drawn by `seed`: bytes changed, taken out, doubled, or cut off.
fn changed(bytes: &[u8], seed: u64) -> Vec<u8> {
    // splitmix64 (Steele et al. 2014).
    let mut state = seed;
    let mut draw = |below: usize| {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % below.max(1) as u64) as usize
    };
    let mut bytes = bytes.to_vec();
    for _ in 0..=draw(3) {
        let at = draw(bytes.len());
        let end = (at + 1 + draw(8)).min(bytes.len());
        match draw(6) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let piece = bytes[at.min(end)..end].to_vec();
                bytes.splice(at..at, piece);
            }
            3 => bytes.insert(at, draw(256) as u8),
            4 => bytes.insert(at, b"\"'\\\n\r\0=[]{}$.,:-_ 0\x7f\xff\xc2"[draw(22)]),
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << draw(8);
                }
            }
        }
    }
    bytes
}

#[test]
fn the_corpus_and_what_is_near_it() {
    for (name, target) in targets::TARGETS {
        let folder = Path::new("fuzz/corpus").join(name);
        let mut files = entries(&folder);
        assert!(!files.is_empty(), "{} is empty", folder.display());
        if name == "config" {
            files.extend(entries(Path::new("tests/config/right")));
            files.extend(
                entries(Path::new("tests/config/wrong"))
                    .into_iter()
                    .filter(|file| file.extension().is_some_and(|e| e == "toml")),
            );
        }
        for file in files {
            let bytes = fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            // Shown only when one of them fails.
            println!("{}", file.display());
            target(&bytes);
            let changes = if bytes.len() > CHANGED_BYTES_MAX { 0 } else { CHANGES };
            for seed in 0..changes {
                println!("{} with change {seed}", file.display());
                target(&changed(&bytes, seed));
            }
        }
    }
}
