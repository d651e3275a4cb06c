//! What the facts mean for ringway.

use super::Finding;
use super::facts::Facts;
use crate::base::limits::{BACKLOG, GATHERED, LOCKED_PER_WORKER, PIPE_LARGE, PIPES_LARGE_MAX, PIPES_MAX};
use crate::kernel::uring::KERNEL_MINIMUM;
use crate::sys::limits::{self, Needs};

/// Judges the facts, in the order in which they matter.
pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![kernel(facts), io_uring(facts), engine(facts), cores(facts), descriptors(facts)];
    findings.extend([files(facts), memory(facts)].into_iter().flatten());
    findings.extend([locked_memory(facts), low_ports(facts)]);
    let network = [backlog(facts), handshakes(facts), local_ports(facts), time_wait(facts), tracking(facts)];
    let bulk = [ipv6(facts), receive_buffer(facts), pipe_size(facts), pipe_budget(facts)];
    findings.extend(network.into_iter().chain(bulk).flatten());
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

/// Sessions that the hard limit on descriptors holds.
fn sessions(facts: &Facts) -> u32 {
    let workers = facts.share as u64;
    let needs = Needs { workers, addresses: 2, pipes: workers * PIPES_MAX as u64, checks: 0 };
    needs.sessions_max(facts.descriptors_hard.min(limits::UNASKED_MAX))
}

fn descriptors(facts: &Facts) -> Finding {
    let sessions = sessions(facts);
    let found = format!("{} descriptors hold about {sessions} sessions", facts.descriptors_hard);
    let raisable = facts.descriptors_raisable.unwrap_or(limits::UNASKED_MAX);
    let first = if raisable < limits::UNASKED_MAX { "sysctl -w fs.nr_open=1048576, then " } else { "" };
    match sessions {
        0 => Finding::fail(
            "open files",
            found,
            format!("raise the hard limit: {first}LimitNOFILE=1048576 in the unit, or ulimit -Hn"),
        ),
        1..30_000 => Finding::warn(
            "open files",
            found,
            format!("for more, {first}LimitNOFILE=1048576 in the unit, or ulimit -Hn"),
        ),
        _ => Finding::ok("open files", found),
    }
}

/// Whether the machine has as many descriptors as one process is promised.
fn files(facts: &Facts) -> Option<Finding> {
    let all = facts.files_max?;
    let wanted = facts.descriptors_hard.min(limits::UNASKED_MAX);
    let found = format!("fs.file-max is {all} for the whole machine");
    Some(if all < wanted {
        let remedy = format!("sysctl -w fs.file-max={}: the limit of one process is above it", wanted * 2);
        Finding::warn("machine files", found, remedy)
    } else {
        Finding::ok("machine files", found)
    })
}

fn memory(facts: &Facts) -> Option<Finding> {
    let (held, bytes, by) = facts.memory?;
    let found = format!("{by} allows {} MiB, enough for {held} sessions whose receivers are all blocked", bytes >> 20);
    let remedy = "raise it (MemoryMax= in the unit, or the container's), or set max_connections in [global] lower";
    Some(match held {
        0 => Finding::fail("memory", found, remedy),
        held if held < sessions(facts) => Finding::warn("memory", found, remedy),
        _ => Finding::ok("memory", found),
    })
}

/// What kernels before 5.12, and some that are hardened, count rings against (io_uring_setup(2)).
fn locked_memory(facts: &Facts) -> Finding {
    let wanted = (facts.share as u64 + 2) * LOCKED_PER_WORKER;
    let found = match facts.locked {
        u64::MAX => "no limit".to_owned(),
        limit => format!("{} KiB; rings take up to {} KiB", limit >> 10, wanted >> 10),
    };
    if facts.locked >= wanted || facts.root || facts.ring.is_ok() {
        return Finding::ok("locked memory", found);
    }
    let remedy = format!("LimitMEMLOCK={} in the unit, or ulimit -Hl {}", wanted, wanted >> 10);
    Finding::warn("locked memory", found, remedy)
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

/// Handshakes that are under way: without cookies, too many of them are dropped.
fn handshakes(facts: &Facts) -> Option<Finding> {
    let (backlog, cookies) = facts.handshakes?;
    let found = format!("net.ipv4.tcp_max_syn_backlog is {backlog}, net.ipv4.tcp_syncookies {cookies}");
    Some(if cookies == 0 && backlog < u64::from(BACKLOG) {
        Finding::warn("handshakes", found, "sysctl -w net.ipv4.tcp_syncookies=1: a flood shuts everybody out otherwise")
    } else {
        Finding::ok("handshakes", found)
    })
}

/// Whoever closes a connection first keeps its port for a minute (RFC 9293 §3.6); here, when a client closes before its server.
fn time_wait(facts: &Facts) -> Option<Finding> {
    let reuse = facts.tw_reuse?;
    let found = format!("net.ipv4.tcp_tw_reuse is {reuse}");
    let per_second = facts.ports.map_or(0, |(first, last)| (last + 1).saturating_sub(first) / 60);
    Some(if reuse == 1 {
        Finding::ok("closed ports", found)
    } else {
        Finding::warn(
            "closed ports",
            format!("{found}: {per_second} sessions a second to one server, where clients close first"),
            "sysctl -w net.ipv4.tcp_tw_reuse=1, or list more addresses in `source` of the pool",
        )
    })
}

/// A firewall that tracks connections has a table of its own; a session is two of them.
fn tracking(facts: &Facts) -> Option<Finding> {
    let (count, most) = facts.tracked?;
    let wanted = u64::from(sessions(facts)) * 2;
    let found = format!("the firewall tracks {count} of {most} connections; {wanted} come from all sessions");
    Some(if count + wanted > most {
        let most = (count + wanted).next_power_of_two();
        let remedy =
            format!("sysctl -w net.netfilter.nf_conntrack_max={most}, or let it not track them (nft: notrack)");
        Finding::warn("tracking", found, remedy)
    } else {
        Finding::ok("tracking", found)
    })
}

fn ipv6(facts: &Facts) -> Option<Finding> {
    Some(match facts.ipv6_disabled {
        Some(0) => Finding::ok("IPv6", "may be listened on".into()),
        _ => Finding::warn(
            "IPv6",
            "there is none: listeners on [::] do not open".into(),
            "sysctl -w net.ipv6.conf.all.disable_ipv6=0, or bind only IPv4 addresses",
        ),
    })
}

fn receive_buffer(facts: &Facts) -> Option<Finding> {
    let most = facts.receive_max?;
    let wanted = 2 * GATHERED as u64;
    let found = format!("a socket receives up to {most} bytes ahead (net.ipv4.tcp_rmem)");
    Some(if most < wanted {
        let remedy = format!("sysctl -w net.ipv4.tcp_rmem=\"4096 131072 {wanted}\": bulk moves in larger steps");
        Finding::warn("receive buffer", found, remedy)
    } else {
        Finding::ok("receive buffer", found)
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

#[cfg(test)]
mod tests {
    use super::super::{Verdict, report};
    use super::*;
    use crate::kernel::{Errno, Refused};

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
            descriptors_raisable: Some(1 << 20),
            files_max: Some(1 << 22),
            locked: 8 << 20,
            memory: Some((1_000_000, 64 << 30, "this machine")),
            somaxconn: Some(4_096),
            handshakes: Some((2_048, 1)),
            ports: Some((32_768, 60_999)),
            tw_reuse: Some(1),
            tracked: Some((10, 1 << 21)),
            receive_max: Some(6 << 20),
            ipv6_disabled: Some(0),
            pipe_max: Some(1 << 20),
            pipe_pages: Some(16_384),
        }
    }

    fn no_ring() -> Refused {
        Refused {
            engine: "io_uring",
            errno: Errno::EPERM,
            reason: "seccomp",
            cause: "a filter".into(),
            remedy: "allow it".into(),
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
        let refused = no_ring();
        let table: [(&str, Verdict, Facts); 25] = [
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
            ("machine files", Verdict::Warn, Facts { files_max: Some(65_536), ..well() }),
            ("memory", Verdict::Warn, Facts { memory: Some((10_000, 1 << 30, "the cgroup")), ..well() }),
            ("memory", Verdict::Fail, Facts { memory: Some((0, 1 << 20, "the cgroup")), ..well() }),
            ("locked memory", Verdict::Ok, Facts { locked: 64 << 10, ..well() }),
            ("locked memory", Verdict::Warn, Facts { locked: 64 << 10, ring: Err(no_ring()), ..well() }),
            ("handshakes", Verdict::Warn, Facts { handshakes: Some((128, 0)), ..well() }),
            ("handshakes", Verdict::Ok, Facts { handshakes: Some((8_192, 0)), ..well() }),
            ("closed ports", Verdict::Warn, Facts { tw_reuse: Some(2), ..well() }),
            ("tracking", Verdict::Warn, Facts { tracked: Some((0, 262_144)), ..well() }),
            ("tracking", Verdict::Ok, Facts { tracked: Some((0, 262_144)), descriptors_hard: 65_536, ..well() }),
            ("IPv6", Verdict::Warn, Facts { ipv6_disabled: None, ..well() }),
            ("receive buffer", Verdict::Warn, Facts { receive_max: Some(212_992), ..well() }),
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
    fn what_has_to_come_first_is_said_first() {
        let small = Facts { descriptors_hard: 4_096, descriptors_raisable: Some(65_536), ..well() };
        let findings = examine(&small);
        let finding = findings.iter().find(|finding| finding.subject == "open files").expect("looked at");
        let remedy = finding.remedy.as_deref().expect("too few");
        assert!(remedy.contains("fs.nr_open=1048576, then LimitNOFILE"), "{remedy}");
    }

    #[test]
    fn this_machine_can_be_examined() {
        assert!(examine(&Facts::read()).len() >= 10);
    }
}
