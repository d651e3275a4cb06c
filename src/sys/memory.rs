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

/// How much of a limit on memory is gone now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// In bytes.
    pub used: u64,
    /// Of so many bytes.
    pub limit: u64,
    /// Who says so.
    pub by: &'static str,
}

const ADDRESS_SPACE: &str = "RLIMIT_AS (ulimit -v)";
const GROUP: &str = "the memory limit of the cgroup";

/// The tightest limit on the memory of this process; `None` when there is none to be found. `reserved`: address space that
/// its threads will take without using it, in bytes, which only a limit on address space counts.
pub fn allowance(reserved: u64) -> Option<Allowance> {
    let address_space = getrlimit(Resource::RLIMIT_AS).map_or(u64::MAX, |(soft, _)| soft);
    let mapped = mapped().unwrap_or(0);
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| kib(&text, "MemTotal:"));
    let group = groups(&own_groups(), &read).into_iter().map(|usage| usage.limit).min();
    let limits = [
        Some(Allowance { bytes: address_space, in_use: mapped + reserved, by: ADDRESS_SPACE }),
        group.map(|bytes| Allowance { bytes, in_use: 0, by: GROUP }),
        machine.map(|bytes| Allowance { bytes, in_use: 0, by: "this machine" }),
    ];
    let limits = limits.into_iter().flatten().filter(|limit| limit.bytes < u64::MAX);
    limits.min_by_key(|limit| limit.bytes.saturating_sub(limit.in_use))
}

/// The limit on this process that is nearest to being reached: its address space, or the memory of one of its groups, of
/// which what the kernel can drop at once (`inactive_file`) does not count. What other programs take of the machine is not
/// looked at: it would not come back by taking fewer connections.
pub fn usage() -> Option<Usage> {
    let address_space = getrlimit(Resource::RLIMIT_AS).map_or(u64::MAX, |(soft, _)| soft);
    let own = if address_space < u64::MAX { mapped() } else { None };
    let own = own.map(|used| Usage { used, limit: address_space, by: ADDRESS_SPACE });
    let limits = groups(&own_groups(), &read).into_iter().chain(own);
    limits.max_by_key(|usage| u128::from(usage.used) * 1_000_000 / u128::from(usage.limit.max(1)))
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn own_groups() -> String {
    read("/proc/self/cgroup").unwrap_or_default()
}

/// Address space this process has, in bytes.
fn mapped() -> Option<u64> {
    kib(&read("/proc/self/status")?, "VmSize:")
}

/// A figure in KiB behind `key`, in bytes.
fn kib(text: &str, key: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The limits of the groups a process is in, by its `/proc/self/cgroup`: version 2 (`0::/path`) and 1 (`N:memory:/path`),
/// each with all that contain it.
fn groups(own: &str, read: &dyn Fn(&str) -> Option<String>) -> Vec<Usage> {
    let mut found = Vec::new();
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, limit, used, droppable) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file "),
            controllers if controllers.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ")
            }
            _ => continue,
        };
        let mut path = path.trim_end_matches('/');
        loop {
            let number = |text: String| text.trim().parse::<u64>().ok();
            let file = |name: &str| read(&format!("{root}{path}/{name}"));
            if let Some(limit) = file(limit).and_then(number) {
                let stat = file("memory.stat").unwrap_or_default();
                let dropped = stat.lines().find_map(|line| line.strip_prefix(droppable)?.trim().parse().ok());
                let used = file(used).and_then(number).unwrap_or(0).saturating_sub(dropped.unwrap_or(0));
                found.push(Usage { used, limit, by: GROUP });
            }
            match path.rsplit_once('/') {
                Some((above, _)) => path = above,
                None => break,
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_counts_without_what_can_be_dropped() {
        let files = |path: &str| -> Option<String> {
            let text = match path {
                "/sys/fs/cgroup/a/b/memory.max" => "max\n",
                "/sys/fs/cgroup/a/memory.max" => "1000\n",
                "/sys/fs/cgroup/a/memory.current" => "900\n",
                "/sys/fs/cgroup/a/memory.stat" => "anon 1\ninactive_file 300\nactive_file 7\n",
                "/sys/fs/cgroup/memory/x/memory.limit_in_bytes" => "2000\n",
                "/sys/fs/cgroup/memory/x/memory.usage_in_bytes" => "1500\n",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes" => "9223372036854771712\n",
                _ => return None,
            };
            Some(text.into())
        };
        let usage = |used, limit| Usage { used, limit, by: GROUP };
        assert_eq!(groups("0::/a/b\n", &files), [usage(600, 1_000)]);
        assert_eq!(groups("0::/\n", &files), []);
        let found = groups("5:cpu,memory:/x\n3:cpuset:/y\n", &files);
        assert_eq!(found, [usage(1_500, 2_000), usage(0, 9_223_372_036_854_771_712)]);
        assert_eq!(groups("nonsense\n0:\n", &files), []);
    }

    #[test]
    fn this_machine_has_memory() {
        let found = allowance(0).expect("/proc/meminfo");
        assert!(found.bytes > 1 << 20, "{found:?}");
        assert_eq!(kib("MemTotal:  12 kB\n", "MemTotal:"), Some(12 * 1024));
        assert_eq!(kib("MemTotal:  x kB\n", "MemTotal:"), None);
    }
}
