//! `ringway doctor`: what keeps ringway from running, or from running well, on this machine, each with a remedy.
//!
//! [`Facts`] are read from the machine; [`examine`] judges them and touches nothing.

use std::fs;
use std::process::ExitCode;

use serde::Serialize;

use super::client::print;
use super::exit;
use crate::base::limits::{BACKLOG, PIPE_LARGE, PIPES_LARGE_MAX, PIPES_MAX};
use crate::kernel::epoll::Epoll;
use crate::kernel::uring::{self, KERNEL_MINIMUM};
use crate::kernel::{Engine, Refused};
use crate::sys::limits::Needs;
use crate::sys::{affinity, limits, privilege};

/// Looks for what keeps ringway from running well here.
#[derive(Debug, clap::Args)]
pub struct Doctor {
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the verb: 0 nothing is in the way, 1 something is.
pub fn run(doctor: &Doctor) -> ExitCode {
    let findings = examine(&Facts::read());
    let failed = findings.iter().any(|finding| finding.verdict == Verdict::Fail);
    if doctor.json {
        let text = serde_json::to_string_pretty(&findings).expect("our own types serialise");
        print(&format!("{text}\n"));
    } else {
        print(&report(&findings));
    }
    ExitCode::from(if failed { exit::FAILURE } else { exit::OK })
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    verdict: Verdict,
    /// What was looked at.
    subject: &'static str,
    /// What was found.
    found: String,
    /// What to do about it.
    remedy: Option<String>,
}

impl Finding {
    fn ok(subject: &'static str, found: String) -> Self {
        Self { verdict: Verdict::Ok, subject, found, remedy: None }
    }

    fn warn(subject: &'static str, found: String, remedy: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warn, subject, found, remedy: Some(remedy.into()) }
    }

    fn fail(subject: &'static str, found: String, remedy: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail, subject, found, remedy: Some(remedy.into()) }
    }
}

/// What the machine says.
#[derive(Clone, Debug)]
struct Facts {
    release: String,
    ring: Result<&'static str, Refused>,
    epoll: Result<(), Refused>,
    /// `kernel.io_uring_disabled`, where there is such a sysctl (Linux 6.6).
    uring_disabled: Option<u64>,
    /// A seccomp filter is in force (proc_pid_status(5)).
    seccomp: bool,
    root: bool,
    /// Ports below this need a privilege.
    port_start: u64,
    may_bind_low: bool,
    cores: usize,
    share: usize,
    descriptors_hard: u64,
    somaxconn: Option<u64>,
    ports: Option<(u64, u64)>,
    pipe_max: Option<u64>,
    /// Pages all pipes of a user may have; 0 is no limit.
    pipe_pages: Option<u64>,
}

impl Facts {
    fn read() -> Self {
        let release = nix::sys::utsname::uname().map(|names| names.release().to_string_lossy().into_owned());
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let port_start = sysctl("net/ipv4/ip_unprivileged_port_start").unwrap_or(1_024);
        let low = caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_NET_BIND_SERVICE);
        Self {
            release: release.unwrap_or_default(),
            ring: uring::probe().map(|abilities| abilities.flags),
            epoll: Epoll::new().map(drop),
            uring_disabled: sysctl("kernel/io_uring_disabled"),
            seccomp: status.lines().any(|line| line == "Seccomp:\t2"),
            root: privilege::is_root(),
            port_start,
            may_bind_low: low.unwrap_or(false) || port_start == 0,
            cores: affinity::allowed().len(),
            share: affinity::share(),
            descriptors_hard: limits::open_files().map_or(0, |(_, hard)| hard),
            somaxconn: sysctl("net/core/somaxconn"),
            ports: read_sysctl("net/ipv4/ip_local_port_range").and_then(|text| {
                let mut bounds = text.split_whitespace().map(str::parse);
                Some((bounds.next()?.ok()?, bounds.next()?.ok()?))
            }),
            pipe_max: sysctl("fs/pipe-max-size"),
            pipe_pages: sysctl("fs/pipe-user-pages-soft"),
        }
    }
}

fn read_sysctl(name: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/sys/{name}")).ok()
}

fn sysctl(name: &str) -> Option<u64> {
    read_sysctl(name)?.trim().parse().ok()
}

fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings =
        vec![kernel(facts), io_uring(facts), engine(facts), cores(facts), descriptors(facts), low_ports(facts)];
    findings.extend([backlog(facts), local_ports(facts), pipe_size(facts), pipe_budget(facts)].into_iter().flatten());
    findings
}

fn kernel(facts: &Facts) -> Finding {
    let (major, minor) = KERNEL_MINIMUM;
    let found = format!("Linux {}", facts.release);
    let mut numbers = facts.release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= KERNEL_MINIMUM {
        return Finding::ok("kernel", found);
    }
    Finding::warn("kernel", found, format!("for io_uring, run Linux {major}.{minor} or newer"))
}

fn io_uring(facts: &Facts) -> Finding {
    let filter = if facts.seccomp { ", under a seccomp filter that allows it" } else { "" };
    match &facts.ring {
        Err(refused) => Finding::warn("io_uring", refused.to_string(), refused.remedy.clone()),
        Ok(flags) if facts.uring_disabled == Some(1) => Finding::warn(
            "io_uring",
            format!("{flags}, but kernel.io_uring_disabled is 1: only root and one group may use it"),
            "sysctl -w kernel.io_uring_disabled=0, or put the user of [global] into the group of kernel.io_uring_group",
        ),
        Ok(flags) => Finding::ok("io_uring", format!("{flags}{filter}")),
    }
}

fn engine(facts: &Facts) -> Finding {
    match (&facts.ring, &facts.epoll) {
        (Ok(_), _) => Finding::ok("engine", "engine = \"auto\" runs on io_uring".into()),
        (Err(_), Ok(())) => {
            Finding::ok("engine", "engine = \"auto\" runs on epoll; \"io_uring\" would not start".into())
        }
        (Err(_), Err(refused)) => Finding::fail("engine", refused.to_string(), refused.remedy.clone()),
    }
}

fn cores(facts: &Facts) -> Finding {
    let Facts { cores, share, .. } = *facts;
    if share < cores {
        let found =
            format!("{cores} cores to see and a quota of {share}: workers = \"auto\" starts {share}, not pinned");
        return Finding::warn("cores", found, "give the container whole cores (a cpuset) instead of a quota");
    }
    Finding::ok("cores", format!("{cores}: workers = \"auto\" starts {share}, one pinned to each"))
}

fn descriptors(facts: &Facts) -> Finding {
    let workers = facts.share as u64;
    let needs = Needs { workers, addresses: 2, pipes: workers * PIPES_MAX as u64, checks: 0 };
    let limit = facts.descriptors_hard.min(limits::UNASKED_MAX);
    let sessions = needs.sessions_max(limit);
    let found = format!("{} descriptors hold about {sessions} sessions", facts.descriptors_hard);
    match sessions {
        0 => Finding::fail("open files", found, "raise the hard limit: LimitNOFILE=1048576 in the unit, or ulimit -Hn"),
        1..30_000 => Finding::warn("open files", found, "for more, LimitNOFILE=1048576 in the unit, or ulimit -Hn"),
        _ => Finding::ok("open files", found),
    }
}

fn low_ports(facts: &Facts) -> Finding {
    if facts.may_bind_low {
        return Finding::ok("low ports", "may be listened on".into());
    }
    Finding::warn(
        "low ports",
        format!("ports below {} may not be listened on by this user", facts.port_start),
        "start as root, or AmbientCapabilities=CAP_NET_BIND_SERVICE in the unit",
    )
}

fn backlog(facts: &Facts) -> Option<Finding> {
    let somaxconn = facts.somaxconn?;
    let found = format!("net.core.somaxconn is {somaxconn}");
    Some(if somaxconn < u64::from(BACKLOG) {
        Finding::warn("accept queue", found, format!("sysctl -w net.core.somaxconn={BACKLOG}: bursts overflow sooner"))
    } else {
        Finding::ok("accept queue", found)
    })
}

fn local_ports(facts: &Facts) -> Option<Finding> {
    let (first, last) = facts.ports?;
    let count = (last + 1).saturating_sub(first);
    let found = format!("{first} to {last}: {count} sessions to one server from one local address");
    Some(if count < 20_000 {
        Finding::warn(
            "local ports",
            found,
            "sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\", or list more addresses in `source` of the pool",
        )
    } else {
        Finding::ok("local ports", found)
    })
}

fn pipe_size(facts: &Facts) -> Option<Finding> {
    let size = facts.pipe_max?;
    let found = format!("fs.pipe-max-size is {size}");
    Some(if size < PIPE_LARGE as u64 {
        Finding::warn(
            "pipe size",
            found,
            format!("sysctl -w fs.pipe-max-size={PIPE_LARGE}: bulk moves in larger steps"),
        )
    } else {
        Finding::ok("pipe size", found)
    })
}

/// Whether all workers get their large pipes once root is given up: root is not bounded.
fn pipe_budget(facts: &Facts) -> Option<Finding> {
    let pages = facts.pipe_pages?;
    let page = 4_096;
    let wanted = facts.share as u64 * PIPES_LARGE_MAX as u64 * (PIPE_LARGE as u64 / page);
    let found = format!("fs.pipe-user-pages-soft is {pages}; the workers' large pipes take {wanted}");
    Some(if pages != 0 && pages < wanted {
        let root = if facts.root { " (as root there is no bound, but `user` in [global] has it)" } else { "" };
        Finding::warn(
            "pipe budget",
            format!("{found}{root}"),
            format!("sysctl -w fs.pipe-user-pages-soft={}: beyond it bulk is copied", wanted.next_power_of_two()),
        )
    } else {
        Finding::ok("pipe budget", found)
    })
}

fn report(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let verdict = match finding.verdict {
            Verdict::Ok => "OK",
            Verdict::Warn => "WARN",
            Verdict::Fail => "FAIL",
        };
        text.push_str(&format!("{verdict:<5} {:<13} {}\n", finding.subject, finding.found));
        if let Some(remedy) = &finding.remedy {
            text.push_str(&format!("{:>19} → {remedy}\n", ""));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Errno;

    fn well() -> Facts {
        Facts {
            release: "6.18.44-test".into(),
            ring: Ok("SINGLE_ISSUER|DEFER_TASKRUN"),
            epoll: Ok(()),
            uring_disabled: Some(0),
            seccomp: false,
            root: false,
            port_start: 1_024,
            may_bind_low: true,
            cores: 2,
            share: 2,
            descriptors_hard: 1 << 20,
            somaxconn: Some(4_096),
            ports: Some((32_768, 60_999)),
            pipe_max: Some(1 << 20),
            pipe_pages: Some(16_384),
        }
    }

    fn verdict_of(facts: &Facts, subject: &str) -> Verdict {
        let findings = examine(facts);
        let finding = findings.iter().find(|finding| finding.subject == subject).expect("looked at");
        assert_eq!(finding.remedy.is_some(), finding.verdict != Verdict::Ok, "{finding:?}");
        finding.verdict
    }

    #[test]
    fn a_good_machine_gets_no_advice() {
        let findings = examine(&well());
        assert!(findings.iter().all(|finding| finding.verdict == Verdict::Ok), "{}", report(&findings));
    }

    #[test]
    fn each_trouble_is_found_and_has_a_remedy() {
        let refused = Refused {
            engine: "io_uring",
            errno: Errno::EPERM,
            reason: "seccomp",
            cause: "a filter".into(),
            remedy: "allow it".into(),
        };
        let table: [(&str, Verdict, Facts); 13] = [
            ("kernel", Verdict::Warn, Facts { release: "5.10.0-30-amd64".into(), ..well() }),
            ("kernel", Verdict::Warn, Facts { release: "5.18.99".into(), ..well() }),
            ("io_uring", Verdict::Warn, Facts { ring: Err(refused.clone()), ..well() }),
            ("engine", Verdict::Ok, Facts { ring: Err(refused.clone()), ..well() }),
            ("engine", Verdict::Fail, Facts { ring: Err(refused.clone()), epoll: Err(refused), ..well() }),
            ("io_uring", Verdict::Warn, Facts { uring_disabled: Some(1), ..well() }),
            ("cores", Verdict::Warn, Facts { share: 1, ..well() }),
            ("open files", Verdict::Warn, Facts { descriptors_hard: 20_000, ..well() }),
            ("open files", Verdict::Fail, Facts { descriptors_hard: 32, ..well() }),
            ("low ports", Verdict::Warn, Facts { may_bind_low: false, ..well() }),
            ("accept queue", Verdict::Warn, Facts { somaxconn: Some(128), ..well() }),
            ("local ports", Verdict::Warn, Facts { ports: Some((50_000, 50_063)), ..well() }),
            ("pipe budget", Verdict::Warn, Facts { cores: 8, share: 8, ..well() }),
        ];
        for (subject, verdict, facts) in table {
            assert_eq!(verdict_of(&facts, subject), verdict, "{facts:?}");
        }
        assert_eq!(
            verdict_of(&Facts { pipe_pages: Some(0), share: 8, cores: 8, ..well() }, "pipe budget"),
            Verdict::Ok
        );
        assert_eq!(verdict_of(&Facts { release: "7.0.1".into(), ..well() }, "kernel"), Verdict::Ok);
    }

    #[test]
    fn this_machine_can_be_examined() {
        assert!(examine(&Facts::read()).len() >= 5);
    }
}
