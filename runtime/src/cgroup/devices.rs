//! `linux.resources.devices`: which devices a container may make, read and write.
//!
//! cgroup v2 has no file for that: an eBPF program attached to the cgroup decides. It is assembled here from the rules;
//! the last rule that matches wins, and what no rule matches is denied.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::{Cgroup, CgroupError};
use crate::plan::FieldError;
use crate::sys::bpf::{attach_device_program, load_device_program};
use std::os::fd::AsFd;

/// Accesses as the kernel counts them (`BPF_DEVCG_ACC_*` of linux/bpf.h).
const MAKE: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;
const ALL: u32 = MAKE | READ | WRITE;

/// Kinds of devices as the kernel counts them (`BPF_DEVCG_DEV_*` of linux/bpf.h).
const BLOCK: u32 = 1;
const CHARACTER: u32 = 2;

/// One line of the list; none means "any".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    kind: Option<u32>,
    major: Option<u32>,
    minor: Option<u32>,
    access: u32,
}

/// The rules of one container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceRules {
    rules: Vec<Rule>,
}

impl DeviceRules {
    /// The rules of `linux.resources.devices`, after which every container may make any node and use the standard ones
    /// (OCI config-linux, "Default Devices").
    pub fn of(listed: &[LinuxDeviceCgroup]) -> Result<Self, FieldError> {
        let mut rules = listed
            .iter()
            .enumerate()
            .map(listed_rule)
            .collect::<Result<Vec<_>, _>>()?;
        rules.extend(default_rules());
        Ok(Self { rules })
    }

    /// Everything is allowed: then there is nothing to decide.
    fn allow_everything(&self) -> bool {
        let any = Rule {
            allow: true,
            kind: None,
            major: None,
            minor: None,
            access: ALL,
        };
        let last_denial = self.rules.iter().rposition(|rule| !rule.allow);
        self.rules
            .iter()
            .rposition(|rule| *rule == any)
            .is_some_and(|any| last_denial.is_none_or(|denial| denial < any))
    }

    /// The program: rules from the last to the first, each either decides or falls through to the next.
    pub(crate) fn program(&self) -> Vec<u64> {
        // r2 = kind, r3 = access, r4 = major, r5 = minor of `struct bpf_cgroup_dev_ctx` in r1.
        let mut program = vec![
            load(2, 0),
            and(2, 0xffff),
            load(3, 0),
            shift_right(3, 16),
            load(4, 4),
            load(5, 8),
        ];
        for rule in self.rules.iter().rev() {
            let conditions = rule.conditions();
            assemble(&conditions, rule.allow, &mut program);
            if conditions.is_empty() {
                // Nothing gets past it, and the kernel refuses instructions that can't be reached.
                return program;
            }
        }
        program.extend(verdict(false));
        program
    }
}

impl Cgroup {
    /// Lets the processes in it use only what `rules` allow.
    pub fn allow_devices(&self, rules: &DeviceRules) -> Result<(), CgroupError> {
        if rules.allow_everything() {
            return Ok(());
        }
        let failed = |errno: nix::errno::Errno| self.error("attach the rules for devices to", errno.into());
        let program = load_device_program(&rules.program()).map_err(failed)?;
        attach_device_program(program.as_fd(), self.open()?.as_fd()).map_err(failed)
    }
}

impl Rule {
    fn conditions(self) -> Vec<Condition> {
        let mut conditions = Vec::new();
        for (register, value) in [(2, self.kind), (4, self.major), (5, self.minor)] {
            if let Some(value) = value {
                conditions.push(Condition::Differs { register, value });
            }
        }
        if self.access != ALL {
            conditions.push(if self.allow {
                Condition::Exceeds { access: self.access }
            } else {
                Condition::Avoids { access: self.access }
            });
        }
        conditions
    }
}

fn assemble(conditions: &[Condition], allow: bool, program: &mut Vec<u64>) {
    let verdict = verdict(allow);
    let mut left = conditions.iter().map(Condition::length).sum::<i16>() + 2;
    for condition in conditions {
        left -= condition.length();
        condition.assemble(left, program);
    }
    program.extend(verdict);
}

/// Why a rule does not match.
enum Condition {
    Differs {
        register: u8,
        value: u32,
    },
    /// Something is asked for that the rule does not allow.
    Exceeds {
        access: u32,
    },
    /// Nothing is asked for that the rule denies.
    Avoids {
        access: u32,
    },
}

impl Condition {
    fn length(&self) -> i16 {
        match self {
            Self::Differs { .. } => 1,
            Self::Exceeds { .. } | Self::Avoids { .. } => 3,
        }
    }

    /// Jumps over the `left` instructions behind it if the rule does not match.
    fn assemble(&self, left: i16, program: &mut Vec<u64>) {
        match self {
            Self::Differs { register, value } => program.push(jump_if_not_equal(*register, *value, left)),
            Self::Exceeds { access } => {
                program.extend([copy(0, 3), and(0, ALL & !access), jump_if_not_equal(0, 0, left)]);
            }
            Self::Avoids { access } => program.extend([copy(0, 3), and(0, *access), jump_if_equal(0, 0, left)]),
        }
    }
}

fn listed_rule((index, listed): (usize, &LinuxDeviceCgroup)) -> Result<Rule, FieldError> {
    let field = |name: &str| format!("linux.resources.devices[{index}].{name}");
    let kind = match listed.typ().unwrap_or(LinuxDeviceType::A) {
        LinuxDeviceType::A => None,
        LinuxDeviceType::B => Some(BLOCK),
        LinuxDeviceType::C | LinuxDeviceType::U => Some(CHARACTER),
        LinuxDeviceType::P => return Err(FieldError::new(field("type"), "a pipe is no device")),
    };
    let number = |name: &str, number: Option<i64>| match number {
        None | Some(-1) => Ok(None),
        Some(number) => match u32::try_from(number) {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(FieldError::new(field(name), "is not a device number")),
        },
    };
    let letters = listed
        .access()
        .as_deref()
        .filter(|access| !access.is_empty())
        .unwrap_or("rwm");
    let mut access = 0;
    for letter in letters.chars() {
        access |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MAKE,
            _ => {
                return Err(FieldError::new(
                    field("access"),
                    "is made of other letters than r, w and m",
                ));
            }
        };
    }
    let (major, minor) = (number("major", listed.major())?, number("minor", listed.minor())?);
    Ok(Rule {
        allow: listed.allow(),
        kind,
        major,
        minor,
        access,
    })
}

fn default_rules() -> impl Iterator<Item = Rule> {
    let allow = |kind, major, minor, access| Rule {
        allow: true,
        kind: Some(kind),
        major,
        minor,
        access,
    };
    let standard = [
        (1, Some(3)),
        (1, Some(5)),
        (1, Some(7)),
        (1, Some(8)),
        (1, Some(9)),
        (5, Some(0)),
        (5, Some(2)),
        (136, None),
    ];
    let nodes = [CHARACTER, BLOCK].map(|kind| allow(kind, None, None, MAKE));
    nodes
        .into_iter()
        .chain(standard.map(|(major, minor)| allow(CHARACTER, Some(major), minor, ALL)))
}

/// One eBPF instruction (Documentation/bpf/standardization/instruction-set.rst).
fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: u32) -> u64 {
    let registers = u64::from(destination | source << 4);
    u64::from(code) | registers << 8 | u64::from(offset.cast_unsigned()) << 16 | u64::from(immediate) << 32
}

/// 32 bits from the context at r1.
fn load(register: u8, offset: i16) -> u64 {
    instruction(0x61, register, 1, offset, 0)
}

fn and(register: u8, mask: u32) -> u64 {
    instruction(0x54, register, 0, 0, mask)
}

fn shift_right(register: u8, bits: u32) -> u64 {
    instruction(0x74, register, 0, 0, bits)
}

fn copy(to: u8, from: u8) -> u64 {
    instruction(0xbc, to, from, 0, 0)
}

fn jump_if_equal(register: u8, value: u32, over: i16) -> u64 {
    instruction(0x16, register, 0, over, value)
}

fn jump_if_not_equal(register: u8, value: u32, over: i16) -> u64 {
    instruction(0x56, register, 0, over, value)
}

/// `return allow`
fn verdict(allow: bool) -> [u64; 2] {
    [
        instruction(0xb7, 0, 0, 0, u32::from(allow)),
        instruction(0x95, 0, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program answers: an interpreter of the nine instructions that are used here.
    fn run(program: &[u64], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let (mut registers, mut at) = ([0_u32; 6], 0_usize);
        loop {
            let bytes = program[at].to_le_bytes();
            let (to, from) = (usize::from(bytes[1] & 15), usize::from(bytes[1] >> 4));
            let offset = usize::from(u16::from_le_bytes([bytes[2], bytes[3]]));
            let value = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
            at += 1;
            match bytes[0] {
                0x61 => registers[to] = context[offset / 4],
                0x54 => registers[to] &= value,
                0x74 => registers[to] >>= value,
                0xbc => registers[to] = registers[from],
                0x16 if registers[to] == value => at += offset,
                0x56 if registers[to] != value => at += offset,
                0x16 | 0x56 => {}
                0xb7 => registers[to] = value,
                0x95 => return registers[0] == 1,
                code => panic!("unknown instruction {code:#x}"),
            }
        }
    }

    fn rules(json: &str) -> DeviceRules {
        DeviceRules::of(&serde_json::from_str::<Vec<_>>(json).unwrap()).unwrap()
    }

    #[test]
    fn the_last_rule_that_matches_decides() {
        let deny_all = r#"[{"allow":false,"access":"rwm"}]"#;
        let disk = r#"[{"allow":false,"access":"rwm"},{"allow":true,"type":"b","major":8,"minor":0,"access":"rm"}]"#;
        let no_write = r#"[{"allow":true,"type":"c","major":10,"access":"rwm"},
                           {"allow":false,"type":"c","major":10,"minor":200,"access":"w"}]"#;
        for (json, kind, access, major, minor, expected) in [
            (deny_all, CHARACTER, READ | WRITE, 1, 3, true),
            (deny_all, CHARACTER, READ, 136, 77, true),
            (deny_all, BLOCK, MAKE, 8, 0, true),
            (deny_all, BLOCK, READ, 8, 0, false),
            (deny_all, BLOCK, READ | MAKE, 8, 0, false),
            (deny_all, CHARACTER, READ, 1, 1, false),
            ("[]", CHARACTER, READ, 10, 200, false),
            (disk, BLOCK, READ, 8, 0, true),
            (disk, BLOCK, READ | MAKE, 8, 0, true),
            (disk, BLOCK, READ | WRITE, 8, 0, false),
            (disk, CHARACTER, READ, 8, 0, false),
            (disk, BLOCK, READ, 8, 1, false),
            (no_write, CHARACTER, READ, 10, 200, true),
            (no_write, CHARACTER, READ | WRITE, 10, 200, false),
            (no_write, CHARACTER, WRITE, 10, 201, true),
        ] {
            let program = rules(json).program();
            assert_eq!(
                run(&program, kind, access, major, minor),
                expected,
                "{json} {kind} {access} {major}:{minor}"
            );
        }
    }

    #[test]
    fn allowing_everything_needs_no_program() {
        assert!(rules(r#"[{"allow":false},{"allow":true,"access":"rwm"}]"#).allow_everything());
        assert!(!rules(r#"[{"allow":true},{"allow":false,"type":"b"}]"#).allow_everything());
        assert!(!rules("[]").allow_everything());
    }

    #[test]
    fn malformed_rules_are_refused_by_name() {
        for (json, name) in [
            (r#"[{"allow":true,"access":"x"}]"#, "access"),
            (r#"[{"allow":true,"type":"p"}]"#, "type"),
            (r#"[{"allow":true,"major":-2}]"#, "major"),
        ] {
            let error = DeviceRules::of(&serde_json::from_str::<Vec<_>>(json).unwrap()).unwrap_err();
            assert_eq!(error.field, format!("linux.resources.devices[0].{name}"));
        }
    }
}
