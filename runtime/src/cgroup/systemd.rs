//! The systemd driver: a container's cgroup is a transient scope, which systemd makes and removes.
//!
//! A scope is never empty when it is made. It begins with this process, which goes back as soon as the container's own
//! has been born in it.

mod property;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use super::dbus::{Body, Connection, Variant};
use super::{Cgroup, Limits, root};
use crate::plan::FieldError;

/// Where scopes go unless the container says otherwise.
const SLICE: &str = "system.slice";

/// How long systemd may take to make a scope.
const JOB_LIMIT: Duration = Duration::from_secs(30);

/// Why systemd did not do it.
#[derive(Debug, thiserror::Error)]
#[error("{action} {unit} by systemd")]
pub struct SystemdError {
    action: &'static str,
    unit: String,
    #[source]
    source: io::Error,
}

/// A scope by its name, and its slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    slice: String,
    name: String,
    /// What annotations ask of it.
    asked: Vec<property::Property>,
}

impl Scope {
    /// Reads `linux.cgroupsPath` in the form `slice:prefix:name`; without one a name of our own. Annotations may ask for
    /// more properties.
    pub fn of(
        asked: Option<&Path>,
        id: &str,
        annotations: Option<&HashMap<String, String>>,
    ) -> Result<Self, FieldError> {
        let asked = asked.and_then(Path::to_str).filter(|path| !path.is_empty());
        let own = format!(":orlop-oci:{id}");
        let refuse = |reason| FieldError::new("linux.cgroupsPath", reason);
        let parts: Vec<_> = asked.unwrap_or(&own).split(':').collect();
        let [slice, prefix, name] = parts.as_slice() else {
            return Err(refuse(
                "is not of the form slice:prefix:name, which the systemd driver takes",
            ));
        };
        let slice = if slice.is_empty() { SLICE } else { slice };
        let scope = Self {
            slice: slice.into(),
            name: if prefix.is_empty() {
                format!("{name}.scope")
            } else {
                format!("{prefix}-{name}.scope")
            },
            asked: property::of(annotations)?,
        };
        let is_plain = |text: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:@\\".contains(c);
            !text.starts_with('.') && text.chars().all(allowed) && text.len() < 256
        };
        if name.is_empty() || !is_plain(&scope.name) || !is_plain(slice) {
            return Err(refuse("has a part that is no unit's name"));
        }
        if slice == "-.slice" || expand(slice).is_some() {
            Ok(scope)
        } else {
            Err(refuse("has a first part that is no slice"))
        }
    }

    /// Its directory below the root of the tree, as systemd places it.
    pub fn path(&self) -> PathBuf {
        expand(&self.slice).unwrap_or_default().join(&self.name)
    }

    /// The unit's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes the scope with this process in it.
    pub fn enter(&self, limits: &Limits) -> Result<Entered, SystemdError> {
        let failed = |source| self.failed("make", source);
        let before = own().map_err(failed)?;
        let mut connection = connect().map_err(failed)?;
        let job = connection
            .call("StartTransientUnit", "ssa(sv)a(sa(sv))", &self.start(limits))
            .map_err(failed)?;
        let job = job.texts("o").unwrap_or_default().concat();
        let deadline = Instant::now() + JOB_LIMIT;
        let entered = |cgroup| Entered { before, cgroup };
        while Instant::now() < deadline {
            let removed = connection
                .signal("JobRemoved")
                .map_err(failed)?
                .texts("uoss")
                .unwrap_or_default();
            match removed.as_slice() {
                [_, path, _, result] if *path == job && result == "done" => return own().map(entered).map_err(failed),
                [_, path, _, result] if *path == job => {
                    return Err(failed(io::Error::other(format!("the job is {result}"))));
                }
                _ => {}
            }
        }
        Err(failed(io::ErrorKind::TimedOut.into()))
    }

    fn start(&self, limits: &Limits) -> Body {
        let text = |text: &str| Variant::Text(text.into());
        let mut properties = vec![
            ("Description", text(&format!("container {}", self.name))),
            ("Slice", text(&self.slice)),
            ("Delegate", Variant::Flag(true)),
            ("DefaultDependencies", Variant::Flag(false)),
            // Nothing of a failed one is left either.
            ("CollectMode", text("inactive-or-failed")),
            ("PIDs", Variant::Numbers(vec![std::process::id()])),
        ];
        properties.extend(self::properties(limits));
        // The last word is theirs.
        properties.extend(self.asked.iter().map(|(name, value)| (name.as_str(), value.clone())));
        let mut body = Body::default();
        body.text(&self.name);
        body.text("replace");
        body.properties(&properties);
        body.nothing();
        body
    }

    fn failed(&self, action: &'static str, source: io::Error) -> SystemdError {
        failed(action, &self.name)(source)
    }
}

/// Tells systemd of new limits of a unit, so that it does not set the old ones again.
pub fn tell(unit: &str, limits: &Limits) -> Result<(), SystemdError> {
    let properties = properties(limits);
    if properties.is_empty() {
        return Ok(());
    }
    let mut body = Body::default();
    body.text(unit);
    body.flag(true);
    body.properties(&properties);
    let call = || connect()?.call("SetUnitProperties", "sba(sv)", &body);
    call().map(drop).map_err(failed("limit", unit))
}

/// Removes a unit. One that is not there any more, because its last process has ended, is as good.
pub fn stop(unit: &str) -> Result<(), SystemdError> {
    let mut body = Body::default();
    body.text(unit);
    body.text("replace");
    match connect().and_then(|mut connection| connection.call("StopUnit", "ss", &body)) {
        Err(error) if !error.to_string().contains("NoSuchUnit") => Err(failed("stop", unit)(error)),
        _ => Ok(()),
    }
}

/// A scope that this process is in for a moment.
#[derive(Debug)]
pub struct Entered {
    before: PathBuf,
    cgroup: PathBuf,
}

impl Entered {
    /// The scope's directory.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }
}

/// Back to where this process came from.
impl Drop for Entered {
    fn drop(&mut self) {
        // Where that is not allowed it stays, and ends soon.
        let _ = Cgroup::at(&self.before).add(std::process::id());
    }
}

/// The limits that systemd knows and would set again itself. The others are written to the files only, and stay.
fn properties(limits: &Limits) -> Vec<(&'static str, Variant)> {
    let mut properties = Vec::new();
    for setting in limits.settings() {
        let number = || match setting.value.as_str() {
            "max" => Some(u64::MAX),
            text => text.parse().ok(),
        };
        let name = match setting.file.as_str() {
            "memory.max" => "MemoryMax",
            "memory.low" => "MemoryLow",
            "memory.swap.max" => "MemorySwapMax",
            "pids.max" => "TasksMax",
            "cpu.weight" => "CPUWeight",
            "cpu.max" => {
                properties.extend(quota(&setting.value));
                continue;
            }
            _ => continue,
        };
        properties.extend(number().map(|number| (name, Variant::Number(number))));
    }
    properties
}

/// `cpu.max` in microseconds of each second, rounded up to the ten milliseconds that systemd counts in.
fn quota(value: &str) -> Vec<(&'static str, Variant)> {
    const SECOND: u64 = 1_000_000;
    const STEP: u64 = 10_000;
    let Some((quota, period)) = value.split_once(' ') else {
        return Vec::new();
    };
    let Ok(period) = period.parse::<u64>() else {
        return Vec::new();
    };
    let per_second = match quota.parse::<u64>() {
        Ok(quota) if period > 0 => quota.saturating_mul(SECOND).div_ceil(period).next_multiple_of(STEP),
        _ => u64::MAX,
    };
    vec![
        ("CPUQuotaPerSecUSec", Variant::Number(per_second)),
        ("CPUQuotaPeriodUSec", Variant::Number(period)),
    ]
}

/// `a-b.slice` lies in `a.slice`; `-.slice` is the root.
fn expand(slice: &str) -> Option<PathBuf> {
    let name = slice.strip_suffix(".slice")?;
    if name == "-" {
        return Some(PathBuf::new());
    }
    let parts: Vec<_> = name.split('-').collect();
    if parts.iter().any(|part| part.is_empty()) {
        return None;
    }
    Some(
        (1..=parts.len())
            .map(|length| format!("{}.slice", parts[..length].join("-")))
            .collect(),
    )
}

/// The manager of the machine. Managers of users are not asked: they can't give what is not root's.
fn connect() -> io::Result<Connection> {
    Connection::open(Path::new("/run/systemd/private"))
}

/// The cgroup of this process.
fn own() -> io::Result<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup")?;
    let line = text.lines().find_map(|line| line.strip_prefix("0::/"));
    let path = Path::new(line.ok_or_else(|| io::Error::other("this process is in no cgroup of version 2"))?);
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(io::Error::other(
            "this process's cgroup is outside of its cgroup namespace",
        ));
    }
    let root = root().map_err(|error| error.source)?;
    Ok(root.join(path))
}

fn failed(action: &'static str, unit: &str) -> impl FnOnce(io::Error) -> SystemdError {
    move |source| SystemdError {
        action,
        unit: unit.into(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_three_parts_names_a_scope() {
        for (asked, path) in [
            (Some("machine.slice:libpod:abc"), Some("machine.slice/libpod-abc.scope")),
            (
                Some("kubepods-burstable-pod1.slice:cri-containerd:abc"),
                Some("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-abc.scope"),
            ),
            (Some(":runc:abc"), Some("system.slice/runc-abc.scope")),
            (Some("-.slice::abc"), Some("abc.scope")),
            (None, Some("system.slice/orlop-oci-c.scope")),
            (Some(""), Some("system.slice/orlop-oci-c.scope")),
            (Some("/a/b"), None),
            (Some("a:b"), None),
            (Some("a:b:c"), None),
            (Some("a--b.slice:b:c"), None),
            (Some("a.slice:b:"), None),
            (Some("a.slice:b:../c"), None),
            (Some("a.slice:b:c d"), None),
        ] {
            let scope = Scope::of(asked.map(Path::new), "c", None);
            assert_eq!(
                scope.ok().map(|scope| scope.path()).as_deref(),
                path.map(Path::new),
                "{asked:?}"
            );
        }
    }

    #[test]
    fn limits_that_systemd_knows_are_told() {
        let json = r#"{"cpu":{"shares":1024,"quota":25000,"period":100000},"memory":{"limit":100},"pids":{"limit":-1},
            "hugepageLimits":[{"pageSize":"2MB","limit":0}]}"#;
        let limits = Limits::of(&serde_json::from_str(json).unwrap()).unwrap();
        let expected = [
            ("CPUWeight", Variant::Number(100)),
            ("CPUQuotaPerSecUSec", Variant::Number(250_000)),
            ("CPUQuotaPeriodUSec", Variant::Number(100_000)),
            ("MemoryMax", Variant::Number(100)),
            ("TasksMax", Variant::Number(u64::MAX)),
        ];
        assert_eq!(properties(&limits), expected);
        assert_eq!(quota("max 100000")[0].1, Variant::Number(u64::MAX));
    }
}
