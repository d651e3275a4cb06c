//! Making a ring: step down flag by flag on older kernels, restrict it to what we use, and say clearly why there is none.

use std::fs;

use io_uring::register::Restriction;
use io_uring::{IoUring, Probe, opcode};

use super::ring::{Ring, errno_of};
use super::{COMPLETIONS, Errno, Refused, SUBMISSIONS};

pub(super) const ENGINE: &str = "io_uring";
/// The oldest kernel ringway runs on with io_uring: multishot accept came with 5.19, `MSG_RING` with 5.18.
pub const KERNEL_MINIMUM: (u32, u32) = (5, 19);

/// What this kernel gave, for `ringway doctor` and the start-up log.
#[derive(Clone, Debug)]
pub struct Abilities {
    /// Setup flags in use, such as `SINGLE_ISSUER|DEFER_TASKRUN`.
    pub flags: &'static str,
}

/// Setup flags from best to oldest: (name, single issuer, deferred task work, cooperative task work).
const STEPS: [(&str, bool, bool, bool); 3] = [
    ("SINGLE_ISSUER|DEFER_TASKRUN", true, true, false),             // 6.1
    ("SINGLE_ISSUER|COOP_TASKRUN|TASKRUN_FLAG", true, false, true), // 6.0
    ("COOP_TASKRUN|TASKRUN_FLAG", false, false, true),              // 5.19
];

/// Requests a worker makes. The ring takes no others (`IORING_REGISTER_RESTRICTIONS`): it is not to become a way around
/// a seccomp filter.
const OPCODES: [u8; 6] = [
    opcode::AcceptMulti::CODE,
    opcode::Connect::CODE,
    opcode::PollAdd::CODE,
    opcode::AsyncCancel::CODE,
    opcode::Close::CODE,
    opcode::MsgRingData::CODE,
];

/// Makes a ring as a worker would and throws it away.
///
/// # Errors
/// Why that is refused.
pub fn probe() -> Result<Abilities, Refused> {
    make(SUBMISSIONS, COMPLETIONS).map(|(_, abilities)| abilities)
}

/// Makes a ring for the calling thread.
pub(super) fn make(submissions: u32, completions: u32) -> Result<(Ring, Abilities), Refused> {
    let mut refusal = Errno::EINVAL;
    for (flags, single, defer, coop) in STEPS {
        let mut builder = IoUring::builder();
        builder.setup_r_disabled().setup_submit_all().setup_clamp().setup_cqsize(completions);
        if single {
            builder.setup_single_issuer();
        }
        if defer {
            builder.setup_defer_taskrun();
        }
        if coop {
            builder.setup_coop_taskrun().setup_taskrun_flag();
        }
        match builder.build(submissions) {
            Ok(uring) => return enable(uring).map(|ring| (ring, Abilities { flags })),
            Err(error) if errno_of(&error) == Errno::EINVAL => {}
            Err(error) => {
                refusal = errno_of(&error);
                break;
            }
        }
    }
    Err(explain(refusal))
}

fn enable(uring: IoUring) -> Result<Ring, Refused> {
    let mut probe = Probe::new();
    let submitter = uring.submitter();
    submitter.register_probe(&mut probe).map_err(|error| explain(errno_of(&error)))?;
    // Multishot accept cannot be asked for; it came one release after MSG_RING, with the opcode SOCKET.
    if !OPCODES.iter().all(|&code| probe.is_supported(code)) || !probe.is_supported(opcode::Socket::CODE) {
        return Err(too_old(Errno::EOPNOTSUPP));
    }
    // A fuse: nothing of ours should ever need a kernel worker thread.
    let _ = submitter.register_iowq_max_workers(&mut [1, 1]);
    let mut allowed: Vec<Restriction> = OPCODES.iter().map(|&code| Restriction::sqe_op(code)).collect();
    allowed.push(Restriction::sqe_flags_allowed(io_uring::squeue::Flags::SKIP_SUCCESS.bits()));
    allowed.push(Restriction::register_op(REGISTER_RING_FDS));
    submitter.register_restrictions(&mut allowed).map_err(|error| explain(errno_of(&error)))?;
    submitter.register_enable_rings().map_err(|error| explain(errno_of(&error)))?;
    Ok(Ring::new(uring))
}

const REGISTER_RING_FDS: u8 = 20;

/// Finds out why the kernel refused a ring. Sources: io_uring_setup(2), `kernel.io_uring_disabled` (sysctl/kernel.rst),
/// seccomp(2), proc_pid_status(5).
fn explain(errno: Errno) -> Refused {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let seccomp = read("/proc/self/status").lines().any(|line| line.starts_with("Seccomp:\t2"));
    judge(errno, read("/proc/sys/kernel/io_uring_disabled").trim(), seccomp)
}

/// `disabled` is what the sysctl says: empty where there is none. `seccomp`: a filter is in force.
fn judge(errno: Errno, disabled: &str, seccomp: bool) -> Refused {
    match errno {
        Errno::EPERM if matches!(disabled, "1" | "2") => Refused {
            engine: ENGINE,
            errno,
            reason: "sysctl",
            cause: format!("the sysctl kernel.io_uring_disabled is {disabled}"),
            remedy: "set it to 0 (sysctl -w kernel.io_uring_disabled=0), or with 1 put the user into the group of \
                     kernel.io_uring_group"
                .into(),
        },
        Errno::EPERM | Errno::EACCES if seccomp => filtered(errno),
        // A kernel with the sysctl has io_uring; Podman's filter says that calls it forbids do not exist.
        Errno::ENOSYS if seccomp && !disabled.is_empty() => filtered(errno),
        Errno::EPERM | Errno::EACCES => Refused {
            engine: ENGINE,
            errno,
            reason: "other",
            cause: "the kernel or a security module does not permit it".into(),
            remedy: "look for a security module (AppArmor, SELinux) or a tracer that denies io_uring_setup".into(),
        },
        Errno::ENOSYS => too_old(errno),
        Errno::EINVAL => too_old(errno),
        Errno::ENOMEM => Refused {
            engine: ENGINE,
            errno,
            reason: "memlock",
            cause: "no memory for the ring, or RLIMIT_MEMLOCK is too small".into(),
            remedy: "raise LimitMEMLOCK (ulimit -l) to 64 MiB or more, or free memory".into(),
        },
        Errno::EMFILE | Errno::ENFILE => Refused {
            engine: ENGINE,
            errno,
            reason: "limit",
            cause: "no descriptor is left".into(),
            remedy: "raise LimitNOFILE (ulimit -n)".into(),
        },
        errno => Refused {
            engine: ENGINE,
            errno,
            reason: "other",
            cause: "the kernel refused a ring".into(),
            remedy: "run `ringway doctor` and look into the kernel's log".into(),
        },
    }
}

fn filtered(errno: Errno) -> Refused {
    Refused {
        engine: ENGINE,
        errno,
        reason: "seccomp",
        cause: "a seccomp filter forbids io_uring_setup, as those of Docker and containerd do".into(),
        remedy: "allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile".into(),
    }
}

fn too_old(errno: Errno) -> Refused {
    let release = nix::sys::utsname::uname()
        .map(|names| names.release().to_string_lossy().into_owned())
        .unwrap_or_else(|_| "unknown".into());
    let (major, minor) = KERNEL_MINIMUM;
    Refused {
        engine: ENGINE,
        errno,
        reason: "kernel",
        cause: format!("this kernel ({release}) has no io_uring, or one that is too old"),
        remedy: format!("run Linux {major}.{minor} or newer, built with CONFIG_IO_URING"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_told_from_errno_sysctl_and_filter() {
        let table = [
            (Errno::EPERM, "2", false, "sysctl"),
            (Errno::EPERM, "1", true, "sysctl"),
            (Errno::EPERM, "0", true, "seccomp"),
            (Errno::EACCES, "", true, "seccomp"),
            (Errno::ENOSYS, "0", true, "seccomp"),
            (Errno::ENOSYS, "", true, "kernel"),
            (Errno::ENOSYS, "0", false, "kernel"),
            (Errno::EINVAL, "", false, "kernel"),
            (Errno::EPERM, "0", false, "other"),
            (Errno::ENOMEM, "0", true, "memlock"),
            (Errno::EMFILE, "0", false, "limit"),
            (Errno::EIO, "0", false, "other"),
        ];
        for (errno, disabled, seccomp, reason) in table {
            let refused = judge(errno, disabled, seccomp);
            assert_eq!(refused.reason, reason, "{errno} {disabled} {seccomp}");
            assert!(!refused.remedy.is_empty() && refused.to_string().contains(&errno.to_string()), "{refused}");
        }
    }
}
