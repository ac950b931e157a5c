//! `events`: statistics and kills for want of memory, one JSON line each.

use std::time::Duration;

use anyhow::{Context, Result};
use lexopt::ValueExt;
use runtime::container::named::Event;

use crate::arguments::{Globals, Word, is_on, next, required_id, unexpected};

#[derive(Debug)]
pub(crate) struct Events {
    id: String,
    interval: Duration,
    once: bool,
}

impl Events {
    pub(crate) fn parse(mut parser: lexopt::Parser) -> Result<Self> {
        let (mut id, mut interval, mut once) = (None, Duration::from_secs(5), false);
        while let Some(word) = next(&mut parser)? {
            match word {
                Word::Value(value) if id.is_none() => id = Some(value),
                Word::Flag(flag) if flag == "interval" => {
                    let text = parser.value()?.string()?;
                    interval =
                        duration(&text).with_context(|| format!("--interval: {text:?} is not a time above zero"))?;
                }
                Word::Flag(flag) if flag == "stats" => once = is_on(&mut parser)?,
                word @ (Word::Flag(_) | Word::Value(_)) => return Err(unexpected(&word)),
            }
        }
        let id = required_id("events", id)?;
        Ok(Self { id, interval, once })
    }

    pub(crate) fn run(&self, globals: &Globals) -> Result<u8> {
        let named = globals.store().find(&self.id)?;
        if self.once {
            return crate::print(&serde_json::to_string(&named.statistics()?)?);
        }
        use std::io::Write;
        let mut say = |event: &Event<'_>| {
            serde_json::to_string(event).is_ok_and(|line| writeln!(std::io::stdout(), "{line}").is_ok())
        };
        named.watch(self.interval, &mut say)?;
        Ok(0)
    }
}

/// As Go writes it: `5s`, `250ms`, `1m30s`.
fn duration(text: &str) -> Option<Duration> {
    let (mut rest, mut total) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest.get(..digits)?.parse().ok()?;
        let unit_end = rest[digits..]
            .find(|c: char| c.is_ascii_digit())
            .map_or(rest.len(), |at| digits + at);
        let milliseconds = match &rest[digits..unit_end] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        total = total.checked_add(Duration::from_millis(number.checked_mul(milliseconds)?))?;
        rest = &rest[unit_end..];
    }
    (!total.is_zero()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_gos() {
        for (text, milliseconds) in [("5s", 5000), ("250ms", 250), ("1m30s", 90_000), ("1h", 3_600_000)] {
            assert_eq!(duration(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "5", "s", "0s", "5d", "-1s", "99999999999999999999s"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
