//! The eBPF programs of pod links. One sees what a pod sends before the node's network stack does: what is not the pod's own
//! source or hardware address is dropped; what goes to another pod of the node goes there at once. The others tell packets
//! of limited pods when they depart.
//!
//! There is no map of pods. The kernel's routes and permanent neighbours say which address and which hardware address lie
//! behind a link, and the hardware address of a link's host end says that it is one of ours. What they said about packets
//! from pod to pod is gone by for a hundredth of a second.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod pace;
#[cfg(target_arch = "bpf")]
mod pod;

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The programs run in the kernel alone; on the host this crate is only formatted and checked.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
