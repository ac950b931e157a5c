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

/// The numbers of an architecture by their names. A profile has hundreds: their comparison with one name after the other
/// would be most of what a container takes to be planned.
macro_rules! calls {
    ($architecture:ident, $calls:ty) => {
        mod $architecture {
            use super::{Entry, RANGES, find, key, sorted};

            static CALLS: [Entry; <$calls>::count()] = sorted(all());

            pub(super) fn number(name: &str) -> Option<u32> {
                find(&CALLS, name, self::name)
            }

            const fn name(number: u32) -> &'static str {
                match <$calls>::new(number as usize) {
                    Some(call) => call.name(),
                    None => "",
                }
            }

            const fn all() -> [Entry; <$calls>::count()] {
                let mut calls = [(0, 0); <$calls>::count()];
                let (mut range, mut length) = (0, 0);
                while range < RANGES.len() {
                    let (mut number, last) = RANGES[range];
                    while number <= last {
                        if <$calls>::new(number as usize).is_some() {
                            calls[length] = (key(name(number)), number);
                            length += 1;
                        }
                        number += 1;
                    }
                    range += 1;
                }
                assert!(length == calls.len());
                calls
            }
        }
    };
}

calls!(native, syscalls::Sysno);
#[cfg(target_arch = "x86_64")]
calls!(x86, syscalls::x86::Sysno);
#[cfg(target_arch = "aarch64")]
calls!(arm, syscalls::arm::Sysno);

/// The key of a name, and its number. Sorted by the keys.
type Entry = (u64, u32);

/// The first eight bytes of a name: few have them in common, and no address is stored that would have to be relocated.
const fn key(name: &str) -> u64 {
    let name = name.as_bytes();
    let (mut key, mut at) = (0, 0);
    while at < 8 {
        let byte = if at < name.len() { name[at] } else { 0 };
        key = key << 8 | byte as u64;
        at += 1;
    }
    key
}

fn find(calls: &[Entry], wanted: &str, name: fn(u32) -> &'static str) -> Option<u32> {
    let wanted_key = key(wanted);
    let first = calls.partition_point(|(key, _)| *key < wanted_key);
    let alike = calls.iter().skip(first).take_while(|(key, _)| *key == wanted_key);
    alike.map(|(_, number)| *number).find(|number| name(*number) == wanted)
}

/// By insertion at distances that become shorter: the compiler does it.
const fn sorted<const LENGTH: usize>(mut calls: [Entry; LENGTH]) -> [Entry; LENGTH] {
    let mut distance = LENGTH / 2;
    while distance > 0 {
        let mut next = distance;
        while next < LENGTH {
            let call = calls[next];
            let mut at = next;
            while at >= distance && call.0 < calls[at - distance].0 {
                calls[at] = calls[at - distance];
                at -= distance;
            }
            calls[at] = call;
            next += 1;
        }
        distance /= 2;
    }
    calls
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
static CALLS_OF_X32: [Entry; OWN_OF_X32.len()] = {
    let (mut calls, mut index) = ([(0, 0); OWN_OF_X32.len()], 0u32);
    while (index as usize) < calls.len() {
        calls[index as usize] = (key(OWN_OF_X32[index as usize]), index);
        index += 1;
    }
    sorted(calls)
};

#[cfg(target_arch = "x86_64")]
fn x32(name: &str) -> Option<u32> {
    let own = find(&CALLS_OF_X32, name, |index| OWN_OF_X32[index as usize]);
    let number = own.map_or_else(|| native::number(name), |index| Some(512 + index));
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
