//! `linux.intelRdt`: the class of service that a container's processes belong to, which is a directory of the resctrl
//! filesystem, and what of the caches and of the memory's bandwidth that class may use.

use std::fmt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxIntelRdt};

use crate::plan::FieldError;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IntelRdt {
    class: Class,
    /// Lines of its `schemata` file, in the order in which they are written.
    schemata: Vec<String>,
    /// A group within the class that counts what this container uses.
    is_monitored: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Class {
    /// Its own, called as the container.
    Own,
    /// The one that whoever belongs to no other one belongs to.
    Default,
    /// One that several may share, and that stays.
    Named(String),
}

/// One thing to do before the container's process is there. Paths start from the root of the filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ResctrlStep {
    /// Make a group, unless it is there.
    Make(PathBuf),
    /// Say what a class may use.
    Write { class: PathBuf, schemata: Vec<String> },
    /// See that a class may use just that.
    Compare { class: PathBuf, schemata: Vec<String> },
}

/// What is to be done for one container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ResctrlPlan {
    pub(crate) steps: Vec<ResctrlStep>,
    /// The groups that each of its processes is put into, one after the other.
    pub(crate) joined: Vec<PathBuf>,
    /// The group that goes with the container.
    pub(crate) removed: Option<PathBuf>,
}

/// Directories of the filesystem that are no classes.
const RESERVED: [&str; 5] = [".", "..", "info", "mon_data", "mon_groups"];

/// Reads `linux.intelRdt`.
pub(crate) fn of(linux: &Linux) -> Result<Option<IntelRdt>, FieldError> {
    let Some(asked) = linux.intel_rdt() else {
        return Ok(None);
    };
    let class = match asked.clos_id().as_deref() {
        None | Some("") => Class::Own,
        Some("/") => Class::Default,
        Some(name) if RESERVED.contains(&name) || name.contains(['/', '\0', '\n']) => {
            let reason = format!("{name:?} is no name of a class");
            return Err(FieldError::new("linux.intelRdt.closID", reason));
        }
        Some(name) => Class::Named(name.into()),
    };
    Ok(Some(IntelRdt {
        class,
        schemata: lines(asked)?,
        is_monitored: asked.enable_monitoring().unwrap_or(false),
    }))
}

/// The lines of `schemata` that are asked for.
pub(crate) fn lines(asked: &LinuxIntelRdt) -> Result<Vec<String>, FieldError> {
    if let Some(schema) = asked.mem_bw_schema()
        && !schema.is_empty()
        && !schema.starts_with("MB:")
    {
        let reason = format!("{schema:?} does not begin with MB:");
        return Err(FieldError::new("linux.intelRdt.memBwSchema", reason));
    }
    let single = [
        ("l3CacheSchema", asked.l3_cache_schema()),
        ("memBwSchema", asked.mem_bw_schema()),
    ];
    let single = single
        .into_iter()
        .filter_map(|(name, line)| Some((name, line.as_ref()?)));
    let all = single.chain(asked.schemata().iter().flatten().map(|line| ("schemata", line)));
    let line = |(name, line): (&str, &String)| match line.contains('\n') {
        true => Err(FieldError::new(
            format!("linux.intelRdt.{name}"),
            "holds the end of a line",
        )),
        false => Ok(line.clone()),
    };
    let lines = all.filter(|(_, line)| !line.is_empty()).map(line);
    lines.collect()
}

impl IntelRdt {
    /// Plans the groups of the container `id`; `is_there` says whether a class is.
    pub(crate) fn plan(&self, id: &str, is_there: impl FnOnce(&Path) -> bool) -> Result<ResctrlPlan, FieldError> {
        let mut plan = ResctrlPlan::default();
        let class = self.class_of(id);
        let is_there = is_there(&class);
        if !is_there && matches!(self.class, Class::Named(_)) && self.schemata.is_empty() {
            let reason = format!("there is no class {class:?}, and nothing says what it may use");
            return Err(FieldError::new("linux.intelRdt.closID", reason));
        }
        if !is_there {
            plan.steps.push(ResctrlStep::Make(class.clone()));
        }
        if !self.schemata.is_empty() {
            let (class, schemata) = (class.clone(), self.schemata.clone());
            // One with a name may have others in it, who rely on what it may use.
            plan.steps.push(match self.class {
                Class::Default | Class::Named(_) if is_there => ResctrlStep::Compare { class, schemata },
                Class::Default | Class::Named(_) | Class::Own => ResctrlStep::Write { class, schemata },
            });
        }
        plan.joined.push(class.clone());
        if self.class == Class::Own && !is_there {
            plan.removed = Some(class.clone());
        }
        if self.is_monitored {
            let monitor = class.join("mon_groups").join(id);
            plan.steps.push(ResctrlStep::Make(monitor.clone()));
            plan.joined.push(monitor.clone());
            // Who removes a class removes what counts in it.
            plan.removed.get_or_insert(monitor);
        }
        Ok(plan)
    }

    /// Other lines for the class of the container `id`, which others may be in, too.
    pub(crate) fn change(&self, id: &str, schemata: Vec<String>) -> Result<ResctrlStep, FieldError> {
        let class = self.class_of(id);
        if self.class == Class::Default {
            let reason = "is the class of everybody, which is not this container's to change";
            return Err(FieldError::new("linux.intelRdt.closID", reason));
        }
        Ok(ResctrlStep::Write { class, schemata })
    }

    fn class_of(&self, id: &str) -> PathBuf {
        match &self.class {
            Class::Own => PathBuf::from(id),
            Class::Default => PathBuf::new(),
            Class::Named(name) => PathBuf::from(name),
        }
    }

    /// The plan where nobody can be asked which classes there are: those that are not described are.
    pub(crate) fn presumed(&self, id: &str) -> Result<ResctrlPlan, FieldError> {
        let is_there = self.class == Class::Default || self.schemata.is_empty() && self.class != Class::Own;
        self.plan(id, |_| is_there)
    }
}

impl fmt::Display for ResctrlStep {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Make(group) => write!(formatter, "make the resctrl group {}", shown(group)),
            Self::Write { class, schemata } => {
                write!(
                    formatter,
                    "write {schemata:?} to the schemata of the resctrl group {}",
                    shown(class)
                )
            }
            Self::Compare { class, schemata } => {
                write!(
                    formatter,
                    "find {schemata:?} in the schemata of the resctrl group {}",
                    shown(class)
                )
            }
        }
    }
}

/// A group as seen from the root of its filesystem.
pub(crate) fn shown(group: &Path) -> String {
    format!("/{}", group.display())
}

/// The first line of `asked` that the text of a `schemata` file does not say. The kernel writes masks with zeros in front,
/// puts ids in order and adds those that nobody has named; it rounds a share of bandwidth up to a multiple of `step`.
pub(crate) fn first_difference<'a>(asked: &'a [String], present: &str, step: u64) -> Option<&'a String> {
    let says = |asked: &String| {
        let Some((resource, shares)) = line(asked) else {
            return false;
        };
        let Some((_, present)) = present.lines().filter_map(line).find(|(name, _)| *name == resource) else {
            return false;
        };
        let value = |text: &str| match resource {
            "MB" | "SMBA" => text
                .parse::<u64>()
                .ok()
                .map(|share| share.next_multiple_of(step.max(1))),
            _ => u64::from_str_radix(text, 16).ok(),
        };
        shares.split(';').all(|share| {
            let Some((id, asked)) = pair(share) else { return false };
            let there = present.split(';').filter_map(pair).find(|(there, _)| *there == id);
            there.is_some_and(|(_, there)| there == asked || value(asked).is_some() && value(there) == value(asked))
        })
    };
    asked.iter().find(|asked| !says(asked))
}

/// `NAME:ID=VALUE;…` as its name and the rest.
fn line(text: &str) -> Option<(&str, &str)> {
    let (name, shares) = text.trim().split_once(':')?;
    Some((name, shares))
}

fn pair(share: &str) -> Option<(&str, &str)> {
    let (id, value) = share.split_once('=')?;
    Some((id.trim(), value.trim()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(json: &Value) -> Result<Option<IntelRdt>, FieldError> {
        of(&serde_json::from_value(json!({ "intelRdt": json })).unwrap())
    }

    fn plan(json: &Value, there: &[&str]) -> Result<ResctrlPlan, FieldError> {
        let asked = read(json)?.unwrap();
        asked.plan("c1", |class| {
            class == Path::new("") || there.iter().any(|there| class == Path::new(there))
        })
    }

    fn make(path: &str) -> ResctrlStep {
        ResctrlStep::Make(path.into())
    }

    #[test]
    fn nothing_is_asked_for_by_who_says_nothing() {
        assert_eq!(of(&Linux::default()).unwrap(), None);
    }

    #[test]
    fn each_rule_of_the_specification_is_a_plan() {
        let line = || vec!["L3:0=f".to_owned()];
        let write = |class: &str| ResctrlStep::Write {
            class: class.into(),
            schemata: line(),
        };
        let compare = |class: &str| ResctrlStep::Compare {
            class: class.into(),
            schemata: line(),
        };
        for (json, there, steps, joined, removed) in [
            (
                json!({}),
                &[] as &[&str],
                vec![make("c1")],
                &["c1"] as &[&str],
                Some("c1"),
            ),
            (json!({}), &["c1"], vec![], &["c1"], None),
            (
                json!({ "l3CacheSchema": "L3:0=f" }),
                &[],
                vec![make("c1"), write("c1")],
                &["c1"],
                Some("c1"),
            ),
            (
                json!({ "schemata": ["L3:0=f"] }),
                &["c1"],
                vec![write("c1")],
                &["c1"],
                None,
            ),
            (json!({ "closID": "g" }), &["g"], vec![], &["g"], None),
            (
                json!({ "closID": "g", "schemata": ["L3:0=f"] }),
                &[],
                vec![make("g"), write("g")],
                &["g"],
                None,
            ),
            (
                json!({ "closID": "g", "schemata": ["L3:0=f"] }),
                &["g"],
                vec![compare("g")],
                &["g"],
                None,
            ),
            (json!({ "closID": "/" }), &[], vec![], &[""], None),
            (
                json!({ "closID": "/", "schemata": ["L3:0=f"] }),
                &[],
                vec![compare("")],
                &[""],
                None,
            ),
            (
                json!({ "closID": "g", "enableMonitoring": true }),
                &["g"],
                vec![make("g/mon_groups/c1")],
                &["g", "g/mon_groups/c1"],
                Some("g/mon_groups/c1"),
            ),
            (
                json!({ "enableMonitoring": true }),
                &[],
                vec![make("c1"), make("c1/mon_groups/c1")],
                &["c1", "c1/mon_groups/c1"],
                Some("c1"),
            ),
        ] {
            let expected = ResctrlPlan {
                steps,
                joined: joined.iter().map(PathBuf::from).collect(),
                removed: removed.map(PathBuf::from),
            };
            assert_eq!(plan(&json, there).unwrap(), expected, "{json} {there:?}");
        }
        assert_eq!(
            plan(&json!({ "closID": "g" }), &[]).unwrap_err().field,
            "linux.intelRdt.closID"
        );
    }

    #[test]
    fn the_cache_comes_before_the_bandwidth_and_whole_schemata_last() {
        let json = json!({ "schemata": ["L2:0=1"], "memBwSchema": "MB:0=20", "l3CacheSchema": "L3:0=f" });
        assert_eq!(read(&json).unwrap().unwrap().schemata, ["L3:0=f", "MB:0=20", "L2:0=1"]);
    }

    #[test]
    fn other_lines_are_for_a_class_of_few() {
        let lines = || vec!["L3:0=3".to_owned()];
        for (json, class) in [
            (json!({}), Some("c1")),
            (json!({ "closID": "g" }), Some("g")),
            (json!({ "closID": "/" }), None),
        ] {
            let changed = read(&json).unwrap().unwrap().change("c1", lines());
            let expected = class.map(|class| ResctrlStep::Write {
                class: class.into(),
                schemata: lines(),
            });
            assert_eq!(changed.ok(), expected, "{json}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (json, name) in [
            (json!({ "closID": ".." }), "closID"),
            (json!({ "closID": "a/b" }), "closID"),
            (json!({ "closID": "info" }), "closID"),
            (json!({ "memBwSchema": "L3:0=f" }), "memBwSchema"),
            (json!({ "schemata": ["L3:0=f\nMB:0=1"] }), "schemata"),
        ] {
            assert_eq!(
                read(&json).unwrap_err().field,
                format!("linux.intelRdt.{name}"),
                "{json}"
            );
        }
    }

    #[test]
    fn schemata_are_compared_by_what_they_mean() {
        let present = "    MB:0=  30;1= 100\n    L3:0=00f;1=fff\n";
        for (asked, is_same) in [
            ("L3:0=f", true),
            ("L3:1=FFF;0=0f", true),
            ("L3:0=ff", false),
            ("L3:2=f", false),
            ("L2:0=f", false),
            ("MB:0=30", true),
            ("MB:0=25", true),
            ("MB:1=90", false),
            ("nonsense", false),
        ] {
            let asked = [asked.to_owned()];
            assert_eq!(first_difference(&asked, present, 10).is_none(), is_same, "{asked:?}");
        }
    }
}
