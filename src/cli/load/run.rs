//! Runs threads, shows how far they are, and ends them on a signal.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::Context;
use mio::Waker;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};

use super::gear::{Gauge, Gear};
use super::tally::Tally;

/// How often the progress line is renewed.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// Descriptors left for everything that is no connection: epoll, timer, eventfd, standard streams, listeners.
const DESCRIPTORS_SPARE: u64 = 64;

/// One thread's part of the whole.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Which thread, from 0.
    pub index: u64,
    /// Of how many.
    pub of: u64,
}

impl Part {
    /// This thread's part of `whole` things; the parts of all threads add up to it.
    pub fn share(self, whole: u64) -> u64 {
        whole / self.of + u64::from(self.index < whole % self.of)
    }
}

/// What became of a run.
pub struct Outcome {
    /// What all threads counted.
    pub tally: Tally,
    /// True when a signal ended it.
    pub interrupted: bool,
}

/// Runs `body` on `threads` threads until all have finished; SIGINT or SIGTERM asks them to, a second one exits.
///
/// # Errors
///
/// When a thread could not be set up, or gave up.
pub fn run<F>(threads: u64, progress: bool, body: F) -> anyhow::Result<Outcome>
where
    F: Fn(Part, Gear, &AtomicBool) -> io::Result<Tally> + Sync,
{
    let gears =
        (0..threads).map(|_| Gear::new()).collect::<io::Result<Vec<_>>>().context("cannot set up an event loop")?;
    let gauges: Vec<_> = gears.iter().map(Gear::gauge).collect();
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_signal(&stop, gears.iter().map(Gear::waker).collect())?;
    let mut tally = Tally::default();
    std::thread::scope(|scope| {
        let (sender, finished) = mpsc::channel();
        for (index, gear) in gears.into_iter().enumerate() {
            let part = Part { index: index as u64, of: threads };
            let (sender, stop, body) = (sender.clone(), &stop, &body);
            scope.spawn(move || {
                // Nobody listens only when another thread has failed already.
                let _ = sender.send(body(part, gear, stop));
            });
        }
        drop(sender);
        let mut line = ProgressLine::new(progress);
        loop {
            match finished.recv_timeout(PROGRESS_INTERVAL) {
                Ok(Ok(part)) => tally.absorb(part),
                Ok(Err(error)) => {
                    stop.store(true, Ordering::Relaxed);
                    return Err(error);
                }
                Err(RecvTimeoutError::Timeout) => line.renew(&gauges),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        line.finish();
        Ok(())
    })?;
    Ok(Outcome { tally, interrupted: stop.load(Ordering::Relaxed) })
}

/// Makes room for `connections` descriptors, up to the hard limit.
///
/// # Errors
///
/// When the hard limit is lower, saying how to raise it.
pub fn reserve_descriptors(connections: u64) -> anyhow::Result<()> {
    let need = connections + DESCRIPTORS_SPARE;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("RLIMIT_NOFILE")?;
    if soft >= need {
        return Ok(());
    }
    anyhow::ensure!(
        hard >= need,
        "{connections} connections need {need} open files, but the limit is {hard}; raise it with `ulimit -Hn {need}` \
         as root, or lower --connections"
    );
    setrlimit(Resource::RLIMIT_NOFILE, need, hard).context("RLIMIT_NOFILE")
}

/// Raises the limit of descriptors as far as it goes.
pub fn reserve_all_descriptors() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // With less the server still serves; accept(2) will say when it is not enough.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Blocks the two signals in this thread, and so in all it starts, and has one thread wait for them.
fn stop_on_signal(stop: &Arc<AtomicBool>, wakers: Vec<Arc<Waker>>) -> anyhow::Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block().context("cannot block signals")?;
    let stop = Arc::clone(stop);
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            while let Ok(signal) = signals.wait() {
                if stop.swap(true, Ordering::Relaxed) {
                    std::process::exit(128 + signal as i32);
                }
                for waker in &wakers {
                    // A loop that cannot be woken sees the flag at its next sweep.
                    let _ = waker.wake();
                }
            }
        })
        .context("cannot start a thread")?;
    Ok(())
}

/// One line on stderr, rewritten in place on a terminal.
struct ProgressLine {
    shown: bool,
    terminal: bool,
    began: Instant,
    last: [u64; 3],
    last_at: Instant,
}

impl ProgressLine {
    fn new(asked: bool) -> Self {
        let terminal = io::stderr().is_terminal();
        Self { shown: asked || terminal, terminal, began: Instant::now(), last: [0; 3], last_at: Instant::now() }
    }

    fn renew(&mut self, gauges: &[Arc<Gauge>]) {
        if !self.shown {
            return;
        }
        let sum = |figure: fn(&Gauge) -> u64| gauges.iter().map(|g| figure(g)).sum::<u64>();
        let now = [
            sum(|g| g.ops.load(Ordering::Relaxed)),
            sum(|g| g.bytes_in.load(Ordering::Relaxed)),
            sum(|g| g.bytes_out.load(Ordering::Relaxed)),
        ];
        let seconds = self.last_at.elapsed().as_secs_f64();
        let per_second = |index: usize| now[index].saturating_sub(self.last[index]) as f64 / seconds;
        let text = format!(
            "{:4.0} s  {:.0} op/s  {:.1} MB/s in  {:.1} MB/s out  {} open  {} errors",
            self.began.elapsed().as_secs_f64(),
            per_second(0),
            per_second(1) / 1e6,
            per_second(2) / 1e6,
            sum(|g| g.open.load(Ordering::Relaxed)),
            sum(|g| g.faults.load(Ordering::Relaxed)),
        );
        self.last = now;
        self.last_at = Instant::now();
        let mut stderr = io::stderr().lock();
        // A progress line that cannot be shown is no reason to stop.
        let _ = match self.terminal {
            true => write!(stderr, "\r{text:<78}"),
            false => writeln!(stderr, "{text}"),
        };
    }

    fn finish(&self) {
        if self.shown && self.terminal {
            let _ = write!(io::stderr().lock(), "\r{:<78}\r", "");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        for whole in [0, 1, 7, 64, 1001] {
            let sum: u64 = (0..3).map(|index| Part { index, of: 3 }.share(whole)).sum();
            assert_eq!(sum, whole);
        }
    }
}
