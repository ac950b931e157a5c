//! The eBPF programs of the Service data path: one entry point for each hook of the cgroup, and five for links. What they
//! decide stands in `ebpf_common::lookup`; who loads and attaches them is `agent::hands::maps`.
//!
//! A Service address becomes a backend when a socket connects or sends, and the backend becomes the Service again when
//! the socket asks who its peer is. Packets are rewritten only for clients outside of the node, and those of SCTP for clients on
//! it, whose sockets no hook sees.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod carry;
#[cfg(target_arch = "bpf")]
mod choice;
#[cfg(target_arch = "bpf")]
mod connect;
#[cfg(target_arch = "bpf")]
mod datagram;
#[cfg(target_arch = "bpf")]
mod flows;
#[cfg(target_arch = "bpf")]
mod inside;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod name;
#[cfg(target_arch = "bpf")]
mod node;
#[cfg(target_arch = "bpf")]
mod outside;
#[cfg(target_arch = "bpf")]
mod packet;
#[cfg(target_arch = "bpf")]
mod release;
#[cfg(target_arch = "bpf")]
mod reserve;
#[cfg(target_arch = "bpf")]
mod socket;
#[cfg(target_arch = "bpf")]
mod world;

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The programs run in the kernel alone; on the host this crate is only formatted and checked.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
