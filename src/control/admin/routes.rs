//! What the admin server answers; `config/openapi.json` says it to programs.
//!
//! | path | |
//! |---|---|
//! | `GET /` | the status: a page for browsers, a table for everybody else |
//! | `GET /metrics` | Prometheus |
//! | `GET /livez`, `/readyz` | 200, or 503 while draining (`/readyz`) |
//! | `GET /v1/status`, `/v1/info` | JSON |
//! | `GET /v1/history` | the last five minutes, the last events and the last reload: [`History`] |
//! | `GET /v1/events` | what the status page shows, as it changes; `text/event-stream` |
//! | `GET /v1/explain?listener=NAME&source=IP` | which server a client would get, and why no other; JSON |
//! | `GET /v1/config` | the text of the configuration in force; unix socket only, for it may hold secrets |
//! | `GET /v1/sessions?listener=NAME&server=POOL/SERVER&source=CIDR&limit=N` | sessions that live; JSON; unix socket only, for it tells who the clients are |
//! | `POST /v1/kill` | ends sessions: [`Kill`]; unix socket only |
//! | `POST /v1/drain` | has traffic go elsewhere, or come again: [`Drain`]; unix socket only |
//! | `POST /v1/rebalance` | ends sessions of servers that hold more than their share: [`Rebalance`]; unix socket only |
//! | `POST /v1/server` | changes a server: [`ServerChange`]; unix socket only |
//! | `POST /v1/server/add`, `/v1/server/remove` | adds or removes a server: [`ServerAdd`], [`ServerRemove`]; unix socket only |
//! | `GET /v1/overlay` | what is laid over that text: servers added and removed since ([`InForce`](crate::control::roster::InForce)); unix socket only |
//! | `POST /v1/rollback` | takes up the configuration before the last reload; unix socket only |
//! | `POST /v1/reload` | reads the configuration again and says how that went; unix socket only. `?wait` answers when removed addresses are closed |
//!
//! An answer that is no success is a [`Problem`].

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue};
use hyper::header::{REFERRER_POLICY, RETRY_AFTER, VARY, X_CONTENT_TYPE_OPTIONS};
use hyper::{Method, Request, Response, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::base::bucket::Rate;
use crate::base::limits::{ADMIN_BODY_MAX, ADMIN_REQUESTS_A_SECOND, ADMIN_REQUESTS_BURST};
use crate::control::evener::Rebalance;
use crate::control::explain;
use crate::control::reload::Answer;
use crate::control::roster::{Edit, ServerAdd, ServerRemove};
use crate::control::sessions::{self, Kill};
use crate::control::steer::{Drain, Refused, ServerChange};
use crate::dataplane::commons::monotonic_ns;
use crate::dataplane::roll::{Called, Task, Whose};
use crate::observe::history::Sample;
use crate::observe::metrics::{self, Dialect};
use crate::observe::panel::{LastReload, Panel};
use crate::observe::recent::Told;
use crate::observe::status::status;

use super::feed::Answered;
use super::page::{self, PAGE};
use super::server::{Lease, READING};
use super::{Board, Command, Peer};

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
/// RFC 9457.
const PROBLEM: &str = "application/problem+json";
const EVENTS: &str = "text/event-stream; charset=utf-8";

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rights {
    /// Look.
    Read,
    /// Everything.
    All {
        /// Who it is.
        by: Option<Peer>,
    },
}

/// `/v1/info`: what runs, and since when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Info {
    /// The version.
    pub version: String,
    /// The process.
    pub pid: u32,
    /// Where the configuration comes from.
    pub config: String,
    /// Which one is in force.
    pub generation: u64,
    /// `io_uring` or `epoll`.
    pub engine: String,
    /// Why that engine.
    pub engine_reason: String,
    /// Worker threads.
    pub workers: u64,
    /// The release of the kernel.
    pub kernel: String,
    /// Start, in seconds since 1970.
    pub started_unix_s: u64,
    /// Seconds since the start.
    pub uptime_s: f64,
}

/// The body of an answer that is no success (RFC 9457). Of a reload that was refused it has the fields of [`Answer`] too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// Always `about:blank`: the status says what kind of problem it is.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    /// The status.
    pub status: u16,
    /// What is the matter.
    pub detail: String,
}

impl Problem {
    fn new(status: StatusCode, detail: &str) -> Self {
        Self {
            kind: "about:blank".into(),
            title: status.canonical_reason().unwrap_or_default().into(),
            status: status.as_u16(),
            detail: detail.to_owned(),
        }
    }
}

/// A reload that was refused.
#[derive(Serialize)]
struct NotApplied<'a> {
    #[serde(flatten)]
    problem: Problem,
    #[serde(flatten)]
    answer: &'a Answer,
}

/// Something that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where.
    pub path: &'static str,
    /// It changes something, and takes `POST`; otherwise `GET` and `HEAD`.
    pub changes: bool,
    /// Only whoever may change something may ask.
    pub private: bool,
}

const fn look_at(path: &'static str) -> Route {
    Route { path, changes: false, private: false }
}

const fn private(path: &'static str, changes: bool) -> Route {
    Route { path, changes, private: true }
}

/// All there is.
pub const ROUTES: [Route; 20] = [
    look_at("/"),
    look_at("/metrics"),
    look_at("/livez"),
    look_at("/readyz"),
    look_at("/v1/status"),
    look_at("/v1/info"),
    look_at("/v1/history"),
    look_at("/v1/events"),
    look_at("/v1/explain"),
    private("/v1/config", false),
    private("/v1/overlay", false),
    private("/v1/sessions", false),
    private(RELOAD, true),
    private(ROLLBACK, true),
    private(SERVER, true),
    private(SERVER_ADD, true),
    private(SERVER_REMOVE, true),
    private(DRAIN, true),
    private(REBALANCE, true),
    private(KILL, true),
];

/// `/v1/history`: what led here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// One a second, the oldest first.
    pub samples: Vec<Sample>,
    /// The oldest first.
    pub events: Vec<Told>,
    /// What became of the last reload; `null` when there was none.
    pub reload: Option<LastReload>,
}

type Reply = Response<Answered>;

/// Answers one request.
pub(super) async fn answer(
    request: Request<Incoming>,
    rights: Rights,
    board: Arc<Board>,
    lease: Rc<Lease>,
) -> Result<Reply, Infallible> {
    let (head, body) = request.into_parts();
    let wants_text = head.headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or("").to_owned();
    let refusal = refuse(&head.method, head.uri.path(), rights);
    if let Some(refusal) = refusal.or_else(|| slow_down(head.uri.path(), rights, &board)) {
        return Ok(refusal);
    }
    let body = match read(body).await {
        Ok(body) => body,
        Err(refusal) => return Ok(refusal),
    };
    let path = head.uri.path();
    Ok(match (path, rights) {
        (RELOAD, Rights::All { by }) => {
            let query = head.uri.query().unwrap_or_default();
            let wait = form_urlencoded::parse(query.as_bytes())
                .any(|(key, value)| key == "wait" && ["", "1"].contains(&&*value));
            reload(&board, |reply| Command::Reload { text: None, wait, by, reply }).await
        }
        (ROLLBACK, Rights::All { by }) => reload(&board, |reply| Command::RollBack { by, reply }).await,
        (SERVER, Rights::All { by }) => change_server(&board, &body, by).await,
        (SERVER_ADD, Rights::All { by }) => match serde_json::from_slice::<ServerAdd>(&body) {
            Ok(add) => edit(&board, Edit::Add(add), by).await,
            Err(error) => problem(StatusCode::BAD_REQUEST, &format!("the body: {error}")),
        },
        (SERVER_REMOVE, Rights::All { by }) => match serde_json::from_slice::<ServerRemove>(&body) {
            Ok(remove) => edit(&board, Edit::Remove(remove), by).await,
            Err(error) => problem(StatusCode::BAD_REQUEST, &format!("the body: {error}")),
        },
        (DRAIN, Rights::All { by }) => drain(&board, &body, by).await,
        (REBALANCE, Rights::All { by }) => rebalance(&board, &body, by).await,
        (KILL, Rights::All { by }) => kill(&board, &body, by).await,
        ("/v1/sessions", _) => sessions(&board, head.uri.query().unwrap_or_default()).await,
        ("/v1/events", _) if head.method == Method::GET => {
            let last = head.headers.get("last-event-id").and_then(|last| last.to_str().ok());
            watch(&board, last, lease)
        }
        ("/v1/explain", _) => explain(head.uri.query().unwrap_or_default(), &board),
        _ => look(path, &wants_text, &board),
    })
}

const RELOAD: &str = "/v1/reload";
const ROLLBACK: &str = "/v1/rollback";
const SERVER: &str = "/v1/server";
const SERVER_ADD: &str = "/v1/server/add";
const SERVER_REMOVE: &str = "/v1/server/remove";
const DRAIN: &str = "/v1/drain";
const REBALANCE: &str = "/v1/rebalance";
const KILL: &str = "/v1/kill";

/// What is refused before anything is done.
fn refuse(method: &Method, path: &str, rights: Rights) -> Option<Reply> {
    let Some(route) = ROUTES.iter().find(|route| route.path == path) else {
        return Some(problem(StatusCode::NOT_FOUND, "there is nothing here; GET / shows the status"));
    };
    let allowed = if route.changes { "POST" } else { "GET, HEAD" };
    if route.private && rights == Rights::Read {
        return Some(problem(StatusCode::FORBIDDEN, "only on the unix socket of [admin]"));
    }
    if !allowed.split(", ").any(|allowed| allowed == method.as_str()) {
        let mut refusal = problem(StatusCode::METHOD_NOT_ALLOWED, &format!("{path} takes {allowed}"));
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
        return Some(refusal);
    }
    None
}

/// Requests come too fast on this socket. Whoever asks whether we live is not kept waiting by others: it costs nothing, and
/// the wrong answer ends the daemon.
fn slow_down(path: &str, rights: Rights, board: &Board) -> Option<Reply> {
    if matches!(path, "/livez" | "/readyz") {
        return None;
    }
    let bucket = match rights {
        Rights::Read => &board.requests.tcp,
        Rights::All { .. } => &board.requests.unix,
    };
    let rate = Rate::new(ADMIN_REQUESTS_A_SECOND, 1_000_000_000, ADMIN_REQUESTS_BURST);
    if bucket.take(rate, monotonic_ns()) {
        return None;
    }
    let detail = format!("more than {ADMIN_REQUESTS_A_SECOND} requests a second came on this socket; ask again later");
    let mut refusal = problem(StatusCode::TOO_MANY_REQUESTS, &detail);
    refusal.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    Some(refusal)
}

async fn read(body: Incoming) -> Result<Bytes, Reply> {
    match tokio::time::timeout(READING, Limited::new(body, ADMIN_BODY_MAX).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(_)) => Err(problem(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 1 MiB, or broken off")),
        Err(_) => Err(problem(StatusCode::REQUEST_TIMEOUT, "the body took longer than 5 s")),
    }
}

fn look(path: &str, accept: &str, board: &Board) -> Reply {
    let panel = &board.panel;
    match path {
        "/metrics" => {
            let dialect = Dialect::of_accept(accept);
            reply(StatusCode::OK, dialect.content_type(), metrics::render(panel, dialect))
        }
        "/livez" => reply(StatusCode::OK, TEXT, "alive\n"),
        "/readyz" if !panel.is_ready() => reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, "draining\n"),
        "/readyz" => reply(StatusCode::OK, TEXT, "ready\n"),
        "/v1/status" => json(StatusCode::OK, &status(panel)),
        "/v1/info" => json(StatusCode::OK, &info(board, panel)),
        "/v1/history" => json(StatusCode::OK, &history(panel)),
        "/v1/events" => reply(StatusCode::OK, EVENTS, ""),
        "/v1/overlay" => json(StatusCode::OK, &**board.overlay.load()),
        "/v1/config" => reply(StatusCode::OK, TEXT, board.text.load().to_string()),
        _ if page::is_wanted(accept) => the_page(),
        _ => reply(StatusCode::OK, TEXT, status(panel).table()),
    }
}

/// The status page. Nothing but what is in it may run, and nobody may frame it.
fn the_page() -> Reply {
    let mut page = reply(StatusCode::OK, "text/html; charset=utf-8", PAGE.html.as_str());
    let headers = page.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_str(&PAGE.policy).expect("it is ASCII"));
    headers.insert(VARY, HeaderValue::from_static("accept"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    page
}

/// The stream for one who watches.
fn watch(board: &Board, last: Option<&str>, lease: Rc<Lease>) -> Reply {
    match board.feed.watch(&board.panel, last, lease) {
        Some(watch) => {
            let mut stream = reply(StatusCode::OK, EVENTS, "");
            *stream.body_mut() = Answered::Stream(watch);
            stream
        }
        None => problem(StatusCode::SERVICE_UNAVAILABLE, "as many watch as may; try again"),
    }
}

fn history(panel: &Panel) -> History {
    History { samples: panel.history().after(0), events: panel.log.recent.after(0), reload: panel.reloads.last() }
}

fn explain(query: &str, board: &Board) -> Reply {
    let question = match explain::question(query) {
        Ok(question) => question,
        Err(error) => return problem(StatusCode::BAD_REQUEST, &error),
    };
    match explain::explain(&board.panel.commons.scene.load().plan, &question) {
        Ok(answer) => json(StatusCode::OK, &answer),
        Err(error) => problem(StatusCode::NOT_FOUND, &error),
    }
}

fn info(board: &Board, panel: &Panel) -> Info {
    let kernel = nix::sys::utsname::uname().map(|names| names.release().to_string_lossy().into_owned());
    let started = panel.started.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
    Info {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        config: board.source.clone(),
        generation: panel.commons.scene.load().plan.generation,
        engine: panel.engine.name.into(),
        engine_reason: panel.engine.reason.into(),
        workers: panel.commons.desks.len() as u64,
        kernel: kernel.unwrap_or_default(),
        started_unix_s: started.as_secs(),
        uptime_s: panel.uptime().as_secs_f64(),
    }
}

/// Asks the conductor for another configuration.
async fn reload(board: &Board, command: impl FnOnce(super::Reply) -> Command) -> Reply {
    match ask(board, |told| command(Box::new(move |answer| drop(told.send(answer))))).await {
        Ok(answer) if answer.applied => json(StatusCode::OK, &answer),
        Ok(answer) => {
            let status = StatusCode::UNPROCESSABLE_ENTITY;
            let problem = Problem::new(status, &answer.report);
            body(status, PROBLEM, &NotApplied { problem, answer: &answer })
        }
        Err(refusal) => refusal,
    }
}

async fn change_server(board: &Board, body: &[u8], by: Option<Peer>) -> Reply {
    let change = match serde_json::from_slice::<ServerChange>(body) {
        Ok(change) => change,
        Err(error) => return problem(StatusCode::BAD_REQUEST, &format!("the body: {error}")),
    };
    if let Err(error) = change.check() {
        return problem(StatusCode::BAD_REQUEST, &format!("the body: {error}"));
    }
    let command = |told: oneshot::Sender<_>| Command::Server {
        change,
        by,
        reply: Box::new(move |answer| drop(told.send(answer))),
    };
    steered(ask(board, command).await)
}

async fn drain(board: &Board, body: &[u8], by: Option<Peer>) -> Reply {
    let drain = match serde_json::from_slice::<Drain>(body) {
        Ok(drain) => drain,
        Err(error) => return problem(StatusCode::BAD_REQUEST, &format!("the body: {error}")),
    };
    if let Err(error) = drain.check() {
        return problem(StatusCode::BAD_REQUEST, &format!("the body: {error}"));
    }
    let command =
        |told: oneshot::Sender<_>| Command::Drain { drain, by, reply: Box::new(move |now| drop(told.send(now))) };
    steered(ask(board, command).await)
}

async fn rebalance(board: &Board, body: &[u8], by: Option<Peer>) -> Reply {
    let wish = match serde_json::from_slice::<Rebalance>(body) {
        Ok(wish) => wish,
        Err(error) => return problem(StatusCode::BAD_REQUEST, &format!("the body: {error}")),
    };
    let command = |told: oneshot::Sender<_>| Command::Rebalance {
        wish,
        by,
        reply: Box::new(move |answer| drop(told.send(answer))),
    };
    steered(ask(board, command).await)
}

/// What came of changing something.
fn steered<T: Serialize>(answer: Result<Result<T, Refused>, Reply>) -> Reply {
    match answer {
        Ok(Ok(done)) => json(StatusCode::OK, &done),
        Ok(Err(Refused::NotFound(error))) => problem(StatusCode::NOT_FOUND, &error),
        Ok(Err(Refused::Unfit(error))) => problem(StatusCode::UNPROCESSABLE_ENTITY, &error),
        Err(refusal) => refusal,
    }
}

async fn edit(board: &Board, edit: Edit, by: Option<Peer>) -> Reply {
    let command =
        |told: oneshot::Sender<_>| Command::Edit { edit, by, reply: Box::new(move |answer| drop(told.send(answer))) };
    steered(ask(board, command).await)
}

async fn sessions(board: &Board, query: &str) -> Reply {
    let (whose, limit) = match sessions::question(query) {
        Ok(question) => question,
        Err(error) => return problem(StatusCode::BAD_REQUEST, &error),
    };
    match call_roll(board, whose.clone(), Task::Call, None).await {
        Ok(called) if called.found == 0 && called.complete => {
            match sessions::exist(&whose, &board.panel.commons.scene.load().plan) {
                Ok(()) => json(StatusCode::OK, &sessions::listed(called, limit)),
                Err(error) => problem(StatusCode::NOT_FOUND, &error),
            }
        }
        Ok(called) => json(StatusCode::OK, &sessions::listed(called, limit)),
        Err(refusal) => refusal,
    }
}

async fn kill(board: &Board, body: &[u8], by: Option<Peer>) -> Reply {
    let kill = match serde_json::from_slice::<Kill>(body) {
        Ok(kill) => kill,
        Err(error) => return problem(StatusCode::BAD_REQUEST, &format!("the body: {error}")),
    };
    let whose = match sessions::condemned(&kill) {
        Ok(whose) => whose,
        Err(error) => return problem(StatusCode::BAD_REQUEST, &error),
    };
    match call_roll(board, whose, Task::End, by).await {
        Ok(called) => json(StatusCode::OK, &sessions::killed(&kill, &called)),
        Err(refusal) => refusal,
    }
}

async fn call_roll(board: &Board, whose: Whose, task: Task, by: Option<Peer>) -> Result<Called, Reply> {
    let command = |told: oneshot::Sender<_>| Command::Roll {
        whose,
        task,
        by,
        reply: Box::new(move |called| drop(told.send(called))),
    };
    ask(board, command).await
}

/// Sends the conductor a command and waits for what it tells.
async fn ask<T>(board: &Board, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Reply> {
    let (told, answer) = oneshot::channel();
    if board.commands.try_send(command(told)).is_err() {
        let busy = "too many requests wait for the conductor; try again";
        return Err(problem(StatusCode::SERVICE_UNAVAILABLE, busy));
    }
    answer.await.map_err(|_| problem(StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping"))
}

fn problem(status: StatusCode, detail: &str) -> Reply {
    body(status, PROBLEM, &Problem::new(status, detail))
}

fn json(status: StatusCode, value: &impl Serialize) -> Reply {
    body(status, JSON, value)
}

fn body(status: StatusCode, kind: &'static str, value: &impl Serialize) -> Reply {
    let mut text = serde_json::to_string_pretty(value).expect("our own types serialise");
    text.push('\n');
    reply(status, kind, text)
}

fn reply(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Answered::Whole(Full::new(body.into())));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    reply
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::panel::tests::panel;

    fn board() -> Board {
        let (commands, _) = tokio::sync::mpsc::channel(1);
        Board::new(panel(), "# the file\n".into(), "t.toml".into(), commands)
    }

    fn code(method: Method, path: &str, rights: Rights) -> u16 {
        refuse(&method, path, rights).map_or(200, |refusal| refusal.status().as_u16())
    }

    #[test]
    fn rights_and_methods() {
        assert_eq!(code(Method::GET, "/metrics", Rights::Read), 200);
        assert_eq!(code(Method::HEAD, "/livez", Rights::Read), 200);
        assert_eq!(code(Method::POST, "/metrics", Rights::Read), 405);
        for path in [RELOAD, ROLLBACK, SERVER, SERVER_ADD, SERVER_REMOVE, DRAIN, REBALANCE, KILL] {
            assert_eq!(code(Method::POST, path, Rights::Read), 403, "{path}");
        }
        assert_eq!(code(Method::POST, RELOAD, Rights::All { by: None }), 200);
        assert_eq!(code(Method::GET, RELOAD, Rights::All { by: None }), 405);
        assert_eq!(code(Method::GET, "/v1/config", Rights::Read), 403);
        assert_eq!(code(Method::GET, "/v1/config", Rights::All { by: None }), 200);
        assert_eq!(code(Method::GET, "/etc/passwd", Rights::All { by: None }), 404);
        assert_eq!(code(Method::DELETE, "/v1/status", Rights::Read), 405);
    }

    #[test]
    fn readiness_ends_with_the_drain_and_liveness_does_not() {
        let board = board();
        assert_eq!(look("/readyz", "", &board).status(), 200);
        board.panel.begin_drain();
        assert_eq!(look("/readyz", "", &board).status(), 503);
        assert_eq!(look("/livez", "", &board).status(), 200);
    }

    #[test]
    fn every_look_answers() {
        let board = board();
        for route in ROUTES.iter().filter(|route| !route.changes) {
            assert_eq!(look(route.path, "", &board).status(), 200, "{}", route.path);
        }
    }

    #[test]
    fn who_asks_too_fast_is_told_so() {
        let board = board();
        let refused = |path: &str, rights| slow_down(path, rights, &board).map(|refusal| refusal.status().as_u16());
        let allowed = (0..100_000).take_while(|_| refused("/metrics", Rights::Read).is_none()).count();
        assert!((ADMIN_REQUESTS_BURST as usize..99_000).contains(&allowed), "{allowed}");
        assert_eq!(refused("/v1/status", Rights::Read), Some(429));
        assert_eq!(refused("/livez", Rights::Read), None, "nobody may make it look dead");
        assert_eq!(refused("/v1/status", Rights::All { by: None }), None, "the other socket is another matter");
    }

    #[test]
    fn the_page_comes_with_a_policy_and_the_stream_only_where_it_runs() {
        let board = board();
        let page = look("/", "text/html", &board);
        let policy = page.headers()[CONTENT_SECURITY_POLICY].to_str().expect("ASCII");
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(look("/", "*/*", &board).headers()[CONTENT_TYPE], TEXT);
        let lease = Rc::new(Lease::new(READING));
        assert_eq!(watch(&board, None, lease).status(), 503, "nobody takes samples here");
    }
}
