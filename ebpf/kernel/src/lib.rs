//! The kernel interfaces of eBPF that aya 0.14 has no function for: replacing the program of a pinned cgroup link in place, detaching
//! it at once, and asking such a link which cgroup it is on. See <https://man7.org/linux/man-pages/man2/bpf.2.html>.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

mod array;

pub use array::{MappedArray, View};

const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_MAP_LOOKUP_AND_DELETE_ELEM: libc::c_int = 21;
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_int = 26;
const BPF_LINK_UPDATE: libc::c_int = 29;
const BPF_LINK_DETACH: libc::c_int = 34;

/// Opens a pinned link.
///
/// # Errors
/// `NotFound` when nothing is pinned there; what bpf(2) says otherwise.
pub fn open_link(path: &Path) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        pathname: u64,
        bpf_fd: u32,
        file_flags: u32,
    }
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = Attributes {
        pathname: path.as_ptr() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    // SAFETY: the attributes have the layout of BPF_OBJ_GET, and the path outlives the call.
    let fd = unsafe { bpf(BPF_OBJ_GET, &mut attributes) }?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Replaces the program of a link; every call after this meets the new one, none meets neither.
///
/// # Errors
/// `ENOLINK` when the link's cgroup is gone.
pub fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Attributes {
        link_fd: u32,
        new_prog_fd: u32,
        flags: u32,
        old_prog_fd: u32,
    }
    let (link, program) = (link.as_raw_fd().cast_unsigned(), program.as_raw_fd().cast_unsigned());
    let mut attributes = Attributes {
        link_fd: link,
        new_prog_fd: program,
        flags: 0,
        old_prog_fd: 0,
    };
    // SAFETY: the attributes have the layout of BPF_LINK_UPDATE; the kernel checks that the descriptors are what they
    // should be.
    unsafe { bpf(BPF_LINK_UPDATE, &mut attributes) }.map(|_| ())
}

/// Takes a link's program off its cgroup, now: when the last pin and descriptor of a link go, the kernel does that some
/// time later.
///
/// # Errors
/// What bpf(2) says; a link that is detached already is fine.
pub fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Attributes {
        link_fd: u32,
    }
    let mut attributes = Attributes {
        link_fd: link.as_raw_fd().cast_unsigned(),
    };
    // SAFETY: the attributes have the layout of BPF_LINK_DETACH; the kernel checks that the descriptor is a link.
    unsafe { bpf(BPF_LINK_DETACH, &mut attributes) }.map(|_| ())
}

/// Id of the cgroup that a cgroup link is on, which is the inode number of its directory; zero when it is gone.
///
/// # Errors
/// `InvalidInput` for a link that is not on a cgroup.
pub fn link_cgroup(link: BorrowedFd<'_>) -> io::Result<u64> {
    /// `struct bpf_link_info`, as far as a cgroup link fills it.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind: u32,
        id: u32,
        program: u32,
        padding: u32,
        cgroup: u64,
        attach_type: u32,
        rest: u32,
    }
    #[repr(C)]
    struct Attributes {
        bpf_fd: u32,
        info_len: u32,
        info: u64,
    }
    const BPF_LINK_TYPE_CGROUP: u32 = 3;
    let mut info = Info::default();
    let mut attributes = Attributes {
        bpf_fd: link.as_raw_fd().cast_unsigned(),
        info_len: u32::try_from(size_of::<Info>()).expect("the structure has 32 bytes"),
        info: (&raw mut info) as u64,
    };
    // SAFETY: the attributes have the layout of BPF_OBJ_GET_INFO_BY_FD; the kernel writes at most `info_len` bytes to
    // `info`, which outlives the call.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attributes) }?;
    if info.kind != BPF_LINK_TYPE_CGROUP {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(info.cgroup)
}

/// Takes an element out of a hash map; `None` when it is not there. What programs do to it before is in what is returned,
/// what they do afterwards is lost.
///
/// # Errors
/// What bpf(2) says; before Linux 5.14 that it can't.
pub fn take_element<const KEY: usize, const VALUE: usize>(
    map: BorrowedFd<'_>,
    key: &[u8; KEY],
) -> io::Result<Option<[u8; VALUE]>> {
    #[repr(C)]
    struct Attributes {
        map_fd: u32,
        padding: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let mut value = [0_u8; VALUE];
    let mut attributes = Attributes {
        map_fd: map.as_raw_fd().cast_unsigned(),
        padding: 0,
        key: key.as_ptr() as u64,
        value: value.as_mut_ptr() as u64,
        flags: 0,
    };
    // SAFETY: the attributes have the layout of BPF_MAP_LOOKUP_AND_DELETE_ELEM; key and value outlive the call, and have
    // the sizes of the map's: the caller opened it by its shape.
    match unsafe { bpf(BPF_MAP_LOOKUP_AND_DELETE_ELEM, &mut attributes) } {
        Ok(_) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// How many elements are read or written by one call.
const BATCH: u32 = 4096;

/// What the batch commands of bpf(2) take.
#[repr(C)]
struct BatchAttributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Every element of a hash map, a few thousand by each call. What comes or goes meanwhile may be missing or there.
///
/// # Errors
/// What bpf(2) says; `EINVAL` before Linux 5.6.
pub fn read_elements<const KEY: usize, const VALUE: usize>(
    map: BorrowedFd<'_>,
) -> io::Result<Vec<([u8; KEY], [u8; VALUE])>> {
    let mut found = Vec::new();
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    let (mut batch, mut place, mut next) = (BATCH, 0_u32, 0_u32);
    let mut is_first = true;
    loop {
        keys.resize(batch as usize, [0_u8; KEY]);
        values.resize(batch as usize, [0_u8; VALUE]);
        let mut attributes = BatchAttributes {
            in_batch: if is_first { 0 } else { (&raw const place) as u64 },
            out_batch: (&raw mut next) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: batch,
            map_fd: map.as_raw_fd().cast_unsigned(),
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the attributes have the layout of BPF_MAP_LOOKUP_BATCH; there is room for `count` keys and values of the
        // map's sizes: the caller opened it by its shape. A hash map's place is one word.
        let result = unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attributes) };
        let is_last = match result {
            Ok(_) => false,
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            // The elements of one bucket have to fit; a bucket of all elements does in the end.
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && batch < 1 << 20 => {
                batch *= 2;
                continue;
            }
            Err(error) => return Err(error),
        };
        let count = attributes.count as usize;
        found.extend(keys.iter().copied().zip(values.iter().copied()).take(count));
        if is_last {
            return Ok(found);
        }
        (place, is_first) = (next, false);
    }
}

/// Writes elements of a hash map or an array, a few thousand by each call, in their order.
///
/// # Errors
/// What bpf(2) says, of the first element that fails; those before it are written.
pub fn write_elements<const KEY: usize, const VALUE: usize>(
    map: BorrowedFd<'_>,
    keys: &[[u8; KEY]],
    values: &[[u8; VALUE]],
) -> io::Result<()> {
    let batch = BATCH as usize;
    for (keys, values) in keys.chunks(batch).zip(values.chunks(batch)) {
        let mut attributes = BatchAttributes {
            in_batch: 0,
            out_batch: 0,
            keys: keys.as_ptr() as u64,
            values: values.as_ptr() as u64,
            count: u32::try_from(keys.len().min(values.len())).expect("a chunk is short"),
            map_fd: map.as_raw_fd().cast_unsigned(),
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the attributes have the layout of BPF_MAP_UPDATE_BATCH; `count` keys and values of the map's sizes lie behind
        // the pointers: the caller opened it by its shape.
        unsafe { bpf(BPF_MAP_UPDATE_BATCH, &mut attributes) }?;
    }
    Ok(())
}

/// Cookie of the calling thread's network namespace: unique among all namespaces since boot, and what programs know a
/// namespace by.
///
/// # Errors
/// `ENOPROTOOPT` before Linux 5.14.
pub fn network_cookie() -> io::Result<u64> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0)).or_else(|_| {
        // A namespace whose loopback is down has no address to bind to.
        std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))
    })?;
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).expect("eight bytes");
    let value: *mut u64 = &raw mut cookie;
    // SAFETY: the socket is open, and `value` and `length` point to what the kernel may fill.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            value.cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// # Safety
/// `attributes` has to be the structure that `command` takes, and what it points to has to be valid for the call.
unsafe fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<RawFd> {
    let attributes: *mut T = attributes;
    // SAFETY: the caller answers for the structure; its size is passed along.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    match RawFd::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}
