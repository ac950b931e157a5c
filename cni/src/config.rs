//! The plugin's configuration, out of the JSON that a CNI runtime sends. A field that is not honoured is refused.
//!
//! ```json
//! {"cniVersion": "1.1.0", "name": "pods", "type": "orlop-cni", "podCIDRs": ["10.244.0.0/24", "fd00:10:244::/64"],
//!  "serviceCIDRs": ["10.96.0.0/16"], "mtu": 1500, "linkKind": "veth", "runDir": "/run/orlop/cni",
//!  "agentSocket": "/run/orlop/cni.sock",
//!  "ipMasq": true, "nonMasqueradeCIDRs": ["192.168.0.0/16"],
//!  "peers": [{"podCIDRs": ["10.244.1.0/24"], "addresses": ["192.168.0.12"]}],
//!  "capabilities": {"ips": true, "mac": true, "portMappings": true, "bandwidth": true, "dns": true, "aliases": true,
//!                   "cgroupPath": true},
//!  "dns": {"nameservers": ["10.96.0.10"]}}
//! ```
//!
//! Only `podCIDRs` (one range of each family at most) is needed beside what CNI itself asks for, or `agentSocket`: then
//! the agent does the work, and its own network stands in for ranges that are not said.

use std::path::PathBuf;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{
    cidr::Cidr,
    identity::is_name,
    pod_network::{LinkKind, NodeNetwork, Peer},
    protocol::{Code, Dns, Failure, Version},
    wishes::{CAPABILITIES, Wishes, parse_address, read, shown, unsupported},
};

/// Where the plugin keeps its hints when the configuration does not say so.
pub const RUN_DIR: &str = "/run/orlop/cni";

/// Keys that are honoured, or that a runtime inserts and that mean nothing more to us.
const KNOWN: [&str; 18] = [
    "agentSocket",
    "args",
    "capabilities",
    "cniVersion",
    "cniVersions",
    "dns",
    "ipMasq",
    "linkKind",
    "mtu",
    "name",
    "nonMasqueradeCIDRs",
    "peers",
    "podCIDRs",
    "prevResult",
    "runDir",
    "runtimeConfig",
    "serviceCIDRs",
    "type",
];

/// The part of the configuration that every verb needs, and the rest to be read by those that need it.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Version to answer in.
    pub version: Version,
    /// Name of the network.
    pub name: String,
    fields: Map<String, Value>,
}

impl Config {
    /// Reads what all verbs need.
    ///
    /// # Errors
    /// Codes 6 and 7; 1 when the version is not spoken here.
    pub fn parse(json: &[u8]) -> Result<Self, Failure> {
        let fields: Map<String, Value> =
            serde_json::from_slice(json).map_err(|error| Failure::caused(Code::Decode, &Undecodable(error)))?;
        let name = match fields.get("name") {
            None => return Err(Failure::new(Code::InvalidConfig, "missing network name")),
            Some(Value::String(name)) if is_name(name) => name.clone(),
            Some(other) => {
                let message = format!("name: {} is not of the form [A-Za-z0-9][A-Za-z0-9_.-]*", shown(other));
                return Err(Failure::new(Code::InvalidConfig, message));
            }
        };
        Ok(Self {
            version: version(&fields)?,
            name,
            fields,
        })
    }

    /// Where the agent listens that shall do the calls; none for a plugin that works by itself.
    ///
    /// # Errors
    /// Code 7.
    pub fn agent_socket(&self) -> Result<Option<PathBuf>, Failure> {
        self.field("agentSocket")
    }

    /// Reads the rest, and refuses what is not honoured. An agent's network stands in for a configuration without ranges.
    ///
    /// # Errors
    /// Codes 2 and 7, with the field.
    pub fn network(&self, agents: Option<&NodeNetwork>) -> Result<NodeNetwork, Failure> {
        self.refuse_unknown()?;
        let Some(agents) = agents else {
            return self.own_network();
        };
        if agents.name == self.name {
            let message = format!("name: {:?} is the agent's own network", self.name);
            return Err(Failure::new(Code::InvalidConfig, message));
        }
        let network = if self.fields.contains_key("podCIDRs") {
            self.own_network()?
        } else {
            NodeNetwork {
                name: self.name.clone(),
                ..agents.clone()
            }
        };
        Ok(NodeNetwork {
            run_dir: agents.run_dir.clone(),
            inspector: agents.inspector.clone(),
            pacer: agents.pacer.clone(),
            ..network
        })
    }

    fn own_network(&self) -> Result<NodeNetwork, Failure> {
        let cidrs = |key| cidrs(key, &self.field::<Vec<String>>(key)?.unwrap_or_default());
        let mut network = NodeNetwork::new(&self.name, &cidrs("podCIDRs")?, &self.run_dir()?);
        if network.pod_cidrs.is_empty() {
            return Err(Failure::new(
                Code::InvalidConfig,
                "podCIDRs: at least one range is needed",
            ));
        }
        network.service_cidrs = cidrs("serviceCIDRs")?;
        network.mtu = self.field("mtu")?;
        network.masquerade = self.field("ipMasq")?.unwrap_or(false);
        network.reached_as_pod = cidrs("nonMasqueradeCIDRs")?;
        network.peers = self.peers()?;
        network.link_kind = self
            .field::<ConfiguredKind>("linkKind")?
            .map_or(network.link_kind, LinkKind::from);
        network
            .check()
            .map_err(|error| Failure::caused(Code::InvalidConfig, &error))?;
        Ok(network)
    }

    /// As much of the network as removal needs: it must not fail for a configuration that was changed or broken since.
    pub fn network_to_remove(&self, agents: Option<&NodeNetwork>) -> NodeNetwork {
        let own = || self.run_dir().unwrap_or_else(|_| PathBuf::from(RUN_DIR));
        let run_dir = agents.map_or_else(own, |agents| agents.run_dir.clone());
        NodeNetwork {
            pacer: agents.and_then(|agents| agents.pacer.clone()),
            ..NodeNetwork::new(&self.name, &[], &run_dir)
        }
    }

    /// What the runtime asks for with this call; `cni_args` is `CNI_ARGS`.
    ///
    /// # Errors
    /// Codes 2, 4 and 7.
    pub fn wishes(&self, cni_args: &str) -> Result<Wishes, Failure> {
        let (runtime, args) = (self.fields.get("runtimeConfig"), self.fields.get("args"));
        Wishes::read(&self.name, runtime, args, cni_args)
    }

    /// What goes into the result for resolvers.
    ///
    /// # Errors
    /// Code 7.
    pub fn dns(&self) -> Result<Option<Dns>, Failure> {
        self.field("dns")
    }

    /// The result of the plugins before, or of ADD.
    pub fn previous_result(&self) -> Option<&Value> {
        self.fields.get("prevResult").filter(|result| !result.is_null())
    }

    /// (container id, ifname) of every attachment that a GC must leave; `None` when the runtime does not say.
    ///
    /// # Errors
    /// Code 7.
    pub fn valid_attachments(&self) -> Result<Option<Vec<(String, String)>>, Failure> {
        let attachments: Option<Vec<ValidAttachment>> = self.field("cni.dev/valid-attachments")?;
        Ok(attachments.map(|list| {
            list.into_iter()
                .map(|valid| (valid.container_id, valid.ifname))
                .collect()
        }))
    }

    fn refuse_unknown(&self) -> Result<(), Failure> {
        let is_known = |key: &str| KNOWN.contains(&key) || key.starts_with("cni.dev/");
        if let Some((key, value)) = self.fields.iter().find(|(key, _)| !is_known(key)) {
            return Err(unsupported(key, value));
        }
        let capabilities: Option<Map<String, Value>> = self.field("capabilities")?;
        let is_wanted =
            |(key, value): &(&String, &Value)| **value != Value::Bool(false) && !CAPABILITIES.contains(&key.as_str());
        match capabilities.iter().flatten().find(is_wanted) {
            Some((key, value)) => Err(unsupported(&format!("capabilities.{key}"), value)),
            None => Ok(()),
        }
    }

    fn peers(&self) -> Result<Vec<Peer>, Failure> {
        let peers: Vec<ConfiguredPeer> = self.field("peers")?.unwrap_or_default();
        let peer = |peer: ConfiguredPeer| {
            Ok(Peer {
                pod_cidrs: cidrs("peers.podCIDRs", &peer.pod_cidrs)?,
                addresses: peer
                    .addresses
                    .iter()
                    .map(|text| parse_address(text))
                    .collect::<Result<_, _>>()?,
            })
        };
        peers.into_iter().map(peer).collect()
    }

    fn run_dir(&self) -> Result<PathBuf, Failure> {
        let dir = self.field("runDir")?.unwrap_or_else(|| PathBuf::from(RUN_DIR));
        if dir.is_absolute() {
            Ok(dir)
        } else {
            Err(Failure::new(Code::InvalidConfig, "runDir: not an absolute path"))
        }
    }

    fn field<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Failure> {
        match self.fields.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => read(key, value).map(Some),
        }
    }
}

/// The words of `linkKind`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ConfiguredKind {
    Veth,
    Netkit,
}

impl From<ConfiguredKind> for LinkKind {
    fn from(kind: ConfiguredKind) -> Self {
        match kind {
            ConfiguredKind::Veth => Self::Veth,
            ConfiguredKind::Netkit => Self::Netkit,
        }
    }
}

/// Another node: its pods' ranges and its own addresses.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfiguredPeer {
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Vec<String>,
    addresses: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct ValidAttachment {
    #[serde(rename = "containerID")]
    container_id: String,
    ifname: String,
}

#[derive(Debug, thiserror::Error)]
#[error("the network configuration is no JSON object")]
struct Undecodable(#[source] serde_json::Error);

/// The version that a configuration is written in; one that says none is of 0.1.0.
fn version(fields: &Map<String, Value>) -> Result<Version, Failure> {
    let text = match fields.get("cniVersion") {
        None => "0.1.0",
        Some(Value::String(text)) if text.is_empty() => "0.1.0",
        Some(Value::String(text)) => text,
        Some(other) => {
            let message = format!("cniVersion: {} is not a text", shown(other));
            return Err(Failure::new(Code::Decode, message));
        }
    };
    Version::parse(text).ok_or_else(|| Failure {
        code: Code::IncompatibleVersion,
        message: "incompatible CNI versions".to_owned(),
        details: Some(format!(
            "config is {text:?}, plugin supports {:?}",
            Version::ALL.map(Version::as_str)
        )),
    })
}

fn cidrs(key: &str, texts: &[String]) -> Result<Vec<Cidr>, Failure> {
    let invalid = |error| Failure::new(Code::InvalidConfig, format!("{key}: {error}"));
    texts.iter().map(|text| text.parse::<Cidr>().map_err(invalid)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn failure(config: &Value) -> Failure {
        let parsed = Config::parse(config.to_string().as_bytes());
        parsed.and_then(|config| config.network(None)).unwrap_err()
    }

    fn with(key: &str, value: Value) -> Value {
        let mut config = json!({"cniVersion": "1.0.0", "name": "n", "type": "orlop-cni", "podCIDRs": ["10.0.0.0/24"]});
        config[key] = value;
        config
    }

    #[test]
    fn a_full_configuration_is_read() {
        let config = json!({
            "cniVersion": "1.1.0", "name": "pods", "type": "orlop-cni", "mtu": 9000, "linkKind": "netkit",
            "podCIDRs": ["10.244.0.0/24", "fd00::/64"], "serviceCIDRs": ["10.96.0.0/16"], "runDir": "/run/x",
            "capabilities": {"ips": true, "portMappings": true, "aliases": true, "cgroupPath": true, "deviceID": false}, "ipMasq": true, "prevResult": {"ips": []},
            "nonMasqueradeCIDRs": ["192.168.0.0/16"],
            "peers": [{"podCIDRs": ["10.244.1.0/24", "fd00:1::/64"], "addresses": ["192.168.0.12", "fd01::12"]}],
            "runtimeConfig": {"ips": ["10.244.0.9/24"]}, "args": {"cni": {"labels": []}}, "cniVersions": ["1.1.0"],
            "cni.dev/valid-attachments": [{"containerID": "a", "ifname": "eth0"}],
        });
        let config = Config::parse(config.to_string().as_bytes()).unwrap();
        let network = config.network(None).unwrap();
        assert_eq!((network.mtu, network.link_kind), (Some(9000), LinkKind::Netkit));
        assert!(network.masquerade && network.reached_as_pod.len() == 1);
        assert_eq!(network.peers[0].pod_cidrs.len(), 2);
        assert_eq!((network.pod_cidrs.len(), network.service_cidrs.len()), (2, 1));
        assert_eq!(network.run_dir, PathBuf::from("/run/x"));
        assert_eq!(
            config.wishes("").unwrap().addresses,
            ["10.244.0.9".parse::<std::net::IpAddr>().unwrap()]
        );
        assert_eq!(
            config.valid_attachments().unwrap().unwrap(),
            [("a".to_owned(), "eth0".to_owned())]
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (key, value, code, reason) in [
            ("podCIDRs", json!([]), 7, "podCIDRs: at least one"),
            (
                "podCIDRs",
                json!("10.0.0.0/24"),
                7,
                "podCIDRs: \"10.0.0.0/24\" is wrong",
            ),
            (
                "podCIDRs",
                json!(["10.0.0.1/24"]),
                7,
                "podCIDRs: \"10.0.0.1/24\" has host bits set",
            ),
            (
                "podCIDRs",
                json!(["10.0.0.0/24", "10.1.0.0/24"]),
                7,
                "more than one pod range",
            ),
            ("podCIDRs", json!(["10.0.0.0/31"]), 7, "too small"),
            ("serviceCIDRs", json!(["10.0.0.0/16"]), 7, "overlaps"),
            ("mtu", json!(100), 7, "mtu 100"),
            ("mtu", json!("1500"), 7, "mtu: \"1500\" is wrong"),
            ("linkKind", json!("ipvlan"), 7, "linkKind"),
            ("runDir", json!("run"), 7, "runDir"),
            (
                "ipam",
                json!({"type": "host-local"}),
                2,
                "unsupported field \"ipam\": {\"type\":\"host-local\"}",
            ),
            ("ipMasq", json!("yes"), 7, "ipMasq: \"yes\" is wrong"),
            ("nonMasqueradeCIDRs", json!(["10.1.0.0"]), 7, "nonMasqueradeCIDRs"),
            (
                "peers",
                json!([{"podCIDRs": ["10.0.0.0/16"], "addresses": ["192.0.2.2"]}]),
                7,
                "overlaps the peer's",
            ),
            (
                "peers",
                json!([{"podCIDRs": ["fd00::/64"], "addresses": ["192.0.2.2"]}]),
                7,
                "has no address of that family",
            ),
            ("peers", json!([{"podCIDRs": []}]), 7, "peers"),
            (
                "capabilities",
                json!({"deviceID": true}),
                2,
                "\"capabilities.deviceID\": true",
            ),
            ("capabilities", json!(7), 7, "capabilities: 7 is wrong"),
            ("mistyped", json!(null), 2, "unsupported field \"mistyped\": null"),
            ("name", json!("-n"), 7, "name: \"-n\""),
            ("name", json!(3), 7, "name: 3"),
            ("cniVersion", json!("2.0.0"), 1, "incompatible CNI versions"),
            ("cniVersion", json!(""), 1, "incompatible CNI versions"),
            ("cniVersion", json!(1.0), 6, "cniVersion: 1.0"),
        ] {
            let failure = failure(&with(key, value.clone()));
            assert_eq!(failure.code.number(), code, "{key}: {value}: {failure}");
            assert!(failure.message.contains(reason), "{key}: {value}: {failure}");
        }
        assert_eq!(failure(&json!({"cniVersion": "1.0.0"})).message, "missing network name");
        assert_eq!(failure(&json!([])).code, Code::Decode);
    }

    #[test]
    fn an_agents_network_stands_in_for_ranges_that_are_not_said() {
        let agents = NodeNetwork::new("orlop", &["10.9.0.0/24".parse().unwrap()], "/run/agent".as_ref());
        let network = |config: Value| {
            Config::parse(config.to_string().as_bytes())
                .unwrap()
                .network(Some(&agents))
        };
        let plain = json!({"cniVersion": "1.0.0", "name": "n", "agentSocket": "/run/orlop/cni.sock"});
        let taken = network(plain).unwrap();
        assert_eq!((taken.name.as_str(), &taken.pod_cidrs), ("n", &agents.pod_cidrs));
        let own = network(with("mtu", json!(1400))).unwrap();
        assert_eq!(own.pod_cidrs, ["10.0.0.0/24".parse::<Cidr>().unwrap()]);
        assert_eq!(own.run_dir, agents.run_dir);
        let same = network(json!({"cniVersion": "1.0.0", "name": "orlop"})).unwrap_err();
        assert!(same.message.contains("agent's own network"), "{same}");
    }

    #[test]
    fn removal_needs_no_more_than_a_name() {
        let broken = json!({"cniVersion": "1.0.0", "name": "n", "podCIDRs": 7, "runDir": 9, "gone": true});
        let config = Config::parse(broken.to_string().as_bytes()).unwrap();
        assert_eq!(config.network_to_remove(None).name, "n");
    }
}
