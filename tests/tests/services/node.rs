//! A node with the agent's Service task in it, and one Service `web`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent::hands::maps::look::Question;
use agent::services::detail::PortDetail;
use agent::services::report::Reporter;
use agent::services::{BindAddress, Query, ServiceFacts, ServicesConfig, run};
use agent_core::manifest::Object;
use agent_core::service::shelf::Shelf;
use agent_core::service::slice::Slice;
use agent_core::service::table::NodeFacts;
use agent_core::service::topology::Place;
use agent_core::service::{AddressRange, ContainerPort, Counters, Protocol, ReadyPod, ServiceName, ServicesStatus};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tests::{NetworkNamespace, Scratch, eventually};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot, watch};

use super::SOON;
use super::client::Client;
use super::server::Backend;

/// Where the agent tells of its health and its figures.
pub(crate) const HEALTHZ: u16 = 10256;
pub(crate) const METRICS: u16 = 10249;
const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

pub(crate) struct Node<'a> {
    scratch: &'a Scratch,
    namespace: &'a NetworkNamespace,
    agent: Option<Agent>,
    facts: ServiceFacts,
    uplinks: Vec<String>,
}

struct Agent {
    runtime: Runtime,
    facts: watch::Sender<Option<Arc<ServiceFacts>>>,
    status: watch::Receiver<ServicesStatus>,
    queries: mpsc::Sender<Query>,
}

impl<'a> Node<'a> {
    pub(crate) fn new(scratch: &'a Scratch, namespace: &'a NetworkNamespace) -> Self {
        let mut node = Self {
            scratch,
            namespace,
            agent: None,
            uplinks: Vec::new(),
            facts: ServiceFacts {
                node: facts(namespace),
                ..ServiceFacts::default()
            },
        };
        node.start_agent();
        node
    }

    /// A node that serves clients outside through these links, and is known to others by these addresses.
    pub(crate) fn with_uplinks(
        scratch: &'a Scratch,
        namespace: &'a NetworkNamespace,
        uplinks: &[&str],
        addresses: &[&str],
    ) -> Self {
        let mut node = Self::new(scratch, namespace);
        node.stop_agent();
        node.uplinks = uplinks.iter().map(|name| (*name).into()).collect();
        let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        node.facts.node.node_port_addresses = addresses.clone();
        node.facts.node.addresses = addresses.clone();
        node.facts.node.own = Some((cookie(namespace), addresses));
        node.start_agent();
        node
    }

    /// Has node ports answer on these addresses, too.
    pub(crate) fn answer_node_ports_on(&mut self, addresses: &[&str]) {
        let addresses = addresses.iter().map(|text| text.parse::<IpAddr>().unwrap());
        self.facts.node.node_port_addresses.extend(addresses);
    }

    /// Where it is.
    pub(crate) fn namespace(&self) -> &'a NetworkNamespace {
        self.namespace
    }

    pub(crate) fn start_agent(&mut self) {
        let config = ServicesConfig {
            bpf_dir: self.scratch.bpf_dir(),
            cgroup: self.scratch.cgroup(),
            uplinks: self.uplinks.clone(),
            ranges: vec![range("10.96.0.0", 16), range("fd00:96::", 112)],
            record: self.scratch.path("services.json"),
        };
        let (facts, for_task) = watch::channel(None);
        let (reports, status) = watch::channel(ServicesStatus::default());
        let (queries, asked) = mpsc::channel(1);
        // Its threads are in the namespace, as an agent is in its node's.
        let runtime = self.namespace.run(|| {
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap()
        });
        let reporter = Arc::new(Reporter::new(for_task.clone(), status.clone(), queries.clone()));
        let [healthz, metrics] = [HEALTHZ, METRICS].map(|port| BindAddress(Some(SocketAddr::new(LOCALHOST, port))));
        runtime.spawn(reporter.run(healthz, metrics));
        runtime.spawn(run(config, for_task, reports, asked));
        self.agent = Some(Agent {
            runtime,
            facts,
            status,
            queries,
        });
    }

    /// Ends the task as a kill would: wherever it is.
    pub(crate) fn stop_agent(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.runtime.shutdown_timeout(SOON);
        }
    }

    /// Starts a server in the namespace.
    pub(crate) fn serve(&self, server: impl FnOnce() -> Backend + Send) -> Backend {
        self.namespace.run(server)
    }

    /// A client in the node's cgroup and namespace.
    pub(crate) fn client(&self) -> Client {
        let cgroup = self.scratch.cgroup();
        self.namespace.run(|| Client::start(&cgroup))
    }

    /// A client in the node's cgroup and another namespace, as one of a pod.
    pub(crate) fn client_in(&self, namespace: &NetworkNamespace) -> Client {
        let cgroup = self.scratch.cgroup();
        namespace.run(|| Client::start(&cgroup))
    }

    /// Makes `web` the one Service, `address[,address] PROTOCOL port`, and waits until the kernel has it.
    #[track_caller]
    pub(crate) fn set(&mut self, service: &str, backends: &[&Backend]) {
        let pods = backends.iter().map(|backend| pod(backend)).collect();
        self.facts.services = [Arc::new(web(service))].into_iter().collect();
        self.facts.pods = pods;
        self.send();
    }

    /// Makes the manifests' Services all there are, with these pods as their backends.
    #[track_caller]
    pub(crate) fn apply(&mut self, manifests: &str, backends: &[&Backend]) {
        self.apply_with(manifests, backends, |_| ());
    }

    /// The same, with facts that no manifest has.
    #[track_caller]
    pub(crate) fn apply_with(&mut self, manifests: &str, backends: &[&Backend], edit: impl FnOnce(&mut ServiceFacts)) {
        let objects = agent_core::manifest::parse("test.yaml", manifests.as_bytes()).unwrap();
        self.facts.services = Shelf::default();
        for object in objects {
            match object {
                Object::Service(service) => self.facts.services.put(Arc::new(*service)),
                Object::EndpointSlice(slice) => self.facts.slices.put(Arc::new(Slice::of(&slice))),
                Object::Pod(_) | Object::ConfigMap(_) => panic!("a pod is given as a backend"),
            }
        }
        self.facts.pods = backends.iter().map(|backend| pod(backend)).collect();
        edit(&mut self.facts);
        self.send();
    }

    /// Gives the one Service other backends and goes on at once; how many updates there have been since the agent started.
    pub(crate) fn change(&mut self, backends: &[&Backend]) -> u64 {
        self.facts.pods = backends.iter().map(|backend| pod(backend)).collect();
        let agent = self.agent.as_ref().unwrap();
        agent.facts.send_replace(Some(Arc::new(self.facts.clone())));
        agent.status.borrow().measures.updates.count()
    }

    /// How long it takes from a change of the facts until the kernel has it.
    pub(crate) fn change_timed(&mut self, change: impl FnOnce(&mut ServiceFacts)) -> Duration {
        let agent = self.agent.as_mut().unwrap();
        agent.status.mark_unchanged();
        let start = Instant::now();
        change(&mut self.facts);
        agent.facts.send_replace(Some(Arc::new(self.facts.clone())));
        agent.runtime.block_on(agent.status.changed()).unwrap();
        let time = start.elapsed();
        assert!(agent.status.borrow().in_kernel, "{:?}", agent.status.borrow().problem);
        time
    }

    /// Takes all Services away.
    #[track_caller]
    pub(crate) fn clear(&mut self) {
        self.facts.services = Shelf::default();
        self.send();
    }

    #[track_caller]
    fn send(&mut self) {
        let facts = Arc::new(self.facts.clone());
        let agent = self.agent.as_mut().unwrap();
        agent.status.mark_unchanged();
        agent.facts.send_replace(Some(facts));
        eventually(SOON, "the kernel has the Services", || {
            let fresh = agent.status.has_changed().unwrap();
            let status = agent.status.borrow();
            if fresh && status.in_kernel {
                Ok(())
            } else {
                Err(status.problem.clone())
            }
        });
    }

    /// What keeps a Service from working as written.
    pub(crate) fn problems(&self, service: &str) -> Vec<String> {
        let status = self.agent.as_ref().unwrap().status.borrow().clone();
        let found = status.services.iter().find(|(name, _)| *name.name == *service);
        found.unwrap().1.problems.clone()
    }

    /// What keeps a pod's ports of the node from leading to it.
    pub(crate) fn problems_of_pod(&self, name: &str) -> Vec<String> {
        let status = self.agent.as_ref().unwrap().status.borrow().clone();
        status.host_ports[&ServiceName::of_pod("default", name)]
            .problems
            .clone()
    }

    /// The counters of the first port.
    pub(crate) fn counters(&self, service: &str) -> Counters {
        let agent = self.agent.as_ref().unwrap();
        let (query, answer) = oneshot::channel();
        agent.queries.blocking_send(Query::Status(query)).unwrap();
        let status = answer.blocking_recv().unwrap();
        let service = status
            .services
            .iter()
            .find(|(name, _)| *name.name == *service)
            .unwrap()
            .1;
        service.ports[0].counters
    }

    /// Every port in full.
    pub(crate) fn details(&self) -> Vec<PortDetail> {
        let (query, answer) = oneshot::channel();
        let agent = self.agent.as_ref().unwrap();
        agent.queries.blocking_send(Query::Details(query)).unwrap();
        answer.blocking_recv().unwrap()
    }

    /// What would become of a TCP connection.
    pub(crate) fn trace(&self, source: &str, destination: &str) -> Vec<String> {
        self.trace_by(ebpf_common::maps::TCP, source, destination)
    }

    pub(crate) fn trace_by(&self, protocol: u8, source: &str, destination: &str) -> Vec<String> {
        let question = Question {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            protocol,
        };
        let (query, answer) = oneshot::channel();
        let agent = self.agent.as_ref().unwrap();
        agent.queries.blocking_send(Query::Trace(question, query)).unwrap();
        answer.blocking_recv().unwrap().lines
    }

    /// The counters after the first list of a new agent.
    pub(crate) fn counters_from_before(&mut self, name: &str, service: &str, backends: &[&Backend]) -> Counters {
        self.set(service, backends);
        self.counters(name)
    }

    pub(crate) fn bpf_dir(&self) -> PathBuf {
        self.scratch.bpf_dir()
    }

    /// Puts a map of another kind in the place of one of ours.
    pub(crate) fn pin_a_foreign_map_as(&self, name: &str) {
        let maps = self.bpf_dir().join("v3/maps");
        std::fs::remove_file(maps.join(name)).unwrap();
        let slots = aya::maps::MapData::from_pin(maps.join("slots4")).unwrap();
        slots.pin(maps.join(name)).unwrap();
    }

    pub(crate) fn remove_files(&self) {
        std::fs::remove_file(self.scratch.path("services.json")).unwrap();
        eventually(SOON, "the cgroup is empty", || {
            std::fs::remove_dir(self.scratch.cgroup())
        });
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        self.stop_agent();
        agent::services::remove_all(&self.scratch.bpf_dir()).unwrap();
    }
}

/// The node `here` with 192.0.2.1 and 2001:db8::1, which need not be on any link: a socket never gets that far.
fn facts(namespace: &NetworkNamespace) -> NodeFacts {
    let addresses = ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().unwrap());
    let mut node_port_addresses = addresses.to_vec();
    node_port_addresses.extend([IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)]);
    NodeFacts {
        place: Place {
            node: "here".into(),
            zone: "a".into(),
        },
        addresses: node_port_addresses.clone(),
        node_port_addresses,
        external_ips: true,
        cluster_ips_outside: false,
        leaving: false,
        own: Some((cookie(namespace), addresses.to_vec())),
    }
}

/// The cookie of a namespace.
pub(crate) fn cookie(namespace: &NetworkNamespace) -> u64 {
    namespace.run(ebpf_kernel::network_cookie).unwrap()
}

/// A pod in a namespace that serves nothing.
pub(crate) fn client_pod(namespace: &NetworkNamespace, addresses: &[&str]) -> ReadyPod {
    ReadyPod {
        namespace: "default".into(),
        name: "client".into(),
        labels: BTreeMap::new(),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        ports: Vec::new(),
        ready: true,
        terminating: false,
        namespace_cookie: Some(cookie(namespace)),
        netns: Some(namespace.path()),
    }
}

fn range(address: &str, prefix: u8) -> AddressRange {
    AddressRange {
        address: address.parse().unwrap(),
        prefix,
    }
}

fn web(text: &str) -> Service {
    let words: Vec<&str> = text.split(' ').collect();
    let addresses: Vec<String> = words[0].split(',').map(str::to_owned).collect();
    let port = ServicePort {
        port: words[2].parse().unwrap(),
        protocol: Some(words[1].into()),
        target_port: Some(IntOrString::String("serves".into())),
        ..Default::default()
    };
    let spec = ServiceSpec {
        cluster_ip: Some(addresses[0].clone()),
        cluster_ips: Some(addresses),
        selector: Some([("app".into(), "web".into())].into()),
        ports: Some(vec![port]),
        ..Default::default()
    };
    let metadata = ObjectMeta {
        name: Some("web".into()),
        namespace: Some("default".into()),
        ..Default::default()
    };
    Service {
        metadata,
        spec: Some(spec),
        status: None,
    }
}

fn pod(backend: &Backend) -> ReadyPod {
    let protocol: Protocol = backend.protocol;
    let address: IpAddr = backend.address.ip();
    ReadyPod {
        namespace: "default".into(),
        name: backend.label.clone(),
        labels: [("app".into(), "web".into())].into(),
        addresses: vec![address],
        ports: vec![ContainerPort {
            name: Some("serves".into()),
            number: backend.address.port(),
            protocol,
        }],
        ready: true,
        terminating: false,
        namespace_cookie: None,
        netns: None,
    }
}
