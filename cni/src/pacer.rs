//! Limits by programs: who holds them, and what of a pod's links follows. This crate neither carries nor loads programs.

use std::{
    fmt::Debug,
    num::NonZeroU16,
    os::fd::{AsRawFd, BorrowedFd},
};

use crate::{
    bandwidth::{Bandwidth, Rate},
    node_network::NodeNetwork,
    plan::{Limit, Means},
    step::Program,
};

/// Whoever has loaded programs that limit pods: an agent.
pub trait Pacer: Debug + Send + Sync {
    /// Limits the pod behind a link of the node from now on; answers what the programs know its limits by. None when it
    /// can't be had: then token buckets limit the pod, and nothing stands behind them.
    fn limit(&self, link: u32, bandwidth: Bandwidth) -> Option<NonZeroU16>;

    /// The link is gone.
    fn forget(&self, link: u32);

    /// The links whose pods are limited, as far as nobody has said that they are gone.
    fn links(&self) -> Vec<u32>;

    /// The programs that say when packets depart. None where the kernel has no queue that holds them until then.
    fn programs(&self) -> Option<Programs<'_>>;
}

/// One for each end of a link.
#[derive(Debug, Clone, Copy)]
pub struct Programs<'a> {
    /// Of the node's end: what the pod receives.
    pub receives: BorrowedFd<'a>,
    /// Of the pod's end: what it sends.
    pub departs: BorrowedFd<'a>,
}

/// What stands on the pod's link, whose limits are noted by this.
pub(crate) fn means(network: &NodeNetwork, link: u32, bandwidth: Bandwidth) -> Means {
    let pacer = network.pacer.as_deref().filter(|_| !bandwidth.is_none());
    let place = pacer.and_then(|pacer| pacer.limit(link, bandwidth));
    let programs = place.and(pacer).and_then(Pacer::programs);
    let place = place.map_or(0, NonZeroU16::get);
    let program = |descriptor: BorrowedFd<'_>| Program {
        descriptor: descriptor.as_raw_fd(),
        place,
    };
    let limit = |rate: Rate, descriptor: Option<BorrowedFd<'_>>| match descriptor {
        Some(descriptor) => Limit::Paced(program(descriptor)),
        None => Limit::Bucket(rate.bucket()),
    };
    let (receives, departs) = (
        programs.map(|programs| programs.receives),
        programs.map(|programs| programs.departs),
    );
    Means {
        bandwidth,
        inspector: network.inspector.as_ref().map(|inspector| Program {
            descriptor: inspector.as_raw_fd(),
            place: bandwidth.egress.map_or(0, |_| place),
        }),
        ingress: bandwidth.ingress.map(|rate| limit(rate, receives)),
        egress: bandwidth.egress.map(|rate| limit(rate, departs)),
    }
}

/// The links are gone.
pub(crate) fn forget(network: &NodeNetwork, links: impl IntoIterator<Item = u32>) {
    if let Some(pacer) = network.pacer.as_deref() {
        links.into_iter().for_each(|link| pacer.forget(link));
    }
}
