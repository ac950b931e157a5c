//! The node's configuration: the flags of `orlop agent` and `orlop cleanup`, checked once, and every path that follows
//! from them. Nobody else joins a path below these directories by hand.

use std::path::{Path, PathBuf};

use clap::Args;
use cni::cidr::Cidr;
use cni::pod_network::Peer;

use crate::services::ServiceFlags;

/// Where the agent keeps things. Each is an option, so that many agents can run side by side.
#[derive(Args, Clone, Debug)]
pub struct Places {
    /// Pods' files: volumes, hosts files, termination messages
    #[arg(long, value_name = "DIR", default_value = "/var/lib/kubelet")]
    pub root_dir: PathBuf,
    /// Images and the writable layers of containers
    #[arg(long, value_name = "DIR", default_value = "/var/lib/orlop")]
    pub state_dir: PathBuf,
    /// Sockets, pinned namespaces and records of what runs; a tmpfs, empty after a reboot
    #[arg(long, value_name = "DIR", default_value = "/run/orlop")]
    pub run_dir: PathBuf,
    /// Containers' log files
    #[arg(long, value_name = "DIR", default_value = "/var/log/pods")]
    pub log_dir: PathBuf,
    /// Links to the log files, named as log collectors expect them
    #[arg(long, value_name = "DIR", default_value = "/var/log/containers")]
    pub container_log_dir: PathBuf,
    /// Pinned eBPF programs, links and maps
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/orlop")]
    pub bpf_dir: PathBuf,
    /// Cgroup below the cgroup v2 root that holds `kubepods`; / for the root itself
    #[arg(long, value_name = "PATH", default_value = "/")]
    pub cgroup_parent: PathBuf,
    /// Cgroup below the cgroup v2 root whose processes Services answer; / for all of the machine's
    #[arg(long, value_name = "PATH", default_value = "/")]
    pub service_cgroup: PathBuf,
    /// Addresses for pods, at most one range of each family
    #[arg(long = "pod-cidr", value_name = "CIDR", default_value = "10.244.0.0/24")]
    pub pod_cidrs: Vec<Cidr>,
    /// Let pods leave the node under the node's address
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub masquerade: bool,
    /// Another node of the same network: ranges of its pods, and its own addresses, as CIDR[,CIDR]=ADDRESS[,ADDRESS]
    #[arg(long = "peer", value_name = "RANGES=ADDRESSES", value_parser = peer)]
    pub peers: Vec<Peer>,
    /// Addresses for Services
    #[arg(long, value_name = "CIDR", default_value = "10.96.0.0/16")]
    pub service_cidr: Cidr,
}

/// Flags of `orlop agent`.
#[derive(Args, Clone, Debug)]
pub struct AgentFlags {
    /// Directory of manifests to keep running
    #[arg(long, value_name = "DIR")]
    pub manifests: PathBuf,
    /// The node's name; by default its host name
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// The podshim executable; by default the one beside orlop
    #[arg(long, value_name = "FILE")]
    pub podshim: Option<PathBuf>,
    /// How Services are answered
    #[command(flatten)]
    pub services: ServiceFlags,
    /// Where things are kept
    #[command(flatten)]
    pub places: Places,
}

/// A checked configuration: absolute paths, a node name that is a DNS label, ranges that make sense.
#[derive(Clone, Debug)]
pub struct Config {
    /// Directory of manifests.
    pub manifests: PathBuf,
    /// The node's name.
    pub node_name: String,
    /// The podshim executable.
    pub podshim: PathBuf,
    /// How Services are answered.
    pub services: ServiceFlags,
    /// Where things are kept.
    pub places: Places,
}

/// A socket's name has at most 107 bytes, unix(7); `/pods/<uid of 36>/shim.sock` takes its share.
const RUN_DIR_LENGTH: usize = 55;

/// What is wrong with the flags.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A directory can't be made absolute.
    #[error("resolve --{flag} {path}")]
    Path {
        /// The flag's name.
        flag: &'static str,
        /// What was given.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Two ranges of one family, or none.
    #[error("--pod-cidr: one range of each family at most, got {0}")]
    PodCidrs(String),
    /// Neither --node-name nor a usable host name.
    #[error("node name {0:?} is not a lower-case DNS name; give another with --node-name")]
    NodeName(String),
    /// The host name can't be read.
    #[error("read the host name; give the node's name with --node-name")]
    HostName(#[source] nix::Error),
    /// podshim is not there.
    #[error("podshim not found at {0}; give its place with --podshim")]
    Podshim(PathBuf),
    /// Sockets below it would have names that are too long.
    #[error("--run-dir {0}: at most {RUN_DIR_LENGTH} bytes, for the names of sockets below it have a limit")]
    RunDir(PathBuf),
    /// A cgroup outside of the tree.
    #[error("--{flag} {path}: a relative path without '..' is needed")]
    Cgroup {
        /// The flag's name.
        flag: &'static str,
        /// What was given.
        path: PathBuf,
    },
    /// The place of the running executable is unknown.
    #[error("find the running executable")]
    Executable(#[source] std::io::Error),
}

impl AgentFlags {
    /// Checks the flags.
    pub fn resolve(self) -> Result<Config, ConfigError> {
        Ok(Config {
            manifests: absolute("manifests", &self.manifests)?,
            node_name: node_name(self.node_name)?,
            podshim: podshim(self.podshim)?,
            services: self.services,
            places: self.places.resolve()?,
        })
    }
}

impl Places {
    /// Makes every path absolute and checks the ranges.
    pub fn resolve(self) -> Result<Places, ConfigError> {
        check_cidrs(&self.pod_cidrs)?;
        Ok(Places {
            root_dir: absolute("root-dir", &self.root_dir)?,
            state_dir: absolute("state-dir", &self.state_dir)?,
            run_dir: run_dir(&self.run_dir)?,
            log_dir: absolute("log-dir", &self.log_dir)?,
            container_log_dir: absolute("container-log-dir", &self.container_log_dir)?,
            bpf_dir: absolute("bpf-dir", &self.bpf_dir)?,
            cgroup_parent: cgroup("cgroup-parent", &self.cgroup_parent)?,
            service_cgroup: cgroup("service-cgroup", &self.service_cgroup)?,
            ..self
        })
    }

    /// Run directories of all pods.
    pub fn pod_runs(&self) -> PathBuf {
        self.run_dir.join("pods")
    }

    /// The agent's socket.
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("agent.sock")
    }

    /// Where `orlop-cni` passes its calls on to.
    pub fn cni_socket(&self) -> PathBuf {
        self.run_dir.join("cni.sock")
    }

    /// Held with flock by the one agent of this run directory.
    pub fn lock(&self) -> PathBuf {
        self.run_dir.join("agent.lock")
    }

    /// What `orlop apply` stored, one object a file.
    pub fn applied(&self) -> PathBuf {
        self.root_dir.join("applied")
    }
}

fn absolute(flag: &'static str, path: &Path) -> Result<PathBuf, ConfigError> {
    std::path::absolute(path).map_err(|source| ConfigError::Path {
        flag,
        path: path.into(),
        source,
    })
}

fn run_dir(path: &Path) -> Result<PathBuf, ConfigError> {
    let path = absolute("run-dir", path)?;
    if path.as_os_str().len() > RUN_DIR_LENGTH {
        Err(ConfigError::RunDir(path))
    } else {
        Ok(path)
    }
}

fn cgroup(flag: &'static str, path: &Path) -> Result<PathBuf, ConfigError> {
    let relative: PathBuf = path.strip_prefix("/").unwrap_or(path).into();
    let plain = relative
        .components()
        .all(|part| matches!(part, std::path::Component::Normal(_)));
    if plain {
        Ok(relative)
    } else {
        Err(ConfigError::Cgroup {
            flag,
            path: path.into(),
        })
    }
}

fn check_cidrs(cidrs: &[Cidr]) -> Result<(), ConfigError> {
    let v4 = cidrs.iter().filter(|cidr| cidr.network().is_ipv4()).count();
    let v6 = cidrs.len() - v4;
    if cidrs.is_empty() || v4 > 1 || v6 > 1 {
        let given: Vec<String> = cidrs.iter().map(ToString::to_string).collect();
        return Err(ConfigError::PodCidrs(given.join(", ")));
    }
    Ok(())
}

fn peer(text: &str) -> Result<Peer, String> {
    let (ranges, addresses) = text.split_once('=').ok_or("it has no =")?;
    let range = |text: &str| text.parse::<Cidr>().map_err(|error| error.to_string());
    let address = |text: &str| text.parse().map_err(|_| format!("{text:?} is not an IP address"));
    Ok(Peer {
        pod_cidrs: ranges.split(',').map(range).collect::<Result<_, _>>()?,
        addresses: addresses.split(',').map(address).collect::<Result<_, _>>()?,
    })
}

fn node_name(given: Option<String>) -> Result<String, ConfigError> {
    let name = match given {
        Some(name) => name,
        None => nix::unistd::gethostname()
            .map_err(ConfigError::HostName)?
            .to_string_lossy()
            .to_lowercase(),
    };
    let label = |part: &str| {
        !part.is_empty()
            && part.len() <= 63
            && part
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    if name.len() <= 253 && name.split('.').all(label) {
        Ok(name)
    } else {
        Err(ConfigError::NodeName(name))
    }
}

fn podshim(given: Option<PathBuf>) -> Result<PathBuf, ConfigError> {
    let path = match given {
        Some(path) => absolute("podshim", &path)?,
        None => std::env::current_exe()
            .map_err(ConfigError::Executable)?
            .with_file_name("podshim"),
    };
    if path.is_file() {
        Ok(path)
    } else {
        Err(ConfigError::Podshim(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_name_is_a_dns_name() {
        assert_eq!(node_name(Some("node-1.lan".into())).unwrap(), "node-1.lan");
        for bad in ["", "Node", "a_b", "-a", "a..b"] {
            assert!(node_name(Some(bad.into())).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_peer_has_ranges_and_addresses() {
        let both = peer("10.244.1.0/24,fd00:1::/64=192.0.2.2,2001:db8::2").unwrap();
        assert_eq!((both.pod_cidrs.len(), both.addresses.len()), (2, 2));
        for bad in [
            "10.244.1.0/24",
            "10.244.1.1/24=192.0.2.2",
            "10.244.1.0/24=",
            "=192.0.2.2",
        ] {
            assert!(peer(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_cgroup_stays_in_the_tree() {
        let cgroup = |path| cgroup("cgroup-parent", Path::new(path));
        assert_eq!(cgroup("/test/one").unwrap(), Path::new("test/one"));
        assert_eq!(cgroup("").unwrap(), Path::new(""));
        assert!(cgroup("../x").is_err());
    }
}
