//! A node whose network is a namespace, with the plugin as its runtime would call it.

use std::{
    io::Write,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use cni::pod_network::{self, NodeNetwork};
use serde_json::{Value, json};
use tests::{NetworkNamespace, Scratch};

/// A node with the plugin and its configuration.
pub(crate) struct Node {
    pub(crate) scratch: Scratch,
    pub(crate) namespace: NetworkNamespace,
    pub(crate) plugin: PathBuf,
    pub(crate) config: Value,
}

/// What a call came back with.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    pub(crate) code: i32,
    pub(crate) stdout: String,
}

impl Answer {
    pub(crate) fn of(output: &Output) -> Self {
        let stdout = String::from_utf8(output.stdout.clone()).unwrap();
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout,
        }
    }

    /// The one document that was printed.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The number of the failure; `None` for a success.
    pub(crate) fn failure(&self) -> Option<u64> {
        (self.code != 0).then(|| self.json()["code"].as_u64().unwrap())
    }

    #[track_caller]
    pub(crate) fn succeeded(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }
}

impl Node {
    pub(crate) fn new(test: &str) -> Self {
        let scratch = Scratch::new(test);
        let config = json!({
            "cniVersion": "1.1.0",
            "name": "pods",
            "type": "orlop-cni",
            "podCIDRs": ["10.244.0.0/24", "fd00:10:244::/64"],
            "runDir": scratch.input(),
        });
        Self {
            scratch,
            namespace: NetworkNamespace::new(),
            plugin: tests::binary_path("orlop-cni"),
            config,
        }
    }

    pub(crate) fn with(&self, key: &str, value: Value) -> Value {
        let mut config = self.config.clone();
        config[key] = value;
        config
    }

    pub(crate) fn network(&self) -> NodeNetwork {
        let cidrs = ["10.244.0.0/24", "fd00:10:244::/64"].map(|cidr| cidr.parse().unwrap());
        NodeNetwork::new("pods", &cidrs, &self.scratch.input())
    }

    /// What the node makes on the first ADD and keeps; a leak audit begins behind it.
    pub(crate) fn prepare(&self) {
        self.namespace.run(|| pod_network::prepare(&self.network())).unwrap();
        // The kernel routes a new IPv6 address to itself a moment after it has taken it.
        tests::eventually(
            std::time::Duration::from_secs(10),
            "the node's address is routed",
            || {
                let routes = || std::fs::read_to_string("/proc/thread-self/net/ipv6_route").unwrap();
                self.namespace
                    .run(routes)
                    .contains("fd000010024400000000000000000001 80")
            },
        );
    }

    pub(crate) fn spawn(&self, environment: &[(&str, &str)], stdin: &str) -> Child {
        let mut command = Command::new(&self.plugin);
        command.env_clear().envs(environment.iter().copied());
        // Where a plugin is, those are that it calls.
        if environment.iter().any(|(name, _)| *name == "CNI_PATH") {
            command.env("CNI_PATH", self.plugin.parent().unwrap());
        }
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self.namespace.run(|| command.spawn()).unwrap();
        // A plugin that answers without reading closes the pipe first.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        child
    }

    pub(crate) fn call(&self, environment: &[(&str, &str)], stdin: &str) -> Answer {
        Answer::of(&self.spawn(environment, stdin).wait_with_output().unwrap())
    }

    pub(crate) fn verb(&self, verb: &str, id: &str, netns: &Path, config: &Value) -> Answer {
        self.call(&environment(verb, id, netns.to_str().unwrap()), &config.to_string())
    }

    pub(crate) fn add(&self, id: &str, pod: &NetworkNamespace) -> Answer {
        self.verb("ADD", id, &pod.path(), &self.config)
    }

    pub(crate) fn del(&self, id: &str) {
        let answer = self.verb("DEL", id, Path::new(""), &self.config);
        assert_eq!(
            answer,
            Answer {
                code: 0,
                stdout: String::new()
            }
        );
    }
}

pub(crate) fn environment<'a>(verb: &'a str, id: &'a str, netns: &'a str) -> [(&'static str, &'a str); 5] {
    [
        ("CNI_COMMAND", verb),
        ("CNI_CONTAINERID", id),
        ("CNI_NETNS", netns),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/usr/lib/cni"),
    ]
}

pub(crate) fn addresses(result: &Value) -> Vec<IpAddr> {
    cni::protocol::addresses_of_result(result).unwrap()
}
