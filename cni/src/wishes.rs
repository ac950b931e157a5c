//! What a runtime asks for with one call, beside the network itself: `runtimeConfig` (the capabilities), `args.cni` and
//! `CNI_ARGS`. What is not honoured is refused by its name.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{
    bandwidth::{Bandwidth, Rate},
    identity::is_name,
    mapping::{PortMapping, Protocol},
    protocol::{Code, Dns, Failure},
    step::Mac,
};

/// Capabilities that a configuration may declare and a runtime may send. `cgroupPath` is taken and put to no use: Service
/// addresses are answered on the root cgroup, of which every pod's is a part, and nothing else here goes by cgroups.
pub const CAPABILITIES: [&str; 7] = [
    "aliases",
    "bandwidth",
    "cgroupPath",
    "dns",
    "ips",
    "mac",
    "portMappings",
];
/// Most ports of one pod.
const PORTS_MAX: usize = 4096;
/// Most names of one pod, and letters of one, as in the DNS.
const ALIASES_MAX: usize = 256;
const ALIAS_LETTERS_MAX: usize = 253;
/// Letters of a refused value that an error shows.
const SHOWN_MAX: usize = 200;

/// Everything that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wishes {
    /// Addresses to have.
    pub addresses: Vec<IpAddr>,
    /// Hardware address to have.
    pub mac: Option<Mac>,
    /// Ports of the node.
    pub ports: Vec<PortMapping>,
    /// Limits.
    pub bandwidth: Bandwidth,
    /// What resolvers are told, in the place of the configuration's.
    pub dns: Option<Dns>,
    /// Names that the pod is to be found by on this network.
    pub aliases: Vec<String>,
}

impl Wishes {
    /// Reads `runtimeConfig`, `args` and `CNI_ARGS`, in this order of precedence, as far as they are about `network`.
    ///
    /// # Errors
    /// Codes 2, 4 and 7, with the field or key.
    pub fn read(network: &str, runtime: Option<&Value>, args: Option<&Value>, cni_args: &str) -> Result<Self, Failure> {
        let runtime: Map<String, Value> = optional("runtimeConfig", runtime)?.unwrap_or_default();
        let is_honoured = |key: &str| CAPABILITIES.contains(&key);
        if let Some((key, value)) = runtime
            .iter()
            .find(|(key, value)| !is_honoured(key) && !is_nothing(value))
        {
            return Err(unsupported(&format!("runtimeConfig.{key}"), value));
        }
        let by_args = ByArgs::read(cni_args)?;
        let _: Option<String> = optional("runtimeConfig.cgroupPath", runtime.get("cgroupPath"))?;
        let cni = args.and_then(|args| args.get("cni"));
        let of_args = |key| cni.and_then(|cni| cni.get(key));
        let addresses = match (runtime.get("ips"), by_args.address, of_args("ips")) {
            (Some(ips), ..) => addresses("runtimeConfig.ips", ips)?,
            (None, Some(address), _) => vec![address],
            (None, None, Some(ips)) => addresses("args.cni.ips", ips)?,
            (None, None, None) => Vec::new(),
        };
        let mac = match (
            optional::<String>("runtimeConfig.mac", runtime.get("mac"))?,
            by_args.mac,
        ) {
            (Some(text), _) => Some(mac("runtimeConfig.mac", &text)?),
            (None, Some(mac)) => Some(mac),
            (None, None) => optional("args.cni.mac", of_args("mac"))?
                .map(|text: String| mac("args.cni.mac", &text))
                .transpose()?,
        };
        Ok(Self {
            addresses,
            mac,
            ports: ports(optional("runtimeConfig.portMappings", runtime.get("portMappings"))?.unwrap_or_default())?,
            bandwidth: bandwidth(optional("runtimeConfig.bandwidth", runtime.get("bandwidth"))?.unwrap_or_default())?,
            dns: optional("runtimeConfig.dns", runtime.get("dns"))?.map(AskedDns::into),
            aliases: optional("runtimeConfig.aliases", runtime.get("aliases"))?
                .map_or(Ok(Vec::new()), |asked: AskedAliases| asked.of(network))?,
        })
    }
}

/// `CNI_ARGS` is `K=V;K=V`. `IP` and `MAC` are honoured; others must be announced as ignorable by `IgnoreUnknown=1`.
#[derive(Debug, Default)]
struct ByArgs {
    address: Option<IpAddr>,
    mac: Option<Mac>,
}

impl ByArgs {
    fn read(args: &str) -> Result<Self, Failure> {
        let wrong = |what: String| Failure::new(Code::InvalidEnvironment, format!("CNI_ARGS: {what}"));
        let pairs = args.split(';').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| {
            pair.split_once('=')
                .ok_or_else(|| wrong(format!("{pair:?} is not KEY=VALUE")))
        });
        let pairs: Vec<(&str, &str)> = pairs.collect::<Result<_, _>>()?;
        let ignores = pairs
            .iter()
            .any(|(key, value)| *key == "IgnoreUnknown" && matches!(*value, "1" | "true" | "TRUE"));
        let mut asked = Self::default();
        for (key, value) in pairs {
            match key {
                "IP" => asked.address = Some(parse_address(value).map_err(|failure| wrong(failure.message))?),
                "MAC" => asked.mac = Some(parse_mac(value).ok_or_else(|| wrong(not_a_mac(value)))?),
                "IgnoreUnknown" => {}
                _ if ignores => {}
                _ => return Err(wrong(format!("unknown key {key:?}"))),
            }
        }
        Ok(asked)
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AskedPort {
    host_port: u16,
    container_port: u16,
    protocol: Option<String>,
    #[serde(rename = "hostIP")]
    host_ip: Option<String>,
}

fn ports(asked: Vec<AskedPort>) -> Result<Vec<PortMapping>, Failure> {
    let wrong = |what: String| Failure::new(Code::InvalidConfig, format!("runtimeConfig.portMappings: {what}"));
    if asked.len() > PORTS_MAX {
        return Err(wrong(format!("more than {PORTS_MAX} ports")));
    }
    let port = |asked: AskedPort| {
        let protocol = asked.protocol.as_deref().unwrap_or("tcp");
        let protocol = Protocol::parse(protocol).ok_or_else(|| wrong(format!("unknown protocol {protocol:?}")))?;
        if asked.host_port == 0 || asked.container_port == 0 {
            return Err(wrong("a port is 0".to_owned()));
        }
        let host_address = match asked.host_ip.as_deref() {
            None | Some("") => None,
            Some(text) => Some(parse_address(text).map_err(|failure| wrong(format!("hostIP {}", failure.message)))?),
        };
        Ok(PortMapping {
            protocol,
            host_address,
            host_port: asked.host_port,
            pod_port: asked.container_port,
        })
    };
    asked.into_iter().map(port).collect()
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct AskedBandwidth {
    ingress_rate: u64,
    ingress_burst: u64,
    egress_rate: u64,
    egress_burst: u64,
}

fn bandwidth(asked: AskedBandwidth) -> Result<Bandwidth, Failure> {
    let rate = |name: &str, bits_per_second, burst_bits| match (bits_per_second, burst_bits) {
        (0, 0) => Ok(None),
        (0, _) | (_, 0) => {
            let message = format!("runtimeConfig.bandwidth: {name}Rate and {name}Burst need each other");
            Err(Failure::new(Code::InvalidConfig, message))
        }
        _ => Ok(Some(Rate {
            bits_per_second,
            burst_bits,
        })),
    };
    Ok(Bandwidth {
        ingress: rate("ingress", asked.ingress_rate, asked.ingress_burst)?,
        egress: rate("egress", asked.egress_rate, asked.egress_burst)?,
    })
}

/// The capability's words, which are not those of results.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AskedDns {
    servers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

impl From<AskedDns> for Dns {
    fn from(asked: AskedDns) -> Self {
        Self::new(asked.servers, asked.searches, asked.options)
    }
}

/// The conventions have a list; podman and the `dnsname` plugin have one for each network.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum AskedAliases {
    List(Vec<String>),
    ByNetwork(BTreeMap<String, Vec<String>>),
}

impl AskedAliases {
    fn of(self, network: &str) -> Result<Vec<String>, Failure> {
        let wrong = |what: String| Failure::new(Code::InvalidConfig, format!("runtimeConfig.aliases: {what}"));
        let mut aliases = match self {
            Self::List(aliases) => aliases,
            Self::ByNetwork(mut lists) => lists.remove(network).unwrap_or_default(),
        };
        aliases.sort_unstable();
        aliases.dedup();
        let is_wrong = |alias: &&String| !is_name(alias) || alias.len() > ALIAS_LETTERS_MAX;
        match aliases.iter().find(is_wrong) {
            Some(alias) => Err(wrong(format!("{:?} is no name", shown_text(alias)))),
            None if aliases.len() > ALIASES_MAX => Err(wrong(format!("more than {ALIASES_MAX} names"))),
            None => Ok(aliases),
        }
    }
}

fn addresses(key: &str, value: &Value) -> Result<Vec<IpAddr>, Failure> {
    let texts: Vec<String> = read(key, value)?;
    texts.iter().map(|text| parse_address(text)).collect()
}

fn mac(key: &str, text: &str) -> Result<Mac, Failure> {
    parse_mac(text).ok_or_else(|| Failure::new(Code::InvalidConfig, format!("{key}: {}", not_a_mac(text))))
}

fn not_a_mac(text: &str) -> String {
    format!("{text:?} is not a hardware address")
}

fn parse_mac(text: &str) -> Option<Mac> {
    let parts: Vec<&str> = text.split([':', '-']).collect();
    let byte = |part: &&str| u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2);
    let bytes: Vec<u8> = parts.iter().map(byte).collect::<Option<_>>()?;
    bytes.try_into().ok()
}

/// Reads an address as runtimes write them: plain, or with the prefix length of their subnet.
///
/// # Errors
/// Code 7.
pub fn parse_address(text: &str) -> Result<IpAddr, Failure> {
    let address = text.split('/').next().unwrap_or_default().parse();
    address.map_err(|_| Failure::new(Code::InvalidConfig, format!("{text:?} is not an IP address")))
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

fn optional<T: DeserializeOwned>(key: &str, value: Option<&Value>) -> Result<Option<T>, Failure> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(value) => read(key, value).map(Some),
    }
}

/// A value as what it should be.
pub(crate) fn read<T: DeserializeOwned>(key: &str, value: &Value) -> Result<T, Failure> {
    T::deserialize(value).map_err(|error| {
        let message = format!("{key}: {} is wrong: {error}", shown(value));
        Failure::new(Code::InvalidConfig, message)
    })
}

pub(crate) fn unsupported(key: &str, value: &Value) -> Failure {
    Failure::new(
        Code::UnsupportedField,
        format!("unsupported field {key:?}: {}", shown(value)),
    )
}

pub(crate) fn shown(value: &Value) -> String {
    shown_text(&value.to_string())
}

fn shown_text(text: &str) -> String {
    text.chars().take(SHOWN_MAX).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wishes(runtime: &Value, args: &Value, cni_args: &str) -> Result<Wishes, Failure> {
        Wishes::read("pods", Some(runtime), Some(args), cni_args)
    }

    #[test]
    fn every_capability_is_read() {
        let runtime = json!({
            "ips": ["10.0.0.9/24", "fd00::9"],
            "mac": "02:00:00:00:00:07",
            "portMappings": [
                {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
                {"hostPort": 53, "containerPort": 5353, "protocol": "UDP", "hostIP": "192.0.2.1"},
                {"hostPort": 9, "containerPort": 9, "hostIP": ""},
            ],
            "bandwidth": {"ingressRate": 1000, "ingressBurst": 2000, "egressRate": 0, "egressBurst": 0},
            "dns": {"servers": ["10.96.0.10"], "searches": ["svc"], "options": ["ndots:5"]},
            "aliases": ["web", "db", "web"],
            "cgroupPath": "/kubepods.slice/kubepods-pod1.slice",
            "deviceID": "",
        });
        let wishes = wishes(&runtime, &json!({}), "").unwrap();
        assert_eq!(wishes.addresses.len(), 2);
        assert_eq!(wishes.mac, Some([2, 0, 0, 0, 0, 7]));
        assert_eq!(wishes.aliases, ["db", "web"]);
        let ports: Vec<String> = wishes.ports.iter().map(ToString::to_string).collect();
        assert_eq!(ports, ["port 8080/tcp", "192.0.2.1:53/udp", "port 9/tcp"]);
        assert_eq!(wishes.bandwidth.egress, None);
        assert_eq!(wishes.bandwidth.ingress.unwrap().burst_bits, 2000);
        assert_eq!(
            serde_json::to_value(wishes.dns).unwrap(),
            json!({"nameservers": ["10.96.0.10"], "search": ["svc"], "options": ["ndots:5"]})
        );
    }

    #[test]
    fn the_runtime_precedes_arguments() {
        let args = json!({"cni": {"ips": ["10.0.0.3"], "mac": "02:00:00:00:00:03"}});
        let of = |runtime: Value, cni_args| wishes(&runtime, &args, cni_args).unwrap();
        let last = |wishes: &Wishes| (wishes.addresses[0].to_string(), wishes.mac.unwrap()[5]);
        let runtime = json!({"ips": ["10.0.0.1"], "mac": "02:00:00:00:00:01"});
        let cni_args = "IgnoreUnknown=1;K8S_POD_NAME=a;IP=10.0.0.2;MAC=02:00:00:00:00:02";
        assert_eq!(last(&of(runtime, cni_args)), ("10.0.0.1".to_owned(), 1));
        assert_eq!(last(&of(json!({}), cni_args)), ("10.0.0.2".to_owned(), 2));
        assert_eq!(last(&of(json!({}), "")), ("10.0.0.3".to_owned(), 3));
    }

    #[test]
    fn names_of_other_networks_are_passed_over() {
        let aliases = |runtime: Value| wishes(&runtime, &json!({}), "").unwrap().aliases;
        assert_eq!(aliases(json!({"aliases": {"pods": ["a"], "others": ["b"]}})), ["a"]);
        assert!(aliases(json!({"aliases": {"others": ["b"]}})).is_empty());
        assert!(aliases(json!({"aliases": {}})).is_empty() && aliases(json!({"aliases": []})).is_empty());
    }

    #[test]
    fn what_is_wrong_or_not_honoured_is_named() {
        for (runtime, cni_args, code, reason) in [
            (json!({"ips": ["10.0.0.x"]}), "", 7, "\"10.0.0.x\" is not an IP address"),
            (json!({"mac": "02:00"}), "", 7, "runtimeConfig.mac: \"02:00\""),
            (
                json!({"aliases": ["a b"]}),
                "",
                7,
                "runtimeConfig.aliases: \"a b\" is no name",
            ),
            (json!({"aliases": {"pods": ["a\n"]}}), "", 7, "\"a\\n\" is no name"),
            (json!({"aliases": "a"}), "", 7, "runtimeConfig.aliases: \"a\" is wrong"),
            (json!({"cgroupPath": 7}), "", 7, "runtimeConfig.cgroupPath: 7 is wrong"),
            (json!({"deviceID": "0000:00:01.0"}), "", 2, "runtimeConfig.deviceID"),
            (
                json!({"ipRanges": [[{"subnet": "10.0.0.0/24"}]]}),
                "",
                2,
                "runtimeConfig.ipRanges",
            ),
            (
                json!({"portMappings": [{"hostPort": 0, "containerPort": 80}]}),
                "",
                7,
                "a port is 0",
            ),
            (
                json!({"portMappings": [{"hostPort": 70000, "containerPort": 80}]}),
                "",
                7,
                "portMappings",
            ),
            (
                json!({"portMappings": [{"hostPort": 1, "containerPort": 1, "protocol": "icmp"}]}),
                "",
                7,
                "unknown protocol \"icmp\"",
            ),
            (
                json!({"bandwidth": {"ingressRate": 5}}),
                "",
                7,
                "ingressRate and ingressBurst",
            ),
            (
                json!({"bandwidth": {"egressBurst": 5}}),
                "",
                7,
                "egressRate and egressBurst",
            ),
            (json!({"bandwidth": {"rate": 5}}), "", 7, "bandwidth"),
            (json!([]), "", 7, "runtimeConfig: [] is wrong"),
            (json!({}), "IP", 4, "\"IP\" is not KEY=VALUE"),
            (json!({}), "MAC=zz", 4, "\"zz\" is not a hardware address"),
            (json!({}), "FOO=1", 4, "unknown key \"FOO\""),
        ] {
            let failure = wishes(&runtime, &json!({}), cni_args).unwrap_err();
            assert_eq!(failure.code.number(), code, "{runtime} {cni_args}: {failure}");
            assert!(failure.message.contains(reason), "{runtime} {cni_args}: {failure}");
        }
    }
}
