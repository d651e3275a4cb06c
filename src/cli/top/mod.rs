//! `ringway top`: a running daemon, live in the terminal.
//!
//! | file | |
//! |---|---|
//! | [`reading`] | one look with rates: what `--once --json` prints |
//! | [`model`] | what is shown and what keys mean; no clock, no terminal, no daemon |
//! | [`view`] | draws a model |
//! | [`screen`] | the terminal, the thread that asks the daemon, and their end |

mod model;
mod reading;
mod screen;
mod view;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::client::{ClientError, Target};
use super::exit;
use super::out::{complain, print, print_line};
use crate::control::admin::History;
use crate::observe::status::Status;

use self::model::{Manner, Model};
use self::reading::Reading;

/// Width of the picture that `--once` prints, in columns.
const WIDTH: u16 = 120;
/// Most lines of it: a pool of ten thousand servers fits.
const HEIGHT_MAX: u16 = 16_000;

/// Watches a running daemon: pools, servers, rates, latencies, events.
///
/// Keys: arrows choose a server, `d` drains it, `m` sets it to maintenance, `r` makes it ready again, `w` changes its weight,
/// each after a question; Tab turns the page, `?` helps, `q` leaves.
#[derive(Debug, clap::Args)]
pub struct Top {
    #[command(flatten)]
    target: Target,
    /// Show only; no key changes anything.
    #[arg(long)]
    read_only: bool,
    /// Time between two looks, from 200ms to 60s.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_interval)]
    interval: Duration,
    /// Look twice, an interval apart, print what there is as text, and leave.
    #[arg(long)]
    once: bool,
    /// With --once: as JSON.
    #[arg(long, requires = "once")]
    json: bool,
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let (number, unit_ms) = match text.strip_suffix("ms") {
        Some(number) => (number, 1.0),
        None => (text.strip_suffix('s').unwrap_or(text), 1000.0),
    };
    let ms = number.parse::<f64>().ok().map(|number| number * unit_ms).filter(|ms| (200.0..=60_000.0).contains(ms));
    ms.map(|ms| Duration::from_millis(ms as u64)).ok_or_else(|| "a time from 200ms to 60s, as in 500ms or 2s".into())
}

/// One look at a daemon.
#[derive(Debug)]
struct Look {
    status: Status,
    history: History,
}

/// Looks once.
fn look(target: &Target) -> Result<Look, ClientError> {
    let strange = |error| ClientError::strange(&error);
    let status = serde_json::from_str(&target.get("/v1/status")?.accepted()?).map_err(strange)?;
    let history = serde_json::from_str(&target.get("/v1/history")?.accepted()?).map_err(strange)?;
    Ok(Look { status, history })
}

/// Runs the verb: 0 left or shown, 1 no daemon answers, 2 nowhere to draw.
pub fn run(verb: &Top) -> ExitCode {
    let outcome = verb.target.fixed().and_then(|target| match verb.once {
        true => once(verb, &target),
        false => live(verb, target),
    });
    outcome.unwrap_or_else(|error| error.report())
}

fn once(verb: &Top, target: &Target) -> Result<ExitCode, ClientError> {
    let (first, begun) = (look(target)?, Instant::now());
    sleep(verb.interval);
    let second = look(target)?;
    let reading = Reading::new(&second.status, &second.history, Some((&first.status, begun.elapsed())));
    if verb.json {
        let text = serde_json::to_string_pretty(&reading).expect("our own types serialise");
        print_line(text);
    } else {
        print(picture(reading));
    }
    Ok(ExitCode::SUCCESS)
}

/// One picture as text, without colours.
fn picture(reading: Reading) -> String {
    let lines = u16::try_from(reading.lines() + 24).unwrap_or(HEIGHT_MAX).min(HEIGHT_MAX);
    let mut model =
        Model::new(Manner { color: false, unicode: screen::speaks_unicode(), read_only: true, live: false });
    model.hear(reading);
    let area = Rect::new(0, 0, WIDTH, lines);
    let mut buffer = Buffer::empty(area);
    view::draw(&model, area, &mut buffer);
    let mut text = view::text_of(&buffer).trim_end().to_owned();
    text.push('\n');
    text
}

fn live(verb: &Top, target: Target) -> Result<ExitCode, ClientError> {
    let nowhere = match std::env::var("TERM").as_deref() {
        _ if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() => {
            Some("this is no terminal".to_owned())
        }
        Err(_) | Ok("") => Some("TERM is not set".to_owned()),
        Ok("dumb") => Some("nothing can be drawn on a terminal with TERM=dumb".to_owned()),
        Ok(_) => None,
    };
    if let Some(why) = nowhere {
        complain(format_args!(
            "ringway: {why}; `ringway top --once` prints one look as text, with --json for programs"
        ));
        return Ok(ExitCode::from(exit::USAGE));
    }
    // A daemon that is not there is told before the screen is taken.
    let first = look(&target)?;
    let color = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let manner = Manner { color, unicode: screen::speaks_unicode(), read_only: verb.read_only, live: true };
    let mut model = Model::new(manner);
    model.hear(Reading::new(&first.status, &first.history, None));
    Ok(screen::run(model, first, target, verb.interval).unwrap_or_else(|error| {
        complain(format_args!("ringway: the terminal: {error}"));
        ExitCode::from(exit::FAILURE)
    }))
}

#[cfg(test)]
mod tests;
