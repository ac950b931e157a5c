//! The CNI verbs: environment and standard input in, one JSON document or nothing out. The process itself is `main`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    config::Config,
    identity::{check_ifname, is_name},
    lease::LeaseError,
    mapping::PortMapping,
    netns::Netns,
    plan::Conflict,
    pod_network::{self, AttachRequest, NetworkError, NodeNetwork},
    protocol::{self, Code, Failure, Version},
};

/// The `CNI_*` variables of the environment.
pub type Environment = BTreeMap<String, String>;

/// What the process prints and ends with.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The one document for standard output, if there is any.
    pub stdout: Option<Value>,
    /// 0, or 1 for a failure.
    pub exit_code: u8,
}

/// What the runtime asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Verb {
    const ALL: [Self; 6] = [Self::Add, Self::Del, Self::Check, Self::Gc, Self::Status, Self::Version];

    fn parse(command: &str) -> Result<Self, Failure> {
        let unknown = || Failure::new(Code::InvalidEnvironment, format!("unknown CNI_COMMAND: {command}"));
        Self::ALL
            .into_iter()
            .find(|verb| verb.as_str() == command)
            .ok_or_else(unknown)
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// Variables that must be there and not empty.
    fn required(self) -> &'static [&'static str] {
        match self {
            Self::Add | Self::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"],
            Self::Del => &["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"],
            Self::Gc | Self::Status => &["CNI_PATH"],
            Self::Version => &[],
        }
    }

    /// The version of CNI that brought the verb.
    fn since(self) -> Version {
        match self {
            Self::Add | Self::Del | Self::Version => Version::V0_3_0,
            Self::Check => Version::V0_4_0,
            Self::Gc | Self::Status => Version::V1_1_0,
        }
    }
}

/// Who does the work: the plugin's process by itself, or an agent for it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Worker<'a> {
    /// The agent's own network.
    pub(crate) network: Option<&'a NodeNetwork>,
    /// Where the worker finds the pod's namespace, if not at `CNI_NETNS`.
    pub(crate) netns: Option<&'a Path>,
    /// Ports of the node that lead to pods of the agent's own.
    pub(crate) taken: &'a [PortMapping],
}

/// Does what the environment asks for. `read_stdin` is called by the verbs that have a configuration.
pub fn run(environment: &Environment, read_stdin: impl FnOnce() -> std::io::Result<Vec<u8>>) -> Outcome {
    run_as(Worker::default(), environment, read_stdin)
}

/// [`run`] with a configuration that has been read, as far as it could be.
pub fn run_configured(environment: &Environment, config: Result<Config, Failure>) -> Outcome {
    outcome(Worker::default(), environment, || config)
}

/// [`run`] by an agent for a plugin.
pub(crate) fn run_as(
    worker: Worker<'_>,
    environment: &Environment,
    read_stdin: impl FnOnce() -> std::io::Result<Vec<u8>>,
) -> Outcome {
    outcome(worker, environment, || {
        let stdin = read_stdin().map_err(|error| Failure::caused(Code::Io, &Unreadable(error)))?;
        Config::parse(&stdin)
    })
}

fn outcome(
    worker: Worker<'_>,
    environment: &Environment,
    read_config: impl FnOnce() -> Result<Config, Failure>,
) -> Outcome {
    // Failures are told in the version of the configuration, as far as it has been read.
    let mut version = Version::NEWEST;
    match answer(worker, environment, read_config, &mut version) {
        Ok(stdout) => Outcome { stdout, exit_code: 0 },
        Err(failure) => Outcome {
            stdout: Some(failure.to_json(version)),
            exit_code: 1,
        },
    }
}

fn answer(
    worker: Worker<'_>,
    environment: &Environment,
    read_config: impl FnOnce() -> Result<Config, Failure>,
    version: &mut Version,
) -> Result<Option<Value>, Failure> {
    let verb = Verb::parse(variable(environment, "CNI_COMMAND"))?;
    if verb == Verb::Version {
        return json(protocol::version_report()).map(Some);
    }
    require(environment, verb)?;
    let config = read_config()?;
    *version = config.version;
    if config.version < verb.since() {
        let message = format!("config version {} does not allow {}", config.version, verb.as_str());
        return Err(Failure::new(Code::IncompatibleVersion, message));
    }
    let call = Call {
        worker,
        environment,
        config: &config,
    };
    match verb {
        Verb::Add => call.add().map(Some),
        Verb::Del => call.del().map(|()| None),
        Verb::Check => call.check().map(|()| None),
        Verb::Gc => call.gc().map(|()| None),
        Verb::Status => call.status().map(|()| None),
        Verb::Version => unreachable!("answered above, without a configuration"),
    }
}

#[derive(Debug, thiserror::Error)]
#[error("read the network configuration from standard input")]
struct Unreadable(#[source] std::io::Error);

fn variable<'a>(environment: &'a Environment, name: &str) -> &'a str {
    environment.get(name).map_or("", String::as_str)
}

fn require(environment: &Environment, verb: Verb) -> Result<(), Failure> {
    let missing: Vec<&str> = verb
        .required()
        .iter()
        .filter(|name| variable(environment, name).is_empty())
        .copied()
        .collect();
    match missing.is_empty() {
        true => Ok(()),
        false => {
            let message = format!("required env variables [{}] missing", missing.join(","));
            Err(Failure::new(Code::InvalidEnvironment, message))
        }
    }
}

/// A call with everything that was said to it.
struct Call<'a> {
    worker: Worker<'a>,
    environment: &'a Environment,
    config: &'a Config,
}

impl Call<'_> {
    fn add(&self) -> Result<Value, Failure> {
        let (id, ifname) = self.attachment()?;
        let network = self.config.network(self.worker.network)?;
        if let Some(previous) = self.config.previous_result() {
            // Before any work: what can't be answered with shall not be made.
            protocol::chained(previous, Value::Null).map_err(|what| wrong_previous(&what))?;
        }
        let wishes = self.config.wishes(variable(self.environment, "CNI_ARGS"))?;
        if let Some(port) = wishes.ports.iter().find(|port| self.is_taken(port)) {
            return Err(failure(&NetworkError::PortInUse(*port)));
        }
        let dns = wishes.dns.clone().or(self.config.dns()?);
        let sandbox = variable(self.environment, "CNI_NETNS");
        let request = AttachRequest {
            netns: self.worker.netns.unwrap_or(Path::new(sandbox)),
            container_id: id,
            ifname,
            addresses: &wishes.addresses,
            mac: wishes.mac,
            ports: &wishes.ports,
            bandwidth: wishes.bandwidth,
            aliases: &wishes.aliases,
        };
        let attachment = pod_network::attach_new(&network, &request).map_err(|error| failure(&error))?;
        let result = json(protocol::add_result(self.config.version, &attachment, sandbox, dns))?;
        match self.config.previous_result() {
            None => Ok(result),
            Some(previous) => protocol::chained(previous, result).map_err(|what| wrong_previous(&what)),
        }
    }

    fn is_taken(&self, port: &PortMapping) -> bool {
        self.worker.taken.iter().any(|taken| taken.meets(port))
    }

    /// Needs neither the namespace, which may be gone, nor an earlier result, nor the rest of the configuration.
    fn del(&self) -> Result<(), Failure> {
        let (id, ifname) = self.attachment()?;
        if !variable(self.environment, "CNI_NETNS").is_empty() {
            self.refuse_own_namespace()?;
        }
        pod_network::detach(&self.config.network_to_remove(self.worker.network), id, ifname)
            .map_err(|error| failure(&error))
    }

    fn check(&self) -> Result<(), Failure> {
        let (id, ifname) = self.attachment()?;
        self.refuse_own_namespace()?;
        let network = self.config.network(self.worker.network)?;
        let Some(previous) = self.config.previous_result() else {
            return Err(Failure::new(
                Code::InvalidConfig,
                "prevResult: CHECK needs the result of ADD",
            ));
        };
        let netns = self.namespace()?;
        let found = pod_network::check(&network, &netns, id, ifname).map_err(|error| failure(&error))?;
        let expected = protocol::addresses_of_result(previous).ok_or_else(|| wrong_previous("ips can't be read"))?;
        let wishes = self.config.wishes(variable(self.environment, "CNI_ARGS"))?;
        pod_network::check_ports(&network, &found, &wishes.ports).map_err(|error| failure(&error))?;
        match found.addresses.iter().find(|address| !expected.contains(address)) {
            Some(address) => {
                let message = format!("{id} has the address {address}, which is not in prevResult");
                Err(Failure::new(Code::Changed, message))
            }
            None => Ok(()),
        }
    }

    /// An absent list is refused: taken for an empty one, it would cut off every pod.
    fn gc(&self) -> Result<(), Failure> {
        let Some(valid) = self.config.valid_attachments()? else {
            let message = "cni.dev/valid-attachments: GC needs the list of what to keep";
            return Err(Failure::new(Code::InvalidConfig, message));
        };
        pod_network::retain(&self.config.network_to_remove(self.worker.network), &valid)
            .map(drop)
            .map_err(|error| failure(&error))
    }

    fn status(&self) -> Result<(), Failure> {
        let network = self.config.network(self.worker.network)?;
        let unavailable = |error: &NetworkError| Failure {
            code: Code::NotAvailable,
            ..failure(error)
        };
        pod_network::status(&network).map_err(|error| unavailable(&error))
    }

    fn attachment(&self) -> Result<(&str, &str), Failure> {
        let id = variable(self.environment, "CNI_CONTAINERID");
        if !is_name(id) {
            let message = format!("CNI_CONTAINERID: {id:?} is not of the form [A-Za-z0-9][A-Za-z0-9_.-]*");
            return Err(Failure::new(Code::InvalidEnvironment, message));
        }
        let ifname = variable(self.environment, "CNI_IFNAME");
        let wrong = |reason| Failure::new(Code::InvalidEnvironment, format!("CNI_IFNAME: {reason}"));
        check_ifname(ifname).map_err(wrong)?;
        Ok((id, ifname))
    }

    /// The pod's namespace, which is there: nothing is made for one that is not.
    fn namespace(&self) -> Result<PathBuf, Failure> {
        let path = PathBuf::from(variable(self.environment, "CNI_NETNS"));
        let found = self.worker.netns.unwrap_or(&path);
        match Netns::open(found) {
            Ok(_) => Ok(found.to_owned()),
            Err(source) => Err(failure(&NetworkError::Namespace { path, source })),
        }
    }

    /// Before any work: the reference plugins look afterwards and print a second document.
    fn refuse_own_namespace(&self) -> Result<(), Failure> {
        let path = variable(self.environment, "CNI_NETNS");
        let found = self.worker.netns.unwrap_or(Path::new(path));
        let overridden = matches!(variable(self.environment, "CNI_NETNS_OVERRIDE"), "1" | "TRUE" | "true");
        let is_own = |netns: &Netns| Netns::current().and_then(|own| own.is_same(netns)).unwrap_or(false);
        if !overridden && Netns::open(found).is_ok_and(|netns| is_own(&netns)) {
            let message = format!("CNI_NETNS: {path} is the plugin's own network namespace");
            return Err(Failure::new(Code::InvalidNamespace, message));
        }
        Ok(())
    }
}

fn wrong_previous(what: &str) -> Failure {
    Failure::new(Code::InvalidConfig, format!("prevResult: {what}"))
}

fn json(value: impl serde::Serialize) -> Result<Value, Failure> {
    serde_json::to_value(value).map_err(|error| Failure::caused(Code::Internal, &error))
}

/// The code that tells a runtime best what to do.
fn failure(error: &NetworkError) -> Failure {
    let code = match error {
        NetworkError::Invalid(_) => Code::InvalidConfig,
        NetworkError::Namespace { .. } | NetworkError::OwnNamespace(_) => Code::InvalidNamespace,
        NetworkError::Attached { .. }
        | NetworkError::Conflict(Conflict::IfnameInUse(_) | Conflict::HostLinkInUse { .. }) => Code::AttachedAlready,
        NetworkError::Exhausted { .. } => Code::Exhausted,
        NetworkError::AddressInUse(_) => Code::AddressInUse,
        NetworkError::PortInUse(_) => Code::PortInUse,
        NetworkError::Contended | NetworkError::Lease(LeaseError::Locked(_)) => Code::TryAgainLater,
        NetworkError::Unknown { .. } => Code::UnknownContainer,
        NetworkError::Changed { .. } => Code::Changed,
        NetworkError::Step(_)
        | NetworkError::Nftables(_)
        | NetworkError::Look(_)
        | NetworkError::Lease(LeaseError::File { .. })
        | NetworkError::Names(_)
        | NetworkError::Sysctl(_)
        | NetworkError::Socket(_) => Code::Internal,
    };
    Failure::caused(code, error)
}

/// What a call comes to when the agent that shall do it does not answer. DEL is not among them: it does its own work.
pub fn unreachable_agent(environment: &Environment, config: &Config, error: &std::io::Error) -> Outcome {
    let code = match variable(environment, "CNI_COMMAND") {
        "STATUS" => Code::NotAvailable,
        _ => Code::TryAgainLater,
    };
    let failure = Failure {
        details: Some(error.to_string()),
        ..Failure::new(code, "the agent does not answer")
    };
    Outcome {
        stdout: Some(failure.to_json(config.version)),
        exit_code: 1,
    }
}

/// What the program says of itself when it is called without a verb.
pub fn about() -> String {
    let versions = Version::ALL.map(Version::as_str).join(", ");
    format!(
        "CNI orlop-cni plugin v{}\nCNI protocol versions supported: {versions}\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// What a broken invariant looks like to the runtime.
pub fn panic_document(message: &str) -> Value {
    Failure::new(Code::Internal, format!("internal error: {message}")).to_json(Version::NEWEST)
}

#[cfg(test)]
#[path = "plugin_tests.rs"]
mod tests;
