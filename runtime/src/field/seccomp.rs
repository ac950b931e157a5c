//! `linux.seccomp`: names of system calls as a policy by number.
//!
//! Calls are told apart for this machine's own architecture and for the others that its kernel runs programs of, if the
//! profile lists them; whatever else is called gets `ENOSYS`. A name that an architecture does not have is no error:
//! profiles are written for many.

use std::collections::BTreeMap;
use std::path::PathBuf;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscall,
};

use super::architecture::{self, Architecture};
use crate::filter::{Comparison, Condition, Policy, Rule, assemble};
use crate::plan::FieldError;
use crate::step::SeccompFilter;

/// Who is to decide about the calls that the filter passes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listener {
    /// A unix socket that somebody listens on.
    pub(crate) path: PathBuf,
    /// What is to be told along.
    pub(crate) metadata: String,
}

/// A call that does not exist here.
const NO_CALL: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned();

/// The filter of a profile.
pub(crate) fn plan(profile: &LinuxSeccomp) -> Result<SeccompFilter, FieldError> {
    if profile.default_action() == LinuxSeccompAction::ScmpActNotify {
        let reason = "SCMP_ACT_NOTIFY can't be the default: nobody could start the program";
        return Err(FieldError::new("linux.seccomp.defaultAction", reason));
    }
    let field = "linux.seccomp.defaultAction";
    let default = action(field, profile.default_action(), profile.default_errno_ret())?;
    let listed = profile.syscalls().as_deref().unwrap_or_default();
    let listed = listed.iter().enumerate().map(|listed| Listed::of(listed, default));
    let listed: Vec<_> = listed.collect::<Result<_, _>>()?;
    let newer = newer(profile.default_action()).unwrap_or(default);
    let architectures = profile.architectures().as_deref().unwrap_or_default();
    let policies: Vec<_> = architecture::of(architectures)
        .iter()
        .map(|architecture| policy(architecture, architectures, &listed, default, newer))
        .collect();
    let program = assemble(&policies, NO_CALL);
    let program =
        program.ok_or_else(|| FieldError::new("linux.seccomp", "is longer than the kernel's 4096 instructions"))?;
    let listens = listener(profile)?.is_some();
    let flags = flags(profile, listens)?;
    Ok(SeccompFilter {
        program,
        flags,
        listens,
    })
}

/// Who decides, if a rule asks for somebody.
pub(crate) fn listener(profile: &LinuxSeccomp) -> Result<Option<Listener>, FieldError> {
    let rules = profile.syscalls().iter().flatten();
    let mut asking = rules
        .enumerate()
        .filter(|(_, rule)| rule.action() == LinuxSeccompAction::ScmpActNotify);
    let path = profile
        .listener_path()
        .clone()
        .filter(|path| !path.as_os_str().is_empty());
    let metadata = profile.listener_metadata().clone().unwrap_or_default();
    let Some((index, first)) = asking.next() else {
        if path.is_none() && !metadata.is_empty() {
            let field = "linux.seccomp.listenerMetadata";
            return Err(FieldError::new(field, "there is no listenerPath"));
        }
        // Told of a filter that never asks, a listener would wait for ever.
        return Ok(None);
    };
    let mut names = std::iter::once(first)
        .chain(asking.map(|(_, rule)| rule))
        .flat_map(LinuxSyscall::names);
    if names.any(|name| name == "write") {
        let reason = "write can't have SCMP_ACT_NOTIFY: the process says by it that there is something to listen to";
        return Err(FieldError::new(
            format!("linux.seccomp.syscalls[{index}].names"),
            reason,
        ));
    }
    let path = path.ok_or_else(|| {
        FieldError::new(
            "linux.seccomp.listenerPath",
            "is missing, and a rule has SCMP_ACT_NOTIFY",
        )
    })?;
    if !path.is_absolute() {
        return Err(FieldError::new(
            "linux.seccomp.listenerPath",
            "must be an absolute path",
        ));
    }
    Ok(Some(Listener { path, metadata }))
}

/// What is to be said of a listener that nobody asks.
pub(crate) fn unasked_listener(profile: &LinuxSeccomp) -> Option<String> {
    let mut rules = profile.syscalls().iter().flatten();
    let is_asked = rules.any(|rule| rule.action() == LinuxSeccompAction::ScmpActNotify);
    let path = profile.listener_path().as_ref()?;
    (!is_asked && !path.as_os_str().is_empty())
        .then(|| "linux.seccomp.listenerPath: no rule has SCMP_ACT_NOTIFY, so nobody is told of it".to_owned())
}

/// The policy of one architecture. Of those whose numbers share a space (x86-64 and x32) it holds both.
fn policy(
    architecture: &Architecture,
    listed_architectures: &[Arch],
    listed: &[Listed<'_>],
    default: u32,
    newer: u32,
) -> Policy {
    let mut rules = rules(listed, architecture.number);
    let behind = |rules: &BTreeMap<u32, Vec<Rule>>| rules.keys().next_back().map_or(0, |newest| newest + 1);
    let mut unruled = BTreeMap::from([(0, default)]);
    if newer != default {
        unruled.insert(behind(&rules), newer);
    }
    if let Some(second) = &architecture.second {
        unruled.insert(second.first, NO_CALL);
        if listed_architectures.contains(&second.name) {
            let more = self::rules(listed, second.number);
            unruled.insert(second.first, default);
            if newer != default {
                unruled.insert(behind(&more).max(second.first), newer);
            }
            rules.extend(more);
        }
    }
    Policy {
        architecture: architecture.audit,
        unruled,
        rules,
    }
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

/// One entry of the list, read.
struct Listed<'a> {
    names: &'a [String],
    /// One of these sets of conditions has to hold.
    alternatives: Vec<Vec<Condition>>,
    action: u32,
    is_default: bool,
}

impl<'a> Listed<'a> {
    fn of((index, listed): (usize, &'a LinuxSyscall), default: u32) -> Result<Self, FieldError> {
        let field = format!("linux.seccomp.syscalls[{index}]");
        let action = action(&format!("{field}.action"), listed.action(), listed.errno_ret())?;
        let arguments = listed.args().iter().flatten().enumerate();
        let conditions = arguments
            .map(|argument| condition(&field, argument))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            names: listed.names(),
            alternatives: alternatives(conditions),
            action,
            is_default: action == default,
        })
    }
}

/// All conditions have to hold. But where two are about one argument any one of all is enough: so libseccomp, which can't
/// have them in one rule, made runc and crun do it, and profiles are written for that.
fn alternatives(conditions: Vec<Condition>) -> Vec<Vec<Condition>> {
    let mut arguments: Vec<_> = conditions.iter().map(|condition| condition.argument).collect();
    arguments.sort_unstable();
    arguments.dedup();
    if arguments.len() < conditions.len() {
        conditions.into_iter().map(|condition| vec![condition]).collect()
    } else {
        vec![conditions]
    }
}

fn rules(listed: &[Listed<'_>], number: fn(&str) -> Option<u32>) -> BTreeMap<u32, Vec<Rule>> {
    let mut rules: BTreeMap<u32, Vec<Rule>> = BTreeMap::new();
    for listed in listed.iter().filter(|listed| !listed.is_default) {
        for number in listed.names.iter().filter_map(|name| number(name)) {
            let alternatives = listed.alternatives.iter().map(|conditions| Rule {
                conditions: conditions.clone(),
                action: listed.action,
            });
            rules.entry(number).or_default().extend(alternatives);
        }
    }
    // A rule without conditions is meant for what the others leave.
    for rules in rules.values_mut() {
        rules.sort_by_key(|rule| rule.conditions.is_empty());
    }
    rules
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
        LinuxSeccompAction::ScmpActNotify => Ok(libc::SECCOMP_RET_USER_NOTIF),
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

fn flags(profile: &LinuxSeccomp, listens: bool) -> Result<libc::c_ulong, FieldError> {
    let mut flags = 0;
    for flag in profile.flags().iter().flatten() {
        flags |= match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            // There is one thread.
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv if listens => WAIT_KILLABLE_RECV,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                let reason = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV needs a rule with SCMP_ACT_NOTIFY";
                return Err(FieldError::new("linux.seccomp.flags", reason));
            }
        };
    }
    Ok(flags)
}

/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV` of linux/seccomp.h, since Linux 5.19.
const WAIT_KILLABLE_RECV: libc::c_ulong = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(json: &str) -> Result<SeccompFilter, FieldError> {
        plan(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn two_conditions_on_one_argument_are_alternatives() {
        let condition = |argument, value| Condition {
            argument,
            comparison: Comparison::Equal,
            value,
        };
        let both = vec![condition(0, 1), condition(1, 1)];
        assert_eq!(alternatives(both.clone()), [both]);
        let either = [condition(0, 1), condition(1, 1), condition(0, 2)];
        assert_eq!(alternatives(either.to_vec()), either.map(|condition| vec![condition]));
        assert_eq!(alternatives(Vec::new()), [[]]);
    }

    #[test]
    fn names_of_other_architectures_are_passed_over() {
        let listed = r#"[{"names":["read","not_a_call","breakpoint"],"action":"SCMP_ACT_ERRNO"}]"#;
        let listed: Vec<LinuxSyscall> = serde_json::from_str(listed).unwrap();
        let listed: Vec<_> = listed
            .iter()
            .enumerate()
            .map(|one| Listed::of(one, 0).unwrap())
            .collect();
        let rules = rules(&listed, architecture::of(&[])[0].number);
        assert_eq!(
            rules.keys().copied().collect::<Vec<_>>(),
            [u32::try_from(libc::SYS_read).unwrap()]
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let asks = r#""syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"}]"#;
        for (json, field) in [
            (
                r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#.to_owned(),
                "linux.seccomp.defaultAction",
            ),
            (
                format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW",{asks}}}"#),
                "linux.seccomp.listenerPath",
            ),
            (
                format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"x",{asks}}}"#),
                "linux.seccomp.listenerPath",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/x",
                    "syscalls":[{"names":["write"],"action":"SCMP_ACT_NOTIFY"}]}"#
                    .to_owned(),
                "linux.seccomp.syscalls[0].names",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerMetadata":"x"}"#.to_owned(),
                "linux.seccomp.listenerMetadata",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}"#.to_owned(),
                "linux.seccomp.flags",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_LOG",
                    "args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]}"#
                    .to_owned(),
                "linux.seccomp.syscalls[0].args[0].index",
            ),
        ] {
            assert_eq!(profile(&json).unwrap_err().field, field, "{json}");
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn listed_architectures_have_policies_of_their_own() {
        let listed = [Arch::ScmpArchX86, Arch::ScmpArchX32, Arch::ScmpArchMips];
        let architectures = architecture::of(&listed);
        assert_eq!(
            architectures.iter().map(|one| one.audit).collect::<Vec<_>>(),
            [0xc000_003e, 0x4000_0003]
        );
        let json = r#"[{"names":["mkdir","ioctl"],"action":"SCMP_ACT_ALLOW"}]"#;
        let calls: Vec<LinuxSyscall> = serde_json::from_str(json).unwrap();
        let calls: Vec<_> = calls
            .iter()
            .enumerate()
            .map(|one| Listed::of(one, 1).unwrap())
            .collect();
        let numbers = |index: usize, listed: &[Arch]| -> Vec<u32> {
            policy(&architectures[index], listed, &calls, 1, NO_CALL)
                .rules
                .into_keys()
                .collect()
        };
        assert_eq!(numbers(0, &listed), [16, 83, 0x4000_0000 + 83, 0x4000_0000 + 514]);
        assert_eq!(numbers(0, &[]), [16, 83]);
        assert_eq!(numbers(1, &listed), [39, 54]);
        let native = policy(&architectures[0], &[], &calls, 1, NO_CALL);
        assert_eq!(
            native.unruled,
            BTreeMap::from([(0, 1), (84, NO_CALL), (0x4000_0000, NO_CALL)])
        );
    }
}
