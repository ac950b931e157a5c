//! `events`: what a container uses, and when the kernel kills in it for want of memory, in the shape of runc's lines.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::error::file;
use super::{Named, VerbError};
use crate::cgroup::{Cgroup, reread};

/// One line, with its fields in runc's order: there are readers that look no further than its beginning.
#[derive(Debug, Serialize)]
pub struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
}

impl Named {
    /// One line of statistics.
    pub fn statistics(&self) -> Result<Event<'_>, VerbError> {
        self.init()?;
        Ok(self.line(&self.cgroup_for("events")?))
    }

    fn line(&self, cgroup: &Cgroup) -> Event<'_> {
        self.event("stats", Some(of(cgroup)))
    }

    fn event(&self, kind: &'static str, data: Option<Value>) -> Event<'_> {
        let id = &self.record.id;
        Event { kind, id, data }
    }

    /// Tells `say` the statistics at every `interval`, and of every kill for want of memory; until the container ends
    /// or nobody listens any more (`say` answers false).
    pub fn watch(&self, interval: Duration, say: &mut dyn FnMut(&Event<'_>) -> bool) -> Result<(), VerbError> {
        let (_, init) = self.init()?;
        let cgroup = self.cgroup_for("events")?;
        // Not there without the memory controller; then there are no such kills to tell of.
        let mut memory = File::open(cgroup.path().join("memory.events")).ok();
        let nothing = File::open("/dev/null").map_err(file("open", "/dev/null"))?;
        let (mut kills, mut next) = (memory.as_mut().and_then(killed), Instant::now() + interval);
        loop {
            let left = next.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let changes = memory.as_ref().map_or((nothing.as_fd(), PollFlags::empty()), |file| {
                (file.as_fd(), PollFlags::POLLPRI)
            });
            let mut files = [
                PollFd::new(init.as_fd(), PollFlags::POLLIN),
                PollFd::new(changes.0, changes.1),
            ];
            let _ = poll(&mut files, timeout);
            let ended = files[0].any().unwrap_or(false);
            let now = memory.as_mut().and_then(killed);
            if now > kills && !say(&self.event("oom", None)) {
                return Ok(());
            }
            kills = now;
            if ended {
                return Ok(());
            }
            if Instant::now() >= next {
                next += interval;
                if !say(&self.line(&cgroup)) {
                    return Ok(());
                }
            }
        }
    }
}

/// Kills for want of memory so far, by `memory.events`.
fn killed(events: &mut File) -> Option<u64> {
    table(&reread(events).ok()?).get("oom_kill").copied()
}

fn of(cgroup: &Cgroup) -> Value {
    json!({
        "cpu": cpu(cgroup),
        "cpuset": cpuset(cgroup),
        "memory": memory(cgroup),
        "pids": with([("current", cgroup.number("pids.current")), ("limit", cgroup.number("pids.max"))]),
        "blkio": io(cgroup),
        "hugetlb": huge_pages(cgroup),
        "intel_rdt": {},
        "network_interfaces": null,
    })
}

/// An object of the numbers that are there.
fn with<const N: usize>(fields: [(&str, Option<u64>); N]) -> Value {
    let there = fields
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?.into())));
    Value::Object(there.collect())
}

/// A file of lines `key number`.
fn table(text: &str) -> BTreeMap<&str, u64> {
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    lines
        .filter_map(|(key, value)| Some((key, value.trim().parse().ok()?)))
        .collect()
}

/// Nanoseconds, as version 1 counted.
fn cpu(cgroup: &Cgroup) -> Value {
    let text = cgroup.text("cpu.stat");
    let stat = table(&text);
    let nanoseconds = |name: &str| stat.get(name).map(|micros| micros.saturating_mul(1000));
    let usage = with([
        ("total", nanoseconds("usage_usec")),
        ("kernel", nanoseconds("system_usec").or(Some(0))),
        ("user", nanoseconds("user_usec").or(Some(0))),
    ]);
    let throttling = with([
        ("periods", stat.get("nr_periods").copied()),
        ("throttledPeriods", stat.get("nr_throttled").copied()),
        ("throttledTime", nanoseconds("throttled_usec")),
    ]);
    with_pressure(
        json!({ "usage": usage, "throttling": throttling }),
        cgroup,
        "cpu.pressure",
    )
}

fn cpuset(cgroup: &Cgroup) -> Value {
    let list = |file: &str| ranges(&cgroup.text(file));
    json!({ "cpus": list("cpuset.cpus.effective"), "mems": list("cpuset.mems.effective") })
}

/// `0-2,5` as numbers; at most as many as a kernel has processors.
fn ranges(text: &str) -> Vec<u32> {
    const LIMIT: usize = 8192;
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<u32>().ok()?..=last.parse::<u32>().ok()?)
    };
    text.trim().split(',').filter_map(range).flatten().take(LIMIT).collect()
}

fn memory(cgroup: &Cgroup) -> Value {
    let text = cgroup.text("memory.stat");
    let stat = table(&text);
    let events = cgroup.text("memory.events");
    let events = table(&events);
    let entry = |prefix: &str| {
        let number = |name: &str| cgroup.number(&format!("{prefix}.{name}"));
        // Without a limit it is the largest number, as the kernel had it in version 1.
        let limit = number("max").unwrap_or(u64::MAX);
        let failures = events.get("max").copied().unwrap_or(0);
        json!({ "limit": limit, "usage": number("current").unwrap_or(0), "max": number("peak").unwrap_or(0), "failcnt": failures })
    };
    let raw: Map<String, Value> = stat
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).into()))
        .collect();
    let memory = json!({
        "cache": stat.get("file").copied().unwrap_or(0),
        "usage": entry("memory"),
        "swap": entry("memory.swap"),
        "kernel": { "limit": 0, "failcnt": 0 },
        "kernelTCP": { "limit": 0, "failcnt": 0 },
        "raw": raw,
    });
    with_pressure(memory, cgroup, "memory.pressure")
}

fn io(cgroup: &Cgroup) -> Value {
    let (mut bytes, mut operations) = (Vec::new(), Vec::new());
    for line in cgroup.text("io.stat").lines() {
        let Some((device, fields)) = line.split_once(' ') else {
            continue;
        };
        let Some((major, minor)) = device.split_once(':') else {
            continue;
        };
        let (Ok(major), Ok(minor)) = (major.parse::<u64>(), minor.parse::<u64>()) else {
            continue;
        };
        for field in fields.split_whitespace() {
            let Some((key, value)) = field.split_once('=') else {
                continue;
            };
            let Ok(value) = value.parse::<u64>() else { continue };
            let entry = |op| json!({ "major": major, "minor": minor, "op": op, "value": value });
            match key {
                "rbytes" => bytes.push(entry("Read")),
                "wbytes" => bytes.push(entry("Write")),
                "rios" => operations.push(entry("Read")),
                "wios" => operations.push(entry("Write")),
                _ => {}
            }
        }
    }
    let mut io = json!({});
    for (name, entries) in [("ioServiceBytesRecursive", bytes), ("ioServicedRecursive", operations)] {
        if !entries.is_empty() {
            io[name] = entries.into();
        }
    }
    with_pressure(io, cgroup, "io.pressure")
}

fn huge_pages(cgroup: &Cgroup) -> Value {
    let names = std::fs::read_dir(cgroup.path()).into_iter().flatten().flatten();
    let sizes = names.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let size = name.strip_prefix("hugetlb.")?.strip_suffix(".current")?;
        (!size.contains('.')).then(|| size.to_owned())
    });
    let entry = |size: String| {
        let text = cgroup.text(&format!("hugetlb.{size}.events"));
        let numbers = with([
            ("usage", cgroup.number(&format!("hugetlb.{size}.current"))),
            ("failcnt", table(&text).get("max").copied()),
        ]);
        (size, numbers)
    };
    Value::Object(sizes.map(entry).collect())
}

fn with_pressure(mut value: Value, cgroup: &Cgroup, file: &str) -> Value {
    if let Some(pressure) = pressure(&cgroup.text(file)) {
        value["psi"] = pressure;
    }
    value
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0` and the same for `full`.
fn pressure(text: &str) -> Option<Value> {
    let mut all = Map::new();
    for line in text.lines() {
        let (kind, fields) = line.split_once(' ')?;
        let mut numbers = Map::new();
        for field in fields.split_whitespace() {
            let (name, value) = field.split_once('=')?;
            let value = if name == "total" {
                value.parse::<u64>().ok()?.into()
            } else {
                value.parse::<f64>().ok()?.into()
            };
            numbers.insert(name.into(), value);
        }
        all.insert(kind.into(), numbers.into());
    }
    (!all.is_empty()).then_some(all.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_kernel_are_read() {
        assert_eq!(table("usage_usec 5\nnr_periods 2\nbad\n").get("usage_usec"), Some(&5));
        assert_eq!(ranges("0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(ranges("\n"), [0_u32; 0]);
        let psi = pressure("some avg10=1.50 avg60=0.00 avg300=0.00 total=7\n").unwrap();
        assert_eq!(
            psi["some"],
            json!({ "avg10": 1.5, "avg60": 0.0, "avg300": 0.0, "total": 7 })
        );
        assert_eq!(pressure(""), None);
    }

    #[test]
    fn random_files_are_read_or_not() {
        crate::random::inputs("proc", |bytes| {
            let text = String::from_utf8_lossy(bytes);
            let _ = (table(&text), ranges(&text), pressure(&text));
        });
    }
}
