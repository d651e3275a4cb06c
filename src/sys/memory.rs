//! How much memory there may be: getrlimit(2), cgroups(7), proc_meminfo(5).

use std::fs;

use nix::sys::resource::{Resource, getrlimit};

/// The tightest limit on memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// How much, in bytes.
    pub bytes: u64,
    /// How much of it is gone before anything is allocated, in bytes.
    pub in_use: u64,
    /// Who says so.
    pub by: &'static str,
}

/// The tightest limit on the memory of this process; `None` when there is none to be found. `reserved`: address space that
/// its threads will take without using it, in bytes, which only a limit on address space counts.
pub fn allowance(reserved: u64) -> Option<Allowance> {
    let address_space = getrlimit(Resource::RLIMIT_AS).map_or(u64::MAX, |(soft, _)| soft);
    let mapped = fs::read_to_string("/proc/self/status").ok().and_then(|text| kib(&text, "VmSize:")).unwrap_or(0);
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| kib(&text, "MemTotal:"));
    let group = fs::read_to_string("/proc/self/cgroup")
        .map_or(None, |text| group_limit(&text, &|path| fs::read_to_string(path).ok()));
    let limits = [
        Some(Allowance { bytes: address_space, in_use: mapped + reserved, by: "RLIMIT_AS (ulimit -v)" }),
        group.map(|bytes| Allowance { bytes, in_use: 0, by: "the memory limit of the cgroup" }),
        machine.map(|bytes| Allowance { bytes, in_use: 0, by: "this machine" }),
    ];
    let limits = limits.into_iter().flatten().filter(|limit| limit.bytes < u64::MAX);
    limits.min_by_key(|limit| limit.bytes.saturating_sub(limit.in_use))
}

/// A figure in KiB behind `key`, in bytes.
fn kib(text: &str, key: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The tightest limit of the groups a process is in, by its `/proc/self/cgroup`: version 2 (`0::/path`) and 1
/// (`N:memory:/path`), each with all that contain it.
fn group_limit(groups: &str, read: &dyn Fn(&str) -> Option<String>) -> Option<u64> {
    let mut tightest = None;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            controllers if controllers.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let mut path = path.trim_end_matches('/');
        loop {
            let limit = read(&format!("{root}{path}/{file}")).and_then(|text| text.trim().parse::<u64>().ok());
            tightest = tightest.into_iter().chain(limit).min();
            match path.rsplit_once('/') {
                Some((above, _)) => path = above,
                None => break,
            }
        }
    }
    tightest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_group_counts() {
        let files = |path: &str| -> Option<String> {
            let text = match path {
                "/sys/fs/cgroup/a/b/memory.max" => "max\n",
                "/sys/fs/cgroup/a/memory.max" => "1000\n",
                "/sys/fs/cgroup/memory/x/memory.limit_in_bytes" => "2000\n",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes" => "9223372036854771712\n",
                _ => return None,
            };
            Some(text.into())
        };
        assert_eq!(group_limit("0::/a/b\n", &files), Some(1_000));
        assert_eq!(group_limit("0::/\n", &files), None);
        assert_eq!(group_limit("5:cpu,memory:/x\n3:cpuset:/y\n", &files), Some(2_000));
        assert_eq!(group_limit("nonsense\n0:\n", &files), None);
    }

    #[test]
    fn this_machine_has_memory() {
        let found = allowance(0).expect("/proc/meminfo");
        assert!(found.bytes > 1 << 20, "{found:?}");
        assert_eq!(kib("MemTotal:  12 kB\n", "MemTotal:"), Some(12 * 1024));
        assert_eq!(kib("MemTotal:  x kB\n", "MemTotal:"), None);
    }
}
