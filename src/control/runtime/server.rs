//! The socket: taking connections, answering what is asked on them, and bounding both.
//!
//! An answer is written in pages: the next one is made when the kernel has taken the one before. So a client that does not
//! read holds up nobody but itself, and for no longer than [`ANSWER`].

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::base::limits::RUNTIME_LINE_MAX;
use crate::config::ledger::Standing;
use crate::config::plan::Plan;
use crate::control::admin::{AdminSockets, Board, Command, Peer, Slots, Spare};
use crate::control::steer::{Refused, ServerChange, ServerChanged};
use crate::dataplane::roll::{Called, Task, Whose};
use crate::observe::panel::Panel;

use super::command::{Ask, Change, Whom, understand};
use super::info::info;
use super::line::{Next, Talk};
use super::servers::{self, About, Servers};
use super::sess;
use super::stat::{Around, Stat};
use super::trends::{LOOK, Trends};

/// How long a client may say nothing, unless it sets another time.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a client may take to read an answer.
const ANSWER: Duration = Duration::from_secs(30);
/// Bytes of an answer that are made at once.
const PAGE: usize = 16 * 1024;

/// What every conversation looks at.
struct House {
    board: Arc<Board>,
    trends: Rc<RefCell<Trends>>,
}

/// Serves until the runtime ends. Call it within a `LocalSet`.
///
/// # Errors
/// The socket cannot be given to the runtime.
pub(in crate::control) fn serve(sockets: &AdminSockets, board: &Arc<Board>) -> io::Result<()> {
    let Some((socket, _)) = &sockets.runtime else {
        return Ok(());
    };
    let listener = UnixListener::from_std(socket.try_clone()?)?;
    let house = Rc::new(House { board: Arc::clone(board), trends: Rc::default() });
    tokio::task::spawn_local(watch(Rc::clone(&house)));
    tokio::task::spawn_local(async move {
        let slots = Slots::new(Spare::default());
        loop {
            let slot = slots.take().await;
            match listener.accept().await {
                Ok((stream, _)) => {
                    let by = stream.peer_cred().ok().map(|peer| Peer { uid: peer.uid(), pid: peer.pid() });
                    let house = Rc::clone(&house);
                    tokio::task::spawn_local(async move {
                        // What goes wrong with one conversation is the affair of whoever led it.
                        let _ = converse(stream, by, &house).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    drop(slot);
                    slots.recover(&error).await;
                }
            }
        }
    });
    Ok(())
}

/// Looks at rates once a second.
async fn watch(house: Rc<House>) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = Instant::now();
    loop {
        looks.tick().await;
        let now = Instant::now();
        let plan = house.plan();
        house.trends.borrow_mut().look(&plan, now - before);
        before = now;
    }
}

/// Leads one conversation to its end.
async fn converse(mut stream: impl AsyncRead + AsyncWrite + Unpin, by: Option<Peer>, house: &House) -> io::Result<()> {
    let (mut talk, mut silence) = (Talk::default(), SILENCE);
    let mut piece = vec![0; RUNTIME_LINE_MAX];
    loop {
        match talk.next() {
            Next::Listen => {
                let room = talk.room().min(piece.len());
                let count = timeout(silence, stream.read(&mut piece[..room])).await??;
                if count == 0 {
                    return Ok(());
                }
                talk.hear(&piece[..count]);
            }
            Next::Command(words) => {
                let mut answer = match understand(&words) {
                    Ask::Quit => {
                        talk.quit();
                        continue;
                    }
                    Ask::Prompt => {
                        talk.toggle_prompt();
                        Answer::Text(String::new())
                    }
                    Ask::Patience(long) => {
                        silence = long;
                        Answer::Text(String::new())
                    }
                    ask => house.answer(ask, by).await,
                };
                timeout(ANSWER, answer.tell(&mut stream, house, talk.full_stop())).await??;
            }
            Next::Close => return stream.shutdown().await,
        }
    }
}

/// What is said to a command.
enum Answer {
    Text(String),
    Stat(Box<Stat>),
    Servers(Servers),
}

impl Answer {
    fn line(line: &str) -> Self {
        Answer::Text(format!("{line}\n"))
    }

    /// Writes it, and what ends it.
    async fn tell(&mut self, stream: &mut (impl AsyncWrite + Unpin), house: &House, stop: &str) -> io::Result<()> {
        let mut page = String::new();
        loop {
            let more = match self {
                Answer::Text(text) => {
                    page.push_str(text);
                    false
                }
                Answer::Stat(stat) => stat.write(&house.around(&house.trends.borrow()), &mut page, PAGE),
                Answer::Servers(servers) => servers.write(&mut page, PAGE),
            };
            if !more {
                page.push_str(stop);
            }
            stream.write_all(page.as_bytes()).await?;
            if !more {
                return stream.flush().await;
            }
            page.clear();
            // Others have their turn between two pages, however fast this one reads.
            tokio::task::yield_now().await;
        }
    }
}

impl House {
    fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.board.panel.commons.scene.load().plan)
    }

    fn around<'a>(&'a self, trends: &'a Trends) -> Around<'a> {
        Around { panel: &self.board.panel, trends }
    }

    async fn answer(&self, ask: Ask, by: Option<Peer>) -> Answer {
        let plan = self.plan();
        let workers = self.board.panel.commons.desks.len();
        let of = |about, backend: Option<String>| {
            let servers = Servers::new(Arc::clone(&plan), about, backend.as_deref(), workers);
            servers.map_or_else(Answer::line, Answer::Servers)
        };
        match ask {
            Ask::Say(text) => Answer::Text(text),
            // They are the conversation's.
            Ask::Prompt | Ask::Quit | Ask::Patience(_) => Answer::Text(String::new()),
            Ask::Info(format) => Answer::Text(info(&self.around(&self.trends.borrow()), format)),
            Ask::Stat(selection) => {
                Stat::new(plan, selection).map_or_else(Answer::line, |stat| Answer::Stat(Box::new(stat)))
            }
            Ask::ServersState(backend) => of(About::State, backend),
            Ask::ServersConn(backend) => of(About::Connections, backend),
            Ask::Backends => Answer::Text(servers::backends(&plan)),
            Ask::Errors => Answer::line("Total events captured : 0"),
            Ask::Weight(whom) => match servers::find(&plan, &whom) {
                Ok((_, server)) => Answer::Text(servers::weight(server)),
                Err(wrong) => Answer::line(wrong),
            },
            Ask::Change(whom, change) => self.change(&plan, &whom, change, by).await,
            Ask::Sessions => self.sessions(Whose::default(), sess::lines).await,
            Ask::Session(None) => self.sessions(Whose::default(), sess::details).await,
            Ask::Session(Some(session)) => {
                let whose = Whose { sessions: vec![session], ..Whose::default() };
                let told = |called: Called| match called.found {
                    0 => "Session not found.\n".to_owned(),
                    _ => sess::details(called),
                };
                self.sessions(whose, told).await
            }
            Ask::End(session) => {
                let whose = Whose { sessions: vec![session], ..Whose::default() };
                match self.call_roll(whose, Task::End, by).await {
                    Ok(called) if called.found == 0 => Answer::line("No such session (use 'show sess')."),
                    Ok(_) => Answer::Text(String::new()),
                    Err(wrong) => Answer::line(wrong),
                }
            }
            Ask::EndAll(whom) => match servers::find(&plan, &whom) {
                Ok((pool, server)) => {
                    let server = Some((pool.name.to_string(), server.name.to_string()));
                    let ended = self.call_roll(Whose { server, ..Whose::default() }, Task::End, by).await;
                    ended.map_or_else(Answer::line, |_| Answer::Text(String::new()))
                }
                Err(wrong) => Answer::line(wrong),
            },
        }
    }

    async fn sessions(&self, whose: Whose, tell: impl Fn(Called) -> String) -> Answer {
        let called = self.call_roll(whose, Task::Call, None).await;
        called.map_or_else(Answer::line, |called| Answer::Text(tell(called)))
    }

    async fn call_roll(&self, whose: Whose, task: Task, by: Option<Peer>) -> Result<Called, &'static str> {
        let command = |told: oneshot::Sender<_>| Command::Roll {
            whose,
            task,
            by,
            reply: Box::new(move |called| drop(told.send(called))),
        };
        self.ask(command).await
    }

    /// Changes a server. HAProxy says nothing when it is done.
    async fn change(&self, plan: &Plan, whom: &Whom, change: Change, by: Option<Peer>) -> Answer {
        let (pool, server) = match servers::find(plan, whom) {
            Ok(found) => found,
            Err(wrong) => return Answer::line(wrong),
        };
        let in_file = u64::from(server.weight_in_file);
        let (mut state, mut weight, mut max_connections) = (None, None, None);
        match change {
            Change::State(standing) => state = Some(standing),
            Change::Enable if server.ledger.standing() == Standing::Maint => state = Some(Standing::Ready),
            Change::Enable => return Answer::Text(String::new()),
            Change::Weight(wanted) => weight = Some(wanted),
            Change::Share(percent) => {
                let wanted = in_file * u64::from(percent) / 100;
                weight = Some(u32::try_from(wanted).unwrap_or(u32::MAX).min(256));
            }
            Change::Limit(most) => max_connections = Some(most),
        }
        let (pool, server) = (pool.name.to_string(), server.name.to_string());
        let change = ServerChange { pool, server, state, weight, max_connections, ..ServerChange::default() };
        let command = |told: oneshot::Sender<Result<ServerChanged, Refused>>| Command::Server {
            change,
            by,
            reply: Box::new(move |answer| drop(told.send(answer))),
        };
        match self.ask(command).await {
            Ok(Ok(_)) => Answer::Text(String::new()),
            Ok(Err(Refused::NotFound(wrong) | Refused::Unfit(wrong))) => Answer::line(&wrong),
            Err(wrong) => Answer::line(wrong),
        }
    }

    /// Sends the conductor a command and waits for what it tells.
    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, &'static str> {
        let (told, answer) = oneshot::channel();
        if self.board.commands.try_send(command(told)).is_err() {
            return Err("Too many requests wait for the conductor; try again.");
        }
        answer.await.map_err(|_| "The daemon is stopping.")
    }
}

/// All that is said to a client that sends `said` and no more, while the conductor is gone. For tests and fuzzing; nothing
/// listens.
pub fn conversation(panel: &Arc<Panel>, said: &[u8]) -> Vec<u8> {
    let (commands, _) = mpsc::channel(1);
    let board = Arc::new(Board::new(Arc::clone(panel), String::new(), "text".into(), commands));
    let house = House { board, trends: Rc::default() };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else {
        return Vec::new();
    };
    let mut answer = Vec::new();
    runtime.block_on(async {
        let (near, far) = tokio::io::duplex(RUNTIME_LINE_MAX);
        let (mut reader, mut writer) = tokio::io::split(near);
        let speaks = async {
            let _ = writer.write_all(said).await;
            let _ = writer.shutdown().await;
        };
        let hears = reader.read_to_end(&mut answer);
        let _ = tokio::join!(speaks, hears, converse(far, None, &house));
    });
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::panel::tests::panel;

    fn told(said: &str) -> String {
        String::from_utf8(conversation(&panel(), said.as_bytes())).expect("UTF-8")
    }

    #[test]
    fn answers_end_with_an_empty_line_or_a_prompt() {
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(told("show version\n"), format!("{version}\n\n"));
        assert_eq!(told("show version;show backend\n"), format!("{version}\n\n# name\nweb\n\n"));
        assert_eq!(told("prompt\nshow version\n\nquit\n").matches("\n> ").count(), 3);
        assert_eq!(told("prompt\nset timeout cli 60\n"), "\n> \n> ");
        assert_eq!(told("quit\nshow version\n"), "");
        assert_eq!(told("show version"), "", "half a line is no command");
        assert_eq!(told("show stat 9 4 1\n").lines().count(), 2);
    }

    #[test]
    fn what_is_wrong_is_one_line() {
        for (ask, answer) in [
            ("show stat nope -1 -1", "No such proxy."),
            ("show servers state nope", "Can't find backend."),
            ("get weight nope/web1", "No such backend."),
            ("get weight web/nope", "No such server."),
            ("disable server web/nope", "No such server."),
            ("shutdown sessions server web/nope", "No such server."),
            // There is no conductor here.
            ("disable server web/web1", "Too many requests wait for the conductor; try again."),
            ("shutdown session 0x1", "Too many requests wait for the conductor; try again."),
        ] {
            assert_eq!(told(&format!("{ask}\n")), format!("{answer}\n\n"), "{ask}");
        }
        assert_eq!(told("get weight web/web1\n"), "1 (initial 1)\n\n");
        assert_eq!(told("enable server web/web1\n"), "\n", "it is enabled");
    }
}
