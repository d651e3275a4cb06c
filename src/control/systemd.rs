//! What the service manager is told (sd_notify(3)); nothing when there is none.

use std::time::Duration;

use sd_notify::NotifyState;

/// How much longer the manager is asked to wait, each second of a drain, in microseconds.
const PATIENCE_US: u32 = 10_000_000;

/// The daemon serves.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// A reload begins; [`ready`] ends it. Both parts must be in one message (`Type=notify-reload`, systemd 253).
pub fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now]);
    }
}

/// The daemon is on its way out.
pub fn stopping(status: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// The drain goes on: the manager's patience (`TimeoutStopSec`) shall not end before `drain_timeout` does.
pub fn still_stopping() {
    tell(&[NotifyState::ExtendTimeoutUsec(PATIENCE_US)]);
}

/// How often the watchdog wants to hear from us: half of `WatchdogSec`.
pub fn watchdog_period() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

/// All is well.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

fn tell(states: &[NotifyState]) {
    // A manager that does not listen is no reason to stop balancing.
    let _ = sd_notify::notify(states);
}
