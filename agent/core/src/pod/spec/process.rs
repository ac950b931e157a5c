//! The process of a container: its words, its environment, its ids and what it may do.

use oci_spec::{
    image::ImageConfiguration,
    runtime::{Capabilities, Capability, LinuxCapabilities, Process, User},
};

use super::{
    SpecError, SpecFacts,
    user::{self, Ids},
};
use crate::pod::{DesiredContainer, DesiredPod, env, resources};

/// The search path of an image that sets none.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a container may do unless its manifest says otherwise.
pub(super) const DEFAULT_CAPABILITIES: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

/// The process of `container`.
pub(super) fn process(
    pod: &DesiredPod,
    container: &DesiredContainer,
    facts: &SpecFacts<'_>,
) -> Result<Process, SpecError> {
    let image = ImageDefaults::of(facts.image);
    let ids = user::resolve(pod, container, image.user, facts.passwd, facts.group)?;
    let mut user = User::default();
    user.set_uid(ids.uid)
        .set_gid(ids.gid)
        .set_additional_gids(Some(ids.groups.clone()));
    let cwd = container.working_dir.as_deref().or(image.working_dir).unwrap_or("/");
    let class = resources::qos_class(pod);
    let mut process = Process::default();
    process
        .set_terminal(Some(false))
        .set_user(user)
        .set_args(Some(args(container, facts, &image)?))
        .set_env(Some(environment(pod, facts, &image, &ids)))
        .set_cwd(cwd.into())
        .set_capabilities(Some(capabilities(container, facts)))
        .set_rlimits(None)
        .set_oom_score_adj(Some(resources::oom_score_adj(class, container, pod.node.memory)))
        .set_no_new_privileges(Some(!container.security.may_escalate));
    Ok(process)
}

/// What an image says about its process.
struct ImageDefaults<'a> {
    user: &'a str,
    entrypoint: &'a [String],
    cmd: &'a [String],
    env: &'a [String],
    working_dir: Option<&'a str>,
}

impl<'a> ImageDefaults<'a> {
    fn of(image: &'a ImageConfiguration) -> Self {
        let config = image.config().as_ref();
        let list = |field: Option<&'a Option<Vec<String>>>| field.and_then(Option::as_deref).unwrap_or_default();
        let text = |field: Option<&'a Option<String>>| field.and_then(Option::as_deref).filter(|text| !text.is_empty());
        Self {
            user: text(config.map(|config| config.user())).unwrap_or_default(),
            entrypoint: list(config.map(|config| config.entrypoint())),
            cmd: list(config.map(|config| config.cmd())),
            env: list(config.map(|config| config.env())),
            working_dir: text(config.map(|config| config.working_dir())),
        }
    }
}

/// The command of the container stands for the image's entrypoint, and drops the image's cmd with it.
fn args(
    container: &DesiredContainer,
    facts: &SpecFacts<'_>,
    image: &ImageDefaults<'_>,
) -> Result<Vec<String>, SpecError> {
    let lookup = |name: &str| {
        facts
            .env
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    };
    let expand = |words: &[String]| words.iter().map(|word| env::expand(word, lookup)).collect::<Vec<_>>();
    let (command, args) = (expand(&container.command), expand(&container.args));
    let words = match (command.is_empty(), args.is_empty()) {
        (false, _) => [command, args].concat(),
        (true, false) => [image.entrypoint, &args].concat(),
        (true, true) => [image.entrypoint, image.cmd].concat(),
    };
    if words.first().is_none_or(String::is_empty) {
        Err(SpecError::NoCommand)
    } else {
        Ok(words)
    }
}

/// The image's variables, then the container's, each name once; `PATH`, `HOSTNAME` and `HOME` if nobody sets them.
fn environment(pod: &DesiredPod, facts: &SpecFacts<'_>, image: &ImageDefaults<'_>, ids: &Ids) -> Vec<String> {
    let mut vars: Vec<(&str, &str)> = vec![("PATH", PATH), ("HOSTNAME", &pod.hostname)];
    vars.push(("HOME", ids.home.as_deref().unwrap_or("/")));
    let from_image = image.env.iter().filter_map(|var| var.split_once('='));
    for (name, value) in from_image.chain(facts.env.iter().map(|(name, value)| (name.as_str(), value.as_str()))) {
        match vars.iter_mut().find(|(known, _)| *known == name) {
            Some(var) => var.1 = value,
            None => vars.push((name, value)),
        }
    }
    vars.into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

/// The same sets for every process; nothing inheritable, nothing ambient (CVE-2022-29162).
fn capabilities(container: &DesiredContainer, facts: &SpecFacts<'_>) -> LinuxCapabilities {
    let granted = granted(container, facts.capabilities);
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(granted.clone()))
        .set_effective(Some(granted.clone()))
        .set_permitted(Some(granted))
        .set_inheritable(None)
        .set_ambient(None);
    sets
}

/// Dropping `ALL` comes before adding names, adding `ALL` before dropping names, as in containerd.
fn granted(container: &DesiredContainer, available: &Capabilities) -> Capabilities {
    let security = &container.security;
    if security.privileged {
        return available.clone();
    }
    let is_all = |name: &String| name == "ALL";
    let mut granted: Capabilities = if security.add_capabilities.iter().any(is_all) {
        available.clone()
    } else if security.drop_capabilities.iter().any(is_all) {
        Capabilities::new()
    } else {
        DEFAULT_CAPABILITIES.into_iter().collect()
    };
    let named = |names: &[String]| -> Vec<Capability> { names.iter().filter_map(|name| name.parse().ok()).collect() };
    granted.extend(named(&security.add_capabilities));
    for dropped in named(&security.drop_capabilities) {
        granted.remove(&dropped);
    }
    granted
}
