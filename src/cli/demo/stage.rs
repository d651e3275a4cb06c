//! How the demo speaks: paced and coloured for people, plain and quick for machines.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use crate::cli::out::{print, print_line};

/// Where the demo prints.
#[derive(Debug)]
pub(super) struct Stage {
    paced: bool,
    coloured: bool,
}

impl Stage {
    /// With pauses or without; colours when standard output is a terminal and `NO_COLOR` is not set.
    pub(super) fn new(paced: bool) -> Self {
        let coloured = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { paced, coloured }
    }

    /// A heading.
    pub(super) fn scene(&self, title: &str) {
        print_line("");
        print_line(self.paint("1;36", title));
        self.pause(400);
    }

    /// A line of text.
    pub(super) fn line(&self, text: &str) {
        print_line(text);
    }

    /// Something went as it should.
    pub(super) fn good(&self, text: &str) {
        print_line(format_args!("  {} {text}", self.paint("32", "✓")));
        self.pause(500);
    }

    /// One answer, named by its server, on a line of them.
    pub(super) fn answer(&self, server: &str) {
        let colour = match server {
            "coral" => "31",
            "indigo" => "34",
            _ => "33",
        };
        print(format_args!("{} ", self.paint(colour, server)));
        self.pause(120);
    }

    /// Ends a line of answers.
    pub(super) fn end_line(&self) {
        print_line("");
    }

    /// Emphasis.
    pub(super) fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    /// Waits, when there is somebody to watch.
    pub(super) fn pause(&self, ms: u64) {
        // Somebody who does not see it loses nothing.
        let _ = std::io::stdout().flush();
        if self.paced {
            std::thread::sleep(Duration::from_millis(ms));
        }
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.coloured { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
