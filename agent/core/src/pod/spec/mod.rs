//! The OCI spec of one attempt: the pod, the image and the paths on this node in, the one stable format out. The
//! defaults are containerd's, so that an image finds what it finds elsewhere. The process is in `process.rs`, its ids in `user.rs`, the file systems in
//! `mounts.rs`.
//!
//! No seccomp filter is set: a container runs as with `seccompProfile: Unconfined`, which is a kubelet's default too.

mod mounts;
mod process;
pub mod user;

use std::{collections::HashMap, path::Path};

use oci_spec::{
    image::ImageConfiguration,
    runtime::{
        Capabilities, Linux, LinuxCpu, LinuxDevice, LinuxDeviceCgroup, LinuxMemory, LinuxNamespace, LinuxNamespaceType,
        LinuxResources, Root, Spec,
    },
};

use super::{DesiredContainer, DesiredPod, resources};

/// Annotation: the attempt's number, as a kubelet writes it.
pub const ATTEMPT: &str = "io.kubernetes.container.restartCount";
/// Annotation: how many ends in a row came before the attempt ([`crate::pod::Attempt::crashes`]).
pub const CRASHES: &str = "io.orlop.container.crashes";
/// Annotation: the image that the attempt was made from ([`crate::pod::Attempt::image`]).
pub const IMAGE: &str = "io.orlop.container.image";
/// Annotation: the image's stop signal.
pub const STOP_SIGNAL: &str = "org.opencontainers.image.stopSignal";

/// What the spec needs besides the pod: facts of the image and of this node.
#[derive(Clone, Copy, Debug)]
pub struct SpecFacts<'a> {
    /// The attempt's number.
    pub attempt: u32,
    /// From [`crate::pod::PodStep::CreateContainer`].
    pub crashes: u32,
    /// The image's configuration.
    pub image: &'a ImageConfiguration,
    /// The image as `status.imageID` shows it.
    pub image_reference: &'a str,
    /// The image's `/etc/passwd`, empty when it has none.
    pub passwd: &'a str,
    /// The image's `/etc/group`, empty when it has none.
    pub group: &'a str,
    /// The variables of [`crate::pod::env::resolve`].
    pub env: &'a [(String, String)],
    /// The pinned network namespace; none on the host network.
    pub network_namespace: Option<&'a Path>,
    /// The pinned ipc namespace.
    pub ipc_namespace: &'a Path,
    /// The pinned uts namespace; none on the host network.
    pub uts_namespace: Option<&'a Path>,
    /// Mounted as `/etc/hosts`.
    pub hosts: &'a Path,
    /// Mounted as `/etc/hostname`.
    pub hostname: &'a Path,
    /// Mounted as `/etc/resolv.conf`.
    pub resolv_conf: &'a Path,
    /// The pod's `/dev/shm`, shared by its containers; none gives each container its own.
    pub shm: Option<&'a Path>,
    /// The container's cgroup, from the root of the cgroup tree.
    pub cgroup: &'a str,
    /// The capabilities that this node can give: what `ALL` and `privileged` mean.
    pub capabilities: &'a Capabilities,
    /// The node's devices, for privileged containers.
    pub devices: &'a [LinuxDevice],
}

/// A container that has no spec on this node: `CreateContainerConfigError`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's text says what it is")]
pub enum SpecError {
    #[error("no command specified")]
    NoCommand,
    #[error("container has runAsNonRoot and image will run as root")]
    WouldRunAsRoot,
    #[error("container's runAsUser breaks non-root policy")]
    AskedForRoot,
    #[error("container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root")]
    UserNotNumeric { user: String },
    #[error("unable to find user {user}: no matching entries in the image's passwd file")]
    UnknownUser { user: String },
    #[error("unable to find group {group}: no matching entries in the image's group file")]
    UnknownGroup { group: String },
}

/// The spec of one attempt at `container`.
///
/// # Errors
/// When the pod and the image together don't make a process.
pub fn container(pod: &DesiredPod, container: &DesiredContainer, facts: &SpecFacts<'_>) -> Result<Spec, SpecError> {
    let mut root = Root::default();
    root.set_path("rootfs".into())
        .set_readonly(Some(container.security.read_only_root));
    let mut spec = Spec::default();
    spec.set_version("1.0.2".to_owned())
        .set_process(Some(process::process(pod, container, facts)?))
        .set_root(Some(root))
        .set_hostname(None)
        .set_mounts(Some(mounts::mounts(container, facts)))
        .set_linux(Some(linux(container, facts)))
        .set_annotations(Some(annotations(pod, container, facts)));
    Ok(spec)
}

/// The attempt's `crashes` from its spec; `attempt` when the spec does not say.
pub fn crashes(spec: &Spec, attempt: u32) -> u32 {
    annotation(spec, CRASHES)
        .and_then(|text| text.parse().ok())
        .unwrap_or(attempt)
}

/// The image of an attempt from its spec; empty when the spec does not say.
pub fn image(spec: &Spec) -> &str {
    annotation(spec, IMAGE).unwrap_or_default()
}

/// The signal that asks the container to end, by name or number as the image gives it.
pub fn stop_signal(spec: &Spec) -> &str {
    annotation(spec, STOP_SIGNAL).unwrap_or("SIGTERM")
}

fn annotation<'a>(spec: &'a Spec, key: &str) -> Option<&'a str> {
    spec.annotations().as_ref()?.get(key).map(String::as_str)
}

fn linux(container: &DesiredContainer, facts: &SpecFacts<'_>) -> Linux {
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces(facts)))
        .set_cgroups_path(Some(facts.cgroup.into()))
        .set_resources(Some(limits(container)))
        .set_devices(None);
    if container.security.privileged {
        linux
            .set_masked_paths(None)
            .set_readonly_paths(None)
            .set_devices(Some(facts.devices.to_vec()));
    } else {
        let owned = |paths: &[&str]| Some(paths.iter().map(|path| (*path).to_owned()).collect());
        linux
            .set_masked_paths(owned(&mounts::MASKED))
            .set_readonly_paths(owned(&mounts::READ_ONLY));
    }
    linux
}

/// New ones for what a container has to itself, pinned ones for what the pod shares; on the host network none for net
/// and uts, so that the node's stay.
fn namespaces(facts: &SpecFacts<'_>) -> Vec<LinuxNamespace> {
    let namespace = |kind: LinuxNamespaceType, path: Option<&Path>| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(kind).set_path(path.map(Path::to_owned));
        namespace
    };
    let own = [
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Cgroup,
    ];
    let mut all: Vec<LinuxNamespace> = own.into_iter().map(|kind| namespace(kind, None)).collect();
    all.push(namespace(LinuxNamespaceType::Ipc, Some(facts.ipc_namespace)));
    all.extend(
        facts
            .uts_namespace
            .map(|path| namespace(LinuxNamespaceType::Uts, Some(path))),
    );
    all.extend(
        facts
            .network_namespace
            .map(|path| namespace(LinuxNamespaceType::Network, Some(path))),
    );
    all
}

/// Limits of the container's own cgroup. Memory takes no swap, and one process over the limit ends the whole container,
/// as with a kubelet.
fn limits(container: &DesiredContainer) -> LinuxResources {
    let (own, limits) = (&container.resources, resources::container_limits(container));
    let signed = |amount: u64| i64::try_from(amount).unwrap_or(i64::MAX);
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(Some(resources::cpu_shares(
        own.cpu_request.or(own.cpu_limit).unwrap_or(0),
    )));
    if let Some(quota) = limits.cpu_quota {
        cpu.set_quota(Some(signed(quota)))
            .set_period(Some(resources::CPU_PERIOD));
    }
    let mut set = LinuxResources::default();
    set.set_cpu(Some(cpu))
        .set_devices(Some(vec![device_rule(container.security.privileged)]));
    if let Some(bytes) = limits.memory_max {
        let mut memory = LinuxMemory::default();
        memory.set_limit(Some(signed(bytes))).set_swap(Some(signed(bytes)));
        let group = HashMap::from([("memory.oom.group".to_owned(), "1".to_owned())]);
        set.set_memory(Some(memory)).set_unified(Some(group));
    }
    set
}

/// Every device, or none but those that every container has.
fn device_rule(allow: bool) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow).set_access(Some("rwm".to_owned()));
    rule
}

fn annotations(pod: &DesiredPod, container: &DesiredContainer, facts: &SpecFacts<'_>) -> HashMap<String, String> {
    let of_image = facts
        .image
        .config()
        .as_ref()
        .and_then(|config| config.stop_signal().as_deref());
    let pairs = [
        ("io.kubernetes.cri.container-type", "container"),
        ("io.kubernetes.cri.container-name", container.name.as_str()),
        ("io.kubernetes.cri.image-name", &container.image),
        ("io.kubernetes.cri.sandbox-name", &pod.name),
        ("io.kubernetes.cri.sandbox-namespace", &pod.namespace),
        ("io.kubernetes.cri.sandbox-uid", pod.uid.as_str()),
        (ATTEMPT, &facts.attempt.to_string()),
        (CRASHES, &facts.crashes.to_string()),
        (IMAGE, facts.image_reference),
        (STOP_SIGNAL, of_image.unwrap_or("SIGTERM")),
    ];
    pairs
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::Capability;

    use super::{
        process::{DEFAULT_CAPABILITIES, PATH},
        *,
    };
    use crate::pod::sample;

    fn configured(json: &str) -> ImageConfiguration {
        let text = format!(
            "{{\"architecture\":\"amd64\",\"os\":\"linux\",\"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[]}},\"config\":{json}}}"
        );
        ImageConfiguration::from_reader(text.as_bytes()).expect("an image configuration")
    }

    fn made(pod: &DesiredPod, image: &ImageConfiguration, env: &[(String, String)]) -> Result<Spec, SpecError> {
        let available: Capabilities = DEFAULT_CAPABILITIES.into_iter().chain([Capability::SysAdmin]).collect();
        let facts = SpecFacts {
            attempt: 3,
            crashes: 2,
            image,
            image_reference: "r@sha256:2",
            passwd: "root:x:0:0::/root:/bin/sh\n",
            group: "",
            env,
            network_namespace: (!pod.host_network).then(|| Path::new("/run/net")),
            ipc_namespace: Path::new("/run/ipc"),
            uts_namespace: (!pod.host_network).then(|| Path::new("/run/uts")),
            hosts: Path::new("/pod/hosts"),
            hostname: Path::new("/pod/hostname"),
            resolv_conf: Path::new("/pod/resolv.conf"),
            shm: None,
            cgroup: "/kubepods/besteffort/poduid-1/app-3",
            capabilities: &available,
            devices: &[],
        };
        container(pod, &pod.containers[0], &facts)
    }

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn command_and_args_stand_for_entrypoint_and_cmd() {
        let image = configured(r#"{"Entrypoint":["/entry"],"Cmd":["cmd"]}"#);
        for (command, args, expected) in [
            (vec![], vec![], vec!["/entry", "cmd"]),
            (vec![], vec!["a"], vec!["/entry", "a"]),
            (vec!["c"], vec![], vec!["c"]),
            (vec!["c"], vec!["a"], vec!["c", "a"]),
            (
                vec!["c"],
                vec!["$(NAME)", "$(OTHER)", "$$(NAME)"],
                vec!["c", "me", "$(OTHER)", "$(NAME)"],
            ),
        ] {
            let mut pod = sample::pod();
            (pod.containers[0].command, pod.containers[0].args) = (words(&command), words(&args));
            let spec = made(&pod, &image, &[("NAME".to_owned(), "me".to_owned())]).unwrap();
            assert_eq!(spec.process().as_ref().unwrap().args(), &Some(words(&expected)));
        }
        let empty = configured("{}");
        assert_eq!(made(&sample::pod(), &empty, &[]).err(), Some(SpecError::NoCommand));
    }

    #[test]
    fn the_environment_is_the_images_and_the_containers_over_it() {
        let image = configured(r#"{"Cmd":["x"],"Env":["A=image","B=image","HOME=/image","broken"]}"#);
        let own = [("B".to_owned(), "own".to_owned()), ("C".to_owned(), "own".to_owned())];
        let spec = made(&sample::pod(), &image, &own).unwrap();
        let path = format!("PATH={PATH}");
        let expected = words(&[&path, "HOSTNAME=web", "HOME=/image", "A=image", "B=own", "C=own"]);
        assert_eq!(spec.process().as_ref().unwrap().env(), &Some(expected));
        let bare = made(&sample::pod(), &configured(r#"{"Cmd":["x"]}"#), &[]).unwrap();
        assert!(
            bare.process()
                .as_ref()
                .unwrap()
                .env()
                .as_ref()
                .unwrap()
                .contains(&"HOME=/root".to_owned())
        );
    }

    #[test]
    fn capabilities_are_added_and_dropped_as_in_containerd() {
        let all: Capabilities = DEFAULT_CAPABILITIES.into_iter().chain([Capability::SysAdmin]).collect();
        let default: Capabilities = DEFAULT_CAPABILITIES.into_iter().collect();
        for (add, drop, privileged, expected) in [
            (vec![], vec![], false, default.clone()),
            (
                vec!["NET_ADMIN"],
                vec![],
                false,
                default.iter().copied().chain([Capability::NetAdmin]).collect(),
            ),
            (vec![], vec!["ALL"], false, Capabilities::new()),
            (
                vec!["CHOWN"],
                vec!["ALL"],
                false,
                Capabilities::from([Capability::Chown]),
            ),
            (vec!["ALL"], vec![], false, all.clone()),
            (vec!["ALL"], vec!["SYS_ADMIN"], false, default),
            (vec![], vec!["ALL"], true, all),
        ] {
            let mut pod = sample::pod();
            let security = &mut pod.containers[0].security;
            (security.add_capabilities, security.drop_capabilities) = (words(&add), words(&drop));
            security.privileged = privileged;
            let spec = made(&pod, &configured(r#"{"Cmd":["x"]}"#), &[]).unwrap();
            let sets = spec
                .process()
                .as_ref()
                .unwrap()
                .capabilities()
                .as_ref()
                .unwrap()
                .clone();
            for set in [sets.bounding(), sets.effective(), sets.permitted()] {
                assert_eq!(
                    set.as_ref(),
                    Some(&expected),
                    "add {add:?} drop {drop:?} privileged {privileged}"
                );
            }
            assert!(sets.inheritable().is_none() && sets.ambient().is_none());
        }
    }

    #[test]
    fn what_the_pod_shares_is_joined_and_the_rest_is_new() {
        let namespaces = |pod: &DesiredPod| {
            let spec = made(pod, &configured(r#"{"Cmd":["x"]}"#), &[]).unwrap();
            let linux = spec.linux().as_ref().unwrap().clone();
            let all = linux.namespaces().as_ref().unwrap().clone();
            let told =
                |n: &LinuxNamespace| format!("{}{}", n.typ(), n.path().as_ref().map_or("", |p| p.to_str().unwrap()));
            all.iter().map(told).collect::<Vec<_>>()
        };
        let mut pod = sample::pod();
        let own = ["pid", "mnt", "cgroup", "ipc/run/ipc"];
        assert_eq!(namespaces(&pod), [&own[..], &["uts/run/uts", "net/run/net"]].concat());
        pod.host_network = true;
        assert_eq!(namespaces(&pod), own);
    }

    #[test]
    fn limits_and_what_must_outlive_the_agent_are_in_the_spec() {
        let mut pod = sample::pod();
        pod.node.memory = 1000 << 20;
        pod.containers[0].resources.cpu_limit = Some(500);
        pod.containers[0].resources.memory_limit = Some(100 << 20);
        pod.containers[0].security.read_only_root = true;
        pod.containers[0].security.may_escalate = false;
        let spec = made(
            &pod,
            &configured(r#"{"Cmd":["x"],"StopSignal":"SIGQUIT","WorkingDir":"/srv"}"#),
            &[],
        )
        .unwrap();
        assert_eq!(
            (crashes(&spec, 9), image(&spec), stop_signal(&spec)),
            (2, "r@sha256:2", "SIGQUIT")
        );
        assert_eq!(
            (crashes(&Spec::default(), 9), stop_signal(&Spec::default())),
            (9, "SIGTERM")
        );
        let process = spec.process().as_ref().unwrap();
        assert_eq!(
            (process.oom_score_adj(), process.no_new_privileges()),
            (Some(-997), Some(true))
        );
        assert_eq!(process.cwd(), Path::new("/srv"));
        assert_eq!(spec.root().as_ref().unwrap().readonly(), Some(true));
        let linux = spec.linux().as_ref().unwrap();
        let resources = linux.resources().as_ref().unwrap();
        let (cpu, memory) = (resources.cpu().as_ref().unwrap(), resources.memory().as_ref().unwrap());
        assert_eq!(
            (cpu.shares(), cpu.quota(), cpu.period()),
            (Some(512), Some(50_000), Some(100_000))
        );
        assert_eq!((memory.limit(), memory.swap()), (Some(100 << 20), Some(100 << 20)));
        assert!(
            linux
                .masked_paths()
                .as_ref()
                .unwrap()
                .contains(&"/proc/kcore".to_owned())
        );
        let targets: Vec<_> = spec
            .mounts()
            .as_ref()
            .unwrap()
            .iter()
            .map(|m| m.destination().display().to_string())
            .collect();
        assert_eq!(targets[..2], ["/proc", "/dev"]);
        assert_eq!(targets[7..], ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"]);
    }

    #[test]
    fn a_spec_travels_as_json() {
        let spec = made(&sample::pod(), &configured(r#"{"Cmd":["x"]}"#), &[]).unwrap();
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<Spec>(&json).unwrap(), spec);
    }
}
