//! `plan`: what creating, starting and deleting a container would do, step by step, and which field asks for it.

use std::fmt;
use std::path::Path;

use oci_spec::runtime::{Hook, LinuxNamespaceType};
use serde::Serialize;

use super::error::CreateError;
use super::hook::{self, Moment};
use super::{Manner, Rootfs};
use crate::cgroup::Limits;
use crate::field::intel_rdt::{self, ResctrlPlan, shown};
use crate::plan::{self, Facts, FieldError, InitPlan, ProcessFacts, Terminal};
use crate::privileges::Privileges;
use crate::security::SecurityModules;
use crate::spec::Spec;
use crate::step::{InitStep, Planned};

/// What a container is called that has no name yet.
const NAME: &str = "ID";
const CLASS: &str = "linux.intelRdt";

/// Who performs a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Doer {
    /// The runtime.
    Runtime,
    /// The container's process, before it executes the program.
    Container,
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// Who performs it.
    pub by: Doer,
    /// What is done.
    pub step: String,
    /// The field of the spec that asks for it.
    pub field: String,
}

/// A plan in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The steps in their order.
    pub steps: Vec<Explained>,
    /// What the spec asks for and this host can't give, as far as that is known before it is tried.
    pub unenforced: Vec<String>,
}

/// Explains the plan of a container on this host. Nothing is done.
pub fn explain(spec: &Spec, bundle: &Path, cgroup: Option<&Path>, manner: Manner) -> Result<Explanation, CreateError> {
    let has_user_namespace = plan::has_namespace(spec, LinuxNamespaceType::User);
    let available = Privileges::available(has_user_namespace);
    Ok(explain_for(
        spec,
        bundle,
        cgroup,
        manner,
        Privileges::look(),
        available,
    )?)
}

/// Explains the plan of a container for who has `privileges` and the capabilities `available`. Pure.
pub(crate) fn explain_for(
    spec: &Spec,
    bundle: &Path,
    cgroup: Option<&Path>,
    manner: Manner,
    privileges: Privileges,
    available: u64,
) -> Result<Explanation, FieldError> {
    let process = spec.process().as_ref();
    let is_terminal = process.and_then(|process| process.terminal()).unwrap_or(false);
    let root = spec.root().as_ref().map(|root| bundle.join(root.path()));
    let facts = Facts {
        bundle,
        rootfs: Rootfs::Directory(root.ok_or_else(|| FieldError::new("root", "is missing"))?),
        cgroup,
        process: ProcessFacts {
            terminal: if is_terminal {
                Terminal::New {
                    size: None,
                    plain_lines: true,
                }
            } else {
                Terminal::None
            },
            available,
            manner,
            privileges,
            // As on a host that has them: it is the plan that is asked, not the host.
            modules: SecurityModules {
                apparmor: true,
                selinux: true,
            },
            groups: plan::groups(true),
        },
    };
    let plan = plan::container(spec, facts)?;
    let mut list = List::default();
    list.confine(spec, cgroup)?;
    let classes = spec.linux().as_ref().map(intel_rdt::of).transpose()?.flatten();
    let classes = classes
        .map(|asked| asked.presumed(NAME))
        .transpose()?
        .unwrap_or_default();
    list.steps_of(&classes);
    list.make(&plan);
    list.join(&classes);
    for planned in &plan.steps {
        list.perform(spec, planned);
    }
    list.hooks(spec, Moment::Poststart);
    list.leave(&classes);
    list.hooks(spec, Moment::Poststop);
    Ok(Explanation {
        steps: list.steps,
        unenforced: plan.unenforced,
    })
}

/// One line a step: its number, who performs it, the field, and what is done.
impl fmt::Display for Explanation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.steps.iter().map(|step| step.field.len()).max().unwrap_or(0);
        for (index, Explained { by, step, field }) in self.steps.iter().enumerate() {
            let by = match by {
                Doer::Runtime => "runtime",
                Doer::Container => "container",
            };
            writeln!(formatter, "{:>3} {by:9} {field:width$} {step}", index + 1)?;
        }
        for sentence in &self.unenforced {
            writeln!(formatter, "not enforced: {sentence}")?;
        }
        Ok(())
    }
}

#[derive(Default)]
struct List {
    steps: Vec<Explained>,
}

impl List {
    fn push(&mut self, by: Doer, field: impl Into<String>, step: impl Into<String>) {
        self.steps.push(Explained {
            by,
            step: step.into(),
            field: field.into(),
        });
    }

    fn confine(&mut self, spec: &Spec, cgroup: Option<&Path>) -> Result<(), FieldError> {
        let Some(cgroup) = cgroup else { return Ok(()) };
        let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        let limits = resources.map(Limits::of).transpose()?.unwrap_or_default();
        self.push(
            Doer::Runtime,
            "linux.cgroupsPath",
            format!("make the cgroup {}", cgroup.display()),
        );
        self.push(
            Doer::Runtime,
            "linux.resources.devices",
            "let the cgroup use its devices only",
        );
        for limit in limits.settings() {
            let step = format!("write {:?} to {}", limit.value, limit.file);
            self.push(Doer::Runtime, limit.field.as_str(), step);
        }
        Ok(())
    }

    fn steps_of(&mut self, classes: &ResctrlPlan) {
        for step in &classes.steps {
            self.push(Doer::Runtime, CLASS, step.to_string());
        }
    }

    fn join(&mut self, classes: &ResctrlPlan) {
        for group in &classes.joined {
            let step = format!("put it into the resctrl group {}", shown(group));
            self.push(Doer::Runtime, CLASS, step);
        }
    }

    fn leave(&mut self, classes: &ResctrlPlan) {
        if let Some(group) = &classes.removed {
            let step = format!(
                "remove the resctrl group {} when the container is deleted",
                shown(group)
            );
            self.push(Doer::Runtime, CLASS, step);
        }
    }

    fn make(&mut self, plan: &InitPlan) {
        for namespace in &plan.door {
            let step = format!("have it made in the namespace {}", namespace.path.display());
            self.push(Doer::Runtime, "linux.namespaces", step);
        }
        if let Some(path) = &plan.pid_namespace {
            let step = format!("have it born in the pid namespace {}", path.display());
            self.push(Doer::Runtime, "linux.namespaces", step);
        }
        let kinds = NAMES.iter().filter(|(flag, _)| plan.namespaces & flag != 0);
        let names: Vec<_> = kinds.map(|(_, name)| *name).collect();
        let step = match names.as_slice() {
            [] => "clone a process".into(),
            names => format!("clone a process in new namespaces: {}", names.join(", ")),
        };
        self.push(Doer::Runtime, "linux.namespaces", step);
        if plan.mappings.is_some() {
            self.push(Doer::Runtime, "linux.uidMappings", "map the ids of its user namespace");
        }
        for device in &plan.net_devices {
            let step = format!("move the network device {} to it as {}", device.outside, device.inside);
            self.push(Doer::Runtime, "linux.netDevices", step);
        }
        if let Some(value) = plan.oom_score_adj {
            self.push(
                Doer::Runtime,
                "process.oomScoreAdj",
                format!("set its oom_score_adj to {value}"),
            );
        }
    }

    fn perform(&mut self, spec: &Spec, planned: &Planned) {
        self.push(Doer::Container, planned.field.as_str(), planned.step.describe());
        if matches!(planned.step, InitStep::WaitForHooks) {
            for moment in [Moment::Prestart, Moment::CreateRuntime, Moment::CreateContainer] {
                self.hooks(spec, moment);
            }
        } else if matches!(planned.step, InitStep::WaitForStart { .. }) {
            self.hooks(spec, Moment::StartContainer);
        }
    }

    fn hooks(&mut self, spec: &Spec, moment: Moment) {
        for (its, field, hook) in hook::fields(spec) {
            if its == moment {
                self.push(Doer::Runtime, field, run(moment, hook));
            }
        }
    }
}

fn run(moment: Moment, hook: &Hook) -> String {
    let place = match moment {
        Moment::Prestart | Moment::CreateRuntime | Moment::Poststart => "",
        Moment::CreateContainer => " in the container's namespaces",
        Moment::StartContainer => " in the container, confined as its program",
        Moment::Poststop => " when the container is deleted",
    };
    format!("run {}{place}", hook.path().display())
}

const NAMES: [(libc::c_int, &str); 8] = [
    (libc::CLONE_NEWUSER, "user"),
    (libc::CLONE_NEWNS, "mount"),
    (libc::CLONE_NEWPID, "pid"),
    (libc::CLONE_NEWNET, "network"),
    (libc::CLONE_NEWIPC, "ipc"),
    (libc::CLONE_NEWUTS, "uts"),
    (libc::CLONE_NEWCGROUP, "cgroup"),
    (libc::CLONE_NEWTIME, "time"),
];

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    /// Set to rewrite what the plans should be.
    const REWRITE: &str = "ORLOP_REWRITE_GOLDEN";

    fn text(config: &Path) -> String {
        let spec = serde_json::from_str(&fs::read_to_string(config).unwrap()).unwrap();
        let cgroup = Path::new("/sys/fs/cgroup/c1");
        let all = (1 << 41) - 1;
        let explained = explain_for(
            &spec,
            Path::new("/bundle"),
            Some(cgroup),
            Manner::default(),
            Privileges::all(),
            all,
        );
        explained.map_or_else(|error| format!("refused: {error}\n"), |explained| explained.to_string())
    }

    #[test]
    fn plans_are_what_they_were() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/plan/golden");
        let mut configs: Vec<PathBuf> = fs::read_dir(&directory)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        configs.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
        assert!(!configs.is_empty());
        for config in configs {
            let (golden, now) = (config.with_extension("txt"), text(&config));
            if std::env::var_os(REWRITE).is_some() {
                fs::write(&golden, &now).unwrap();
            }
            let before = fs::read_to_string(&golden).unwrap_or_default();
            assert_eq!(
                now,
                before,
                "{}: if the new plan is right, set {REWRITE}=1",
                config.display()
            );
        }
    }
}
