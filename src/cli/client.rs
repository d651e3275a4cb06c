//! How verbs talk to a running daemon: one HTTP request over its admin socket.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::check::{self, Wrong};
use super::exit;
use super::out::complain;
use crate::base::limits::ANSWER_MAX;
use crate::config::file::{self, DEFAULT_PATH};
use crate::config::limits::ADMIN_SOCKET_DEFAULT;
use crate::control::admin::Problem;

/// Longest time for an answer: a reload may wait for removed addresses to close.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which daemon to talk to.
#[derive(Debug, Clone, clap::Args)]
pub struct Target {
    /// The daemon's configuration, which names its admin socket.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The daemon's admin socket.
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    socket: Option<PathBuf>,
}

/// An answer of the daemon.
#[derive(Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The configuration does not say where the daemon listens.
    #[error("{0} sets no admin socket; add `socket` to its [admin], or name one with --socket")]
    NoSocket(PathBuf),
    /// The configuration cannot be read; why has been shown.
    #[error("so the admin socket is not known; name it with --socket")]
    Config(u8),
    /// Nobody answers.
    #[error(
        "no daemon answers on {}: {cause}; start it with `ringway run`, or name its socket (--socket) or its \
         configuration (-c)", socket.display()
    )]
    Nobody {
        /// Where.
        socket: PathBuf,
        /// What the kernel said.
        cause: io::Error,
    },
    /// The socket is somebody else's.
    #[error("{}: permission denied; run this as root or as the user that runs ringway", .0.display())]
    Denied(PathBuf),
    /// The conversation broke off.
    #[error("the daemon on {} broke off: {cause}", socket.display())]
    Broken {
        /// Where.
        socket: PathBuf,
        /// Why.
        cause: String,
    },
    /// The daemon says no.
    #[error("the daemon says: {0}")]
    Refused(String),
}

impl ClientError {
    /// The answer is nothing this version knows.
    pub(super) fn strange(error: &serde_json::Error) -> Self {
        ClientError::Refused(format!("something this version does not understand ({error})"))
    }

    /// Tells the user on standard error, and says how to exit.
    pub fn report(&self) -> ExitCode {
        complain(format_args!("ringway: {self}"));
        ExitCode::from(match self {
            ClientError::Config(code) => *code,
            ClientError::Denied(_) => exit::PERMISSION,
            ClientError::NoSocket(_)
            | ClientError::Nobody { .. }
            | ClientError::Broken { .. }
            | ClientError::Refused(_) => exit::FAILURE,
        })
    }
}

impl Target {
    /// The daemon that runs with the configuration `config`.
    pub fn of_config(config: PathBuf) -> Self {
        Self { config: Some(config), socket: None }
    }

    /// The same by its socket, so that the configuration is not read again.
    ///
    /// # Errors
    /// The configuration does not say which.
    pub fn fixed(&self) -> Result<Self, ClientError> {
        Ok(Self { config: None, socket: Some(self.socket()?) })
    }

    /// `GET path?key=value&…`, whatever is in the values.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn query<V: AsRef<str>>(
        &self,
        path: &str,
        pairs: impl Iterator<Item = (&'static str, V)>,
    ) -> Result<Reply, ClientError> {
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        self.get(&format!("{path}?{query}"))
    }

    /// `GET path`.
    ///
    /// # Errors
    /// Why there is no answer. An answer that says no is an answer.
    pub fn get(&self, path: &str) -> Result<Reply, ClientError> {
        self.ask(Method::GET, path, String::new())
    }

    /// `POST path` without a body.
    ///
    /// # Errors
    /// As [`Target::get`].
    pub fn post(&self, path: &str) -> Result<Reply, ClientError> {
        self.post_with(path, String::new())
    }

    /// `POST path` with a body of JSON.
    ///
    /// # Errors
    /// As [`Target::get`].
    pub fn post_with(&self, path: &str, body: String) -> Result<Reply, ClientError> {
        self.ask(Method::POST, path, body)
    }

    fn ask(&self, method: Method, path: &str, body: String) -> Result<Reply, ClientError> {
        let socket = self.socket()?;
        let broken = |cause: String| ClientError::Broken { socket: socket.clone(), cause };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| broken(error.to_string()))?;
        runtime.block_on(async {
            let conversation = converse(&socket, method, path, body);
            let late = || Err(broken(format!("no answer within {} s", PATIENCE.as_secs())));
            tokio::time::timeout(PATIENCE, conversation).await.unwrap_or_else(|_| late())
        })
    }

    /// The admin socket: as named, or as the configuration says; without either, as the default configuration says, or the
    /// default socket when that cannot be read.
    fn socket(&self) -> Result<PathBuf, ClientError> {
        if let Some(socket) = &self.socket {
            return Ok(socket.clone());
        }
        let path = self.config.as_deref().unwrap_or(Path::new(DEFAULT_PATH));
        match check::load_file(path) {
            Ok(draft) => draft.admin().socket.clone().ok_or_else(|| ClientError::NoSocket(path.to_owned())),
            // A file that is wrong is what `reload` is there to be told about: the daemon will say what is wrong with it.
            Err(Wrong::Content(_)) => Ok(socket_in(&file::read(path).unwrap_or_default())),
            Err(_) if self.config.is_none() => Ok(PathBuf::from(ADMIN_SOCKET_DEFAULT)),
            Err(wrong) => {
                wrong.report();
                Err(ClientError::Config(wrong.code()))
            }
        }
    }
}

/// The admin socket that a file names, as far as it can be understood, or the default one.
fn socket_in(text: &str) -> PathBuf {
    let (document, _) = toml::de::DeTable::parse_recoverable(text);
    let admin = document.get_ref().get("admin").and_then(|admin| admin.get_ref().as_table());
    let socket = admin.and_then(|admin| admin.get("socket")).and_then(|socket| socket.get_ref().as_str());
    PathBuf::from(socket.unwrap_or(ADMIN_SOCKET_DEFAULT))
}

async fn converse(socket: &Path, method: Method, path: &str, body: String) -> Result<Reply, ClientError> {
    let stream = UnixStream::connect(socket).await.map_err(|cause| match cause.kind() {
        io::ErrorKind::PermissionDenied => ClientError::Denied(socket.to_owned()),
        _ => ClientError::Nobody { socket: socket.to_owned(), cause },
    })?;
    let broken = |cause: String| ClientError::Broken { socket: socket.to_owned(), cause };
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| broken(error.to_string()))?;
    let request =
        Request::builder().method(method).uri(path).header("host", "ringway").body(Full::new(Bytes::from(body)));
    let request = request.expect("a path of ours is a URI");
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| broken(error.to_string()))?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
        let body = body.map_err(|error| broken(error.to_string()))?.to_bytes();
        Ok(Reply { status, body: String::from_utf8_lossy(&body).into_owned() })
    };
    tokio::pin!(connection);
    tokio::pin!(answer);
    let mut over = false;
    loop {
        tokio::select! {
            reply = &mut answer => return reply,
            // Drives the conversation; when it ends the answer is complete or will say why not.
            _ = &mut connection, if !over => over = true,
        }
    }
}

impl Reply {
    /// The answer, if it is one: anything but a 200 is the daemon's refusal.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the daemon's words.
    pub fn accepted(self) -> Result<String, ClientError> {
        if self.status == 200 {
            return Ok(self.body);
        }
        let words = serde_json::from_str::<Problem>(&self.body).map_or(self.body, |problem| problem.detail);
        Err(ClientError::Refused(words.trim_end().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(config: Option<&Path>, socket: Option<&Path>) -> Target {
        Target { config: config.map(Path::to_owned), socket: socket.map(Path::to_owned) }
    }

    #[test]
    fn the_socket_is_found_and_its_silence_explained() {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("admin.sock");
        let error = target(None, Some(&socket)).get("/v1/status").expect_err("nobody there");
        assert!(error.to_string().contains("ringway run"), "{error}");
        let config = directory.path().join("ringway.toml");
        let text = format!("[admin]\nsocket = \"{}\"\n", socket.display());
        std::fs::write(
            &config,
            text + "[listeners.a]\nbind = \"127.0.0.1:80\"\npool = \"p\"\n[pools.p]\n\
                    servers = [{ name = \"s\", address = \"127.0.0.1:1\" }]\n",
        )
        .expect("written");
        assert_eq!(target(Some(&config), None).socket().expect("configured"), socket);
        std::fs::write(&config, format!("[admin]\nsocket = \"{}\"\n[nonsense\nx = = 1\n", socket.display()))
            .expect("written");
        assert_eq!(target(Some(&config), None).socket().expect("understood"), socket);
        assert_eq!(socket_in("what"), Path::new(ADMIN_SOCKET_DEFAULT));
        let missing = target(Some(&directory.path().join("none")), None).socket();
        assert!(matches!(missing, Err(ClientError::Config(exit::UNREADABLE))));
    }

    #[test]
    fn a_refusal_is_told_in_the_words_of_the_daemon() {
        let problem = r#"{"type": "about:blank", "title": "Service Unavailable", "status": 503, "detail": "stopping"}"#;
        let reply = Reply { status: 503, body: format!("{problem}\n") };
        assert_eq!(reply.accepted().expect_err("no").to_string(), "the daemon says: stopping");
    }
}
