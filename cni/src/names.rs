//! Names that pods are to be found by, CNI's `aliases`, for a resolver on the node: a file for each pod that has any, in
//! the form of `hosts(5)`, in a directory of its network's. `dnsmasq --hostsdir=DIR` answers by them as they come and go.
//!
//! They are no part of an attachment: the kernel has no place for them, and losing them costs the names alone.

use std::{
    fs,
    io::{self, ErrorKind},
    net::IpAddr,
    path::{Path, PathBuf},
};

/// The files of one network.
#[derive(Debug)]
pub(crate) struct Names {
    dir: PathBuf,
}

/// Why names can't be told.
#[derive(Debug, thiserror::Error)]
#[error("change the file of names {path}")]
pub struct NamesError {
    path: PathBuf,
    source: io::Error,
}

impl Names {
    /// Of a network, below its `run_dir`.
    pub(crate) fn new(run_dir: &Path, network: &str) -> Self {
        Self {
            dir: all(run_dir).join(network),
        }
    }

    /// Has the names lead to the addresses of the pod behind a link, in the place of earlier ones. A reader sees all of
    /// them or none; a name that begins with a dot is nothing to it.
    pub(crate) fn tell(&self, link: &str, addresses: &[IpAddr], names: &[String]) -> Result<(), NamesError> {
        let (path, hidden) = (self.dir.join(link), self.dir.join(format!(".{link}")));
        let write = || {
            fs::create_dir_all(&self.dir)?;
            fs::write(&hidden, lines(addresses, names))?;
            fs::rename(&hidden, &path)
        };
        write().map_err(|source| NamesError { path, source })
    }

    /// The names of the pod behind a link.
    pub(crate) fn of(&self, link: &str) -> Vec<String> {
        let text = fs::read_to_string(self.dir.join(link)).unwrap_or_default();
        let names = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
        names.map(str::to_owned).collect()
    }

    /// Takes the names of the pod behind a link back; there need not be any.
    pub(crate) fn forget(&self, link: &str) -> Result<(), NamesError> {
        remove(self.dir.join(link))
    }

    /// Takes back the names behind all links but these.
    pub(crate) fn retain(&self, is_to_stay: impl Fn(&str) -> bool) -> Result<(), NamesError> {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let link = name.to_string_lossy();
            if !is_to_stay(link.strip_prefix('.').unwrap_or(&link)) {
                remove(entry.path())?;
            }
        }
        Ok(())
    }

    /// Takes all names back, and the directory.
    pub(crate) fn clear(&self) -> Result<(), NamesError> {
        self.retain(|_| false)?;
        // Those of other networks, and a directory that was never made, stay as they are.
        let _ = fs::remove_dir(&self.dir);
        let _ = self.dir.parent().map(fs::remove_dir);
        Ok(())
    }
}

/// The networks that have names.
pub(crate) fn networks(run_dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(all(run_dir)).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

fn all(run_dir: &Path) -> PathBuf {
    run_dir.join("hosts")
}

fn lines(addresses: &[IpAddr], names: &[String]) -> String {
    let line = |address: &IpAddr| format!("{address} {}\n", names.join(" "));
    addresses.iter().map(line).collect()
}

fn remove(path: PathBuf) -> Result<(), NamesError> {
    match fs::remove_file(&path) {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(NamesError { path, source }),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_hosts_until_they_are_taken_back() {
        let run_dir = std::env::temp_dir().join(format!("orlop-names-{}", std::process::id()));
        let (names, others) = (Names::new(&run_dir, "pods"), Names::new(&run_dir, "others"));
        let addresses: [IpAddr; 2] = ["10.0.0.5".parse().unwrap(), "fd00::5".parse().unwrap()];
        let aliases = ["web".to_owned(), "www.example".to_owned()];
        names.forget("orla").unwrap();
        names.tell("orla", &addresses, &aliases[..1]).unwrap();
        names.tell("orla", &addresses, &aliases).unwrap();
        others.tell("orlb", &addresses, &aliases).unwrap();
        assert_eq!(
            fs::read_to_string(run_dir.join("hosts/pods/orla")).unwrap(),
            "10.0.0.5 web www.example\nfd00::5 web www.example\n"
        );
        assert_eq!((names.of("orla"), names.of("orlb")), (aliases.to_vec(), Vec::new()));
        names.retain(|link| link == "orla").unwrap();
        assert_eq!(names.of("orla").len(), 2);
        names.clear().unwrap();
        assert_eq!(networks(&run_dir), ["others"]);
        others.clear().unwrap();
        // Nothing is left of it but the directory that it was given.
        fs::remove_dir(run_dir).unwrap();
    }
}
