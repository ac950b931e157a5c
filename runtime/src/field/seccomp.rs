//! `linux.seccomp`: names of system calls as a policy by number.
//!
//! Only calls of this machine's own architecture are told apart; those of others get `ENOSYS`, whether the profile
//! lists them or not. A name that this architecture does not have is no error: profiles are written for many.

use std::collections::BTreeMap;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscall,
};
use syscalls::Sysno;

use crate::filter::{Comparison, Condition, Policy, Rule};
use crate::plan::FieldError;
use crate::step::SeccompFilter;

/// `AUDIT_ARCH_*` of linux/audit.h for this machine, its name in a profile, and where its x32 numbers begin.
#[cfg(target_arch = "x86_64")]
const NATIVE: (u32, Arch, Option<u32>) = (0xc000_003e, Arch::ScmpArchX86_64, Some(0x4000_0000));
#[cfg(target_arch = "aarch64")]
const NATIVE: (u32, Arch, Option<u32>) = (0xc000_00b7, Arch::ScmpArchAarch64, None);

/// The filter, and a sentence for what of the profile is stricter here than it says.
pub(crate) fn plan(profile: &LinuxSeccomp) -> Result<(SeccompFilter, Vec<String>), FieldError> {
    refuse_listener(profile)?;
    let field = "linux.seccomp.defaultAction";
    let default = action(field, profile.default_action(), profile.default_errno_ret())?;
    let rules = rules(profile.syscalls().as_deref().unwrap_or_default(), default)?;
    let (architecture, _, foreign_from) = NATIVE;
    let newest = rules.keys().next_back().copied().unwrap_or(0);
    let policy = Policy {
        architecture,
        foreign: libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned(),
        foreign_from,
        default,
        newer: newer(profile.default_action()).map(|answer| (newest + 1, answer)),
        rules,
    };
    let program = policy.assemble();
    let program =
        program.ok_or_else(|| FieldError::new("linux.seccomp", "is longer than the kernel's 4096 instructions"))?;
    Ok((
        SeccompFilter {
            program,
            flags: flags(profile)?,
        },
        stricter(profile),
    ))
}

/// Calls that are newer than the profile do not exist for the container, instead of being forbidden: programs then use
/// the older ones (runc does the same).
fn newer(default: LinuxSeccompAction) -> Option<u32> {
    match default {
        LinuxSeccompAction::ScmpActErrno
        | LinuxSeccompAction::ScmpActKill
        | LinuxSeccompAction::ScmpActKillThread
        | LinuxSeccompAction::ScmpActKillProcess
        | LinuxSeccompAction::ScmpActTrap => Some(libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned()),
        LinuxSeccompAction::ScmpActAllow
        | LinuxSeccompAction::ScmpActLog
        | LinuxSeccompAction::ScmpActTrace
        | LinuxSeccompAction::ScmpActNotify => None,
    }
}

fn rules(listed: &[LinuxSyscall], default: u32) -> Result<BTreeMap<u32, Vec<Rule>>, FieldError> {
    let mut rules: BTreeMap<u32, Vec<Rule>> = BTreeMap::new();
    for (index, listed) in listed.iter().enumerate() {
        let field = format!("linux.seccomp.syscalls[{index}]");
        let action = action(&format!("{field}.action"), listed.action(), listed.errno_ret())?;
        let arguments = listed.args().iter().flatten().enumerate();
        let conditions: Vec<_> = arguments
            .map(|argument| condition(&field, argument))
            .collect::<Result<_, _>>()?;
        if action == default {
            continue;
        }
        for name in listed.names() {
            let Some(number) = name
                .parse::<Sysno>()
                .ok()
                .and_then(|call| u32::try_from(call.id()).ok())
            else {
                continue;
            };
            rules.entry(number).or_default().push(Rule {
                conditions: conditions.clone(),
                action,
            });
        }
    }
    // A rule without conditions is meant for what the others leave.
    for rules in rules.values_mut() {
        rules.sort_by_key(|rule| rule.conditions.is_empty());
    }
    Ok(rules)
}

fn action(field: &str, action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32, FieldError> {
    let errno = errno.unwrap_or(libc::EPERM.cast_unsigned());
    if errno > libc::SECCOMP_RET_DATA {
        return Err(FieldError::new(field, "the errno of the action is more than 65535"));
    }
    match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => Ok(libc::SECCOMP_RET_KILL_THREAD),
        LinuxSeccompAction::ScmpActKillProcess => Ok(libc::SECCOMP_RET_KILL_PROCESS),
        LinuxSeccompAction::ScmpActTrap => Ok(libc::SECCOMP_RET_TRAP),
        LinuxSeccompAction::ScmpActErrno => Ok(libc::SECCOMP_RET_ERRNO | errno),
        LinuxSeccompAction::ScmpActTrace => Ok(libc::SECCOMP_RET_TRACE | errno),
        LinuxSeccompAction::ScmpActAllow => Ok(libc::SECCOMP_RET_ALLOW),
        LinuxSeccompAction::ScmpActLog => Ok(libc::SECCOMP_RET_LOG),
        LinuxSeccompAction::ScmpActNotify => Err(FieldError::new(field, "SCMP_ACT_NOTIFY is not supported")),
    }
}

fn condition(field: &str, (index, argument): (usize, &LinuxSeccompArg)) -> Result<Condition, FieldError> {
    let number = u32::try_from(argument.index()).ok().filter(|number| *number < 6);
    let number = number.ok_or_else(|| {
        FieldError::new(
            format!("{field}.args[{index}].index"),
            "a system call has arguments 0 to 5",
        )
    })?;
    let (comparison, value) = match argument.op() {
        LinuxSeccompOperator::ScmpCmpNe => (Comparison::NotEqual, argument.value()),
        LinuxSeccompOperator::ScmpCmpLt => (Comparison::Less, argument.value()),
        LinuxSeccompOperator::ScmpCmpLe => (Comparison::LessOrEqual, argument.value()),
        LinuxSeccompOperator::ScmpCmpEq => (Comparison::Equal, argument.value()),
        LinuxSeccompOperator::ScmpCmpGe => (Comparison::GreaterOrEqual, argument.value()),
        LinuxSeccompOperator::ScmpCmpGt => (Comparison::Greater, argument.value()),
        LinuxSeccompOperator::ScmpCmpMaskedEq => (
            Comparison::MaskedEqual(argument.value()),
            argument.value_two().unwrap_or(0),
        ),
    };
    Ok(Condition {
        argument: number,
        comparison,
        value,
    })
}

fn flags(profile: &LinuxSeccomp) -> Result<libc::c_ulong, FieldError> {
    let mut flags = 0;
    for flag in profile.flags().iter().flatten() {
        flags |= match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            // There is one thread.
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                return Err(FieldError::new(
                    "linux.seccomp.flags",
                    "WAIT_KILLABLE_RECV needs a listener; not supported",
                ));
            }
        };
    }
    Ok(flags)
}

fn refuse_listener(profile: &LinuxSeccomp) -> Result<(), FieldError> {
    let has_metadata = profile
        .listener_metadata()
        .as_ref()
        .is_some_and(|text| !text.is_empty());
    if profile.listener_path().is_some() || has_metadata {
        return Err(FieldError::new("linux.seccomp.listenerPath", "is not supported"));
    }
    Ok(())
}

fn stricter(profile: &LinuxSeccomp) -> Vec<String> {
    let (_, native, _) = NATIVE;
    let others = profile.architectures().iter().flatten();
    let others: Vec<_> = others
        .filter(|arch| **arch != native && **arch != Arch::ScmpArchNative)
        .map(ToString::to_string)
        .collect();
    if others.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "linux.seccomp.architectures: calls of {} do not exist here instead of being filtered",
        others.join(", ")
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(json: &str) -> Result<(SeccompFilter, Vec<String>), FieldError> {
        plan(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn names_of_other_architectures_are_passed_over() {
        let listed = r#"[{"names":["read","not_a_call","breakpoint"],"action":"SCMP_ACT_ERRNO"}]"#;
        let rules = rules(&serde_json::from_str::<Vec<_>>(listed).unwrap(), 0).unwrap();
        assert_eq!(
            rules.keys().copied().collect::<Vec<_>>(),
            [u32::try_from(libc::SYS_read).unwrap()]
        );
    }

    #[test]
    fn what_needs_a_listener_is_refused_by_name() {
        for (json, field) in [
            (r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#, "linux.seccomp.defaultAction"),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_NOTIFY"}]}"#,
                "linux.seccomp.syscalls[0].action",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/x"}"#,
                "linux.seccomp.listenerPath",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_LOG",
                    "args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]}"#,
                "linux.seccomp.syscalls[0].args[0].index",
            ),
        ] {
            assert_eq!(profile(json).unwrap_err().field, field);
        }
    }

    #[test]
    fn other_architectures_are_reported_as_shut_off() {
        let json = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86","SCMP_ARCH_NATIVE"]}"#;
        let (_, sentences) = profile(json).unwrap();
        assert!(sentences.concat().contains("SCMP_ARCH_X86"), "{sentences:?}");
    }
}
