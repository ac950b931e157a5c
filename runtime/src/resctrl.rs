//! The resctrl filesystem, where the kernel shares caches and the bandwidth of memory out among classes of processes:
//! a directory each
//! ([resctrl](https://docs.kernel.org/filesystems/resctrl.html)).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{FsType, statfs};

use crate::field::intel_rdt::{ResctrlStep, first_difference};
use crate::proc::mount_of;

/// Where it is mounted as a rule. The kernel makes the directory where processor and kernel know of such classes.
const USUAL: &str = "/sys/fs/resctrl";

/// `RDTGROUP_SUPER_MAGIC` of linux/magic.h.
const MAGIC: FsType = FsType(0x0765_5821);

/// What could not be done.
#[derive(Debug, thiserror::Error)]
pub enum ResctrlError {
    /// There is none.
    #[error("linux.intelRdt takes the resctrl filesystem, and {0}")]
    None(&'static str),
    /// A class that is there may use something else.
    #[error("linux.intelRdt: the class {} is there and does not have {asked:?}", class.display())]
    Differs {
        /// The class's directory.
        class: PathBuf,
        /// The line of its `schemata` that was asked for.
        asked: String,
    },
    /// The kernel refused something.
    #[error("{action} {}{told}", path.display())]
    Refused {
        /// What was tried.
        action: String,
        /// The file or directory.
        path: PathBuf,
        /// What the kernel has to say about it, in brackets.
        told: String,
        /// Its answer.
        source: io::Error,
    },
}

/// The filesystem, by its root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resctrl {
    root: PathBuf,
}

impl Resctrl {
    /// The one that is mounted on this host.
    pub(crate) fn find() -> Result<Self, ResctrlError> {
        let is_usual = statfs(USUAL).is_ok_and(|found| found.filesystem_type() == MAGIC);
        if is_usual {
            return Ok(Self::at(USUAL));
        }
        let mounts = fs::read("/proc/self/mountinfo").unwrap_or_default();
        let reason = if Path::new(USUAL).exists() {
            "it is not mounted: mount -t resctrl resctrl /sys/fs/resctrl"
        } else {
            "this host's kernel or processor has none"
        };
        mount_of(&mounts, "resctrl")
            .map(Self::at)
            .ok_or(ResctrlError::None(reason))
    }

    /// The one that has its root there.
    pub(crate) fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where a group is.
    pub(crate) fn directory(&self, group: &Path) -> PathBuf {
        self.root.join(group)
    }

    /// Whether a group is there.
    pub(crate) fn has(&self, group: &Path) -> bool {
        self.directory(group).is_dir()
    }

    /// Does one thing of a plan.
    pub(crate) fn perform(&self, step: &ResctrlStep) -> Result<(), ResctrlError> {
        match step {
            ResctrlStep::Make(group) => {
                let path = self.directory(group);
                match fs::create_dir(&path) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                        Err(self.refused("make the group", path, error))
                    }
                    _ => Ok(()),
                }
            }
            ResctrlStep::Write { class, schemata } => {
                let path = self.directory(class).join("schemata");
                let text: String = schemata.iter().flat_map(|line| [line, "\n"]).collect();
                fs::write(&path, &text).map_err(|error| self.refused(&format!("write {text:?} to"), path, error))
            }
            ResctrlStep::Compare { class, schemata } => {
                let path = self.directory(class).join("schemata");
                let present = fs::read_to_string(&path).map_err(|error| self.refused("read", path, error))?;
                match first_difference(schemata, &present, self.bandwidth_step()) {
                    None => Ok(()),
                    Some(asked) => Err(ResctrlError::Differs {
                        class: self.directory(class),
                        asked: asked.clone(),
                    }),
                }
            }
        }
    }

    /// What shares of bandwidth are multiples of.
    fn bandwidth_step(&self) -> u64 {
        let text = fs::read_to_string(self.root.join("info/MB/bandwidth_gran"));
        text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1)
    }

    /// With the reason that the kernel keeps for who has just been refused.
    fn refused(&self, action: &str, path: PathBuf, source: io::Error) -> ResctrlError {
        let status = fs::read_to_string(self.root.join("info/last_cmd_status")).unwrap_or_default();
        let told = match status.trim() {
            "" | "ok" => String::new(),
            status => format!(" ({status})"),
        };
        ResctrlError::Refused {
            action: action.into(),
            path,
            told,
            source,
        }
    }
}

/// Puts a process into the group with this directory; its children will be in it, too.
pub(crate) fn join(group: &Path, pid: u32) -> io::Result<()> {
    fs::write(group.join("tasks"), pid.to_string())
}

/// Removes the group with this directory, and what counts in it. Whoever is in it belongs to the default class then.
pub(crate) fn remove(group: &Path) -> Result<(), ResctrlError> {
    match fs::remove_dir(group) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(ResctrlError::Refused {
            action: "remove the group".into(),
            path: group.into(),
            told: String::new(),
            source,
        }),
        _ => Ok(()),
    }
}

/// A tree of files stands in for the kernel's: no machine of the tests has the real one.
#[cfg(test)]
mod tests {
    use super::*;

    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str) -> Self {
            let root = std::env::temp_dir().join(format!("resctrl-{}-{name}", std::process::id()));
            fs::create_dir_all(root.join("info/MB")).unwrap();
            fs::write(root.join("info/MB/bandwidth_gran"), "10\n").unwrap();
            fs::write(root.join("info/last_cmd_status"), "ok\n").unwrap();
            Self(root)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_class_is_made_described_joined_compared_and_removed() {
        let tree = Tree::new("whole");
        let resctrl = Resctrl::at(&tree.0);
        let (class, schemata) = (PathBuf::from("c1"), vec!["L3:0=f".to_owned(), "MB:0=25".to_owned()]);
        assert!(!resctrl.has(&class));
        for _ in 0..2 {
            resctrl.perform(&ResctrlStep::Make(class.clone())).unwrap();
        }
        assert!(resctrl.has(&class));
        let write = ResctrlStep::Write {
            class: class.clone(),
            schemata: schemata.clone(),
        };
        resctrl.perform(&write).unwrap();
        let file = tree.0.join("c1/schemata");
        assert_eq!(fs::read_to_string(&file).unwrap(), "L3:0=f\nMB:0=25\n");
        let change = ResctrlStep::Write {
            class: class.clone(),
            schemata: vec!["L3:0=3".to_owned()],
        };
        resctrl.perform(&change).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "L3:0=3\n");
        // As the kernel shows it.
        fs::write(&file, "    MB:0=  30\n    L3:0=00f\n").unwrap();
        let compare = |schemata| {
            resctrl.perform(&ResctrlStep::Compare {
                class: class.clone(),
                schemata,
            })
        };
        compare(schemata).unwrap();
        let error = compare(vec!["L3:0=ff".to_owned()]).unwrap_err().to_string();
        assert!(error.ends_with("c1 is there and does not have \"L3:0=ff\""), "{error}");
        let directory = resctrl.directory(&class);
        join(&directory, 42).unwrap();
        assert_eq!(fs::read_to_string(directory.join("tasks")).unwrap(), "42");
        // The kernel takes the files away with the directory.
        for name in ["tasks", "schemata"] {
            fs::remove_file(directory.join(name)).unwrap();
        }
        for _ in 0..2 {
            remove(&directory).unwrap();
        }
        assert!(!resctrl.has(&class));
    }

    #[test]
    fn what_the_kernel_says_about_a_refusal_is_told() {
        let tree = Tree::new("refusal");
        fs::write(tree.0.join("info/last_cmd_status"), "Unknown domain (7)\n").unwrap();
        let schemata = vec!["L3:7=f".to_owned()];
        let write = ResctrlStep::Write {
            class: "gone".into(),
            schemata,
        };
        let error = Resctrl::at(&tree.0).perform(&write).unwrap_err().to_string();
        assert!(error.starts_with("write \"L3:7=f\\n\" to "), "{error}");
        assert!(error.ends_with("gone/schemata (Unknown domain (7))"), "{error}");
    }
}
