//! The smallest pod, for tests to change.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use super::{
    Attempt, AttemptState, Backoffs, Bandwidth, CgroupFacts, ContainerFacts, ContainerName, DesiredContainer,
    DesiredPod, DnsPolicy, ExitRecord, Goal, ImageFacts, NodeFacts, ObservedPod, PodUid, Presence, PullPolicy,
    Resources, RestartPolicy, Security, ShimState, Time,
};

pub(crate) fn pod() -> DesiredPod {
    DesiredPod {
        uid: PodUid::parse("uid-1").expect("a uid"),
        namespace: "default".to_owned(),
        name: "web".to_owned(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        containers: vec![container("app")],
        restart_policy: RestartPolicy::Always,
        hostname: "web".to_owned(),
        host_network: false,
        enable_service_links: true,
        dns: DnsPolicy::Default,
        bandwidth: Bandwidth::default(),
        supplemental_groups: Vec::new(),
        grace: Duration::from_secs(30),
        refusal: None,
        goal: Goal::Run,
        backoffs: Backoffs::default(),
        node: NodeFacts::default(),
    }
}

pub(crate) fn container(name: &str) -> DesiredContainer {
    DesiredContainer {
        name: ContainerName::parse(name).expect("a name"),
        image: "image".to_owned(),
        pull_policy: PullPolicy::IfNotPresent,
        command: Vec::new(),
        args: Vec::new(),
        working_dir: None,
        env_from: Vec::new(),
        env: Vec::new(),
        ports: Vec::new(),
        resources: Resources::default(),
        security: Security::default(),
    }
}

/// A node on which everything that the containers share is up and every image is present.
pub(crate) fn ready(pod: &DesiredPod) -> ObservedPod {
    let image = |name: &str| {
        (
            name.to_owned(),
            ImageFacts {
                id: "sha256:1".to_owned(),
                reference: "r@sha256:2".to_owned(),
            },
        )
    };
    ObservedPod {
        accepted_at: Some(at(100)),
        has_files: true,
        namespaces: Presence::Whole,
        cgroup: Some(CgroupFacts { populated: true }),
        network: Some(vec![IpAddr::from([10, 244, 0, 5])]),
        shim: ShimState::Running,
        images: pod.containers.iter().map(|container| image(&container.image)).collect(),
        ..ObservedPod::default()
    }
}

/// The same with one attempt of the first container.
pub(crate) fn with(pod: &DesiredPod, attempt: Attempt) -> ObservedPod {
    let mut observed = ready(pod);
    let facts = ContainerFacts {
        attempts: vec![attempt],
        ..ContainerFacts::default()
    };
    observed.containers.insert(pod.containers[0].name.clone(), facts);
    observed
}

pub(crate) fn attempt(number: u32, state: AttemptState) -> Attempt {
    Attempt {
        number,
        crashes: number,
        image: "r@sha256:2".to_owned(),
        state,
        signalled: None,
    }
}

pub(crate) fn running(since: u64) -> AttemptState {
    AttemptState::Running { started_at: at(since) }
}

pub(crate) fn exited(exit_code: i32, started: u64, finished: u64) -> AttemptState {
    let exit = ExitRecord {
        exit_code,
        started_at: Some(at(started)),
        finished_at: at(finished),
        ..ExitRecord::default()
    };
    AttemptState::Exited(exit)
}

pub(crate) const fn at(seconds: u64) -> Time {
    Time::from_unix_nanos(seconds * 1_000_000_000)
}

pub(crate) fn name(text: &str) -> ContainerName {
    ContainerName::parse(text).expect("a name")
}
