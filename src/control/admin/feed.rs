//! Those who watch: `/v1/events`, which the status page reads.
//!
//! Each second the admin server takes a sample, and when somebody watches it makes one frame for all. A frame that a
//! watcher has no room for ends its stream: it will come back and say what it has seen last (`Last-Event-ID`). So what waits
//! for a watcher is bounded, and one that does not read holds nobody up.

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Instant, SystemTime};

use http_body_util::Full;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use crate::base::limits::{FRAMES_MAX, WATCHERS_MAX};
use crate::observe::event::unix_ns;
use crate::observe::history::SAMPLE_EVERY;
use crate::observe::live::{News, View, event_stream};
use crate::observe::panel::Panel;
use crate::observe::rates::Earlier;
use crate::observe::status::{Status, status};

use super::server::Lease;

/// Milliseconds after which a browser that lost its stream comes back.
const RETRY: &str = "retry: 2000\n\n";

/// Who watches, and what they know.
#[derive(Debug, Default)]
pub(super) struct Feed {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Frames are made: without that nobody may watch.
    runs: bool,
    watchers: Vec<mpsc::Sender<Bytes>>,
    told: Option<Knowledge>,
}

/// What everybody who watches has been told.
#[derive(Debug)]
struct Knowledge {
    at: Instant,
    status: Status,
    view: View,
    seen: Seen,
    reloads: (u64, u64),
}

/// The numbers of the last sample and the last event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    sample: u64,
    event: u64,
}

impl Feed {
    /// One more who watches, or `None` when there are as many as may. `last` is what a stream that broke off was told last.
    pub(super) fn watch(&self, panel: &Panel, last: Option<&str>, lease: Rc<Lease>) -> Option<Watch> {
        let mut inner = self.inner();
        inner.watchers.retain(|watcher| !watcher.is_closed());
        if !inner.runs || inner.watchers.len() >= WATCHERS_MAX {
            return None;
        }
        let told = inner.told.get_or_insert_with(|| Knowledge::now(panel));
        let (sender, frames) = mpsc::channel(FRAMES_MAX);
        let seen = last.and_then(|last| Seen::parse(last, panel));
        let mut news = news(panel, seen.unwrap_or_default());
        // What came since the last frame will be in the next one.
        news.samples.retain(|sample| sample.number <= told.seen.sample);
        news.events.retain(|event| event.number <= told.seen.event);
        news.reload = panel.reloads.last();
        let name = if seen.is_some() { "again" } else { "all" };
        let first = event_stream(name, &told.seen.id(panel), &told.view.whole(&news));
        let first = Bytes::from(RETRY.to_owned() + &first);
        inner.watchers.push(sender);
        Some(Watch { first: Some(first), frames, lease })
    }

    /// A second has passed.
    fn step(&self, panel: &Panel) {
        panel.history().take(&panel.commons.scene.load().plan, Instant::now(), unix_ns(SystemTime::now()) / 1_000_000);
        let mut inner = self.inner();
        inner.runs = true;
        inner.watchers.retain(|watcher| !watcher.is_closed());
        if inner.watchers.is_empty() {
            inner.told = None;
            return;
        }
        let Some(before) = inner.told.take() else { return };
        let (frame, told) = before.next(panel);
        inner.watchers.retain(|watcher| watcher.try_send(frame.clone()).is_ok());
        inner.told = Some(told);
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes samples, and tells those who watch, until the runtime ends.
pub(super) async fn run(feed: Arc<Feed>, panel: Arc<Panel>) {
    let mut seconds = interval(SAMPLE_EVERY);
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        seconds.tick().await;
        feed.step(&panel);
    }
}

/// What is remembered after what has been seen; the last reload is added where it is new.
fn news(panel: &Panel, seen: Seen) -> News {
    News { samples: panel.history().after(seen.sample), events: panel.log.recent.after(seen.event), reload: None }
}

impl Knowledge {
    /// What there is to know now. Rates come with the next frame.
    fn now(panel: &Panel) -> Self {
        let status = status(panel);
        let all = news(panel, Seen::default());
        Self {
            at: Instant::now(),
            view: View::new(&status, None),
            status,
            seen: Seen::default().and(&all),
            reloads: panel.reloads.counts(),
        }
    }

    /// A frame with what is new since then.
    fn next(self, panel: &Panel) -> (Bytes, Self) {
        let (at, status) = (Instant::now(), status(panel));
        let seconds = at.saturating_duration_since(self.at).as_secs_f64();
        let view = View::new(&status, Some(&Earlier::new(&self.status, seconds)));
        let mut news = news(panel, self.seen);
        let (seen, reloads) = (self.seen.and(&news), panel.reloads.counts());
        if reloads != self.reloads {
            news.reload = panel.reloads.last();
        }
        let frame = event_stream("some", &seen.id(panel), &view.since(&self.view, &news));
        (Bytes::from(frame), Self { at, status, view, seen, reloads })
    }
}

impl Seen {
    /// With what is told now.
    fn and(self, news: &News) -> Self {
        Self {
            sample: news.samples.last().map_or(self.sample, |sample| sample.number),
            event: news.events.last().map_or(self.event, |event| event.number),
        }
    }

    /// As `Last-Event-ID` has it. The time of the start tells one daemon from the next, whose numbers begin anew.
    fn id(self, panel: &Panel) -> String {
        format!("{}.{}.{}", unix_ns(panel.started), self.sample, self.event)
    }

    fn parse(id: &str, panel: &Panel) -> Option<Self> {
        let mut parts = id.splitn(3, '.').map(str::parse::<u64>);
        let (daemon, sample, event) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
        (daemon == unix_ns(panel.started)).then_some(Self { sample, event })
    }
}

/// The stream of one who watches. It goes on as long as frames are taken.
#[derive(Debug)]
pub(super) struct Watch {
    first: Option<Bytes>,
    frames: mpsc::Receiver<Bytes>,
    lease: Rc<Lease>,
}

/// The body of an answer.
#[derive(Debug)]
pub(super) enum Answered {
    /// All of it.
    Whole(Full<Bytes>),
    /// One that goes on.
    Stream(Watch),
}

impl Body for Answered {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let watch = match self.get_mut() {
            Answered::Whole(body) => return Pin::new(body).poll_frame(context),
            Answered::Stream(watch) => watch,
        };
        let frame = match watch.first.take() {
            Some(first) => Some(first),
            None => ready!(watch.frames.poll_recv(context)),
        };
        // Asked for only when there is room for it: whoever gets here reads.
        watch.lease.renew();
        Poll::Ready(frame.map(|frame| Ok(Frame::data(frame))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Answered::Whole(body) => body.is_end_stream(),
            Answered::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Answered::Whole(body) => body.size_hint(),
            Answered::Stream(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::ledger::Standing;
    use crate::observe::event::Event;
    use crate::observe::panel::tests::panel;

    fn lease() -> Rc<Lease> {
        Rc::new(Lease::new(Duration::from_secs(1)))
    }

    fn text(frame: Option<Bytes>) -> String {
        String::from_utf8(frame.expect("a frame").to_vec()).expect("UTF-8")
    }

    fn id_in(frame: &str) -> String {
        frame.lines().find_map(|line| line.strip_prefix("id: ")).expect("an id").to_owned()
    }

    #[test]
    fn everything_comes_first_and_then_what_is_new() {
        let (panel, feed) = (panel(), Feed::default());
        assert!(feed.watch(&panel, None, lease()).is_none(), "before the first second nobody tells anything");
        panel.log.recent.keep(&Event::info("started", "ready"));
        feed.step(&panel);
        feed.step(&panel);
        let mut watch = feed.watch(&panel, None, lease()).expect("there is room");
        let first = text(watch.first.take());
        assert!(first.starts_with("retry: 2000\n\nevent: all\nid: "), "{first}");
        assert!(
            first.contains("\"ready\"") && first.contains("\"layout\"") && first.contains("\"number\":2"),
            "{first}"
        );

        panel.commons.scene.load().plan.pools[0].servers[0].ledger.set_standing(Standing::Drain);
        panel.log.recent.keep(&Event::info("server", "it drains"));
        feed.step(&panel);
        let next = text(watch.frames.try_recv().ok());
        assert!(next.starts_with("event: some\n") && next.contains("it drains"), "{next}");
        assert!(next.contains(r#""0/0":{"state":"drain""#) && !next.contains("\"layout\"") && !next.contains("ready"));

        // Whoever lost the stream says what came last, and gets the rest.
        let mut again = feed.watch(&panel, Some(&id_in(&first)), lease()).expect("there is room");
        let again = text(again.first.take());
        assert!(again.contains("event: again\n") && again.contains("it drains") && !again.contains("ready"), "{again}");
        for other in ["1.2.3", "nonsense", "", "99999999999999999999999.1.1"] {
            let mut anew = feed.watch(&panel, Some(other), lease()).expect("there is room");
            assert!(text(anew.first.take()).contains("event: all\n"), "{other}: another daemon's");
        }
    }

    #[test]
    fn those_who_watch_are_so_many_and_what_waits_for_them_is_bounded() {
        let (panel, feed) = (panel(), Feed::default());
        feed.step(&panel);
        let watches: Vec<_> = (0..WATCHERS_MAX).map(|_| feed.watch(&panel, None, lease()).expect("room")).collect();
        assert!(feed.watch(&panel, None, lease()).is_none());
        drop(watches);
        let mut watch = feed.watch(&panel, None, lease()).expect("room again");
        for _ in 0..FRAMES_MAX + 3 {
            feed.step(&panel);
        }
        assert!(feed.inner().watchers.is_empty(), "one that does not read is let go");
        let mut frames = 0;
        while watch.frames.try_recv().is_ok() {
            frames += 1;
        }
        assert_eq!(frames, FRAMES_MAX);
        assert!(watch.frames.is_closed(), "and its stream ends");
        feed.step(&panel);
        assert!(feed.inner().told.is_none(), "without anybody who watches nothing is made");
    }
}
