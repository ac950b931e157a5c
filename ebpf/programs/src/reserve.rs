//! bind(2) on the node: a port that is a NodePort belongs to its Service. A daemon that took it would never be asked, and
//! its owner would never know why.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::bpf_get_netns_cookie;
use aya_ebpf::macros::cgroup_sock;
use aya_ebpf::programs::SockContext;
use ebpf_common::maps::{Frontend4, Frontend6, TCP, UDP};

use crate::maps::{client, service4, service6};
use crate::socket::{PROCEED, in_use};

#[cgroup_sock(post_bind4)]
fn service_post_bind4(context: SockContext) -> i32 {
    bound(&context)
}

#[cgroup_sock(post_bind6)]
fn service_post_bind6(context: SockContext) -> i32 {
    bound(&context)
}

#[inline(always)]
fn bound(context: &SockContext) -> i32 {
    // SAFETY: the kernel passes a valid context.
    let number = unsafe { (*context.sock).protocol };
    let protocol = match number {
        number if number == u32::from(TCP) => TCP,
        number if number == u32::from(UDP) => UDP,
        _ => return PROCEED,
    };
    // SAFETY: as above; the field is in host order, unlike those of the other hooks.
    let port = (unsafe { (*context.sock).src_port } as u16).to_be();
    // The unspecified address stands for all of the node's that take part.
    let four = service4(&Frontend4::from_wire(0, port, protocol));
    let six = service6(&Frontend6::from_wire([0; 4], port, protocol));
    if four.or(six).is_some() && is_node(context) {
        return in_use();
    }
    PROCEED
}

#[inline(always)]
fn is_node(context: &SockContext) -> bool {
    // SAFETY: the helper takes the context of this kind of program.
    let cookie = unsafe { bpf_get_netns_cookie(context.as_ptr()) };
    client(cookie).is_some_and(|client| client.is_node())
}
