//! `kill`: a signal by number or name.

use anyhow::{Context, Result};

use crate::arguments::{Globals, Word, is_on, next, required_id, unexpected};

#[derive(Debug)]
pub(crate) struct Kill {
    id: String,
    signal: i32,
    all: bool,
}

impl Kill {
    pub(crate) fn parse(mut parser: lexopt::Parser) -> Result<Self> {
        let (mut id, mut signal, mut all) = (None, None, false);
        while let Some(word) = next(&mut parser)? {
            match word {
                Word::Value(value) if id.is_none() => id = Some(value),
                Word::Value(value) if signal.is_none() => signal = Some(value),
                Word::Flag(flag) if flag == "a" || flag == "all" => all = is_on(&mut parser)?,
                word @ (Word::Flag(_) | Word::Value(_)) => return Err(unexpected(&word)),
            }
        }
        let id = required_id("kill", id)?;
        let signal = match signal {
            None => libc_sigterm(),
            Some(name) => name
                .to_str()
                .and_then(number_of)
                .with_context(|| format!("unknown signal {name:?}"))?,
        };
        Ok(Self { id, signal, all })
    }

    pub(crate) fn run(&self, globals: &Globals) -> Result<u8> {
        globals.store().find(&self.id)?.kill(self.signal, self.all)?;
        Ok(0)
    }
}

fn libc_sigterm() -> i32 {
    nix::sys::signal::Signal::SIGTERM as i32
}

/// First and last real-time signal that programs may use.
const REAL_TIME: [i32; 2] = [34, 64];

/// `0` (which only asks), `15`, `TERM`, `SIGTERM`, `sigterm`, `RTMIN+3`, `SIGRTMAX-1`.
fn number_of(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse() {
        return (0..=REAL_TIME[1]).contains(&number).then_some(number);
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        return real_time(REAL_TIME[0], offset, '+');
    }
    if let Some(offset) = name.strip_prefix("RTMAX") {
        return real_time(REAL_TIME[1], offset, '-');
    }
    let known: nix::sys::signal::Signal = format!("SIG{name}").parse().ok()?;
    Some(known as i32)
}

fn real_time(base: i32, offset: &str, sign: char) -> Option<i32> {
    let offset: i32 = match offset.strip_prefix(sign) {
        Some(digits) => digits.parse().ok().filter(|offset| *offset >= 0)?,
        None if offset.is_empty() => 0,
        None => return None,
    };
    let number = if sign == '+' { base + offset } else { base - offset };
    (REAL_TIME[0]..=REAL_TIME[1]).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_numbers_and_names() {
        for (text, number) in [
            ("9", Some(9)),
            ("KILL", Some(9)),
            ("SIGKILL", Some(9)),
            ("sigterm", Some(15)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("RTMIN", Some(34)),
            ("0", Some(0)),
            ("-1", None),
            ("65", None),
            ("RTMIN+31", None),
            ("RTMIN--3", None),
            ("NOTHING", None),
            ("", None),
        ] {
            assert_eq!(number_of(text), number, "{text:?}");
        }
    }
}
