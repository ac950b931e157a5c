//! Forwarding by the node as a whole, for packets of pods that cross other links than theirs. It is a setting of the
//! machine, so what it was before is written down first, and put back when the last pod network is removed.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use crate::sysctl::{SysctlError, read, write};

const IPV4_CONF: &str = "/proc/sys/net/ipv4/conf";
const IPV6_CONF: &str = "/proc/sys/net/ipv6/conf";

/// The node's forwarding, with the record of what it was: a line `value path` for each setting, the first one changed
/// first. A setting is in it once, whatever becomes of it later.
#[derive(Debug)]
pub(crate) struct Forwarding {
    record: PathBuf,
}

impl Forwarding {
    /// With its record below `run_dir`.
    pub(crate) fn new(run_dir: &Path) -> Self {
        Self {
            record: run_dir.join("settings-before"),
        }
    }

    /// Lets the node forward IPv4 on all its links.
    ///
    /// # Errors
    /// When the setting can't be made.
    pub(crate) fn turn_on_ipv4(&self) -> Result<(), SysctlError> {
        let switch = Path::new("/proc/sys/net/ipv4/ip_forward");
        if read(switch).as_deref() == Some("1") {
            return Ok(());
        }
        // The switch turns this one along, and each link's.
        self.keep(&Path::new(IPV4_CONF).join("all/accept_redirects"))?;
        self.keep_links(IPV4_CONF)?;
        self.change(switch, "1")
    }

    /// Lets the node forward IPv6: on all its links when pods leave it, and where the kernel can't do so link by link
    /// (before 6.17). Interfaces that get their routes from router advertisements go on doing so, which a forwarding node
    /// would otherwise stop.
    ///
    /// # Errors
    /// When a setting exists and can't be made.
    pub(crate) fn turn_on_ipv6(&self, on_all_links: bool) -> Result<(), SysctlError> {
        let conf = Path::new(IPV6_CONF);
        let by_link = !on_all_links && conf.join("all/force_forwarding").exists();
        let switch = conf.join("all/forwarding");
        if by_link || !switch.exists() || read(&switch).as_deref() == Some("1") {
            return Ok(());
        }
        self.keep_links(IPV6_CONF)?;
        for link in links(IPV6_CONF) {
            let advertised = link.join("accept_ra");
            if read(&advertised).as_deref() == Some("1") {
                self.change(&advertised, "2")?;
            }
        }
        self.change(&switch, "1")
    }

    /// Puts every setting back, the last one first. Does nothing when none was changed.
    ///
    /// # Errors
    /// When a setting can't be made.
    pub(crate) fn restore(&self) -> Result<(), SysctlError> {
        for (value, path) in self.kept()?.iter().rev() {
            if read(path).is_some_and(|now| now != *value) {
                write(path, value)?;
            }
        }
        match fs::remove_file(&self.record) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.error(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn change(&self, path: &Path, value: &str) -> Result<(), SysctlError> {
        self.keep(path)?;
        write(path, value).map(drop)
    }

    /// Links that forward by themselves, which the switch for all of them takes along in both directions. Not `lo`, whose
    /// setting is that of [`crate::detours`].
    fn keep_links(&self, conf: &str) -> Result<(), SysctlError> {
        let others = links(conf).into_iter().filter(|link| !link.ends_with("lo"));
        let each = others.map(|link| link.join("forwarding"));
        for setting in each.filter(|setting| read(setting).as_deref() == Some("1")) {
            self.keep(&setting)?;
        }
        Ok(())
    }

    fn keep(&self, path: &Path) -> Result<(), SysctlError> {
        let Some(value) = read(path) else { return Ok(()) };
        if self.kept()?.iter().any(|(_, kept)| kept == path) {
            return Ok(());
        }
        let dir = self.record.parent().unwrap_or(Path::new("/"));
        let line = format!("{value} {}\n", path.display());
        let append = || {
            fs::create_dir_all(dir)?;
            let mut record = OpenOptions::new().append(true).create(true).open(&self.record)?;
            record.write_all(line.as_bytes())
        };
        append().map_err(|source| self.error(source))
    }

    fn kept(&self) -> Result<Vec<(String, PathBuf)>, SysctlError> {
        let text = match fs::read_to_string(&self.record) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            read => read.map_err(|source| self.error(source))?,
        };
        let pairs = text.lines().filter_map(|line| line.split_once(' '));
        Ok(pairs.map(|(value, path)| (value.to_owned(), path.into())).collect())
    }

    fn error(&self, source: io::Error) -> SysctlError {
        SysctlError::Record {
            path: self.record.clone(),
            source,
        }
    }
}

/// Settings of each link, and of links that are still to come.
fn links(conf: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(conf).into_iter().flatten().flatten();
    all.map(|link| link.path())
        .filter(|link| !link.ends_with("all"))
        .collect()
}
