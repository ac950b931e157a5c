//! Moves network devices of the host into a container, with their addresses (`linux.netDevices`).
//!
//! The kernel takes a device down and its addresses away when it changes its namespace: they are put back.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;

use super::SingleThreaded;
use super::error::{CreateError, host};
use crate::field::net_devices::NetDevice;
use crate::netlink::{ADDRESS_HEADER, NEW, Netlink, Request, attributes, link};
use crate::sys::namespace::setns;

/// `RTM_*` of linux/rtnetlink.h.
const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;

/// `IFLA_*` of linux/if_link.h.
const NAME: u16 = 3;
const NAMESPACE: u16 = 28;

/// `IFA_*` and `IFA_F_PERMANENT` of linux/if_addr.h.
const COPIED: [u16; 3] = [1, 2, 4];
const ADDRESS_FLAGS: u16 = 8;
const PERMANENT: u32 = 0x80;
const FLAGS_AT: usize = 2;
const SCOPE_AT: usize = 3;

/// `IFF_UP` of linux/if.h.
const UP: u32 = 1;

/// Moves each of `devices` to the network namespace `namespace` and lets it up there.
pub(super) fn give(_token: &SingleThreaded, devices: &[NetDevice], namespace: &File) -> Result<(), CreateError> {
    let outside = Netlink::open().map_err(|error| host("open a netlink socket", error))?;
    let inside = in_namespace(namespace.as_fd(), Netlink::open)
        .map_err(|error| host("open a netlink socket in the container's network namespace", error))?;
    devices.iter().try_for_each(|device| {
        let action = format!(
            "move the network device {} into the container as {}",
            device.outside, device.inside
        );
        move_one(device, &outside, &inside, namespace).map_err(|error| host(&action, error))
    })
}

fn move_one(device: &NetDevice, outside: &Netlink, inside: &Netlink, namespace: &File) -> io::Result<()> {
    let index = index_of(outside, &device.outside)?;
    let addresses = outside.ask(Request::dump(GET_ADDRESS, &[0; ADDRESS_HEADER]))?;
    let target = Request::new(NEW_LINK, 0, &link(index, 0))
        .with(NAMESPACE, &namespace.as_raw_fd().to_ne_bytes())
        .with(NAME, &null_terminated(&device.inside));
    outside.ask(target)?;
    let new_index = index_of(inside, &device.inside)?;
    for (_, address) in &addresses {
        if let Some(request) = moved(address, index, new_index) {
            inside.ask(request)?;
        }
    }
    inside.ask(Request::new(NEW_LINK, 0, &link(new_index, UP))).map(drop)
}

fn index_of(netlink: &Netlink, name: &str) -> io::Result<i32> {
    let answer = netlink.ask(Request::new(GET_LINK, 0, &link(0, 0)).with(NAME, &null_terminated(name)))?;
    let index = answer.first().and_then(|(_, body)| body.get(4..)?.first_chunk());
    Ok(i32::from_ne_bytes(*index.ok_or(Errno::ENODEV)?))
}

/// The request that makes an address anew on another device; none for one of a third device, and for those that the
/// kernel or a server gave: only permanent ones of global scope move (OCI config-linux, "Network Devices").
fn moved(address: &[u8], index: i32, new_index: i32) -> Option<Request> {
    let fixed: [u8; ADDRESS_HEADER] = *address.first_chunk()?;
    let is_its = fixed[4..] == index.to_ne_bytes();
    let wide = attributes(address, ADDRESS_HEADER).find(|(kind, _)| *kind == ADDRESS_FLAGS);
    let wide = wide.and_then(|(_, value)| Some(u32::from_ne_bytes(*value.first_chunk()?)));
    let flags = wide.unwrap_or(u32::from(fixed[FLAGS_AT]));
    if !is_its || fixed[SCOPE_AT] != 0 || flags & PERMANENT == 0 {
        return None;
    }
    let mut new = fixed;
    new[4..].copy_from_slice(&new_index.to_ne_bytes());
    let copied = attributes(address, ADDRESS_HEADER).filter(|(kind, _)| COPIED.contains(kind));
    Some(
        copied.fold(Request::new(NEW_ADDRESS, NEW, &new), |request, (kind, value)| {
            request.with(kind, value)
        }),
    )
}

fn null_terminated(name: &str) -> Vec<u8> {
    name.bytes().chain([0]).collect()
}

fn in_namespace<T>(namespace: BorrowedFd<'_>, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let own = File::open("/proc/self/ns/net")?;
    setns(namespace, libc::CLONE_NEWNET)?;
    let result = work();
    setns(own.as_fd(), libc::CLONE_NEWNET)?;
    result
}
