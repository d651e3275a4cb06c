//! A task that asks one server, over and over.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::config::plan::{CheckPace, Question};
use crate::dataplane::commons::monotonic_ns;
use crate::health::{Fault, Outcome, probe, schedule};

use super::mysql;
use super::office::Office;
use super::ward::{Errand, Ward};
use super::wire;

/// Asks until the errand is over.
pub(super) async fn attend(office: Rc<Office>, ward: Rc<Ward>, errand: Rc<Errand>, delay: Duration) {
    if let Question::Mysql(question) = errand.question.clone() {
        return mysql::attend(office, ward, errand, question, delay).await;
    }
    let mut random = office.draw();
    let (mut begun_ns, mut ended_ns) = (0, 0);
    let mut first_ns = Some(monotonic_ns() + delay.as_nanos() as u64);
    while let Some(pace) = pace_of(&ward, &errand) {
        let due_ns = first_ns.unwrap_or_else(|| {
            let interval_ms = ward.verdict.get().interval_ms(&pace);
            schedule::next_ns(begun_ns, ended_ns, interval_ms, random)
        });
        let wait = Duration::from_nanos(due_ns.saturating_sub(monotonic_ns()));
        tokio::select! {
            biased;
            () = errand.changed.notified() => continue,
            () = sleep(wait) => {}
        }
        first_ns = None;
        random = office.draw();
        begun_ns = monotonic_ns();
        let outcome = ask(&office, &errand, &pace).await;
        ended_ns = monotonic_ns();
        if !errand.is_leaving() {
            office.hear(&ward, &outcome, Duration::from_nanos(ended_ns - begun_ns));
        }
    }
}

/// The pace of the plan in force; `None` when the errand is over.
pub(super) fn pace_of(ward: &Ward, errand: &Errand) -> Option<CheckPace> {
    let pool = ward.place().0;
    pool.care.check.as_ref().map(|check| check.pace).filter(|_| !errand.is_leaving())
}

/// One check, within its time.
async fn ask(office: &Office, errand: &Errand, pace: &CheckPace) -> Outcome {
    let Errand { question, target, .. } = errand;
    let tls = office.library.tls(question, &target.address).map_err(Fault::Local)?;
    // Only the question of MySQL, which is asked elsewhere, has a probe of another kind.
    let Some(mut probe) = probe(question, &target.address.to_string(), tls) else {
        return Err(Fault::Local("there is no such probe".to_owned()));
    };
    let waiting_for = Cell::new("a connection");
    let _under_way = office.gatherer.begin(pace.timeout_ms);
    let mut check = pin!(wire::check(&mut *probe, target, &office.gatherer, &waiting_for));
    match timeout(Duration::from_millis(pace.timeout_ms.into()), &mut check).await {
        Ok(outcome) => outcome,
        Err(_) => {
            // What has come in time may not have been looked at.
            office.gatherer.look();
            let late = Fault::Timeout { waiting_for: waiting_for.get(), after_ms: pace.timeout_ms };
            now_or(check, Err(late)).await
        }
    }
}

/// What comes of `future` if it need not wait; `otherwise` if it must.
async fn now_or<F: Future>(mut future: Pin<&mut F>, otherwise: F::Output) -> F::Output {
    match poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await {
        Poll::Ready(output) => output,
        Poll::Pending => otherwise,
    }
}
