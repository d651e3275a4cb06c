//! What the machine says: the kernel, limits, and sysctls, each as it is for the user who asks.

use std::fs;

use nix::sys::resource::{Resource, getrlimit};

use crate::control::held_by_memory;
use crate::kernel::epoll::Epoll;
use crate::kernel::{Engine, Refused, uring};
use crate::sys::{affinity, limits, privilege};

/// What the machine says. `None`: it says nothing about that.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) release: String,
    pub(super) ring: Result<&'static str, Refused>,
    pub(super) epoll: Result<(), Refused>,
    /// `kernel.io_uring_disabled`, where there is such a sysctl (Linux 6.6).
    pub(super) uring_disabled: Option<u64>,
    /// A seccomp filter is in force (proc_pid_status(5)).
    pub(super) seccomp: bool,
    pub(super) root: bool,
    /// Ports below this need a privilege.
    pub(super) port_start: u64,
    pub(super) may_bind_low: bool,
    pub(super) cores: usize,
    pub(super) share: usize,
    pub(super) descriptors_hard: u64,
    /// `fs.nr_open`: how far that limit can be raised.
    pub(super) descriptors_raisable: Option<u64>,
    /// `fs.file-max`: open files of the whole machine.
    pub(super) files_max: Option<u64>,
    /// `RLIMIT_MEMLOCK`, the hard one, in bytes.
    pub(super) locked: u64,
    /// Sessions that memory holds, of how many bytes, and whose limit that is.
    pub(super) memory: Option<(u32, u64, &'static str)>,
    pub(super) somaxconn: Option<u64>,
    /// `tcp_max_syn_backlog` and `tcp_syncookies`.
    pub(super) handshakes: Option<(u64, u64)>,
    pub(super) ports: Option<(u64, u64)>,
    pub(super) tw_reuse: Option<u64>,
    /// `nf_conntrack_count` and `nf_conntrack_max`; nothing while nothing is tracked.
    pub(super) tracked: Option<(u64, u64)>,
    /// The largest receive buffer (`tcp_rmem`), in bytes.
    pub(super) receive_max: Option<u64>,
    pub(super) ipv6_disabled: Option<u64>,
    pub(super) pipe_max: Option<u64>,
    /// Pages all pipes of a user may have; 0 is no limit.
    pub(super) pipe_pages: Option<u64>,
}

impl Facts {
    pub(super) fn read() -> Self {
        let release = nix::sys::utsname::uname().map(|names| names.release().to_string_lossy().into_owned());
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let port_start = sysctl("net/ipv4/ip_unprivileged_port_start").unwrap_or(1_024);
        let low = caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_NET_BIND_SERVICE);
        let share = affinity::share();
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
            share,
            descriptors_hard: limits::open_files().map_or(0, |(_, hard)| hard),
            descriptors_raisable: sysctl("fs/nr_open"),
            files_max: sysctl("fs/file-max"),
            locked: getrlimit(Resource::RLIMIT_MEMLOCK).map_or(u64::MAX, |(_, hard)| hard),
            memory: held_by_memory(share as u64),
            somaxconn: sysctl("net/core/somaxconn"),
            handshakes: sysctl("net/ipv4/tcp_max_syn_backlog").zip(sysctl("net/ipv4/tcp_syncookies")),
            ports: numbers("net/ipv4/ip_local_port_range").and_then(|ports| Some((*ports.first()?, *ports.get(1)?))),
            tw_reuse: sysctl("net/ipv4/tcp_tw_reuse"),
            tracked: sysctl("net/netfilter/nf_conntrack_count").zip(sysctl("net/netfilter/nf_conntrack_max")),
            receive_max: numbers("net/ipv4/tcp_rmem").and_then(|sizes| sizes.get(2).copied()),
            ipv6_disabled: sysctl("net/ipv6/conf/all/disable_ipv6"),
            pipe_max: sysctl("fs/pipe-max-size"),
            pipe_pages: sysctl("fs/pipe-user-pages-soft"),
        }
    }
}

/// The numbers of a sysctl that has several.
fn numbers(name: &str) -> Option<Vec<u64>> {
    let text = fs::read_to_string(format!("/proc/sys/{name}")).ok()?;
    text.split_whitespace().map(|number| number.parse().ok()).collect()
}

fn sysctl(name: &str) -> Option<u64> {
    numbers(name)?.first().copied()
}
