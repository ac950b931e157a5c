//! `features`: what of the specification is honoured, in the shape of its features document.
//!
//! Nothing is listed by hand that the planner can be asked: each candidate is put into a small configuration, and what
//! the planner refuses is not listed.

use serde_json::{Value, json};

use super::config;
use super::explain::explain_for;
use super::named::SETTINGS_ANNOTATION;
use super::{Manner, hook};
use crate::SPEC_VERSION;
use crate::cgroup::systemd::PROPERTY_ANNOTATIONS;
use crate::field::{capabilities, mount_options};
use crate::plan::GROUPS_ANNOTATION;
use crate::privileges::Privileges;
use crate::spec::Spec;

/// Every word that some runtime or mount(8) knows; those that are honoured are found out.
const MOUNT_OPTIONS: [&str; 66] = [
    "acl",
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "idmap",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noacl",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "remount",
    "rexec",
    "ridmap",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "silent",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "tmpcopyup",
    "unbindable",
    "copy-symlink",
    "dest-nofollow",
];

const NAMESPACES: [&str; 8] = ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"];

const ACTIONS: [&str; 9] = [
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];

const OPERATORS: [&str; 7] = [
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
];

const FLAGS: [&str; 4] = [
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];

const ARCHITECTURES: [&str; 4] = [
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
];

/// The features document.
pub fn features() -> Value {
    let options: Vec<_> = MOUNT_OPTIONS
        .into_iter()
        .filter(|option| mount_options::is_known(option))
        .collect();
    let has_id_maps = options.contains(&"idmap");
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPEC_VERSION,
        "hooks": hook::names(),
        "mountOptions": options,
        "linux": {
            "namespaces": honoured(&NAMESPACES, with_namespace),
            "capabilities": capabilities::known(),
            "cgroup": {
                "v1": false,
                "v2": true,
                "systemd": true,
                "systemdUser": false,
                "rdma": is_honoured(&with("/linux/resources", json!({ "rdma": { "d": { "hcaHandles": 1 } } }))),
            },
            "seccomp": {
                "enabled": true,
                "actions": honoured(&ACTIONS, |action| with_rule(&json!({ "names": ["reboot"], "action": action }))),
                "operators": honoured(&OPERATORS, with_operator),
                "archs": honoured(&ARCHITECTURES, |arch| with_seccomp("architectures", json!([arch]))),
                "knownFlags": FLAGS,
                "supportedFlags": honoured(&FLAGS, |flag| with_seccomp("flags", json!([flag]))),
            },
            "apparmor": { "enabled": is_honoured(&with("/process/apparmorProfile", json!("x"))) },
            "selinux": { "enabled": is_honoured(&with("/process/selinuxLabel", json!("a:b:c:d"))) },
            "intelRdt": {
                "enabled": is_honoured(&with("/linux/intelRdt", json!({ "closID": "x" }))),
                "schemata": is_honoured(&with("/linux/intelRdt", json!({ "schemata": ["L3:0=f"] }))),
                "monitoring": is_honoured(&with("/linux/intelRdt", json!({ "enableMonitoring": true }))),
            },
            "memoryPolicy": {
                "modes": honoured(&["MPOL_DEFAULT", "MPOL_BIND", "MPOL_INTERLEAVE", "MPOL_PREFERRED", "MPOL_LOCAL"],
                    |mode| with("/linux/memoryPolicy", json!({ "mode": mode, "nodes": "0" }))),
            },
            "mountExtensions": { "idmap": { "enabled": has_id_maps } },
            "netDevices": { "enabled": is_honoured(&with("/linux/netDevices", json!({ "eth0": {} }))) },
        },
        "annotations": {},
        "potentiallyUnsafeConfigAnnotations": [SETTINGS_ANNOTATION, PROPERTY_ANNOTATIONS, GROUPS_ANNOTATION],
    })
}

fn honoured<'a>(candidates: &[&'a str], spec: impl Fn(&str) -> Value) -> Vec<&'a str> {
    candidates
        .iter()
        .copied()
        .filter(|candidate| is_honoured(&spec(candidate)))
        .collect()
}

/// Whether the planner takes it and gives all of it.
fn is_honoured(spec: &Value) -> bool {
    let Ok(spec) = config::read::<Spec>(spec.to_string().as_bytes()) else {
        return false;
    };
    let (bundle, cgroup) = ("/".as_ref(), Some("/sys/fs/cgroup/c".as_ref()));
    let plan = explain_for(&spec, bundle, cgroup, Manner::default(), Privileges::all(), u64::MAX);
    plan.is_ok_and(|plan| plan.unenforced.is_empty())
}

fn with(pointer: &str, value: Value) -> Value {
    let mut spec = json!({
        "ociVersion": SPEC_VERSION,
        "root": { "path": "r" },
        "process": { "user": { "uid": 0, "gid": 0 }, "args": ["x"], "cwd": "/" },
        "linux": { "namespaces": [{ "type": "mount" }, { "type": "network" }] },
    });
    if let Some((parent, name)) = pointer.rsplit_once('/')
        && let Some(parent) = spec.pointer_mut(parent)
    {
        parent[name] = value;
    }
    spec
}

fn with_namespace(kind: &str) -> Value {
    let list = if kind == "mount" {
        json!([{ "type": kind }])
    } else {
        json!([{ "type": "mount" }, { "type": kind }])
    };
    let mut spec = with("/linux/namespaces", list);
    if kind == "user" {
        let whole = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
        spec["linux"]["uidMappings"] = whole.clone();
        spec["linux"]["gidMappings"] = whole;
    }
    spec
}

fn with_seccomp(name: &str, value: Value) -> Value {
    let mut profile = json!({ "defaultAction": "SCMP_ACT_ALLOW" });
    profile[name] = value;
    with("/linux/seccomp", profile)
}

fn with_rule(rule: &Value) -> Value {
    let mut spec = with_seccomp("syscalls", json!([rule]));
    if spec.pointer("/linux/seccomp/syscalls/0/action") == Some(&json!("SCMP_ACT_NOTIFY")) {
        spec["linux"]["seccomp"]["listenerPath"] = json!("/run/listener");
    }
    spec
}

fn with_operator(operator: &str) -> Value {
    let argument = json!({ "index": 0, "value": 1, "valueTwo": 1, "op": operator });
    with_rule(&json!({ "names": ["reboot"], "action": "SCMP_ACT_ERRNO", "args": [argument] }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_is_what_the_planner_takes() {
        let features = features();
        let list = |pointer: &str| features.pointer(pointer).unwrap().as_array().unwrap().clone();
        assert_eq!(list("/hooks").len(), 6);
        for option in ["bind", "rro", "nosuid", "rshared"] {
            assert!(list("/mountOptions").contains(&json!(option)), "{option}");
        }
        for kind in ["mount", "pid", "network", "user"] {
            assert!(list("/linux/namespaces").contains(&json!(kind)), "{kind}");
        }
        assert!(list("/linux/capabilities").contains(&json!("CAP_SYS_ADMIN")));
        assert!(list("/linux/seccomp/actions").contains(&json!("SCMP_ACT_ERRNO")));
        assert_eq!(list("/linux/seccomp/operators").len(), 7);
        assert!(!list("/mountOptions").contains(&json!("dest-nofollow")));
    }

    #[test]
    fn the_document_is_one_of_the_specification() {
        let known: oci_spec::runtime::Features = serde_json::from_value(features()).unwrap();
        assert_eq!(known.oci_version_max(), SPEC_VERSION);
    }
}
