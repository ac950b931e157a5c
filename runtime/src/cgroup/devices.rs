//! `linux.resources.devices`: which devices a container may make, read and write.
//!
//! cgroup v2 has no file for that: an eBPF program attached to the cgroup decides. It is assembled here from the rules;
//! the last rule that matches wins, and what no rule matches is denied.

use std::cell::RefCell;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::{Cgroup, CgroupError};
use crate::plan::FieldError;
use crate::sys::bpf::{attach_device_program, load_device_program};

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
    ///
    /// A rule compares once, and what it compares is known afterwards only where it has decided: so the kernel checks
    /// each instruction once, which is most of what a program costs.
    pub(crate) fn program(&self) -> Vec<u64> {
        let mut program = PROLOGUE.to_vec();
        for rule in self.rules.iter().rev() {
            let Some(devices) = rule.devices() else { continue };
            program.extend(rule.instructions(devices));
            if devices.mask == 0 && rule.access == ALL {
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
        let program = loaded(rules.program()).map_err(failed)?;
        attach_device_program(program.as_fd(), self.open()?.as_fd()).map_err(failed)
    }
}

thread_local! {
    /// The program that was loaded last. The containers of a pod have the same rules as a rule, and a restarted one has
    /// those of before: a program may be attached to any number of cgroups.
    static LAST: RefCell<Option<(Vec<u64>, Rc<OwnedFd>)>> = const { RefCell::new(None) };
}

fn loaded(instructions: Vec<u64>) -> nix::Result<Rc<OwnedFd>> {
    LAST.with_borrow_mut(|last| match last {
        Some((same, program)) if *same == instructions => Ok(Rc::clone(program)),
        _ => {
            let program = Rc::new(load_device_program(&instructions)?);
            *last = Some((instructions, Rc::clone(&program)));
            Ok(program)
        }
    })
}

/// Devices as one number each, as [`PROLOGUE`] puts it together: those that have this value below the mask.
#[derive(Clone, Copy)]
struct Devices {
    mask: u64,
    value: u64,
}

/// The kernel's numbers: 12 bits of major above 20 bits of minor. The kind stands above both.
const MINOR_BITS: u32 = 20;
const KIND_AT: u32 = 32;
const KIND_BITS: u32 = 16;

impl Rule {
    /// The devices that it is about; none if there can't be any.
    fn devices(self) -> Option<Devices> {
        let parts = [
            (self.kind, KIND_AT, KIND_BITS),
            (self.major, MINOR_BITS, KIND_AT - MINOR_BITS),
            (self.minor, 0, MINOR_BITS),
        ];
        let mut devices = Devices { mask: 0, value: 0 };
        for (number, at, bits) in parts {
            let Some(number) = number.map(u64::from) else { continue };
            if number >> bits != 0 {
                return None;
            }
            devices.mask |= ((1 << bits) - 1) << at;
            devices.value |= number << at;
        }
        Some(devices)
    }

    /// From the last instruction to the first: how far a jump goes over the rule is known by what stands behind it.
    fn instructions(self, devices: Devices) -> Vec<u64> {
        let mut reversed: Vec<u64> = verdict(self.allow).into_iter().rev().collect();
        let mut precede = |jump: fn(i16) -> u64, before: &[u64]| {
            reversed.push(jump(i16::try_from(reversed.len()).unwrap_or(i16::MAX)));
            reversed.extend(before.iter().rev());
        };
        let [low, high] = load_number(4, devices.value);
        match devices.mask {
            0 => {}
            EXACT => precede(|over| jump_if_differs(2, 4, over), &[low, high]),
            mask => {
                let [mask_low, mask_high] = load_number(0, mask);
                let masked = [mask_low, mask_high, and_register(0, 2), low, high];
                precede(|over| jump_if_differs(0, 4, over), &masked);
            }
        }
        match self.access {
            ALL => {}
            // Something is asked for that the rule does not allow; nothing that it denies.
            allowed if self.allow => precede(|over| jump_unless_zero(0, over), &[copy(0, 3), and(0, ALL & !allowed)]),
            denied => precede(|over| jump_if_zero(0, over), &[copy(0, 3), and(0, denied)]),
        }
        reversed.reverse();
        reversed
    }
}

/// A rule about one device.
const EXACT: u64 = (1 << (KIND_AT + KIND_BITS)) - 1;

/// From `struct bpf_cgroup_dev_ctx` at r1: r2 = the device, r3 = the access.
const PROLOGUE: [u64; 10] = [
    load(2, 0),
    shift_left(2, u64::BITS - KIND_BITS),
    shift_right(2, u64::BITS - KIND_BITS - KIND_AT),
    load(3, 4),
    shift_left(3, MINOR_BITS),
    or(2, 3),
    load(3, 8),
    or(2, 3),
    load(3, 0),
    shift_right(3, KIND_BITS),
];

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
const fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: u32) -> u64 {
    let registers = (destination | source << 4) as u64;
    code as u64 | registers << 8 | (offset.cast_unsigned() as u64) << 16 | (immediate as u64) << 32
}

/// 32 bits from the context at r1.
const fn load(register: u8, offset: i16) -> u64 {
    instruction(0x61, register, 1, offset, 0)
}

/// The one instruction that takes two places.
fn load_number(register: u8, number: u64) -> [u64; 2] {
    let high = u32::try_from(number >> u32::BITS).unwrap_or_default();
    let low = u32::try_from(number & u64::from(u32::MAX)).unwrap_or_default();
    [instruction(0x18, register, 0, 0, low), instruction(0, 0, 0, 0, high)]
}

const fn shift_left(register: u8, bits: u32) -> u64 {
    instruction(0x67, register, 0, 0, bits)
}

const fn shift_right(register: u8, bits: u32) -> u64 {
    instruction(0x77, register, 0, 0, bits)
}

const fn or(register: u8, with: u8) -> u64 {
    instruction(0x4f, register, with, 0, 0)
}

fn and_register(register: u8, with: u8) -> u64 {
    instruction(0x5f, register, with, 0, 0)
}

fn and(register: u8, mask: u32) -> u64 {
    instruction(0x57, register, 0, 0, mask)
}

fn copy(to: u8, from: u8) -> u64 {
    instruction(0xbf, to, from, 0, 0)
}

fn jump_if_zero(register: u8, over: i16) -> u64 {
    instruction(0x15, register, 0, over, 0)
}

fn jump_unless_zero(register: u8, over: i16) -> u64 {
    instruction(0x55, register, 0, over, 0)
}

fn jump_if_differs(register: u8, from: u8, over: i16) -> u64 {
    instruction(0x5d, register, from, over, 0)
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

    /// What the program answers: an interpreter of the instructions that are used here.
    fn run(program: &[u64], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let (mut registers, mut at) = ([0_u64; 6], 0_usize);
        loop {
            let bytes = program[at].to_le_bytes();
            let (to, from) = (usize::from(bytes[1] & 15), usize::from(bytes[1] >> 4));
            let offset = usize::from(u16::from_le_bytes([bytes[2], bytes[3]]));
            let value = program[at] >> 32;
            at += 1;
            match bytes[0] {
                0x61 => registers[to] = context[offset / 4].into(),
                0x18 => {
                    registers[to] = value | program[at] >> 32 << 32;
                    at += 1;
                }
                0x67 => registers[to] <<= value,
                0x77 => registers[to] >>= value,
                0x4f => registers[to] |= registers[from],
                0x5f => registers[to] &= registers[from],
                0x57 => registers[to] &= value,
                0xbf => registers[to] = registers[from],
                0x15 if registers[to] == value => at += offset,
                0x55 if registers[to] != value => at += offset,
                0x5d if registers[to] != registers[from] => at += offset,
                0x15 | 0x55 | 0x5d => {}
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
        let no_such = r#"[{"allow":true,"type":"c","major":4096,"access":"rwm"},
                          {"allow":true,"type":"c","major":10,"minor":1048576,"access":"rwm"}]"#;
        for (json, kind, access, major, minor, expected) in [
            (no_such, CHARACTER, READ, 0, 0, false),
            (no_such, CHARACTER, READ, 11, 0, false),
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
