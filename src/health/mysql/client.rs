//! One connection to a server, from its greeting to our farewell.
//!
//! | phase | waits for | then |
//! |---|---|---|
//! | `Greeting` | the server's first packet | TLS is asked for, or the login is sent |
//! | `Tls` | whoever drives it to have TLS | the login is sent |
//! | `Login` | OK, an error, another plugin, a word of the plugin | `Ready`, or more of the login |
//! | `Declining` | OK or an error, after a login without the password | the fault that made us decline |
//! | `Ready` | a question | `Asking` |
//! | `Asking` | the answer | `Ready` |
//! | `Over` | nothing | – |
//!
//! "Connection Phase" and "Command Phase" of the protocol documentation.

use super::Fault;
use super::greeting::{Greeting, can, error};
use super::packet::{self, Cursor, Inbox, text};
use super::password::{Password, Plugin, encipher};
use super::table::{Answer, Reading};

/// utf8mb4_general_ci: every server since 5.5 has it.
const CHARSET: u8 = 45;
/// Largest packet we say we take, in bytes: the least a server accepts to hear.
const PACKET_TOLD: u32 = 1 << 24;
/// Packets of a login from the server; more is no login.
const LOGIN_PACKETS_MAX: u8 = 8;
const PLUGIN_CHARACTERS_MAX: usize = 64;

/// `caching_sha2_password`: what the server says after the first answer, and what asks for its key.
const SHA2_KNOWN: u8 = 3;
const SHA2_SAY_IT: u8 = 4;
const SHA2_KEY_PLEASE: u8 = 2;
/// "More data for the plugin", "another plugin".
const MORE: u8 = 1;
const SWITCH: u8 = 0xFE;
const OK: u8 = 0;

const COM_QUIT: u8 = 1;
const COM_QUERY: u8 = 3;
const COM_PING: u8 = 14;

/// Who logs in.
#[derive(Clone, Debug)]
pub struct Login {
    /// The account.
    pub user: String,
    /// Its password.
    pub password: Password,
}

#[derive(Debug)]
enum Phase {
    Greeting,
    Tls,
    Login(Exchange),
    Declining { why: Fault, packets: u8 },
    Ready,
    Asking(Reading),
    Over,
}

/// A login under way.
#[derive(Debug)]
struct Exchange {
    plugin: Plugin,
    nonce: Vec<u8>,
    packets: u8,
    /// The server was asked for its RSA key.
    key_asked: bool,
}

/// What has come about.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// What is to be sent must go out, and then TLS must begin; [`Client::secured`] goes on.
    StartTls,
    /// Logged in: questions may be asked.
    Ready,
    /// The answer to a question; the last of them when the client is ready again.
    Answer(Answer),
}

/// The client's end of one connection.
#[derive(Debug)]
pub(super) struct Client {
    phase: Phase,
    inbox: Inbox,
    out: Vec<u8>,
    /// The number of the next packet, in either direction.
    number: u8,
    wants_tls: bool,
    encrypted: bool,
    greeting: Option<Greeting>,
}

impl Client {
    pub(super) fn new(wants_tls: bool) -> Self {
        Self {
            phase: Phase::Greeting,
            inbox: Inbox::default(),
            out: Vec::new(),
            number: 0,
            wants_tls,
            encrypted: false,
            greeting: None,
        }
    }

    /// Bytes from the server, outside of TLS.
    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.inbox.put(bytes)
    }

    /// What is to be sent, taken out.
    pub(super) fn take_out(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// The greeting, once there was one.
    pub(super) fn greeting(&self) -> Option<&Greeting> {
        self.greeting.as_ref()
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Ready)
    }

    pub(super) fn waits_for_tls(&self) -> bool {
        matches!(self.phase, Phase::Tls)
    }

    /// Whether the server waits for us in the middle of a handshake.
    pub(super) fn is_shaking_hands(&self) -> bool {
        matches!(self.phase, Phase::Greeting | Phase::Tls | Phase::Login(_) | Phase::Declining { .. })
    }

    /// What a server's FIN means now.
    pub(super) fn closed(&self) -> Fault {
        Fault::Closed(match &self.phase {
            Phase::Greeting => "before its greeting",
            Phase::Tls => "while TLS began",
            Phase::Login(_) | Phase::Declining { .. } => "during the login",
            Phase::Ready | Phase::Over => "between two checks",
            Phase::Asking(_) => "in the middle of an answer",
        })
    }

    /// Acts on the next packet that is whole. `None`: more bytes are needed.
    pub(super) fn advance(&mut self, login: &Login) -> Result<Option<Event>, Fault> {
        loop {
            if matches!(self.phase, Phase::Tls | Phase::Over) {
                return Ok(None);
            }
            if matches!(self.phase, Phase::Ready) {
                return match self.inbox.len() {
                    0 => {
                        self.inbox.rest();
                        Ok(None)
                    }
                    // A server that shuts down, or ends us as idle, says so unasked (MySQL 8.0.24).
                    _ => self.unasked(),
                };
            }
            if let Phase::Asking(reading) = &mut self.phase {
                let Some(payload) = self.inbox.next(self.number)? else { return Ok(None) };
                self.number = self.number.wrapping_add(1);
                let taken = reading.take(payload);
                if let Ok(None) = taken {
                    continue;
                }
                self.phase = match &taken {
                    Ok(_) if reading.is_followed() => Phase::Asking(Reading::default()),
                    Ok(_) => Phase::Ready,
                    Err(_) => Phase::Over,
                };
                return taken.map(|answer| answer.map(Event::Answer));
            }
            let Some(payload) = self.inbox.take(self.number)? else { return Ok(None) };
            self.number = self.number.wrapping_add(1);
            if let Some(event) = self.packet(&payload, login)? {
                return Ok(Some(event));
            }
        }
    }

    /// TLS has come about, and with whom: the login goes through it, if it is the right one.
    pub(super) fn secured(&mut self, verdict: Result<(), Fault>, login: &Login) {
        self.encrypted = true;
        match verdict {
            Ok(()) => self.log_in(login),
            Err(why) => self.decline(why),
        }
    }

    /// The login is not to go on, but the handshake is to end: nobody without a password logs in instead.
    /// [`Client::advance`] fails with `why` when the server has answered.
    fn decline(&mut self, why: Fault) {
        self.respond("", &[], Plugin::Native.name());
        self.phase = Phase::Declining { why, packets: 0 };
    }

    /// Asks a question (`COM_QUERY`), or several, with a semicolon between them, of a server that takes many. Each is
    /// answered, up to the first that fails. Only when ready.
    pub(super) fn ask(&mut self, question: &str) {
        self.command(COM_QUERY, question.as_bytes());
        self.phase = Phase::Asking(Reading::default());
    }

    /// Asks whether it is there (`COM_PING`); answered by a table of nothing. Only when ready.
    pub(super) fn ping(&mut self) {
        self.command(COM_PING, &[]);
        self.phase = Phase::Asking(Reading::default());
    }

    /// Says farewell (`COM_QUIT`); the connection can be closed when it has gone out.
    pub(super) fn quit(&mut self) {
        if matches!(self.phase, Phase::Ready | Phase::Asking(_)) {
            self.command(COM_QUIT, &[]);
        }
        self.phase = Phase::Over;
    }

    fn command(&mut self, code: u8, argument: &[u8]) {
        packet::put(&mut self.out, 0, &[&[code], argument].concat());
        self.number = 1;
    }

    fn send(&mut self, payload: &[u8]) {
        packet::put(&mut self.out, self.number, payload);
        self.number = self.number.wrapping_add(1);
    }

    fn unasked(&mut self) -> Result<Option<Event>, Fault> {
        let Some(payload) = self.inbox.take(0)? else { return Ok(None) };
        self.phase = Phase::Over;
        Err(error(&payload).map_or(Fault::Malformed("a packet nobody asked for"), Fault::Refused))
    }

    fn packet(&mut self, payload: &[u8], login: &Login) -> Result<Option<Event>, Fault> {
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Greeting => self.greeted(Greeting::read(payload)?, login),
            Phase::Login(exchange) => self.continue_login(exchange, payload, login),
            Phase::Declining { why, packets } => self.declined(why, packets, payload),
            Phase::Asking(_) | Phase::Tls | Phase::Ready | Phase::Over => {
                Err(Fault::Malformed("a packet nobody asked for"))
            }
        }
    }

    fn greeted(&mut self, greeting: Greeting, login: &Login) -> Result<Option<Event>, Fault> {
        let offers_tls = greeting.abilities & can::SSL != 0;
        self.greeting = Some(greeting);
        if !self.wants_tls {
            self.log_in(login);
            return Ok(None);
        }
        if !offers_tls {
            self.decline(Fault::NoTls);
            return Ok(None);
        }
        // Anything that waits here was said outside of TLS, by whoever wanted it to be taken for something said inside.
        if self.inbox.len() > 0 {
            return Err(Fault::Malformed("bytes between greeting and TLS"));
        }
        self.phase = Phase::Tls;
        let request = self.response_head(self.abilities() | can::SSL);
        self.send(&request);
        Ok(Some(Event::StartTls))
    }

    /// What we can do, as far as the server can too. TLS is added once it is wanted.
    fn abilities(&self) -> u32 {
        let ours = can::LONG_PASSWORD
            | can::LONG_FLAG
            | can::PROTOCOL_41
            | can::TRANSACTIONS
            | can::SECURE_CONNECTION
            | can::MANY
            | can::PLUGIN_AUTH
            | can::CONNECT_ATTRIBUTES;
        let theirs = self.greeting.as_ref().map_or(0, |greeting| greeting.abilities);
        // MariaDB takes the lowest bit for "not MySQL", and both take it for granted.
        ours & (theirs | can::LONG_PASSWORD)
    }

    /// The first 32 bytes of `HandshakeResponse41`, which alone are `SSLRequest`.
    fn response_head(&self, abilities: u32) -> Vec<u8> {
        let mut head = abilities.to_le_bytes().to_vec();
        head.extend_from_slice(&PACKET_TOLD.to_le_bytes());
        head.push(CHARSET);
        head.extend_from_slice(&[0; 23]);
        head
    }

    /// Sends `HandshakeResponse41`.
    fn respond(&mut self, user: &str, answer: &[u8], plugin: &str) {
        let abilities = self.abilities() | if self.encrypted { can::SSL } else { 0 };
        let mut response = self.response_head(abilities);
        response.extend_from_slice(user.as_bytes());
        response.push(0);
        response.push(u8::try_from(answer.len()).expect("an answer has 64 bytes at most"));
        response.extend_from_slice(answer);
        if abilities & can::PLUGIN_AUTH != 0 {
            response.extend_from_slice(plugin.as_bytes());
            response.push(0);
        }
        if abilities & can::CONNECT_ATTRIBUTES != 0 {
            // Shown in performance_schema.session_connect_attrs: who wonders whose connection this is finds it there.
            let pairs = ["program_name", "ringway", "_client_name", "ringway-check"];
            let words: Vec<u8> = pairs
                .iter()
                .flat_map(|word| std::iter::once(u8::try_from(word.len()).unwrap_or(0)).chain(word.bytes()))
                .collect();
            response.push(u8::try_from(words.len()).expect("four short words"));
            response.extend_from_slice(&words);
        }
        self.send(&response);
    }

    fn log_in(&mut self, login: &Login) {
        let Some(greeting) = &self.greeting else { return };
        let nonce = greeting.nonce.to_vec();
        // One that we do not know, or whose challenge is not that of the greeting, need not be the account's: the server
        // switches when it is not ours either.
        let plugin = Plugin::named(&greeting.plugin).filter(|plugin| plugin.nonce_length() == nonce.len());
        let plugin = plugin.unwrap_or(Plugin::CachingSha2);
        let answer = plugin.answer(&login.password, &nonce);
        self.respond(&login.user, &answer, plugin.name());
        self.phase = Phase::Login(Exchange { plugin, nonce, packets: 0, key_asked: false });
    }

    fn continue_login(
        &mut self,
        mut exchange: Exchange,
        payload: &[u8],
        login: &Login,
    ) -> Result<Option<Event>, Fault> {
        exchange.packets += 1;
        if exchange.packets > LOGIN_PACKETS_MAX {
            return Err(Fault::Malformed("a login without an end"));
        }
        if let Some(error) = error(payload) {
            return Err(Fault::Refused(error));
        }
        let (kind, rest) = payload.split_first().ok_or(Fault::Malformed("an empty packet of the login"))?;
        match (*kind, exchange.plugin) {
            (OK, _) => {
                self.phase = Phase::Ready;
                return Ok(Some(Event::Ready));
            }
            (SWITCH, _) => return self.switch(exchange, rest, login),
            (MORE, Plugin::CachingSha2) => match rest {
                [SHA2_KNOWN] => {}
                [SHA2_SAY_IT] if self.encrypted => self.send(&login.password.aloud()),
                [SHA2_SAY_IT] => {
                    exchange.key_asked = true;
                    self.send(&[SHA2_KEY_PLEASE]);
                }
                key if exchange.key_asked => {
                    exchange.key_asked = false;
                    match encipher(&login.password, &exchange.nonce, key) {
                        Ok(enciphered) => self.send(&enciphered),
                        Err(why) => {
                            self.refuse_further(why);
                            return Ok(None);
                        }
                    }
                }
                _ => return Err(Fault::Malformed("a word of caching_sha2_password")),
            },
            _ => return Err(Fault::Malformed("a packet of the login")),
        }
        self.phase = Phase::Login(exchange);
        Ok(None)
    }

    /// The account wants another plugin than the server's favourite ("AuthSwitchRequest").
    fn switch(&mut self, mut exchange: Exchange, rest: &[u8], login: &Login) -> Result<Option<Event>, Fault> {
        let mut cursor = Cursor::new(rest);
        let name = wanted(&mut cursor);
        let Some(plugin) = Plugin::named(&name).filter(|_| !name.is_empty()) else {
            self.refuse_further(Fault::Plugin(name));
            return Ok(None);
        };
        let nonce = cursor.bytes(plugin.nonce_length());
        exchange.nonce = nonce.ok_or(Fault::Malformed("the challenge of a plugin"))?.to_vec();
        exchange.plugin = plugin;
        exchange.key_asked = false;
        self.send(&plugin.answer(&login.password, &exchange.nonce));
        self.phase = Phase::Login(exchange);
        Ok(None)
    }

    /// In the middle of a login: says something that is no password, so that the server ends it.
    fn refuse_further(&mut self, why: Fault) {
        self.send(&[]);
        self.phase = Phase::Declining { why, packets: 0 };
    }

    fn declined(&mut self, why: Fault, packets: u8, payload: &[u8]) -> Result<Option<Event>, Fault> {
        let is_over = error(payload).is_some() || packets == LOGIN_PACKETS_MAX;
        if payload.first() == Some(&OK) {
            self.command(COM_QUIT, &[]);
        } else if !is_over {
            // MariaDB asks those it does not know for the plugin of somebody it does.
            let switch = payload.strip_prefix(&[SWITCH]).unwrap_or_default();
            self.send(no_proof(switch));
            self.phase = Phase::Declining { why, packets: packets + 1 };
            return Ok(None);
        }
        Err(why)
    }
}

/// The plugin that a switch is to.
fn wanted(switch: &mut Cursor<'_>) -> String {
    match switch.until_nul() {
        Some(name) => text(name, PLUGIN_CHARACTERS_MAX),
        // Without data it is the way to the passwords of before 4.1.
        None => "mysql_old_password".to_owned(),
    }
}

/// What proves nothing to the plugin of a switch, and is still an answer: MariaDB takes a signature of another length for a
/// handshake broken off.
fn no_proof(switch: &[u8]) -> &'static [u8] {
    let plugin = Plugin::named(&wanted(&mut Cursor::new(switch)));
    if plugin == Some(Plugin::Ed25519) { &[0; 64] } else { &[] }
}
