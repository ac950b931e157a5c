//! The eBPF programs of the Service data path: entry points and maps. What they decide stands in `ebpf-common`.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod kernel {
    use aya_ebpf::macros::cgroup_sock_addr;
    use aya_ebpf::programs::SockAddrContext;

    #[cgroup_sock_addr(connect4)]
    fn service_connect4(_context: SockAddrContext) -> i32 {
        1
    }

    #[panic_handler]
    fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }
}

/// The programs run in the kernel alone; on the host this crate is only checked.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
