//! What the process uses, as Prometheus clients name it: `process_*`.

use std::fs;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeVal;

/// What is used now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Time on a CPU, user and system, in seconds.
    pub cpu_s: f64,
    /// Memory that is resident, in bytes.
    pub resident_bytes: u64,
    /// Address space, in bytes.
    pub virtual_bytes: u64,
    /// Open descriptors of the fullest table: each worker has one of its own, where the kernel allows that.
    pub descriptors: u64,
    /// Most descriptors there may be in a table (`RLIMIT_NOFILE`), which can change from outside (prlimit(1)).
    pub descriptors_max: u64,
    /// Threads.
    pub threads: u64,
}

/// Reads it from getrusage(2) and proc(5); what cannot be read is 0. `workers`: their threads (gettid(2)).
pub fn usage(workers: impl Iterator<Item = i32>) -> Usage {
    let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    let cpu_s = getrusage(UsageWho::RUSAGE_SELF)
        .map(|usage| seconds(usage.user_time()) + seconds(usage.system_time()))
        .unwrap_or(0.0);
    let (virtual_pages, resident_pages) = pages(&read("/proc/self/statm"));
    let page = page_bytes();
    let descriptors_max = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    Usage {
        cpu_s,
        resident_bytes: resident_pages * page,
        virtual_bytes: virtual_pages * page,
        // Less the one that reads the directory. None may be left for that: then all are in use.
        descriptors: entries("/proc/self/fd").map_or(descriptors_max, |count| {
            let of_worker = |thread| entries(&format!("/proc/self/task/{thread}/fd")).unwrap_or(0);
            workers.map(of_worker).max().unwrap_or(0).max(count.saturating_sub(1))
        }),
        descriptors_max,
        threads: entries("/proc/self/task").unwrap_or(0),
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn entries(path: &str) -> Option<u64> {
    fs::read_dir(path).ok().map(|directory| directory.count() as u64)
}

/// The first two figures of `/proc/self/statm`.
fn pages(statm: &str) -> (u64, u64) {
    let mut figures = statm.split(' ').map(|figure| figure.parse().unwrap_or(0));
    (figures.next().unwrap_or(0), figures.next().unwrap_or(0))
}

fn page_bytes() -> u64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .and_then(|bytes| u64::try_from(bytes).ok())
        .unwrap_or(4_096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_uses_something() {
        let usage = usage([nix::unistd::gettid().as_raw()].into_iter());
        assert!(usage.cpu_s >= 0.0);
        assert!(usage.resident_bytes > 100_000 && usage.virtual_bytes > usage.resident_bytes);
        assert!(usage.descriptors >= 3 && usage.descriptors_max > usage.descriptors && usage.threads >= 1);
        assert_eq!(pages("12 7 3 0 0 0 0\n"), (12, 7));
        assert_eq!(pages(""), (0, 0));
    }
}
