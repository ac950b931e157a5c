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
        number: native::number,
        second: Some(Second {
            name: Arch::ScmpArchX32,
            first: X32,
            number: x32,
        }),
    },
    Architecture {
        name: Arch::ScmpArchX86,
        audit: 0x4000_0003,
        number: x86::number,
        second: None,
    },
];
#[cfg(target_arch = "aarch64")]
const SERVED: [Architecture; 2] = [
    Architecture {
        name: Arch::ScmpArchAarch64,
        audit: 0xc000_00b7,
        number: native::number,
        second: None,
    },
    Architecture {
        name: Arch::ScmpArchArm,
        audit: 0x4000_0028,
        number: arm::number,
        second: None,
    },
];

/// This machine's own, and those of `listed` that it serves. Of the others no program can run here.
pub(crate) fn of(listed: &[Arch]) -> Vec<Architecture> {
    let [native, others @ ..] = SERVED;
    let others = others.into_iter().filter(|other| listed.contains(&other.name));
    std::iter::once(native).chain(others).collect()
}

/// Where numbers are; the second range is that of the calls that only arm has.
const RANGES: [(u32, u32); 2] = [(0, 0x3ff), (0xf_0000, 0xf_00ff)];

/// Finds the numbers of an architecture by their names, which the compiler sorts: a profile has hundreds, and their
/// comparison with one name after the other would be most of what a container takes to be planned.
macro_rules! calls {
    ($architecture:ident, $calls:ty) => {
        mod $architecture {
            use super::{RANGES, is_before};

            static BY_NAME: [u32; <$calls>::count()] = sorted();

            pub(super) fn number(name: &str) -> Option<u32> {
                let found = BY_NAME.binary_search_by(|number| self::name(*number).cmp(name));
                found.ok().and_then(|index| BY_NAME.get(index)).copied()
            }

            const fn name(number: u32) -> &'static str {
                match <$calls>::new(number as usize) {
                    Some(call) => call.name(),
                    None => "",
                }
            }

            /// By insertion at distances that become shorter.
            const fn sorted() -> [u32; <$calls>::count()] {
                let mut numbers = all();
                let mut distance = numbers.len() / 2;
                while distance > 0 {
                    let mut next = distance;
                    while next < numbers.len() {
                        let number = numbers[next];
                        let mut at = next;
                        while at >= distance && is_before(name(number), name(numbers[at - distance])) {
                            numbers[at] = numbers[at - distance];
                            at -= distance;
                        }
                        numbers[at] = number;
                        next += 1;
                    }
                    distance /= 2;
                }
                numbers
            }

            const fn all() -> [u32; <$calls>::count()] {
                let mut numbers = [0; <$calls>::count()];
                let (mut range, mut length) = (0, 0);
                while range < RANGES.len() {
                    let (mut number, last) = RANGES[range];
                    while number <= last {
                        if <$calls>::new(number as usize).is_some() {
                            numbers[length] = number;
                            length += 1;
                        }
                        number += 1;
                    }
                    range += 1;
                }
                assert!(length == numbers.len());
                numbers
            }
        }
    };
}

calls!(native, syscalls::Sysno);
#[cfg(target_arch = "x86_64")]
calls!(x86, syscalls::x86::Sysno);
#[cfg(target_arch = "aarch64")]
calls!(arm, syscalls::arm::Sysno);

/// As `<` of the bytes, which a constant can't have.
const fn is_before(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let mut at = 0;
    while at < one.len() && at < other.len() {
        if one[at] != other[at] {
            return one[at] < other[at];
        }
        at += 1;
    }
    one.len() < other.len()
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
    let number = own.map_or_else(|| native::number(name), |(number, _)| Some(number));
    number.map(|number| X32 | number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_found_by_its_name() {
        for number in 0..1024 {
            if let Some(call) = syscalls::Sysno::new(number) {
                assert_eq!(native::number(call.name()), u32::try_from(number).ok(), "{call}");
            }
        }
        for unknown in ["", "a", "reads", "rea", "zzz"] {
            assert_eq!(native::number(unknown), None, "{unknown:?}");
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn architectures_have_numbers_of_their_own() {
        let numbers = |name| [native::number(name), x86::number(name), x32(name)];
        assert_eq!(numbers("read"), [Some(0), Some(3), Some(X32)]);
        assert_eq!(numbers("ioctl"), [Some(16), Some(54), Some(X32 | 514)]);
        assert_eq!(numbers("waitpid"), [None, Some(7), None]);
    }
}
