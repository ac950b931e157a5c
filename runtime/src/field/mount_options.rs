//! `mounts[].options`: the words of mount(8) and of other runtimes, sorted by who acts on them.

use std::ffi::CString;

use crate::plan::FieldError;
use crate::sys::mount::Attributes;
use crate::tree::Flags;

/// What a mount has or has not, each for itself.
const SWITCHES: u64 = libc::MOUNT_ATTR_RDONLY
    | libc::MOUNT_ATTR_NOSUID
    | libc::MOUNT_ATTR_NODEV
    | libc::MOUNT_ATTR_NOEXEC
    | libc::MOUNT_ATTR_NOSYMFOLLOW;

/// When a mount notes accesses: for the kernel one thing.
const ATIME: u64 = libc::MOUNT_ATTR__ATIME | libc::MOUNT_ATTR_NODIRATIME;

/// Words about the whole filesystem that a bind mount, which shows one that is mounted already, can't change.
const OF_THE_FILESYSTEM: [&str; 5] = ["sync", "async", "dirsync", "lazytime", "nolazytime"];

/// Words of mount(2) that fsconfig(2) has no general option for. A filesystem for which they mean something takes
/// them as its own; for the others there is nothing to do.
const HINTS: [&str; 8] = [
    "acl",
    "noacl",
    "iversion",
    "noiversion",
    "mand",
    "nomand",
    "silent",
    "loud",
];

/// The options of one mount.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) bind: bool,
    pub(crate) bind_recursively: bool,
    /// Change a mount that is there.
    pub(crate) remount: bool,
    /// Copy into a new tmpfs what it would hide.
    pub(crate) copy_up: bool,
    /// Map the ids of files; true: in the mounts below too.
    pub(crate) id_map: Option<bool>,
    /// For the mount itself.
    pub(crate) own: Attributes,
    /// Its accesses are noted as usual, in so many words: among the attributes that is nothing to set.
    pub(crate) relatime: bool,
    /// For the mounts below it too.
    pub(crate) recursive: Attributes,
    /// For the filesystem.
    pub(crate) data: Vec<(CString, Option<CString>)>,
    /// For the filesystem, if it knows them.
    pub(crate) hints: Vec<CString>,
}

/// Whether a word is acted on here, and not passed on to a filesystem that may know it.
pub(crate) fn is_known(option: &str) -> bool {
    let options = Options::parse("mounts", &[option.to_owned()]);
    options.is_ok_and(|options| options.data.is_empty() || OF_THE_FILESYSTEM.contains(&option))
}

impl Options {
    /// Sorts `list`; `field` is the mount, for errors.
    pub(crate) fn parse(field: &str, list: &[String]) -> Result<Self, FieldError> {
        let mut options = Self::default();
        for option in list {
            options.take(field, option)?;
        }
        Ok(options)
    }

    fn take(&mut self, field: &str, option: &str) -> Result<(), FieldError> {
        match option {
            "" | "defaults" => {}
            "bind" => self.bind = true,
            "rbind" => (self.bind, self.bind_recursively) = (true, true),
            "remount" => self.remount = true,
            "tmpcopyup" => self.copy_up = true,
            "idmap" => self.id_map = Some(self.id_map.unwrap_or(false)),
            "ridmap" => self.id_map = Some(true),
            // SELinux's relabelling is the engine's affair; it names no option of the kernel.
            "z" | "Z" => return Err(refused(field, format!("option {option:?} is not supported"))),
            _ if HINTS.contains(&option) => self.hints.push(word(field, option)?),
            _ if change(&mut self.own, option) => match option {
                "relatime" => self.relatime = true,
                "norelatime" => self.relatime = false,
                _ => {}
            },
            _ if option
                .strip_prefix('r')
                .is_some_and(|option| change(&mut self.recursive, option)) => {}
            _ => self.data.push(data(field, option)?),
        }
        Ok(())
    }

    /// What becomes of the flags that the source of a bind mount has: they stay, unless one is named. Then those that are
    /// named are all, as with mount(8) and for the peers; but how accesses are noted stays until another way is named, and
    /// a word against one names none.
    pub(crate) fn flags(&self) -> Flags {
        let own = self.own;
        if own.set | own.clear == 0 {
            return Flags::both(own);
        }
        let notes_accesses = self.relatime || own.set & ATIME != 0;
        let atime = if notes_accesses { ATIME } else { 0 };
        let clearing = |switches: u64| Attributes {
            clear: switches & !own.set | atime,
            ..own
        };
        Flags {
            all: clearing(SWITCHES),
            // The one that no user namespace locks.
            named: clearing(own.clear & SWITCHES | libc::MOUNT_ATTR_NOSYMFOLLOW),
        }
    }

    /// Takes out what a bind mount can't be told; a sentence for each that would mean something to the filesystem. A word
    /// that nobody knows is refused, since it may be another one misspelled, which would protect the container.
    pub(crate) fn without_filesystem(&mut self, field: &str) -> Result<Vec<String>, FieldError> {
        let mut sentences = Vec::new();
        for (name, value) in std::mem::take(&mut self.data) {
            let name = name.to_string_lossy().into_owned();
            if value.is_none() && !OF_THE_FILESYSTEM.contains(&name.as_str()) {
                let reason = format!("option {name:?} has no meaning for a bind mount");
                return Err(FieldError::new(format!("{field}.options"), reason));
            }
            sentences.push(format!(
                "{field}.options: {name} is about the filesystem, which is mounted already"
            ));
        }
        self.hints.clear();
        Ok(sentences)
    }
}

fn data(field: &str, option: &str) -> Result<(CString, Option<CString>), FieldError> {
    match option.split_once('=') {
        Some((key, value)) => Ok((word(field, key)?, Some(word(field, value)?))),
        None => Ok((word(field, option)?, None)),
    }
}

fn word(field: &str, text: &str) -> Result<CString, FieldError> {
    CString::new(text).map_err(|_| refused(field, "holds a null byte"))
}

/// `field` is the mount.
fn refused(field: &str, reason: impl Into<String>) -> FieldError {
    FieldError::new(format!("{field}.options"), reason)
}

/// Applies an option that is about the mount, not the filesystem (mount_setattr(2)); false if it is none.
fn change(attributes: &mut Attributes, option: &str) -> bool {
    let (set, clear, propagation) = match option {
        "ro" => (libc::MOUNT_ATTR_RDONLY, 0, 0),
        "rw" => (0, libc::MOUNT_ATTR_RDONLY, 0),
        "nosuid" => (libc::MOUNT_ATTR_NOSUID, 0, 0),
        "suid" => (0, libc::MOUNT_ATTR_NOSUID, 0),
        "nodev" => (libc::MOUNT_ATTR_NODEV, 0, 0),
        "dev" => (0, libc::MOUNT_ATTR_NODEV, 0),
        "noexec" => (libc::MOUNT_ATTR_NOEXEC, 0, 0),
        "exec" => (0, libc::MOUNT_ATTR_NOEXEC, 0),
        "nodiratime" => (libc::MOUNT_ATTR_NODIRATIME, 0, 0),
        "diratime" => (0, libc::MOUNT_ATTR_NODIRATIME, 0),
        "nosymfollow" => (libc::MOUNT_ATTR_NOSYMFOLLOW, 0, 0),
        "symfollow" => (0, libc::MOUNT_ATTR_NOSYMFOLLOW, 0),
        "noatime" => (libc::MOUNT_ATTR_NOATIME, libc::MOUNT_ATTR__ATIME, 0),
        "strictatime" => (libc::MOUNT_ATTR_STRICTATIME, libc::MOUNT_ATTR__ATIME, 0),
        // What is not asked for in so many words is the default of kernels: relatime.
        "relatime" | "norelatime" | "atime" | "nostrictatime" => (0, libc::MOUNT_ATTR__ATIME, 0),
        "shared" => (0, 0, libc::MS_SHARED),
        "slave" => (0, 0, libc::MS_SLAVE),
        "private" => (0, 0, libc::MS_PRIVATE),
        "unbindable" => (0, 0, libc::MS_UNBINDABLE),
        _ => return false,
    };
    // The last option of a pair wins, as with mount(8).
    attributes.set = attributes.set & !clear | set;
    attributes.clear = attributes.clear & !set | clear;
    if propagation != 0 {
        attributes.propagation = propagation;
    }
    true
}
