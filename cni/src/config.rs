//! The plugin's configuration, out of the JSON that a CNI runtime sends. A field that is not honoured is refused.
//!
//! ```json
//! {"cniVersion": "1.1.0", "name": "pods", "type": "orlop-cni", "podCIDRs": ["10.244.0.0/24", "fd00:10:244::/64"],
//!  "serviceCIDRs": ["10.96.0.0/16"], "mtu": 1500, "linkKind": "veth", "runDir": "/run/orlop/cni",
//!  "capabilities": {"ips": true}, "dns": {"nameservers": ["10.96.0.10"]}}
//! ```
//!
//! Only `podCIDRs` (one range of each family at most) is needed beside what CNI itself asks for.

use std::{net::IpAddr, path::PathBuf};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{
    cidr::Cidr,
    identity::is_name,
    pod_network::{LinkKind, NodeNetwork},
    protocol::{Code, Dns, Failure, Version},
};

/// Where the plugin keeps its hints when the configuration does not say so.
pub const RUN_DIR: &str = "/run/orlop/cni";

/// Keys that are honoured, or that a runtime inserts and that mean nothing more to us.
const KNOWN: [&str; 15] = [
    "args",
    "capabilities",
    "cniVersion",
    "cniVersions",
    "dns",
    "ipMasq",
    "linkKind",
    "mtu",
    "name",
    "podCIDRs",
    "prevResult",
    "runDir",
    "runtimeConfig",
    "serviceCIDRs",
    "type",
];
/// Capabilities that a configuration may declare.
const CAPABILITIES: [&str; 1] = ["ips"];
/// Letters of a refused value that an error shows.
const SHOWN_MAX: usize = 200;

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

    /// Reads the rest, and refuses what is not honoured.
    ///
    /// # Errors
    /// Codes 2 and 7, with the field.
    pub fn network(&self) -> Result<NodeNetwork, Failure> {
        self.refuse_unknown()?;
        let cidrs = |key| cidrs(key, &self.field::<Vec<String>>(key)?.unwrap_or_default());
        let mut network = NodeNetwork::new(&self.name, &cidrs("podCIDRs")?, &self.run_dir()?);
        if network.pod_cidrs.is_empty() {
            return Err(Failure::new(
                Code::InvalidConfig,
                "podCIDRs: at least one range is needed",
            ));
        }
        network.service_cidrs = cidrs("serviceCIDRs")?;
        network.mtu = self.field("mtu")?.unwrap_or(network.mtu);
        network.link_kind = self
            .field::<ConfiguredKind>("linkKind")?
            .map_or(network.link_kind, LinkKind::from);
        network
            .check()
            .map_err(|error| Failure::caused(Code::InvalidConfig, &error))?;
        Ok(network)
    }

    /// As much of the network as removal needs: it must not fail for a configuration that was changed or broken since.
    pub fn network_to_remove(&self) -> NodeNetwork {
        let run_dir = self.run_dir().unwrap_or_else(|_| PathBuf::from(RUN_DIR));
        NodeNetwork::new(&self.name, &[], &run_dir)
    }

    /// Addresses that the runtime asks for: `runtimeConfig.ips` and `args.cni.ips`, with or without a prefix length.
    ///
    /// # Errors
    /// Code 7.
    pub fn requested_addresses(&self) -> Result<Vec<IpAddr>, Failure> {
        let from = |pointer: &[&str]| {
            let mut value = self.fields.get(pointer[0])?;
            for key in &pointer[1..] {
                value = value.get(key)?;
            }
            Some(value.clone())
        };
        let Some(ips) = from(&["runtimeConfig", "ips"]).or_else(|| from(&["args", "cni", "ips"])) else {
            return Ok(Vec::new());
        };
        let texts: Vec<String> = read("ips", ips)?;
        texts.iter().map(|text| parse_address(text)).collect()
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
        if let Some(value) = self.fields.get("ipMasq").filter(|value| **value != Value::Bool(false)) {
            return Err(unsupported("ipMasq", value));
        }
        let capabilities: Option<Map<String, Value>> = self.field("capabilities")?;
        let is_wanted =
            |(key, value): &(&String, &Value)| **value != Value::Bool(false) && !CAPABILITIES.contains(&key.as_str());
        match capabilities.iter().flatten().find(is_wanted) {
            Some((key, value)) => Err(unsupported(&format!("capabilities.{key}"), value)),
            None => Ok(()),
        }
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
            Some(value) => read(key, value.clone()).map(Some),
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

/// Reads an address as runtimes write them: plain, or with the prefix length of their subnet.
///
/// # Errors
/// Code 7.
pub fn parse_address(text: &str) -> Result<IpAddr, Failure> {
    let address = text.split('/').next().unwrap_or_default().parse();
    address.map_err(|_| Failure::new(Code::InvalidConfig, format!("{text:?} is not an IP address")))
}

fn cidrs(key: &str, texts: &[String]) -> Result<Vec<Cidr>, Failure> {
    let invalid = |error| Failure::new(Code::InvalidConfig, format!("{key}: {error}"));
    texts.iter().map(|text| text.parse::<Cidr>().map_err(invalid)).collect()
}

fn read<T: DeserializeOwned>(key: &str, value: Value) -> Result<T, Failure> {
    let text = shown(&value);
    serde_json::from_value(value)
        .map_err(|error| Failure::new(Code::InvalidConfig, format!("{key}: {text} is wrong: {error}")))
}

fn unsupported(key: &str, value: &Value) -> Failure {
    Failure::new(
        Code::UnsupportedField,
        format!("unsupported field {key:?}: {}", shown(value)),
    )
}

fn shown(value: &Value) -> String {
    value.to_string().chars().take(SHOWN_MAX).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn failure(config: &Value) -> Failure {
        let parsed = Config::parse(config.to_string().as_bytes());
        parsed.and_then(|config| config.network()).unwrap_err()
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
            "capabilities": {"ips": true, "portMappings": false}, "ipMasq": false, "prevResult": {"ips": []},
            "runtimeConfig": {"ips": ["10.244.0.9/24"]}, "args": {"cni": {"labels": []}}, "cniVersions": ["1.1.0"],
            "cni.dev/valid-attachments": [{"containerID": "a", "ifname": "eth0"}],
        });
        let config = Config::parse(config.to_string().as_bytes()).unwrap();
        let network = config.network().unwrap();
        assert_eq!((network.mtu, network.link_kind), (9000, LinkKind::Netkit));
        assert_eq!((network.pod_cidrs.len(), network.service_cidrs.len()), (2, 1));
        assert_eq!(network.run_dir, PathBuf::from("/run/x"));
        assert_eq!(
            config.requested_addresses().unwrap(),
            ["10.244.0.9".parse::<IpAddr>().unwrap()]
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
            ("ipMasq", json!(true), 2, "unsupported field \"ipMasq\": true"),
            (
                "capabilities",
                json!({"portMappings": true}),
                2,
                "\"capabilities.portMappings\": true",
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
    fn removal_needs_no_more_than_a_name() {
        let broken = json!({"cniVersion": "1.0.0", "name": "n", "podCIDRs": 7, "runDir": 9, "gone": true});
        let config = Config::parse(broken.to_string().as_bytes()).unwrap();
        assert_eq!(config.network_to_remove().name, "n");
    }

    #[test]
    fn wrong_addresses_are_refused() {
        let config = with("runtimeConfig", json!({"ips": ["10.0.0.x"]}));
        let config = Config::parse(config.to_string().as_bytes()).unwrap();
        assert_eq!(config.requested_addresses().unwrap_err().code, Code::InvalidConfig);
    }
}
