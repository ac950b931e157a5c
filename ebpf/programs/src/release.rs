//! close(2) of a TCP socket: its place in the table of those that are connected to Services is free.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::bpf_get_socket_cookie;
use aya_ebpf::macros::cgroup_sock;
use aya_ebpf::programs::SockContext;
use ebpf_common::maps::TCP;
use ebpf_common::stream;

use crate::maps::Streams;
use crate::socket::{self, PROCEED};

#[cgroup_sock(sock_release)]
fn service_release(context: SockContext) -> i32 {
    // SAFETY: the kernel passes a valid context.
    let number = unsafe { (*context.sock).protocol };
    if socket::named(number) == Some(TCP) {
        // SAFETY: the helper takes the context of this kind of program.
        let cookie = unsafe { bpf_get_socket_cookie(context.as_ptr()) };
        stream::free(&mut Streams, cookie);
    }
    PROCEED
}
