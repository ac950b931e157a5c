//! The programs at the links that lead out of the node. From Linux 6.6 on a pinned link holds each (tcx), and its program
//! is exchanged in place; before that a filter of the link's clsact queueing discipline does, which stays as it is.

use std::io;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::links::FdLink;
use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::{
    LinkOrder, ProgramError, SchedClassifier, TcAttachType, TestRun as _, TestRunOptions, TestRunResult,
};
use aya::util::KernelVersion;
use ebpf_common::flow::Way;
use nix::net::if_::{if_nameindex, if_nametoindex};

use super::{Link, MapsError, links, pod_links};

/// Directions and programs in the order of attaching: who translates replies comes before who makes them necessary.
const PROGRAMS: [(&str, &str, TcAttachType); 2] = [
    ("leaving", "outside_leaving", TcAttachType::Egress),
    ("arriving", "outside_arriving", TcAttachType::Ingress),
];
/// Where our filters stand among those of a link: before those that the kernel numbers by itself.
const PRIORITY: u16 = 50;
const HANDLE: TcHandle = TcHandle::new(0, 1);
/// ARPHRD_ETHER of `<linux/if_arp.h>`.
const ETHERNET: u16 = 1;

/// Loads what these links need. Without any it is nothing: most of the verifier's work is in the programs of links.
pub(super) fn load(programs: &mut Ebpf, uplinks: &[String]) -> Result<(), MapsError> {
    if !uplinks.is_empty() {
        for (_, name, _) in PROGRAMS {
            loaded(programs, name)?;
        }
    }
    Ok(())
}

/// Those of pods' links are among them.
pub(super) fn verified_instructions(programs: &mut Ebpf) -> Result<Vec<(&'static str, Option<u32>)>, MapsError> {
    let names = PROGRAMS.iter().map(|(_, name, _)| *name).chain(pod_links::PROGRAMS);
    let mut count = |name| {
        Ok((
            name,
            loaded(programs, name)?
                .info()
                .ok()
                .and_then(|info| info.verified_instruction_count()),
        ))
    };
    names.map(&mut count).collect()
}

/// Attaches to these links and to no others any more.
pub(super) fn attach(programs: &mut Ebpf, uplinks: &[String], links: &Path) -> Result<(), MapsError> {
    let mut pins = Vec::new();
    for uplink in uplinks {
        let index = if_nametoindex(uplink.as_str()).map_err(|errno| uplink_error(uplink, errno.into()))?;
        if !is_ethernet(uplink) {
            let why = io::Error::new(
                io::ErrorKind::Unsupported,
                "only links with Ethernet headers are served",
            );
            return Err(uplink_error(uplink, why));
        }
        for (way, name, side) in PROGRAMS {
            let program = loaded(programs, name)?;
            if has_tcx() {
                let pin = links.join(format!("{way}_{index}"));
                attach_link(program, name, uplink, side, &pin)?;
                pins.push(pin);
            } else {
                attach_filter(program, name, uplink, side)?;
            }
        }
    }
    for pin in pinned(links)?.into_iter().filter(|pin| !pins.contains(pin)) {
        links::detach(&pin)?;
    }
    remove_filters(|link| uplinks.iter().any(|uplink| uplink == link));
    Ok(())
}

/// Detaches and unpins what is pinned there, arrivals first.
pub(super) fn unpin(links: &Path) -> Result<(), MapsError> {
    pinned(links)?.iter().try_for_each(|pin| links::detach(pin))
}

/// Takes the filters away from all links but those that keep them, arrivals first. They are of no layout of the maps: those
/// of another one's agent are replaced where they stand.
pub(super) fn remove_filters(keeps: impl Fn(&str) -> bool) {
    if has_tcx() {
        return;
    }
    let links = if_nameindex();
    let names = links
        .iter()
        .flat_map(|links| links.iter())
        .map(|link| link.name().to_string_lossy().into_owned());
    for link in names.filter(|link| !keeps(link)) {
        for (_, name, side) in PROGRAMS.iter().rev() {
            // Most links have none.
            let _ = tc::qdisc_detach_program(&link, *side, name);
        }
    }
}

/// What becomes of a packet, an Ethernet frame, without sending it.
pub(super) fn trial(programs: &mut Ebpf, link: Link, way: Way, frame: &[u8]) -> Result<(u32, Vec<u8>), MapsError> {
    let name = match (link, way) {
        (Link::Uplink, Way::Arriving) => "outside_arriving",
        (Link::Uplink, Way::Leaving) => "outside_leaving",
        (Link::Pod, Way::Arriving) => "inside_arriving",
        (Link::Pod, Way::Leaving) => "inside_leaving",
        (Link::Loopback, _) => "node_arriving",
    };
    let mut out = vec![0; frame.len() + 64];
    let options = TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut out),
        ..TestRunOptions::new()
    };
    let TestRunResult {
        return_value,
        data_size_out,
        ..
    } = loaded(programs, name)?.test_run(options).map_err(failed("try", name))?;
    out.truncate(data_size_out as usize);
    Ok((return_value, out))
}

fn has_tcx() -> bool {
    KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 6, 0))
}

fn attach_link(
    program: &mut SchedClassifier,
    name: &'static str,
    uplink: &str,
    side: TcAttachType,
    pin: &Path,
) -> Result<(), MapsError> {
    if let Some(link) = links::open(pin)? {
        let fd = program.fd().map_err(failed("find", name))?;
        if links::replace(&link, fd, pin)? {
            return Ok(());
        }
    }
    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id = program
        .attach_with_options(uplink, side, options)
        .map_err(failed("attach", name))?;
    let link = program.take_link(id).map_err(failed("attach", name))?;
    let link = FdLink::try_from(link).map_err(|_| MapsError::Missing("link that can be pinned"))?;
    links::pin(link, name, pin)
}

fn attach_filter(
    program: &mut SchedClassifier,
    name: &'static str,
    uplink: &str,
    side: TcAttachType,
) -> Result<(), MapsError> {
    // Somebody else may have made it, and it is not taken away with the filters.
    let _ = tc::qdisc_add_clsact(uplink);
    let present = SchedClassifierLink::attached(uplink, side, PRIORITY, HANDLE, None);
    let present = present.map_err(|source| uplink_error(uplink, source))?;
    // Without a filter to replace, one is made.
    let replaced = program.attach_to_link(present);
    let id = match replaced {
        Ok(id) => id,
        Err(_) => {
            let options = NlOptions {
                priority: PRIORITY,
                handle: HANDLE,
                classid: None,
            };
            program
                .attach_with_options(uplink, side, TcAttachOptions::Netlink(options))
                .map_err(failed("attach", name))?
        }
    };
    // The filter outlives this process.
    let _ = ManuallyDrop::new(program.take_link(id).map_err(failed("attach", name))?);
    Ok(())
}

fn pinned(links: &Path) -> Result<Vec<PathBuf>, MapsError> {
    let entries = match std::fs::read_dir(links) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(links::files("list", links))?,
    };
    let mut pins = Vec::new();
    for entry in entries {
        let entry = entry.map_err(links::files("list", links))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("arriving_") || name.starts_with("leaving_") {
            pins.push(entry.path());
        }
    }
    pins.sort();
    Ok(pins)
}

fn is_ethernet(uplink: &str) -> bool {
    let Ok(mut all) = nix::ifaddrs::getifaddrs() else {
        return false;
    };
    all.any(|interface| {
        let link = interface
            .address
            .as_ref()
            .and_then(|address| address.as_link_addr().map(|link| link.hatype()));
        interface.interface_name == uplink && link == Some(ETHERNET)
    })
}

fn uplink_error(uplink: &str, source: io::Error) -> MapsError {
    MapsError::Uplink {
        uplink: uplink.into(),
        source,
    }
}

/// A program, which is loaded when it is first asked for.
pub(super) fn loaded<'a>(programs: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier, MapsError> {
    let program = programs.program_mut(name).ok_or(MapsError::Missing(name))?;
    let program: &mut SchedClassifier = program.try_into().map_err(failed("find", name))?;
    if program.fd().is_err() {
        program.load().map_err(failed("load", name))?;
    }
    Ok(program)
}

pub(super) fn failed(action: &'static str, program: &'static str) -> impl Fn(ProgramError) -> MapsError {
    move |source| MapsError::Program {
        action,
        program,
        source,
    }
}
