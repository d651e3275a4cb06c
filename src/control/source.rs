//! Where the text of the configuration comes from: a file, which is read again at each reload, or the program around us.

use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::file::{self, READ_MAX, ReadError};

use super::engine::Runtime;

/// Longest time a file may take to be read: a mount that hangs must not hang the daemon.
const READING: Duration = Duration::from_secs(5);
/// Bytes asked for at once.
const PIECE: usize = 64 * 1024;

/// Where the text comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// A text that somebody made up.
    Text {
        /// What complaints call it.
        name: String,
        /// The text.
        text: String,
    },
}

impl Source {
    /// What complaints call it.
    pub fn name(&self) -> String {
        match self {
            Source::File(path) => path.display().to_string(),
            Source::Text { name, .. } => name.clone(),
        }
    }

    /// The text, read at once: for the start, when nobody waits for anything else.
    ///
    /// # Errors
    /// The file cannot be read, or is no text.
    pub fn read(&self) -> Result<String, ReadError> {
        match self {
            Source::File(path) => file::read(path),
            Source::Text { text, .. } => Ok(text.clone()),
        }
    }

    /// The text, read while the conductor goes on: through its ring where it has one.
    ///
    /// # Errors
    /// As [`Source::read`], and a file that takes too long.
    pub async fn read_again(&self, runtime: Runtime) -> Result<String, ReadError> {
        let path = match self {
            Source::Text { text, .. } => return Ok(text.clone()),
            Source::File(path) => path,
        };
        let bytes = read_file(path, 0, runtime).await.map_err(|error| ReadError::new(path, error))?;
        file::text(path, bytes)
    }

    /// Where what is laid over it is kept; `None`: a text that somebody made up has no such place.
    pub fn overlay_path(&self, state_dir: Option<&Path>) -> Option<PathBuf> {
        match self {
            Source::File(path) => Some(file::overlay_path(path, state_dir)),
            Source::Text { .. } => None,
        }
    }
}

/// The text of an overlay, read as [`Source::read_again`] does; without a file, it is empty.
///
/// # Errors
/// As [`Source::read_again`].
pub async fn read_overlay(path: &Path, runtime: Runtime) -> Result<String, ReadError> {
    file::overlay_text(path, read_file(path, file::OVERLAY_FLAGS, runtime).await)
}

async fn read_file(path: &Path, flags: i32, runtime: Runtime) -> io::Result<Vec<u8>> {
    let reading = async {
        match runtime {
            Runtime::Uring => by_ring(path, flags).await,
            Runtime::Plain => by_thread(path, flags).await,
        }
    };
    let too_long = || io::Error::new(io::ErrorKind::TimedOut, "it could not be read within 5 s");
    tokio::time::timeout(READING, reading).await.unwrap_or_else(|_| Err(too_long()))
}

async fn by_ring(path: &Path, flags: i32) -> io::Result<Vec<u8>> {
    let mut options = tokio_uring::fs::OpenOptions::new();
    options.read(true).custom_flags(flags);
    let file = options.open(path).await?;
    let mut bytes = Vec::new();
    let mut piece = Vec::with_capacity(PIECE);
    loop {
        piece.clear();
        let (answer, buffer) = file.read_at(piece, bytes.len() as u64).await;
        piece = buffer;
        if answer? == 0 {
            break;
        }
        bytes.extend_from_slice(&piece);
        if bytes.len() >= READ_MAX {
            bytes.truncate(READ_MAX);
            break;
        }
    }
    file.close().await?;
    Ok(bytes)
}

async fn by_thread(path: &Path, flags: i32) -> io::Result<Vec<u8>> {
    use tokio::io::AsyncReadExt;
    let mut bytes = Vec::new();
    let file = tokio::fs::OpenOptions::new().read(true).custom_flags(flags).open(path).await?;
    file.take(READ_MAX as u64).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_runtimes_read_the_same() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("big.toml");
        let text = "# a comment that is repeated\n".repeat(10_000);
        std::fs::write(&path, &text).expect("written");
        let source = Source::File(path);
        let missing = Source::File(directory.path().join("none.toml"));
        for runtime in [Runtime::Plain, Runtime::Uring] {
            let (opened, open) = runtime.open().expect("descriptors are left");
            assert!(opened == runtime || runtime == Runtime::Uring, "only a ring may be refused");
            let (read, missing) =
                open.block_on(async { (source.read_again(opened).await, missing.read_again(opened).await) });
            assert_eq!(read.expect("readable"), text);
            assert!(matches!(missing, Err(ReadError::Unreadable { .. })));
        }
        assert_eq!(source.read().expect("readable"), text);
    }
}
