//! Lines in, commands out: what is said on one connection, without a socket or a clock.
//!
//! ```text
//! hear(bytes) ──▶ next ──▶ Listen            more bytes are needed
//!                   ▲      Command(words)    to be answered; then ask again
//!                   │      Close             quit, or all is answered and there is no prompt
//!                   └── toggle_prompt, quit
//! ```
//!
//! A line holds one command, or several separated by `;`. A backslash takes the meaning from the character behind it. A line
//! that ends with `<<` is followed by a payload up to an empty line; no command here takes one, so it is skipped and never
//! taken for commands. Without a prompt the connection ends when everything that has arrived is answered, as HAProxy does.

use crate::base::limits::RUNTIME_LINE_MAX;

/// Most words of a command; what follows is ignored, as the words that a command does not look at are.
const WORDS_MAX: usize = 64;

/// One side of a conversation.
#[derive(Debug, Default)]
pub(super) struct Talk {
    /// What has arrived and belongs to no line yet.
    heard: Vec<u8>,
    /// The commands of the line that is being answered, the next one last.
    commands: Vec<Vec<u8>>,
    /// A line whose payload has not ended.
    awaits_payload: Option<Vec<u8>>,
    prompt: bool,
    /// Something was asked.
    asked: bool,
    over: bool,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Hear more.
    Listen,
    /// Answer this; it may have no words.
    Command(Vec<String>),
    /// End.
    Close,
}

impl Talk {
    /// Bytes that may be heard at once.
    pub(super) fn room(&self) -> usize {
        RUNTIME_LINE_MAX.saturating_sub(self.heard.len())
    }

    /// Takes in what has arrived, at most [`Self::room`]. A line that does not fit is the end of the conversation.
    pub(super) fn hear(&mut self, bytes: &[u8]) {
        if bytes.len() > self.room() {
            self.over = true;
            return;
        }
        self.heard.extend_from_slice(bytes);
    }

    /// What is to be done next.
    pub(super) fn next(&mut self) -> Next {
        while !self.over {
            if let Some(command) = self.commands.pop() {
                self.asked = true;
                return Next::Command(words(&command));
            }
            let Some(line) = self.line() else {
                self.over = self.room() == 0 || self.asked && !self.prompt && self.awaits_payload.is_none();
                if self.over {
                    break;
                }
                return Next::Listen;
            };
            match self.awaits_payload.take() {
                Some(before) if line.is_empty() => self.commands = commands(&before),
                Some(before) => self.awaits_payload = Some(before),
                None => match line.trim_ascii_end().strip_suffix(b"<<") {
                    Some(before) => self.awaits_payload = Some(before.to_vec()),
                    None => self.commands = commands(&line),
                },
            }
        }
        Next::Close
    }

    /// The next whole line, without its end.
    fn line(&mut self) -> Option<Vec<u8>> {
        let end = self.heard.iter().position(|&byte| byte == b'\n')?;
        let mut line: Vec<u8> = self.heard.drain(..=end).collect();
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Some(line)
    }

    /// From now on there is a prompt, or none any more.
    pub(super) fn toggle_prompt(&mut self) {
        self.prompt = !self.prompt;
    }

    /// The conversation is over.
    pub(super) fn quit(&mut self) {
        self.over = true;
    }

    /// What stands at the end of every answer.
    pub(super) fn full_stop(&self) -> &'static str {
        if self.prompt { "\n> " } else { "\n" }
    }
}

/// The commands of a line, the first one last.
fn commands(line: &[u8]) -> Vec<Vec<u8>> {
    let mut commands = vec![Vec::new()];
    let mut escaped = false;
    for &byte in line {
        if byte == b';' && !escaped {
            commands.push(Vec::new());
        } else if let Some(command) = commands.last_mut() {
            command.push(byte);
        }
        escaped = byte == b'\\' && !escaped;
    }
    // What follows the last `;` is a command only if it says something.
    if commands.len() > 1 && commands.last().is_some_and(|last| last.trim_ascii().is_empty()) {
        commands.pop();
    }
    commands.reverse();
    commands
}

/// The words of a command. What is not UTF-8 is shown as such, and no command.
fn words(command: &[u8]) -> Vec<String> {
    let (mut words, mut word, mut escaped) = (Vec::new(), Vec::new(), false);
    for &byte in command.iter().chain(b" ") {
        if byte == b'\\' && !escaped {
            escaped = true;
            continue;
        }
        if !escaped && (byte.is_ascii_whitespace() || byte == 0) {
            if !word.is_empty() && words.len() < WORDS_MAX {
                words.push(String::from_utf8_lossy(&word).into_owned());
            }
            word.clear();
        } else {
            word.push(byte);
        }
        escaped = false;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a conversation comes to when `pieces` arrive; `prompt` and `quit` are obeyed.
    fn told(pieces: &[&[u8]]) -> Vec<String> {
        let (mut talk, mut told) = (Talk::default(), Vec::new());
        let mut pieces = pieces.iter();
        loop {
            match talk.next() {
                Next::Command(words) => {
                    match words.first().map(String::as_str) {
                        Some("prompt") => talk.toggle_prompt(),
                        Some("quit") => talk.quit(),
                        _ => {}
                    }
                    told.push(words.join("|"));
                }
                Next::Listen => match pieces.next() {
                    Some(piece) => talk.hear(piece),
                    None => {
                        told.push("…".into());
                        return told;
                    }
                },
                Next::Close => return told,
            }
        }
    }

    #[test]
    fn one_line_is_answered_and_the_connection_ends() {
        assert_eq!(told(&[b"show info\n", b"never heard\n"]), ["show|info"]);
        assert_eq!(told(&[b"sho", b"w\tinfo \r", b"\n"]), ["show|info"]);
        assert_eq!(told(&[b"show info"]), ["…"], "half a command is none");
        assert_eq!(told(&[b"\n"]), [""]);
    }

    #[test]
    fn several_commands() {
        assert_eq!(told(&[b"show info; show stat;quit;show sess\n"]), ["show|info", "show|stat", "quit"]);
        assert_eq!(told(&[b"a\nb\n"]), ["a", "b"], "what came with it is answered");
        assert_eq!(told(&[b"a;\n"]), ["a"]);
        assert_eq!(told(&[b";a;;b\n"]), ["", "a", "", "b"]);
    }

    #[test]
    fn a_prompt_keeps_the_connection() {
        assert_eq!(told(&[b"prompt\n", b"a\n", b"\n", b"b;c\n"]), ["prompt", "a", "", "b", "c", "…"]);
        assert_eq!(told(&[b"prompt\n", b"prompt\n", b"a\n"]), ["prompt", "prompt"], "a second one ends it");
        let mut talk = Talk::default();
        assert_eq!(talk.full_stop(), "\n");
        talk.toggle_prompt();
        assert_eq!(talk.full_stop(), "\n> ");
    }

    #[test]
    fn backslashes_and_payloads() {
        assert_eq!(told(&[b"a\\;b \\\\ c\\ d\n"]), ["a;b|\\|c d"]);
        assert_eq!(told(&[b"add map x <<\nquit\nshow info\n", b"\nb\n"]), ["add|map|x", "b"]);
        assert_eq!(told(&[b"add map x <<\nquit\n"]), ["…"]);
    }

    #[test]
    fn a_line_without_end_is_the_end() {
        let long = vec![b'a'; RUNTIME_LINE_MAX];
        assert_eq!(told(&[&long]), Vec::<String>::new());
        let mut line = vec![b'a'; RUNTIME_LINE_MAX - 1];
        line.push(b'\n');
        assert_eq!(told(&[&line])[0].len(), RUNTIME_LINE_MAX - 1);
        let mut talk = Talk::default();
        talk.hear(&[&long[..], b"a"].concat());
        assert_eq!(talk.next(), Next::Close);
        let many = b"a ".repeat(2_000);
        assert_eq!(words(&many).len(), WORDS_MAX);
    }
}
