//! `update`: limits by flag, or as a piece of config.json.

use std::fs;
use std::io::Read;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use lexopt::ValueExt;
use oci_spec::runtime::{LinuxIntelRdt, LinuxResources};
use runtime::container::config;
use serde_json::{Map, Value};

use crate::arguments::{Globals, Word, next, required_id, unexpected};

/// Longest piece of JSON that is read.
const LENGTH_LIMIT: u64 = 1 << 20;

#[derive(Debug, Default)]
pub(crate) struct Update {
    id: String,
    file: Option<PathBuf>,
    /// `linux.resources` as the flags say it.
    flags: Value,
    /// `linux.intelRdt` as the flags say it.
    classes: LinuxIntelRdt,
}

/// What the value of a flag is.
#[derive(Clone, Copy)]
enum Kind {
    Number,
    /// A number, perhaps with a unit: `512m`.
    Bytes,
    Text,
}

/// Each flag, and the field of `linux.resources` that it sets.
const FLAGS: [(&str, &str, Kind); 14] = [
    ("blkio-weight", "blockIO.weight", Kind::Number),
    ("cpu-period", "cpu.period", Kind::Number),
    ("cpu-quota", "cpu.quota", Kind::Number),
    ("cpu-burst", "cpu.burst", Kind::Number),
    ("cpu-share", "cpu.shares", Kind::Number),
    ("cpu-idle", "cpu.idle", Kind::Number),
    ("cpu-rt-period", "cpu.realtimePeriod", Kind::Number),
    ("cpu-rt-runtime", "cpu.realtimeRuntime", Kind::Number),
    ("cpuset-cpus", "cpu.cpus", Kind::Text),
    ("cpuset-mems", "cpu.mems", Kind::Text),
    ("memory", "memory.limit", Kind::Bytes),
    ("memory-reservation", "memory.reservation", Kind::Bytes),
    ("memory-swap", "memory.swap", Kind::Bytes),
    ("pids-limit", "pids.limit", Kind::Number),
];

impl Update {
    pub(crate) fn parse(mut parser: lexopt::Parser) -> Result<Self> {
        let (mut update, mut id) = (
            Self {
                flags: Value::Object(Map::new()),
                ..Self::default()
            },
            None,
        );
        while let Some(word) = next(&mut parser)? {
            match word {
                Word::Value(value) if id.is_none() => id = Some(value),
                Word::Flag(flag) if flag == "r" || flag == "resources" => update.file = Some(parser.value()?.into()),
                Word::Flag(flag) => update.set(&flag, &parser.value()?.string()?)?,
                Word::Value(_) => return Err(unexpected(&word)),
            }
        }
        update.id = required_id("update", id)?;
        Ok(update)
    }

    fn set(&mut self, flag: &str, text: &str) -> Result<()> {
        match flag {
            "l3-cache-schema" => drop(self.classes.set_l3_cache_schema(Some(text.into()))),
            "mem-bw-schema" => drop(self.classes.set_mem_bw_schema(Some(text.into()))),
            "kernel-memory" | "kernel-memory-tcp" => bail!("--{flag} is not supported"),
            _ => self.set_resource(flag, text)?,
        }
        Ok(())
    }

    fn set_resource(&mut self, flag: &str, text: &str) -> Result<()> {
        let (_, field, kind) = FLAGS
            .iter()
            .find(|(name, ..)| *name == flag)
            .ok_or_else(|| unexpected(&Word::Flag(flag.into())))?;
        let wrong = || format!("--{flag}: {text:?} is not a value that it takes");
        let value = match kind {
            Kind::Number => text.parse::<i64>().with_context(wrong)?.into(),
            Kind::Bytes => bytes(text).with_context(wrong)?.into(),
            Kind::Text => text.into(),
        };
        if let Some((group, name)) = field.split_once('.') {
            self.flags[group][name] = value;
        }
        Ok(())
    }

    pub(crate) fn run(&self, globals: &Globals) -> Result<u8> {
        let resources = self.resources()?;
        globals.store().find(&self.id)?.update(&resources, &self.classes)?;
        Ok(0)
    }

    fn resources(&self) -> Result<LinuxResources> {
        let Some(file) = &self.file else {
            return config::read(self.flags.to_string().as_bytes()).context("read the flags");
        };
        let text = if file.as_os_str() == "-" {
            let mut text = String::new();
            let length = std::io::stdin()
                .take(LENGTH_LIMIT)
                .read_to_string(&mut text)
                .context("read stdin")?;
            ensure!((length as u64) < LENGTH_LIMIT, "stdin: more than {LENGTH_LIMIT} bytes");
            text
        } else {
            fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?
        };
        config::read(text.as_bytes()).with_context(|| format!("parse {}", file.display()))
    }
}

/// A number of bytes with a unit of 1024s: `1g`, `512m`, `4k`, `100`, `-1`.
fn bytes(text: &str) -> Option<i64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches("ib").trim_end_matches('b');
    let (digits, shift) = match digits.char_indices().next_back()? {
        (at, 'k') => (&digits[..at], 10),
        (at, 'm') => (&digits[..at], 20),
        (at, 'g') => (&digits[..at], 30),
        (at, 't') => (&digits[..at], 40),
        _ => (digits, 0),
    };
    digits.parse::<i64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_powers_of_1024() {
        for (text, number) in [
            ("100", Some(100)),
            ("4k", Some(4096)),
            ("512M", Some(512 << 20)),
            ("1gb", Some(1 << 30)),
            ("1GiB", Some(1 << 30)),
            ("-1", Some(-1)),
            ("", None),
            ("m", None),
            ("9999999999g", None),
        ] {
            assert_eq!(bytes(text), number, "{text:?}");
        }
    }

    #[test]
    fn schemata_are_the_classes() {
        let line = ["--l3-cache-schema", "L3:0=f", "c1", "--mem-bw-schema=MB:0=20"];
        let update = Update::parse(lexopt::Parser::from_args(line)).unwrap();
        let (cache, bandwidth) = (update.classes.l3_cache_schema(), update.classes.mem_bw_schema());
        assert_eq!(
            (cache.as_deref(), bandwidth.as_deref()),
            (Some("L3:0=f"), Some("MB:0=20"))
        );
        assert_eq!(update.resources().unwrap(), LinuxResources::default());
    }

    #[test]
    fn every_flag_sets_its_field() {
        for (flag, field, kind) in FLAGS {
            let text = if matches!(kind, Kind::Text) { "0-1" } else { "10" };
            let line = ["--".to_owned() + flag, text.into(), "c1".into()];
            let update = Update::parse(lexopt::Parser::from_args(line)).unwrap();
            let resources = serde_json::to_value(update.resources().unwrap()).unwrap();
            let pointer = format!("/{}", field.replace('.', "/"));
            let set = resources
                .pointer(&pointer)
                .unwrap_or_else(|| panic!("{flag} in {resources}"));
            assert_eq!(set.to_string().trim_matches('"'), text, "{flag}");
        }
    }
}
