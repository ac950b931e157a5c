//! Has a pod's shim create, start, signal and remove its containers.

use std::time::Duration;

use agent_core::pod::spec::{self, SpecFacts};
use agent_core::pod::{ContainerName, DesiredContainer, DesiredPod, StopSignal, env};
use anyhow::{Context, anyhow};
use nix::sys::signal::Signal;
use oci_spec::runtime::Spec;
use runtime::client::ClientError;
use runtime::proto::{self, ContainerKey, Create, FailureKind as Refusal, Rootfs};
use runtime::shim::record;

use super::namespaces::{Shared, pin_path};
use super::shim::ShimLink;
use super::{ANSWER, Scene, StepError, cgroup, devices, files, image, snapshot_id};
use crate::image::{Image, Snapshot};
use crate::paths::PodPaths;

/// How long creating may take: mounts on a busy machine.
const CREATE: Duration = Duration::from_secs(120);

/// Sets an attempt up. Returns the limits that this host can't enforce.
pub fn create(
    scene: &Scene<'_>,
    link: &mut ShimLink,
    name: &ContainerName,
    attempt: u32,
    crashes: u32,
) -> Result<Vec<String>, StepError> {
    let (pod, paths) = (scene.pod, scene.paths);
    let container = pod
        .container(name)
        .ok_or_else(|| anyhow!("the pod has no container {name}"))?;
    let image = scene.node.images.resolve(&image::reference(&container.image)?);
    let image = image.with_context(|| format!("image {:?} is not in the store", container.image))?;
    let spec = spec(scene, container, &image, attempt, crashes)?;
    files::write(pod, paths, scene.addresses())?;
    // A link to a log that is not there yet is harmless; a container without its link would stay so.
    files::link_log(paths, name, attempt)?;
    let request = Create {
        container: shim_name(name)?,
        attempt,
        spec: Box::new((&spec).into()),
        rootfs: rootfs(
            scene
                .node
                .images
                .create_snapshot(&snapshot_id(pod, name, attempt)?, &image)?,
        ),
        log_path: paths.log(name, attempt),
        cgroup: Some(paths.container_cgroup(name, attempt)),
    };
    let created = link.ask(&paths.shim_socket(), |shim| shim.create(request, CREATE))?;
    Ok(created.unenforced)
}

fn rootfs(snapshot: Snapshot) -> Rootfs {
    Rootfs::Overlay {
        lower: snapshot.lower,
        upper: snapshot.upper,
        work: snapshot.work,
        target: snapshot.target,
    }
}

/// The container's OCI spec: what the pod wants, what the image says and where things are on this node.
fn spec(
    scene: &Scene<'_>,
    container: &DesiredContainer,
    image: &Image,
    attempt: u32,
    crashes: u32,
) -> Result<Spec, StepError> {
    let (node, pod, paths) = (scene.node, scene.pod, scene.paths);
    let accounts = image.accounts()?;
    let namespaces = paths.namespaces();
    let pin = |shared| pin_path(&namespaces, shared);
    let (net, ipc, uts) = (pin(Shared::Net), pin(Shared::Ipc), pin(Shared::Uts));
    let facts = SpecFacts {
        attempt,
        crashes,
        image: &image.config,
        image_reference: &image.repo_digest(),
        passwd: &accounts.passwd,
        group: &accounts.group,
        env: &variables(scene, container)?,
        network_namespace: (!pod.host_network).then_some(net.as_path()),
        ipc_namespace: &ipc,
        uts_namespace: (!pod.host_network).then_some(uts.as_path()),
        hosts: &paths.hosts(),
        hostname: &paths.hostname(),
        resolv_conf: &paths.resolv_conf(),
        shm: Some(&paths.shm()),
        cgroup: &paths.container_cgroup_name(&container.name, attempt),
        capabilities: &node.capabilities,
        devices: &devices::of_host(),
    };
    spec::container(pod, container, &facts).map_err(StepError::config)
}

fn variables(scene: &Scene<'_>, container: &DesiredContainer) -> Result<Vec<(String, String)>, StepError> {
    let facts = env::EnvFacts {
        config_maps: scene.config_maps,
        addresses: scene.addresses(),
        services: scene.services,
    };
    env::resolve(scene.pod, container, &facts).map_err(StepError::config)
}

/// Lets a created attempt run.
pub fn start(paths: &PodPaths, link: &mut ShimLink, name: &ContainerName, attempt: u32) -> Result<(), StepError> {
    let key = key(name, attempt)?;
    Ok(link.ask(&paths.shim_socket(), |shim| shim.start(&key, ANSWER))?)
}

/// Signals an attempt's first process; fine when it is gone.
pub fn signal(
    scene: &Scene<'_>,
    link: &mut ShimLink,
    name: &ContainerName,
    attempt: u32,
    signal: StopSignal,
) -> Result<(), StepError> {
    let key = key(name, attempt)?;
    let number = match signal {
        StopSignal::Stop => stop_signal(scene, name),
        StopSignal::Kill => Signal::SIGKILL as i32,
    };
    // What a container's first process left behind goes with it at the end.
    let all = signal == StopSignal::Kill;
    match link.ask(&scene.paths.shim_socket(), |shim| {
        shim.signal(&key, number, all, ANSWER)
    }) {
        Err(ClientError::Refused(refusal)) if is_gone(refusal.kind) => Ok(()),
        other => Ok(other?),
    }
}

/// Removes an attempt that has ended: its record, its cgroup, its writable layer.
pub fn remove(scene: &Scene<'_>, link: &mut ShimLink, name: &ContainerName, attempt: u32) -> Result<(), StepError> {
    let (pod, paths) = (scene.pod, scene.paths);
    let key = key(name, attempt)?;
    if paths.shim_socket().symlink_metadata().is_ok() {
        match link.ask(&paths.shim_socket(), |shim| shim.delete(&key, ANSWER)) {
            Err(ClientError::Refused(refusal)) if refusal.kind == Refusal::NotFound => {}
            other => other?,
        }
    }
    record::remove(&paths.run, &key)?;
    cgroup::remove(&paths.container_cgroup(name, attempt))?;
    files::unlink_log(paths, name, attempt)?;
    scene.node.images.remove_snapshot(&snapshot_id(pod, name, attempt)?)?;
    Ok(())
}

/// The attempt as the shim names it.
pub fn key(name: &ContainerName, attempt: u32) -> Result<ContainerKey, proto::NameError> {
    Ok(ContainerKey {
        container: shim_name(name)?,
        attempt,
    })
}

fn shim_name(name: &ContainerName) -> Result<proto::ContainerName, proto::NameError> {
    proto::ContainerName::try_from(name.as_str())
}

fn is_gone(refusal: Refusal) -> bool {
    matches!(refusal, Refusal::NotFound | Refusal::State)
}

/// The signal that the image asks for (`STOPSIGNAL`), else SIGTERM.
fn stop_signal(scene: &Scene<'_>, name: &ContainerName) -> i32 {
    let of_image = |pod: &DesiredPod| {
        let image = scene.node.images.resolve(&pod.container(name)?.image.parse().ok()?)?;
        signal_number(image.config.config().as_ref()?.stop_signal().as_deref()?)
    };
    of_image(scene.pod).unwrap_or(Signal::SIGTERM as i32)
}

/// The number of a signal as a Dockerfile writes it: `SIGQUIT`, `QUIT`, `3` or `SIGRTMIN+3`.
fn signal_number(text: &str) -> Option<i32> {
    /// The C libraries keep the first real-time signals for themselves, signal(7).
    const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;
    let upper = text.trim().to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    if let Some(offset) = name.strip_prefix("RTMIN") {
        let offset: i32 = if offset.is_empty() {
            0
        } else {
            offset.strip_prefix('+')?.parse().ok()?
        };
        return REAL_TIME
            .start()
            .checked_add(offset)
            .filter(|number| REAL_TIME.contains(number));
    }
    format!("SIG{name}").parse::<Signal>().ok().map(|signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_signals_are_read_as_dockerfiles_write_them() {
        let cases = [
            ("SIGTERM", Some(15)),
            ("quit", Some(3)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("99", None),
            ("x", None),
        ];
        for (text, number) in cases {
            assert_eq!(signal_number(text), number, "{text}");
        }
    }
}
