//! A seccomp policy as a program of classic BPF.
//!
//! The numbers of system calls are searched as a tree, not one after the other: the kernel runs a filter once for every
//! number when it is installed, and then for every call. A leaf is a range of numbers with the same answer, or a number
//! whose arguments decide.

use std::collections::BTreeMap;

use crate::sys::seccomp::Instruction;

/// What happens to the system calls of one architecture. Answers are `SECCOMP_RET_*` values, here and below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Policy {
    /// `AUDIT_ARCH_*` of the calls that the numbers belong to.
    pub(crate) architecture: u32,
    /// What numbers get that no rule is about: the answer of the last entry at or before the number. There is one for 0.
    pub(crate) unruled: BTreeMap<u32, u32>,
    /// The rules about each number, in the order in which they are tried.
    pub(crate) rules: BTreeMap<u32, Vec<Rule>>,
}

/// An answer, if all conditions hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) conditions: Vec<Condition>,
    pub(crate) action: u32,
}

/// A condition on an argument of the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Condition {
    /// 0 to 5.
    pub(crate) argument: u32,
    pub(crate) comparison: Comparison,
    pub(crate) value: u64,
}

/// How an argument is compared with the value of the condition, unsigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    NotEqual,
    Less,
    LessOrEqual,
    Equal,
    GreaterOrEqual,
    Greater,
    /// Equal once this mask is laid over the argument.
    MaskedEqual(u64),
}

/// Longest program that the kernel takes (`BPF_MAXINSNS`).
const LIMIT: usize = 4096;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// The program of the policies; calls of other architectures get `foreign`. None when it would be longer than the kernel
/// takes.
pub(crate) fn assemble(policies: &[Policy], foreign: u32) -> Option<Vec<Instruction>> {
    let mut program = vec![load(ARCHITECTURE)];
    for policy in policies {
        let mut block = vec![load(NUMBER)];
        let mut backwards = Vec::new();
        policy.tree(&policy.leaves(), &mut backwards);
        block.extend(backwards.into_iter().rev());
        let over = u32::try_from(block.len()).ok()?;
        program.extend([jump_equal(policy.architecture, 1, 0), jump(over)]);
        program.extend(block);
    }
    program.push(answer(foreign));
    (program.len() <= LIMIT).then_some(program)
}

impl Policy {
    /// Where each leaf begins; the last one reaches to the end of the numbers.
    fn leaves(&self) -> Vec<(u32, Leaf<'_>)> {
        let mut leaves: Vec<_> = self
            .unruled
            .iter()
            .filter(|(start, _)| !self.rules.contains_key(start))
            .map(|(start, action)| (*start, Leaf::Answer(*action)))
            .collect();
        let mut rules = self.rules.iter().peekable();
        while let Some((number, alternatives)) = rules.next() {
            let behind = number + 1;
            leaves.push((*number, self.leaf(*number, alternatives)));
            if rules.peek().is_none_or(|(next, _)| **next != behind) {
                leaves.push((behind, Leaf::Answer(self.unruled(behind))));
            }
        }
        leaves.sort_by_key(|(start, _)| *start);
        leaves.dedup_by_key(|(start, _)| *start);
        leaves.dedup_by(|next, before| next.1 == before.1);
        leaves
    }

    fn leaf<'a>(&self, number: u32, rules: &'a [Rule]) -> Leaf<'a> {
        match rules {
            [] => Leaf::Answer(self.unruled(number)),
            [first, ..] if first.conditions.is_empty() => Leaf::Answer(first.action),
            _ => Leaf::Rules(rules, self.unruled(number)),
        }
    }

    fn unruled(&self, number: u32) -> u32 {
        let last = self.unruled.range(..=number).next_back();
        last.map_or(libc::SECCOMP_RET_KILL_PROCESS, |(_, action)| *action)
    }

    /// The number is in the accumulator. Every way through ends with an answer. Written from the end to the beginning: so
    /// it is known how far a jump goes.
    fn tree(&self, leaves: &[(u32, Leaf<'_>)], backwards: &mut Vec<Instruction>) {
        match leaves {
            [] => backwards.push(answer(self.unruled(0))),
            [(_, Leaf::Answer(action))] => backwards.push(answer(*action)),
            [(_, Leaf::Rules(rules, otherwise))] => {
                backwards.push(answer(*otherwise));
                backwards.extend(rules.iter().rev().flat_map(|rule| rule.assemble().into_iter().rev()));
            }
            _ => {
                let (low, high) = leaves.split_at(leaves.len() / 2);
                let middle = high.first().map_or(0, |(start, _)| *start);
                self.tree(high, backwards);
                let behind = backwards.len();
                self.tree(low, backwards);
                let over = backwards.len() - behind;
                // A conditional jump reaches 255 instructions, an unconditional one all.
                if let Ok(over) = u8::try_from(over) {
                    backwards.push(jump_at_least(middle, over, 0));
                } else {
                    let over = u32::try_from(over).unwrap_or(u32::MAX);
                    backwards.extend([jump(over), jump_at_least(middle, 0, 1)]);
                }
            }
        }
    }
}

/// What a range of numbers gets.
#[derive(Debug, PartialEq, Eq)]
enum Leaf<'a> {
    Answer(u32),
    /// The rules, and the answer if none of them matches.
    Rules(&'a [Rule], u32),
}

impl Rule {
    /// Answers, or goes on behind its own end.
    fn assemble(&self) -> Vec<Instruction> {
        let mut program = vec![answer(self.action)];
        for condition in self.conditions.iter().rev() {
            let over = u8::try_from(program.len()).expect("six conditions of at most seven instructions");
            program = condition.assemble(over).into_iter().chain(program).collect();
        }
        program
    }
}

impl Condition {
    /// Goes on behind the `over` instructions that follow it if the condition does not hold. An argument has 64 bits and
    /// the accumulator 32: the upper half decides, or else the lower.
    fn assemble(self, over: u8) -> Vec<Instruction> {
        let [low, high] = halves(self.value);
        let offset = ARGUMENTS + 8 * self.argument;
        let (load_low, load_high) = (load(offset), load(offset + 4));
        match self.comparison {
            Comparison::Equal => vec![
                load_high,
                jump_equal(high, 0, over + 2),
                load_low,
                jump_equal(low, 0, over),
            ],
            Comparison::NotEqual => vec![load_high, jump_equal(high, 0, 2), load_low, jump_equal(low, over, 0)],
            Comparison::MaskedEqual(mask) => {
                let [mask_low, mask_high] = halves(mask);
                vec![
                    load_high,
                    and(mask_high),
                    jump_equal(high, 0, over + 3),
                    load_low,
                    and(mask_low),
                    jump_equal(low, 0, over),
                ]
            }
            Comparison::GreaterOrEqual => above(high, over, [load_high, load_low], jump_at_least(low, 0, over)),
            Comparison::Greater => above(high, over, [load_high, load_low], jump_greater(low, 0, over)),
            Comparison::Less => below(high, over, [load_high, load_low], jump_at_least(low, over, 0)),
            Comparison::LessOrEqual => below(high, over, [load_high, load_low], jump_greater(low, over, 0)),
        }
    }
}

fn above(high: u32, over: u8, [load_high, load_low]: [Instruction; 2], last: Instruction) -> Vec<Instruction> {
    vec![
        load_high,
        jump_greater(high, 3, 0),
        jump_equal(high, 0, over + 2),
        load_low,
        last,
    ]
}

fn below(high: u32, over: u8, [load_high, load_low]: [Instruction; 2], last: Instruction) -> Vec<Instruction> {
    vec![
        load_high,
        jump_greater(high, over + 3, 0),
        jump_equal(high, 0, 2),
        load_low,
        last,
    ]
}

fn halves(value: u64) -> [u32; 2] {
    let bytes = value.to_le_bytes();
    let half = |from: usize| u32::from_le_bytes([bytes[from], bytes[from + 1], bytes[from + 2], bytes[from + 3]]);
    [half(0), half(4)]
}

/// Instructions of classic BPF (linux/bpf_common.h): class, size or operation, mode or source.
fn load(offset: u32) -> Instruction {
    Instruction {
        code: 0x20,
        jt: 0,
        jf: 0,
        k: offset,
    }
}

fn and(mask: u32) -> Instruction {
    Instruction {
        code: 0x54,
        jt: 0,
        jf: 0,
        k: mask,
    }
}

fn jump(over: u32) -> Instruction {
    Instruction {
        code: 0x05,
        jt: 0,
        jf: 0,
        k: over,
    }
}

fn jump_equal(value: u32, jt: u8, jf: u8) -> Instruction {
    Instruction {
        code: 0x15,
        jt,
        jf,
        k: value,
    }
}

fn jump_greater(value: u32, jt: u8, jf: u8) -> Instruction {
    Instruction {
        code: 0x25,
        jt,
        jf,
        k: value,
    }
}

fn jump_at_least(value: u32, jt: u8, jf: u8) -> Instruction {
    Instruction {
        code: 0x35,
        jt,
        jf,
        k: value,
    }
}

fn answer(action: u32) -> Instruction {
    Instruction {
        code: 0x06,
        jt: 0,
        jf: 0,
        k: action,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NATIVE: u32 = 0xc000_003e;

    /// What the program answers: an interpreter of the seven instructions that are used here.
    fn run(program: &[Instruction], architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let (mut accumulator, mut at) = (0, 0);
        loop {
            let Instruction { code, jt, jf, k } = program[at];
            at += 1;
            let mut branch = |taken: bool| at += usize::from(if taken { jt } else { jf });
            match code {
                0x20 => {
                    accumulator = match k {
                        NUMBER => number,
                        ARCHITECTURE => architecture,
                        offset => {
                            let [low, high] = halves(arguments[(offset as usize - 16) / 8]);
                            if offset % 8 == 0 { low } else { high }
                        }
                    }
                }
                0x54 => accumulator &= k,
                0x05 => at += k as usize,
                0x15 => branch(accumulator == k),
                0x25 => branch(accumulator > k),
                0x35 => branch(accumulator >= k),
                0x06 => return k,
                code => panic!("unknown instruction {code:#x}"),
            }
        }
    }

    /// What the policies say, read from the top.
    fn expected(policies: &[Policy], architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let policy = policies.iter().find(|policy| policy.architecture == architecture);
        let Some(policy) = policy else { return 9 };
        let rules = policy.rules.get(&number).into_iter().flatten();
        let matching = rules
            .clone()
            .find(|rule| rule.conditions.iter().all(|condition| holds(condition, arguments)));
        let unruled = || *policy.unruled.range(..=number).next_back().unwrap().1;
        matching.map_or_else(unruled, |rule| rule.action)
    }

    fn holds(condition: &Condition, arguments: [u64; 6]) -> bool {
        let (argument, value) = (arguments[condition.argument as usize], condition.value);
        match condition.comparison {
            Comparison::NotEqual => argument != value,
            Comparison::Less => argument < value,
            Comparison::LessOrEqual => argument <= value,
            Comparison::Equal => argument == value,
            Comparison::GreaterOrEqual => argument >= value,
            Comparison::Greater => argument > value,
            Comparison::MaskedEqual(mask) => argument & mask == value,
        }
    }

    /// Few different values, in both halves, so that they meet.
    fn value() -> impl Strategy<Value = u64> {
        (0_u64..3, 0_u64..3).prop_map(|(high, low)| high << 32 | low)
    }

    fn condition() -> impl Strategy<Value = Condition> {
        let comparison = prop_oneof![
            Just(Comparison::NotEqual),
            Just(Comparison::Less),
            Just(Comparison::LessOrEqual),
            Just(Comparison::Equal),
            Just(Comparison::GreaterOrEqual),
            Just(Comparison::Greater),
            value().prop_map(Comparison::MaskedEqual),
        ];
        (0_u32..6, comparison, value()).prop_map(|(argument, comparison, value)| Condition {
            argument,
            comparison,
            value,
        })
    }

    fn policy(architecture: u32) -> impl Strategy<Value = Policy> {
        let rule = (proptest::collection::vec(condition(), 0..4), 1_u32..5)
            .prop_map(|(conditions, action)| Rule { conditions, action });
        let rules = proptest::collection::btree_map(0_u32..40, proptest::collection::vec(rule, 0..4), 0..30);
        let unruled = proptest::collection::btree_map(0_u32..50, 0_u32..5, 0..4);
        (rules, unruled, 0_u32..5).prop_map(move |(rules, mut unruled, first)| {
            unruled.insert(0, first);
            Policy {
                architecture,
                unruled,
                rules,
            }
        })
    }

    const COMPAT: u32 = 0x4000_0003;

    proptest! {
        #[test]
        fn the_program_answers_what_the_policies_say(
            policies in (policy(NATIVE), policy(COMPAT)),
            number in 0_u32..60,
            arguments in proptest::array::uniform6(value()),
        ) {
            let policies = [policies.0, policies.1];
            let program = assemble(&policies, 9).unwrap();
            for architecture in [NATIVE, COMPAT, 0xc000_00b7] {
                prop_assert_eq!(
                    run(&program, architecture, number, arguments),
                    expected(&policies, architecture, number, arguments)
                );
            }
        }
    }

    #[test]
    fn numbers_with_the_same_answer_are_one_range() {
        let allow = |number| {
            (
                number,
                vec![Rule {
                    conditions: vec![],
                    action: 1,
                }],
            )
        };
        let policy = Policy {
            architecture: NATIVE,
            unruled: BTreeMap::from([(0, 0)]),
            rules: (0..300).map(allow).collect(),
        };
        assert!(assemble(&[policy], 9).unwrap().len() < 12);
    }
}
