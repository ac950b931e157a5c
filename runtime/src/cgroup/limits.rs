//! `linux.resources` as values of cgroup v2 files. Pure.
//!
//! The specification's numbers are those of cgroup v1; they are converted as runc 1.3 and crun 1.23 do it.

use std::collections::{BTreeSet, HashMap};

use oci_spec::runtime::{LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxNetwork, LinuxResources};

use crate::plan::FieldError;

/// One file to write, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The controller that has the file; none for `cgroup.*` files, which are always there.
    pub controller: Option<String>,
    /// Name of the file.
    pub file: String,
    /// What is written.
    pub value: String,
    /// The field of the spec that asks for it.
    pub field: String,
    /// The file and the value that say the same where the first file is not there.
    pub otherwise: Option<(String, String)>,
}

/// Limits of one cgroup, in the order in which they are written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    settings: Vec<Setting>,
}

impl Limits {
    /// Converts `linux.resources`. `devices` is not a limit in this sense and not looked at.
    pub fn of(resources: &LinuxResources) -> Result<Self, FieldError> {
        let mut limits = Self::default();
        refuse_unknown(resources)?;
        resources.cpu().as_ref().map_or(Ok(()), |cpu| limits.cpu(cpu))?;
        resources
            .memory()
            .as_ref()
            .map_or(Ok(()), |memory| limits.memory(memory))?;
        if let Some(pids) = resources.pids() {
            limits.set("pids.max", processes(pids.limit()), "pids.limit");
        }
        limits.huge_pages(resources.hugepage_limits().as_deref().unwrap_or_default())?;
        resources
            .block_io()
            .as_ref()
            .map_or(Ok(()), |block_io| limits.block_io(block_io))?;
        limits.rdma(resources.rdma().iter().flatten())?;
        resources
            .unified()
            .as_ref()
            .map_or(Ok(()), |unified| limits.unified(unified))?;
        Ok(limits)
    }

    /// The files to write.
    pub fn settings(&self) -> &[Setting] {
        &self.settings
    }

    /// The controllers that these limits need, to be turned on by [`super::Cgroup::create`].
    pub fn controllers(&self) -> BTreeSet<&str> {
        self.settings
            .iter()
            .filter_map(|setting| setting.controller.as_deref())
            .collect()
    }

    pub(super) fn set(&mut self, file: &str, value: impl Into<String>, field: &str) {
        self.set_or(file, value, None, field);
    }

    pub(super) fn set_or(
        &mut self,
        file: &str,
        value: impl Into<String>,
        otherwise: Option<(String, String)>,
        field: &str,
    ) {
        let controller = file
            .split('.')
            .next()
            .filter(|name| *name != "cgroup")
            .map(str::to_owned);
        let field = format!("linux.resources.{field}");
        self.settings.push(Setting {
            controller,
            file: file.into(),
            value: value.into(),
            field,
            otherwise,
        });
    }

    fn cpu(&mut self, cpu: &LinuxCpu) -> Result<(), FieldError> {
        refuse(&[
            (
                "cpu.realtimeRuntime",
                cpu.realtime_runtime().is_some_and(|runtime| runtime != 0),
            ),
            (
                "cpu.realtimePeriod",
                cpu.realtime_period().is_some_and(|period| period != 0),
            ),
        ])?;
        // First: a group that is idle takes no weight, and one that stops being idle gets its weight afterwards.
        if let Some(idle) = cpu.idle() {
            self.set("cpu.idle", idle.to_string(), "cpu.idle");
        }
        if let Some(shares) = cpu.shares().filter(|shares| *shares != 0 && cpu.idle() != Some(1)) {
            self.set("cpu.weight", cpu_weight(shares).to_string(), "cpu.shares");
        }
        // Docker sends zeros for what it leaves as it is.
        match (
            cpu.quota().filter(|quota| *quota != 0),
            cpu.period().filter(|period| *period != 0),
        ) {
            (None, None) => {}
            (quota, period) => {
                check_bandwidth(quota, period)?;
                let quota = quota
                    .filter(|quota| *quota > 0)
                    .map_or("max".into(), |quota| quota.to_string());
                self.set("cpu.max", format!("{quota} {}", period.unwrap_or(100_000)), "cpu.quota");
            }
        }
        if let Some(burst) = cpu.burst() {
            self.set("cpu.max.burst", burst.to_string(), "cpu.burst");
        }
        for (file, value, field) in [
            ("cpuset.cpus", cpu.cpus(), "cpu.cpus"),
            ("cpuset.mems", cpu.mems(), "cpu.mems"),
        ] {
            if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
                self.set(file, value.as_str(), field);
            }
        }
        Ok(())
    }

    fn memory(&mut self, memory: &LinuxMemory) -> Result<(), FieldError> {
        refuse(&[
            ("memory.kernel", memory.kernel().is_some_and(|limit| limit > 0)),
            ("memory.kernelTCP", memory.kernel_tcp().is_some_and(|limit| limit > 0)),
            ("memory.swappiness", memory.swappiness().is_some()),
            ("memory.disableOOMKiller", memory.disable_oom_killer().unwrap_or(false)),
        ])?;
        // Without a limit of memory there is none of swap either, unless one is given (opencontainers/cgroups).
        let unlimited = memory.limit().filter(|limit| *limit < 0);
        if let Some(swap) = memory.swap().filter(|swap| *swap != 0).or(unlimited) {
            self.set("memory.swap.max", swap_max(swap, memory.limit())?, "memory.swap");
        }
        if let Some(limit) = memory.limit().filter(|limit| *limit != 0) {
            self.set("memory.max", or_max(limit), "memory.limit");
        }
        if let Some(reservation) = memory.reservation().filter(|reservation| *reservation != 0) {
            self.set("memory.low", or_max(reservation), "memory.reservation");
        }
        Ok(())
    }

    fn huge_pages(&mut self, limits: &[LinuxHugepageLimit]) -> Result<(), FieldError> {
        for (index, limit) in limits.iter().enumerate() {
            let field = format!("hugepageLimits[{index}]");
            let size = limit.page_size();
            if size.is_empty() || !size.chars().all(|c| c.is_ascii_alphanumeric()) {
                return Err(FieldError::new(
                    format!("linux.resources.{field}.pageSize"),
                    "is not a page size",
                ));
            }
            self.set(&format!("hugetlb.{size}.max"), or_max(limit.limit()), &field);
        }
        Ok(())
    }

    /// Files named by the spec itself, written last so that they win.
    fn unified(&mut self, files: &HashMap<String, String>) -> Result<(), FieldError> {
        let mut sorted: Vec<_> = files.iter().collect();
        sorted.sort();
        for (file, value) in sorted {
            let field = format!("unified.{file}");
            if file.contains('/') || !file.contains('.') || file.starts_with('.') {
                let reason = "is not the name of a cgroup file";
                return Err(FieldError::new(format!("linux.resources.{field}"), reason));
            }
            self.set(file, value.as_str(), &field);
        }
        Ok(())
    }
}

/// What a power may be beyond the number that it should be: 1024 shares are a weight of 100, not of 101.
const ROUNDING: f64 = 1e-9;

/// `cpu.weight` for `cpu.shares`: 2, 1024 and 262144 shares become 1, 100 and 10000, on a quadratic curve between
/// (opencontainers/cgroups, ConvertCPUSharesToCgroupV2Value).
pub fn cpu_weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            #[expect(clippy::cast_precision_loss, reason = "below 262144")]
            let logarithm = (shares as f64).log2();
            let exponent = (logarithm * logarithm + 125.0 * logarithm) / 612.0 - 7.0 / 34.0;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "between 1 and 10000"
            )]
            let weight = (10_f64.powf(exponent) - ROUNDING).ceil() as u64;
            weight
        }
    }
}

/// What the kernel takes, also said where nothing enforces it: a second at most, and nothing below a millisecond.
fn check_bandwidth(quota: Option<i64>, period: Option<u64>) -> Result<(), FieldError> {
    let refuse = |name, reason| Err(FieldError::new(format!("linux.resources.cpu.{name}"), reason));
    if period.is_some_and(|period| !(1_000..=1_000_000).contains(&period)) {
        return refuse("period", "is not between 1000 and 1000000 microseconds");
    }
    if quota.is_some_and(|quota| (1..1_000).contains(&quota)) {
        return refuse("quota", "is below 1000 microseconds");
    }
    Ok(())
}

/// v1 counts memory and swap together, v2 swap alone.
fn swap_max(swap: i64, limit: Option<i64>) -> Result<String, FieldError> {
    let refuse = |reason| Err(FieldError::new("linux.resources.memory.swap", reason));
    match (swap, limit) {
        (..0, _) => Ok("max".into()),
        (_, None | Some(..=0)) => refuse("needs a memory limit, which it includes"),
        (swap, Some(limit)) if swap < limit => refuse("is below the memory limit, which it includes"),
        (swap, Some(limit)) => Ok((swap - limit).to_string()),
    }
}

pub(super) fn or_max(limit: i64) -> String {
    if limit < 0 { "max".into() } else { limit.to_string() }
}

/// A limit of 0 is one (config-linux.md), and no other than 1, since a container has its first process. runc writes 1, too:
/// systemd takes no 0.
fn processes(limit: i64) -> String {
    or_max(if limit == 0 { 1 } else { limit })
}

fn refuse_unknown(resources: &LinuxResources) -> Result<(), FieldError> {
    refuse(&[(
        "network",
        resources
            .network()
            .as_ref()
            .is_some_and(|network| *network != LinuxNetwork::default()),
    )])
}

pub(super) fn refuse(fields: &[(&str, bool)]) -> Result<(), FieldError> {
    match fields.iter().find(|(_, is_set)| *is_set) {
        Some((field, _)) => Err(FieldError::new(format!("linux.resources.{field}"), "is not supported")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(json: &str) -> Result<Limits, FieldError> {
        Limits::of(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn shares_become_weights_on_the_quadratic_curve() {
        for (shares, weight) in [
            (0, 1),
            (2, 1),
            (3, 2),
            (102, 17),
            (512, 59),
            (1024, 100),
            (2048, 174),
            (262_144, 10_000),
            (u64::MAX, 10_000),
        ] {
            assert_eq!(cpu_weight(shares), weight, "{shares} shares");
        }
    }

    #[test]
    fn resources_become_files() {
        for (json, expected) in [
            (r#"{"cpu":{"shares":1024}}"#, vec![("cpu.weight", "100")]),
            (r#"{"cpu":{"quota":50000}}"#, vec![("cpu.max", "50000 100000")]),
            (r#"{"cpu":{"quota":0,"period":0}}"#, vec![]),
            (r#"{"cpu":{"quota":-1,"period":50000}}"#, vec![("cpu.max", "max 50000")]),
            (r#"{"cpu":{"cpus":"0-1","mems":""}}"#, vec![("cpuset.cpus", "0-1")]),
            (
                r#"{"memory":{"limit":1000,"swap":1500}}"#,
                vec![("memory.swap.max", "500"), ("memory.max", "1000")],
            ),
            (
                r#"{"memory":{"limit":1000,"swap":1000}}"#,
                vec![("memory.swap.max", "0"), ("memory.max", "1000")],
            ),
            (
                r#"{"memory":{"limit":-1,"swap":-1}}"#,
                vec![("memory.swap.max", "max"), ("memory.max", "max")],
            ),
            (
                r#"{"memory":{"limit":-1}}"#,
                vec![("memory.swap.max", "max"), ("memory.max", "max")],
            ),
            (r#"{"cpu":{"idle":1,"shares":1024}}"#, vec![("cpu.idle", "1")]),
            (
                r#"{"cpu":{"idle":0,"shares":1024}}"#,
                vec![("cpu.idle", "0"), ("cpu.weight", "100")],
            ),
            (
                r#"{"cpu":{"quota":20000,"period":50000,"burst":10000}}"#,
                vec![("cpu.max", "20000 50000"), ("cpu.max.burst", "10000")],
            ),
            (r#"{"memory":{"reservation":10}}"#, vec![("memory.low", "10")]),
            (r#"{"pids":{"limit":5}}"#, vec![("pids.max", "5")]),
            (r#"{"pids":{"limit":-1}}"#, vec![("pids.max", "max")]),
            (r#"{"pids":{"limit":0}}"#, vec![("pids.max", "1")]),
            (
                r#"{"hugepageLimits":[{"pageSize":"2MB","limit":0}]}"#,
                vec![("hugetlb.2MB.max", "0")],
            ),
            (
                r#"{"pids":{"limit":5},"unified":{"memory.oom.group":"1","cgroup.freeze":"0"}}"#,
                vec![("pids.max", "5"), ("cgroup.freeze", "0"), ("memory.oom.group", "1")],
            ),
        ] {
            let limits = limits(json).unwrap();
            let written: Vec<_> = limits
                .settings()
                .iter()
                .map(|s| (s.file.as_str(), s.value.as_str()))
                .collect();
            assert_eq!(written, expected, "{json}");
        }
    }

    #[test]
    fn what_has_no_meaning_or_no_place_in_v2_is_refused_by_name() {
        for (json, field) in [
            (r#"{"cpu":{"realtimeRuntime":1}}"#, "cpu.realtimeRuntime"),
            (r#"{"cpu":{"period":100}}"#, "cpu.period"),
            (r#"{"cpu":{"quota":5000,"period":1000001}}"#, "cpu.period"),
            (r#"{"cpu":{"quota":999}}"#, "cpu.quota"),
            (r#"{"memory":{"kernel":1}}"#, "memory.kernel"),
            (r#"{"memory":{"swappiness":1}}"#, "memory.swappiness"),
            (r#"{"memory":{"disableOOMKiller":true}}"#, "memory.disableOOMKiller"),
            (r#"{"memory":{"swap":5}}"#, "memory.swap"),
            (r#"{"memory":{"limit":10,"swap":5}}"#, "memory.swap"),
            (r#"{"blockIO":{"leafWeight":10}}"#, "blockIO.leafWeight"),
            (r#"{"network":{"classID":1}}"#, "network"),
            (r#"{"unified":{"../memory.max":"1"}}"#, "unified.../memory.max"),
            (
                r#"{"hugepageLimits":[{"pageSize":"../x","limit":0}]}"#,
                "hugepageLimits[0].pageSize",
            ),
        ] {
            assert_eq!(
                limits(json).unwrap_err().field,
                format!("linux.resources.{field}"),
                "{json}"
            );
        }
    }

    #[test]
    fn the_controllers_needed_are_those_of_the_files() {
        let limits = limits(r#"{"cpu":{"shares":2},"pids":{"limit":5},"unified":{"cgroup.freeze":"0"}}"#).unwrap();
        assert_eq!(limits.controllers().into_iter().collect::<Vec<_>>(), ["cpu", "pids"]);
    }
}
