//! The files that the agent writes for a pod's containers (`/etc/hosts`, `/etc/hostname`, `/etc/resolv.conf`), the links
//! to their logs, and their removal. It mounts nothing.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use agent_core::pod::{ContainerName, DesiredPod};

use crate::paths::PodPaths;

/// The most of the node's resolv.conf that is passed on, in bytes.
const RESOLV_CONF_LIMIT: usize = 64 * 1024;

/// A file of a pod that could not be made or removed.
#[derive(Debug, thiserror::Error)]
#[error("{what} {path}")]
pub struct FilesError {
    what: &'static str,
    path: std::path::PathBuf,
    source: io::Error,
}

/// Writes the pod's three files as they shall be now.
pub fn write(pod: &DesiredPod, paths: &PodPaths, addresses: &[IpAddr]) -> Result<(), FilesError> {
    create_dir(&paths.root)?;
    let hosts = if pod.host_network {
        host_network_hosts(&read("/etc/hosts".as_ref())?)
    } else {
        hosts(&pod.hostname, addresses)
    };
    put(&paths.hosts(), &hosts)?;
    put(&paths.hostname(), &format!("{}\n", pod.hostname))?;
    let mut resolv_conf = read("/etc/resolv.conf".as_ref())?;
    resolv_conf.truncate(resolv_conf.floor_char_boundary(RESOLV_CONF_LIMIT));
    put(&paths.resolv_conf(), &resolv_conf)
}

/// A kubelet's hosts file for a pod with a network of its own (`managedHostsFileContent`).
fn hosts(hostname: &str, addresses: &[IpAddr]) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n",
    );
    for address in addresses {
        text.push_str(&format!("{address}\t{hostname}\n"));
    }
    text
}

/// A kubelet's hosts file for a pod on the host's network (`nodeHostsFileContent`).
fn host_network_hosts(of_node: &str) -> String {
    format!("# Kubernetes-managed hosts file (host network).\n{of_node}")
}

/// Makes the link by which log collectors find an attempt's log.
pub fn link_log(paths: &PodPaths, container: &ContainerName, attempt: u32) -> Result<(), FilesError> {
    let link = paths.log_link(container, attempt);
    create_dir(link.parent().unwrap_or(Path::new("/")))?;
    match std::os::unix::fs::symlink(paths.log(container, attempt), &link) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed("link", &link)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Removes the link to an attempt's log.
pub fn unlink_log(paths: &PodPaths, container: &ContainerName, attempt: u32) -> Result<(), FilesError> {
    let link = paths.log_link(container, attempt);
    absent_is_fine(fs::remove_file(&link)).map_err(failed("remove", &link))
}

/// Whether any directory of the pod is there.
pub fn exist(paths: &PodPaths) -> bool {
    [&paths.run, &paths.root, &paths.logs]
        .iter()
        .any(|dir| dir.symlink_metadata().is_ok())
}

/// Removes every directory of the pod and its log links. The run directory goes last: what the agent finds there after
/// its own death makes it do this again.
pub fn remove(paths: &PodPaths) -> Result<(), FilesError> {
    for dir in [&paths.root, &paths.logs] {
        absent_is_fine(fs::remove_dir_all(dir)).map_err(failed("remove", dir))?;
    }
    remove_links(&paths.log_links, &paths.logs)?;
    absent_is_fine(fs::remove_dir_all(&paths.run)).map_err(failed("remove", &paths.run))
}

/// Removes the links in `dir` that lead into `logs`.
pub fn remove_links(dir: &Path, logs: &Path) -> Result<(), FilesError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(failed("list", dir))?,
    };
    for link in entries.flatten().map(|entry| entry.path()) {
        if fs::read_link(&link).is_ok_and(|target| target.starts_with(logs)) {
            absent_is_fine(fs::remove_file(&link)).map_err(failed("remove", &link))?;
        }
    }
    Ok(())
}

/// The highest attempt that has a log file.
pub fn last_log(dir: &Path) -> Option<u32> {
    let attempt = |entry: fs::DirEntry| {
        let name = entry.file_name();
        let (number, _) = name.to_str()?.split_once(".log")?;
        number.parse::<u32>().ok()
    };
    fs::read_dir(dir).ok()?.flatten().filter_map(attempt).max()
}

fn read(path: &Path) -> Result<String, FilesError> {
    match fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(failed("read", path)(error)),
    }
}

/// Written in place: containers have the file mounted, and a new one would not be seen by them.
fn put(path: &Path, text: &str) -> Result<(), FilesError> {
    if fs::read_to_string(path).is_ok_and(|present| present == text) {
        return Ok(());
    }
    fs::write(path, text).map_err(failed("write", path))
}

fn create_dir(path: &Path) -> Result<(), FilesError> {
    fs::create_dir_all(path).map_err(failed("create", path))
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FilesError {
    let path = path.to_path_buf();
    move |source| FilesError { what, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_hosts_file_ends_with_its_own_addresses() {
        let text = hosts("web", &["10.244.0.5".parse().unwrap(), "fd00::5".parse().unwrap()]);
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("fe00::2\tip6-allrouters\n10.244.0.5\tweb\nfd00::5\tweb\n"));
    }
}
