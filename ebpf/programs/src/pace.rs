//! Limits of pods: when a packet departs, and which come too many.
//!
//! The queue behind a link (`fq`) holds each packet until its time. What a pod sends is held at the pod's own end, where
//! its sockets feel it; as a pod may do what it likes with that end, the same limit stands on the node, and drops.

use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, TC_ACT_UNSPEC, bpf_spin_lock};
use aya_ebpf::btf_maps::HashMap;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::{bpf_spin_lock as lock, bpf_spin_unlock as unlock};
use aya_ebpf::macros::{btf_map, classifier};
use aya_ebpf::programs::TcContext;
use ebpf_common::pods::{Count, ENTRY_BYTES, Limit, LimitKey, MAX_LIMITS, Side};

use crate::pod::drop_as;

#[btf_map(name = "pod_limits")]
static LIMITS: HashMap<LimitKey, Entry, { MAX_LIMITS as usize }, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

/// A limit that all processors share.
#[repr(C)]
struct Entry {
    limit: Limit,
    lock: bpf_spin_lock,
    unused: u32,
}

const _: () = assert!(size_of::<Entry>() == ENTRY_BYTES);

/// Sees what leaves the node's end of a limited pod's link.
#[classifier]
pub(crate) fn pod_receives(packet: TcContext) -> i32 {
    pace(&packet, Side::Received)
}

/// Sees what leaves a limited pod's own end.
#[classifier]
pub(crate) fn pod_departs(packet: TcContext) -> i32 {
    pace(&packet, Side::Sent)
}

#[inline(always)]
fn pace(packet: &TcContext, side: Side) -> i32 {
    match departure(packet, side) {
        Some(time) => {
            // SAFETY: the kernel passes a valid `__sk_buff`, whose time may be written by classifiers.
            unsafe { (*packet.skb.skb).tstamp = time };
            // On to the link's other programs.
            TC_ACT_UNSPEC
        }
        None => drop_as(Count::Limit),
    }
}

/// Whether a packet on its way in by the node's end is more than the pod may send.
#[inline(always)]
pub(crate) fn is_too_much(packet: &TcContext) -> bool {
    place(packet) != 0 && departure(packet, Side::Arrived).is_none()
}

/// Where the link's limits stand; the filter that runs the program says so. 0 for a link without.
#[inline(always)]
fn place(packet: &TcContext) -> u16 {
    // SAFETY: the kernel passes a valid `__sk_buff`, and the field may be read.
    unsafe { (*packet.skb.skb).tc_classid as u16 }
}

/// When a packet departs; `None` when that is too late. Without a limit it does at once.
#[inline(always)]
fn departure(packet: &TcContext, side: Side) -> Option<u64> {
    // SAFETY: the helper takes nothing and answers a number: of the clock that the queue goes by.
    let now = unsafe { bpf_ktime_get_ns() };
    let Some(entry) = LIMITS.get_ptr_mut(LimitKey::new(place(packet), side)) else {
        return Some(now);
    };
    // SAFETY: the kernel passes a valid `__sk_buff`, and the field is read-only: with the heads of all its segments.
    let bytes = unsafe { (*packet.skb.skb).wire_len };
    // SAFETY: a lookup returned the pointer, and the rate stays as it was written before the entry was there.
    let time = unsafe { (*entry).limit.time_of(bytes) };
    // SAFETY: as above; the lock is the entry's own, and nothing is called before it is given back.
    unsafe {
        lock(&raw mut (*entry).lock);
        let departure = (*entry).limit.departure(now, time);
        unlock(&raw mut (*entry).lock);
        departure
    }
}
