//! Reads the file from disk. That it cannot be read and that it is wrong are two things, with two exit codes.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::limits::FILE_BYTES_MAX;

/// Where the configuration is when nobody says otherwise.
pub const DEFAULT_PATH: &str = "/etc/ringway/ringway.toml";

/// Why there is no text.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Exit code 77.
    #[error("{}: permission denied; run as its owner or as root", .0.display())]
    Denied(PathBuf),
    /// Exit code 78.
    #[error("{}: {error}{}", path.display(), remedy(path, error))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// Exit code 3: it is there, but it is no text.
    #[error("{}:{line}: byte {offset} of the file is not UTF-8; TOML is UTF-8 throughout", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The first wrong byte, from 0.
        offset: usize,
    },
}

/// What to do when the file that nobody has named is not there.
fn remedy(path: &Path, error: &io::Error) -> &'static str {
    let is_unnamed = error.kind() == io::ErrorKind::NotFound && path == Path::new(DEFAULT_PATH);
    if is_unnamed { "; make one there, or name another (-c)" } else { "" }
}

/// Most bytes worth reading: one more than [`super::parse`] takes, so that it can say that there are too many.
pub const READ_MAX: usize = FILE_BYTES_MAX + 1;

impl ReadError {
    /// What `error` means for the file at `path`.
    pub fn new(path: &Path, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied => ReadError::Denied(path.to_owned()),
            _ => ReadError::Unreadable { path: path.to_owned(), error },
        }
    }
}

/// The text of `path`. A file above the limit comes back cut behind it, for [`super::parse`] to refuse.
///
/// # Errors
///
/// See [`ReadError`].
pub fn read(path: &Path) -> Result<String, ReadError> {
    let mut bytes = Vec::new();
    let most = u64::try_from(READ_MAX).unwrap_or(u64::MAX);
    File::open(path)
        .and_then(|file| file.take(most).read_to_end(&mut bytes))
        .map_err(|error| ReadError::new(path, error))?;
    text(path, bytes)
}

/// Where the overlay of the configuration at `config` is: beside it, or in `state_dir`.
pub fn overlay_path(config: &Path, state_dir: Option<&Path>) -> PathBuf {
    let mut name = config.file_stem().unwrap_or_default().to_owned();
    name.push(".overlay.toml");
    state_dir.or(config.parent()).unwrap_or(Path::new("")).join(name)
}

/// How an overlay is opened. It may be where the daemon can write, and is read by root: a link to somewhere else is not
/// followed.
pub const OVERLAY_FLAGS: i32 = libc::O_NOFOLLOW;

/// The text of the overlay at `path`; without a file, it is empty.
///
/// # Errors
///
/// See [`ReadError`].
pub fn read_overlay(path: &Path) -> Result<String, ReadError> {
    let mut bytes = Vec::new();
    let most = u64::try_from(READ_MAX).unwrap_or(u64::MAX);
    // A pipe in its place shall not make anybody wait.
    let flags = OVERLAY_FLAGS | libc::O_NONBLOCK;
    let read = OpenOptions::new().read(true).custom_flags(flags).open(path).and_then(|file| {
        match file.metadata()?.is_file() {
            true => file.take(most).read_to_end(&mut bytes).map(drop),
            false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")),
        }
    });
    overlay_text(path, read.map(|()| bytes))
}

/// What was read of an overlay, as text.
///
/// # Errors
///
/// See [`ReadError`]; that there is none is no error.
pub fn overlay_text(path: &Path, read: io::Result<Vec<u8>>) -> Result<String, ReadError> {
    match read {
        Ok(bytes) => text(path, bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(ReadError::new(path, error)),
    }
}

/// What was read from `path`, as text.
///
/// # Errors
///
/// [`ReadError::NotText`].
pub fn text(path: &Path, bytes: Vec<u8>) -> Result<String, ReadError> {
    String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        let breaks = error.as_bytes()[..offset].iter().filter(|&&b| b == b'\n');
        ReadError::NotText { path: path.to_owned(), line: breaks.count() + 1, offset }
    })
}

/// A variable of the environment of this process, as [`super::parse`] asks for it. One that is not UTF-8 is not set.
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
