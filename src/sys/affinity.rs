//! Which cores the process may use, and tying a thread to one of them (sched_setaffinity(2)).

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The cores this thread may run on, in ascending order; never empty (a kernel that does not tell counts as core 0).
pub fn allowed() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else {
        return vec![0];
    };
    let cores: Vec<usize> = (0..CpuSet::count()).filter(|&core| set.is_set(core).unwrap_or(false)).collect();
    if cores.is_empty() { vec![0] } else { cores }
}

/// How many cores' worth of time the process gets: [`allowed`], or less when a cgroup has a CPU quota.
pub fn share() -> usize {
    let cores = allowed().len();
    std::thread::available_parallelism().map_or(cores, |quota| quota.get().min(cores))
}

/// Ties the current thread to `core`.
///
/// # Errors
/// `EINVAL`: there is no such core, or a cpuset does not allow it.
pub fn pin(core: usize) -> Result<(), Errno> {
    let mut set = CpuSet::new();
    set.set(core)?;
    sched_setaffinity(Pid::from_raw(0), &set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_can_be_tied_to_a_core_it_may_use() {
        let core = *allowed().last().expect("never empty");
        std::thread::spawn(move || {
            pin(core).expect("an allowed core");
            assert_eq!(allowed(), [core]);
        })
        .join()
        .expect("the thread passes");
        assert!(share() >= 1 && share() <= allowed().len());
        assert_eq!(pin(usize::MAX), Err(Errno::EINVAL));
    }
}
