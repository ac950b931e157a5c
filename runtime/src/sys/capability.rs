//! Capability sets of the calling process: capset(2) and the prctl(2) of the bounding and ambient sets.

use nix::errno::Errno;

/// A set of capabilities, bit n for capability number n (capabilities(7)).
pub(crate) type Mask = u64;

/// `_LINUX_CAPABILITY_VERSION_3`, for 64-bit sets.
const VERSION_3: u32 = 0x2008_0522;

/// Header of capset(2).
#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

/// One half of the three sets.
#[derive(Default)]
#[repr(C)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Sets the three classic sets ([capset(2)](https://man7.org/linux/man-pages/man2/capset.2.html)).
pub(crate) fn capset(effective: Mask, permitted: Mask, inheritable: Mask) -> nix::Result<()> {
    let header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let half = |shift: u32| Half {
        effective: low_half(effective >> shift),
        permitted: low_half(permitted >> shift),
        inheritable: low_half(inheritable >> shift),
    };
    let halves = [half(0), half(32)];
    // SAFETY: version 3 of the header is followed by two halves, which is what `halves` holds.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, &raw const header, halves.as_ptr()) }).map(drop)
}

#[expect(clippy::cast_possible_truncation, reason = "the lower 32 bits are what is asked for")]
fn low_half(mask: Mask) -> u32 {
    mask as u32
}

/// Takes out of the bounding set what `keep` does not hold (`PR_CAPBSET_DROP`). Ends at the first capability that this
/// kernel does not know.
pub(crate) fn limit_bounding_set(keep: Mask) -> nix::Result<()> {
    for capability in 0..u64::from(Mask::BITS) {
        if keep & (1 << capability) != 0 {
            continue;
        }
        match prctl(libc::PR_CAPBSET_DROP, capability, 0) {
            Err(Errno::EINVAL) => return Ok(()),
            result => result?,
        }
    }
    Ok(())
}

/// Makes the ambient set exactly `mask` (`PR_CAP_AMBIENT`). Each must be permitted and inheritable.
pub(crate) fn set_ambient(mask: Mask) -> nix::Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64, 0)?;
    (0..u64::from(Mask::BITS))
        .filter(|capability| mask & (1 << capability) != 0)
        .try_for_each(|capability| prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as u64, capability))
}

/// The capabilities that this kernel knows, as far as our bounding set has them (`PR_CAPBSET_READ`).
pub(crate) fn bounding_set() -> Mask {
    capabilities(|answer| answer == 1)
}

/// The capabilities that this kernel knows (`PR_CAPBSET_READ`).
pub(crate) fn known_set() -> Mask {
    capabilities(|_| true)
}

/// Ends at the first that this kernel does not know: it knows all below.
fn capabilities(wanted: impl Fn(libc::c_int) -> bool) -> Mask {
    let answers = (0..u64::from(Mask::BITS)).map(|capability| (capability, read_bounding_set(capability)));
    let known = answers.take_while(|(_, answer)| *answer >= 0);
    known
        .filter(|(_, answer)| wanted(*answer))
        .fold(0, |mask, (capability, _)| mask | 1 << capability)
}

/// 1 or 0, or -1 for a capability that this kernel does not know.
fn read_bounding_set(capability: u64) -> libc::c_int {
    // SAFETY: takes integers only.
    unsafe { libc::prctl(libc::PR_CAPBSET_READ, capability, 0, 0, 0) }
}

/// Our effective set ([capget(2)](https://man7.org/linux/man-pages/man2/capget.2.html)); empty when it can't be read.
pub(crate) fn effective_set() -> Mask {
    let header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let mut halves = [Half::default(), Half::default()];
    // SAFETY: version 3 of the header is followed by two halves, which is what `halves` has room for.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw const header, halves.as_mut_ptr()) };
    let [low, high] = halves;
    match Errno::result(result) {
        Ok(_) => Mask::from(high.effective) << 32 | Mask::from(low.effective),
        Err(_) => 0,
    }
}

fn prctl(option: libc::c_int, second: u64, third: u64) -> nix::Result<()> {
    // SAFETY: the options used in this file take integers only.
    Errno::result(unsafe { libc::prctl(option, second, third, 0, 0) }).map(drop)
}
