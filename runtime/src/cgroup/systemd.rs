//! The systemd driver: a container's cgroup is a transient scope, which systemd makes and removes.

mod manager;
mod placeholder;
mod property;
mod unit;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use manager::Manager;
use placeholder::Placeholder;
pub(crate) use property::PREFIX as PROPERTY_ANNOTATIONS;
pub use unit::Unit;

use super::Limits;
use super::dbus::{Body, Connection, Variant};
use crate::plan::FieldError;
use crate::sys::thread::SingleThreaded;

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

/// A scope to be made, by its name and its slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    manager: Manager,
    slice: String,
    name: String,
    /// What annotations ask of it.
    asked: Vec<property::Property>,
}

impl Scope {
    /// Reads `linux.cgroupsPath` in the form `slice:prefix:name`; without one a name of our own. Annotations may ask for
    /// more properties.
    pub fn of(
        manager: Manager,
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
        let slice = if slice.is_empty() { manager.slice() } else { slice };
        let scope = Self {
            manager,
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

    /// Its directory below the root of the tree, as its manager will place it.
    pub fn path(&self) -> Result<PathBuf, SystemdError> {
        let managers = self.manager.cgroup().map_err(failed("place", &self.name))?;
        Ok(managers.join(self.below_manager()))
    }

    fn below_manager(&self) -> PathBuf {
        expand(&self.slice).unwrap_or_default().join(&self.name)
    }

    /// The unit's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whose it is to be.
    pub fn manager(&self) -> Manager {
        self.manager
    }

    /// Makes the scope. It lasts as long as a process is in it.
    pub fn make(&self, token: &SingleThreaded, limits: &Limits) -> Result<Held, SystemdError> {
        let placeholder = Placeholder::new(token).map_err(failed("hold", &self.name))?;
        self.start(limits, placeholder.pid())
            .map_err(failed("make", &self.name))?;
        let cgroup = placeholder.cgroup().map_err(failed("find", &self.name))?;
        Ok(Held {
            cgroup,
            placeholder,
            tight: is_tight(limits).then(|| limits.clone()),
        })
    }

    /// Starts the unit and waits until that is done.
    fn start(&self, limits: &Limits, pid: u32) -> io::Result<()> {
        let mut connection = self.manager.connect()?;
        let job = connection.call("StartTransientUnit", "ssa(sv)a(sa(sv))", &self.order(limits, pid))?;
        let job = job.texts("o").unwrap_or_default().concat();
        let deadline = Instant::now() + JOB_LIMIT;
        while Instant::now() < deadline {
            let removed = connection.signal("JobRemoved", deadline)?;
            let removed = removed.texts("uoss").unwrap_or_default();
            match removed.as_slice() {
                [_, path, _, result] if *path == job && result == "done" => return Ok(()),
                [_, path, _, result] if *path == job => return Err(io::Error::other(format!("the job is {result}"))),
                _ => {}
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    fn order(&self, limits: &Limits, pid: u32) -> Body {
        let text = |text: &str| Variant::Text(text.into());
        let mut properties = vec![
            ("Description", text(&format!("container {}", self.name))),
            ("Slice", text(&self.slice)),
            ("Delegate", Variant::Flag(true)),
            ("DefaultDependencies", Variant::Flag(false)),
            // Nothing of a failed one is left either.
            ("CollectMode", text("inactive-or-failed")),
            ("PIDs", Variant::Numbers(vec![pid])),
        ];
        let leaves_out = |(name, _): &(&str, Variant)| *name == TASKS && is_tight(limits);
        properties.extend(
            self::properties(limits)
                .into_iter()
                .filter(|property| !leaves_out(property)),
        );
        // The last word is theirs.
        properties.extend(self.asked.iter().map(|(name, value)| (name.as_str(), value.clone())));
        let mut body = Body::default();
        body.text(&self.name);
        body.text("replace");
        body.properties(&properties);
        body.nothing();
        body
    }
}

/// A scope that is there for as long as this is, and then as long as another process is in it.
#[derive(Debug)]
pub struct Held {
    cgroup: PathBuf,
    placeholder: Placeholder,
    /// Limits that have no room for who holds it.
    tight: Option<Limits>,
}

impl Held {
    /// Its directory.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Leaves the scope, which is `unit`, to the container's process, and tells systemd of what was too tight before.
    pub fn let_go(self, unit: Option<Unit<'_>>) -> Result<(), SystemdError> {
        drop(self.placeholder);
        match (unit, self.tight) {
            (Some(unit), Some(limits)) => unit.tell(&limits),
            _ => Ok(()),
        }
    }
}

/// systemd's name of a limit of processes.
const TASKS: &str = "TasksMax";
/// Who holds a scope counts in it, and who is brought there to make the container's process.
const HOLDERS: u64 = 2;

/// Whether the container's first process would find no room beside those that make it.
fn is_tight(limits: &Limits) -> bool {
    let properties = properties(limits);
    properties
        .iter()
        .any(|(name, value)| *name == TASKS && matches!(value, Variant::Number(most) if *most <= HOLDERS))
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
            "pids.max" => TASKS,
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
            let scope = Scope::of(Manager::Machine, asked.map(Path::new), "c", None);
            let found = scope.ok().map(|scope| scope.below_manager());
            assert_eq!(found.as_deref(), path.map(Path::new), "{asked:?}");
        }
    }

    #[test]
    fn a_limit_without_room_for_who_holds_the_scope_is_told_later() {
        for (limit, is_tight) in [(0, true), (1, true), (2, true), (3, false), (-1, false)] {
            let resources = serde_json::from_value(serde_json::json!({ "pids": { "limit": limit } })).unwrap();
            let limits = Limits::of(&resources).unwrap();
            assert_eq!(super::is_tight(&limits), is_tight, "{limit}");
        }
    }

    #[test]
    fn a_users_scope_is_in_the_users_slice_unless_told() {
        for (asked, path) in [
            (None, "user.slice/orlop-oci-c.scope"),
            (Some(":libpod:abc"), "user.slice/libpod-abc.scope"),
            (Some("app-a.slice:libpod:abc"), "app.slice/app-a.slice/libpod-abc.scope"),
        ] {
            let scope = Scope::of(Manager::User, asked.map(Path::new), "c", None).unwrap();
            assert_eq!(scope.below_manager(), Path::new(path), "{asked:?}");
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
