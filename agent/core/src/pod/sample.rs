//! The smallest pod, for tests to change.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Backoffs, ContainerName, DesiredContainer, DesiredPod, DnsPolicy, Goal, NodeFacts, PodUid, PullPolicy, Resources,
    RestartPolicy, Security,
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
        supplemental_groups: Vec::new(),
        grace: Duration::from_secs(30),
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
