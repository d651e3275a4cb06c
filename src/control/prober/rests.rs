//! A task that gives servers to which connects fail in a row a rest, and takes them back.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use crate::dataplane::commons::monotonic_ns;

use super::office::Office;

/// Least time from one look at all servers to the next, however often workers call.
const PAUSE: Duration = Duration::from_millis(10);
/// Wait when no rest is going on: until somebody calls.
const LONG: Duration = Duration::from_secs(3600);

/// Comes when called, and when a rest is over.
pub(super) async fn watch(office: Rc<Office>, called: Arc<Notify>) {
    loop {
        let now_ns = monotonic_ns();
        let next = office.next_return_ns().map(|at| Duration::from_nanos(at.saturating_sub(now_ns)));
        tokio::select! {
            () = called.notified() => {}
            () = sleep(next.unwrap_or(LONG)) => {}
        }
        office.take_back(monotonic_ns());
        office.answer_alarm(monotonic_ns());
        sleep(PAUSE).await;
    }
}
