//! getpeername(2): a socket that connected to a Service is told the Service, not the backend.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use ebpf_common::maps::TCP;
use ebpf_common::stream;

use crate::maps::Streams;
use crate::socket::{self, Family, PROCEED};

#[cgroup_sock_addr(getpeername4)]
fn service_getpeername4(context: SockAddrContext) -> i32 {
    name(&context, Family::V4)
}

#[cgroup_sock_addr(getpeername6)]
fn service_getpeername6(context: SockAddrContext) -> i32 {
    name(&context, Family::V6)
}

#[inline(always)]
fn name(context: &SockAddrContext, family: Family) -> i32 {
    let peer = socket::peer(context, family);
    if socket::protocol(context) == Some(TCP)
        && let Some(record) = stream::find(&mut Streams, socket::cookie(context))
        && let Some(service) = record.service_of(&peer)
    {
        socket::replace(context, family, &service);
    } else if let Some(record) = socket::record(context)
        && let Some(service) = record.service_of(&peer)
    {
        socket::replace(context, family, &service);
    }
    PROCEED
}
