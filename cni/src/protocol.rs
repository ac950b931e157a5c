//! The words of CNI: versions, errors and results as the specification writes them. Nothing here acts.
//!
//! <https://www.cni.dev/docs/spec/>; where it is silent, what libcni and its plugins do.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{pod_network::Attachment, step::Mac};

/// A version of the specification that is spoken here. 0.1.0 and 0.2.0 have another result and no user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 0.3.0
    V0_3_0,
    /// 0.3.1
    V0_3_1,
    /// 0.4.0: CHECK
    V0_4_0,
    /// 1.0.0: no family in addresses
    V1_0_0,
    /// 1.1.0: GC, STATUS, more about interfaces and routes
    V1_1_0,
}

impl Version {
    /// All, oldest first.
    pub const ALL: [Self; 5] = [Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    /// The newest.
    pub const NEWEST: Self = Self::V1_1_0;

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The version of that text, when it is spoken here.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == text)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The answer to VERSION.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VersionReport {
    cni_version: &'static str,
    supported_versions: [&'static str; Version::ALL.len()],
}

/// What VERSION answers, whatever it is asked with.
pub fn version_report() -> VersionReport {
    VersionReport {
        cni_version: Version::NEWEST.as_str(),
        supported_versions: Version::ALL.map(Version::as_str),
    }
}

/// Why a call failed, by the specification's numbers; from 100 on our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// 1: the configuration's version is not spoken here.
    IncompatibleVersion,
    /// 2: a field of the configuration is not honoured; the message has key and value.
    UnsupportedField,
    /// 3: nothing of that container is here, so nothing of it needs cleaning up.
    UnknownContainer,
    /// 4: an environment variable is missing or wrong; the message has its name.
    InvalidEnvironment,
    /// 5: standard input can't be read.
    Io,
    /// 6: the configuration is no JSON object.
    Decode,
    /// 7: the configuration has a wrong value.
    InvalidConfig,
    /// 8: the network namespace is the plugin's own, or none (libcni's `ErrInvalidNetNS`).
    InvalidNamespace,
    /// 11: a later try may do.
    TryAgainLater,
    /// 50: an ADD would fail now.
    NotAvailable,
    /// 100: the container is attached already, or its namespace has such an interface.
    AttachedAlready,
    /// 101: no address is free.
    Exhausted,
    /// 102: the address that was asked for is another pod's.
    AddressInUse,
    /// 104: the port of the node that was asked for leads to another pod.
    PortInUse,
    /// 103: the container's network is not as ADD left it.
    Changed,
    /// 999: the kernel refused, or we are wrong; as in the reference plugins.
    Internal,
}

impl Code {
    /// The number.
    pub fn number(self) -> u32 {
        match self {
            Self::IncompatibleVersion => 1,
            Self::UnsupportedField => 2,
            Self::UnknownContainer => 3,
            Self::InvalidEnvironment => 4,
            Self::Io => 5,
            Self::Decode => 6,
            Self::InvalidConfig => 7,
            Self::InvalidNamespace => 8,
            Self::TryAgainLater => 11,
            Self::NotAvailable => 50,
            Self::AttachedAlready => 100,
            Self::Exhausted => 101,
            Self::AddressInUse => 102,
            Self::Changed => 103,
            Self::PortInUse => 104,
            Self::Internal => 999,
        }
    }
}

/// A failed call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Why, as a number.
    pub code: Code,
    /// Why, in words.
    pub message: String,
    /// What lies behind it.
    pub details: Option<String>,
}

impl Failure {
    /// A failure that has no more behind it.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: None,
        }
    }

    /// A failure and the chain of its causes.
    pub fn caused(code: Code, error: &dyn std::error::Error) -> Self {
        let causes = std::iter::successors(error.source(), |cause| cause.source());
        let details = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
        Self {
            code,
            message: error.to_string(),
            details: Some(details).filter(|details| !details.is_empty()),
        }
    }

    /// As it goes to standard output.
    pub fn to_json(&self, version: Version) -> Value {
        let mut json = serde_json::json!({
            "cniVersion": version.as_str(),
            "code": self.code.number(),
            "msg": self.message,
        });
        if let Some(details) = &self.details {
            json["details"] = Value::from(details.as_str());
        }
        json
    }
}

/// What a resolver is told, passed on from the configuration to the result.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dns {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    nameservers: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    domain: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    search: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    options: Vec<String>,
}

impl Dns {
    /// Name servers, search domains and options of a resolver.
    pub fn new(nameservers: Vec<String>, search: Vec<String>, options: Vec<String>) -> Self {
        Self {
            nameservers,
            domain: None,
            search,
            options,
        }
    }
}

/// The result of ADD.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AddResult {
    cni_version: &'static str,
    interfaces: [Interface; 2],
    ips: Vec<Ip>,
    routes: Vec<Route>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dns: Option<Dns>,
}

#[derive(Debug, Serialize)]
struct Interface {
    name: String,
    mac: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox: Option<String>,
}

#[derive(Debug, Serialize)]
struct Ip {
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'static str>,
    address: String,
    gateway: IpAddr,
    interface: usize,
}

#[derive(Debug, Serialize)]
struct Route {
    dst: &'static str,
    gw: IpAddr,
}

/// Place of the pod's end among the interfaces. It comes last: runtimes know interfaces by name alone, and the last one
/// of a name wins.
const POD_INTERFACE: usize = 1;

/// What ADD answers in `version`. `sandbox` is the namespace's path as it was given.
pub fn add_result(version: Version, attachment: &Attachment, sandbox: &str, dns: Option<Dns>) -> AddResult {
    let mtu = (version >= Version::V1_1_0).then_some(attachment.mtu);
    let host = Interface {
        name: attachment.host_link.clone(),
        mac: mac(attachment.host_mac),
        mtu,
        sandbox: None,
    };
    let sandbox = Some(sandbox.to_owned());
    let pod = Interface {
        name: attachment.ifname.clone(),
        mac: mac(attachment.mac),
        mtu,
        sandbox,
    };
    let pairs = || attachment.addresses.iter().zip(&attachment.gateways);
    AddResult {
        cni_version: version.as_str(),
        interfaces: [host, pod],
        ips: pairs()
            .map(|(address, gateway)| ip(version, *address, *gateway))
            .collect(),
        routes: pairs()
            .map(|(_, gateway)| Route {
                dst: everywhere(*gateway),
                gw: *gateway,
            })
            .collect(),
        dns: dns.filter(|dns| *dns != Dns::default()),
    }
}

fn ip(version: Version, address: IpAddr, gateway: IpAddr) -> Ip {
    let (family, prefix) = if address.is_ipv4() { ("4", 32) } else { ("6", 128) };
    Ip {
        version: (version < Version::V1_0_0).then_some(family),
        address: format!("{address}/{prefix}"),
        gateway,
        interface: POD_INTERFACE,
    }
}

fn everywhere(family: IpAddr) -> &'static str {
    if family.is_ipv4() { "0.0.0.0/0" } else { "::/0" }
}

fn mac([a, b, c, d, e, f]: Mac) -> String {
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

/// The result of a plugin behind others: theirs, with `ours` behind it.
///
/// # Errors
/// The part of `previous` that is not what a result has there.
pub fn chained(previous: &Value, mut ours: Value) -> Result<Value, String> {
    let mut whole = previous.as_object().ok_or("it is no object")?.clone();
    whole.insert("cniVersion".to_owned(), ours["cniVersion"].take());
    let list = |key: &str| match previous.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(items)) => Ok(items.clone()),
        Some(_) => Err(format!("{key} is no list")),
    };
    let before = list("interfaces")?.len() as u64;
    for key in ["interfaces", "ips", "routes"] {
        let mut items = list(key)?;
        for mut item in ours[key].as_array_mut().map(std::mem::take).unwrap_or_default() {
            if let Some(index) = item.get("interface").and_then(Value::as_u64) {
                item["interface"] = Value::from(index + before);
            }
            items.push(item);
        }
        whole.insert(key.to_owned(), Value::Array(items));
    }
    if ours.get("dns").is_some() {
        whole.insert("dns".to_owned(), ours["dns"].take());
    }
    Ok(Value::Object(whole))
}

/// The addresses of an earlier result that belong to an interface of the container: what CHECK compares.
pub fn addresses_of_result(result: &Value) -> Option<Vec<IpAddr>> {
    let ips = result.get("ips")?.as_array()?;
    let address = |ip: &Value| ip.get("address")?.as_str()?.split('/').next()?.parse().ok();
    ips.iter().map(address).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn attachment() -> Attachment {
        Attachment {
            network: "orlop".to_owned(),
            container_id: "abc".to_owned(),
            ifname: "eth0".to_owned(),
            addresses: vec!["10.244.0.5".parse().unwrap(), "fd00::5".parse().unwrap()],
            gateways: vec!["169.254.1.1".parse().unwrap(), "fe80::1".parse().unwrap()],
            mac: [0x0a, 0x6f, 10, 244, 0, 5],
            host_mac: crate::plan::HOST_MAC,
            mtu: 1500,
            host_link: "orlabc".to_owned(),
            host_index: 7,
            bandwidth: crate::bandwidth::Bandwidth::default(),
            complete: true,
        }
    }

    fn result(version: Version) -> Value {
        serde_json::to_value(add_result(version, &attachment(), "/run/netns/x", None)).unwrap()
    }

    #[test]
    fn the_newest_result_in_full() {
        let expected = json!({
            "cniVersion": "1.1.0",
            "interfaces": [
                {"name": "orlabc", "mac": "02:6f:72:6c:6f:70", "mtu": 1500},
                {"name": "eth0", "mac": "0a:6f:0a:f4:00:05", "mtu": 1500, "sandbox": "/run/netns/x"},
            ],
            "ips": [
                {"address": "10.244.0.5/32", "gateway": "169.254.1.1", "interface": 1},
                {"address": "fd00::5/128", "gateway": "fe80::1", "interface": 1},
            ],
            "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}, {"dst": "::/0", "gw": "fe80::1"}],
        });
        assert_eq!(result(Version::V1_1_0), expected);
    }

    #[test]
    fn each_version_has_its_own_fields() {
        for version in Version::ALL {
            let result = result(version);
            assert_eq!(result["cniVersion"], version.as_str());
            assert_eq!(
                result["ips"][0].get("version").is_some(),
                version < Version::V1_0_0,
                "{version}"
            );
            assert_eq!(
                result["interfaces"][1].get("mtu").is_some(),
                version >= Version::V1_1_0,
                "{version}"
            );
            assert_eq!(addresses_of_result(&result).unwrap(), attachment().addresses);
        }
    }

    #[test]
    fn a_chained_result_is_that_of_the_plugins_before_with_ours_behind() {
        let previous = json!({
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "dummy0"}],
            "ips": [{"address": "192.0.2.1/24", "interface": 0}],
            "dns": {"nameservers": ["192.0.2.53"]},
        });
        let whole = chained(&previous, result(Version::V1_0_0)).unwrap();
        assert_eq!(whole["interfaces"].as_array().unwrap().len(), 3);
        assert_eq!(whole["interfaces"][2]["name"], "eth0");
        let indices: Vec<&Value> = whole["ips"]
            .as_array()
            .unwrap()
            .iter()
            .map(|ip| &ip["interface"])
            .collect();
        assert_eq!(indices, [0, 2, 2]);
        assert_eq!(whole["routes"].as_array().unwrap().len(), 2);
        assert_eq!(whole["dns"], previous["dns"]);
        let nothing = chained(&json!({}), result(Version::V1_1_0)).unwrap();
        assert_eq!(nothing, result(Version::V1_1_0));
        for (wrong, reason) in [
            (json!([]), "no object"),
            (json!({"ips": 7}), "ips is no list"),
            (json!({"interfaces": {}}), "interfaces"),
        ] {
            let error = chained(&wrong, result(Version::V1_1_0)).unwrap_err();
            assert!(error.contains(reason), "{wrong}: {error}");
        }
    }

    #[test]
    fn dns_is_passed_on_when_it_says_something() {
        let dns = |json: Value| {
            let dns = serde_json::from_value(json).unwrap();
            serde_json::to_value(add_result(Version::V1_0_0, &attachment(), "", Some(dns))).unwrap()
        };
        assert_eq!(
            dns(json!({"nameservers": ["10.0.0.1"]}))["dns"],
            json!({"nameservers": ["10.0.0.1"]})
        );
        assert_eq!(dns(json!({})).get("dns"), None);
    }

    #[test]
    fn failures_have_version_code_words_and_causes() {
        let source = std::io::Error::other("lower");
        let failure = Failure::caused(Code::Exhausted, &crate::pod_network::NetworkError::Socket(source));
        let expected = json!({"cniVersion": "1.0.0", "code": 101, "msg": "open a netlink socket", "details": "lower"});
        assert_eq!(failure.to_json(Version::V1_0_0), expected);
        assert_eq!(
            Failure::new(Code::Io, "x").to_json(Version::V1_0_0).get("details"),
            None
        );
    }
}
