//! The architectures whose system calls a kernel of this machine serves, and how their calls are numbered.

use oci_spec::runtime::Arch;

/// One numbering of system calls.
pub(crate) struct Architecture {
    /// Its name in a profile.
    name: Arch,
    /// `AUDIT_ARCH_*` of linux/audit.h.
    pub(crate) audit: u32,
    /// The number of a call.
    pub(crate) number: fn(&str) -> Option<u32>,
    /// Another one, told apart by the number only.
    pub(crate) second: Option<Second>,
}

/// A calling convention that has the upper numbers of an architecture.
pub(crate) struct Second {
    pub(crate) name: Arch,
    pub(crate) first: u32,
    pub(crate) number: fn(&str) -> Option<u32>,
}

/// The machine's own first, then the others.
#[cfg(target_arch = "x86_64")]
const SERVED: [Architecture; 2] = [
    Architecture {
        name: Arch::ScmpArchX86_64,
        audit: 0xc000_003e,
        number: native,
        second: Some(Second {
            name: Arch::ScmpArchX32,
            first: X32,
            number: x32,
        }),
    },
    Architecture {
        name: Arch::ScmpArchX86,
        audit: 0x4000_0003,
        number: |name| number(name.parse::<syscalls::x86::Sysno>().ok()?.id()),
        second: None,
    },
];
#[cfg(target_arch = "aarch64")]
const SERVED: [Architecture; 2] = [
    Architecture {
        name: Arch::ScmpArchAarch64,
        audit: 0xc000_00b7,
        number: native,
        second: None,
    },
    Architecture {
        name: Arch::ScmpArchArm,
        audit: 0x4000_0028,
        number: |name| number(name.parse::<syscalls::arm::Sysno>().ok()?.id()),
        second: None,
    },
];

/// This machine's own, and those of `listed` that it serves. Of the others no program can run here.
pub(crate) fn of(listed: &[Arch]) -> Vec<Architecture> {
    let [native, others @ ..] = SERVED;
    let others = others.into_iter().filter(|other| listed.contains(&other.name));
    std::iter::once(native).chain(others).collect()
}

fn native(name: &str) -> Option<u32> {
    number(name.parse::<syscalls::Sysno>().ok()?.id())
}

fn number(id: impl TryInto<u32>) -> Option<u32> {
    id.try_into().ok()
}

/// `__X32_SYSCALL_BIT` of asm/unistd.h.
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;

/// The calls that x32 has under numbers of its own, from 512 on (syscall_64.tbl of the kernel).
#[cfg(target_arch = "x86_64")]
const OWN_OF_X32: [&str; 36] = [
    "rt_sigaction",
    "rt_sigreturn",
    "ioctl",
    "readv",
    "writev",
    "recvfrom",
    "sendmsg",
    "recvmsg",
    "execve",
    "ptrace",
    "rt_sigpending",
    "rt_sigtimedwait",
    "rt_sigqueueinfo",
    "sigaltstack",
    "timer_create",
    "mq_notify",
    "kexec_load",
    "waitid",
    "set_robust_list",
    "get_robust_list",
    "vmsplice",
    "move_pages",
    "preadv",
    "pwritev",
    "rt_tgsigqueueinfo",
    "recvmmsg",
    "sendmmsg",
    "process_vm_readv",
    "process_vm_writev",
    "setsockopt",
    "getsockopt",
    "io_setup",
    "io_submit",
    "execveat",
    "preadv2",
    "pwritev2",
];

#[cfg(target_arch = "x86_64")]
fn x32(name: &str) -> Option<u32> {
    let own = (512..).zip(OWN_OF_X32).find(|(_, own)| *own == name);
    let number = own.map_or_else(|| native(name), |(number, _)| Some(number));
    number.map(|number| X32 | number)
}
