//! One packet from a pod: whether it may go on, and which way.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{TC_ACT_OK, TC_ACT_SHOT, bpf_fib_lookup as Lookup};
use aya_ebpf::helpers::generated::{bpf_fib_lookup, bpf_ktime_get_coarse_ns, bpf_redirect_peer};
use aya_ebpf::macros::{classifier, map};
use aya_ebpf::maps::{LruHashMap, PerCpuArray};
use aya_ebpf::programs::TcContext;
use ebpf_common::pods::{Count, HOST_MAC};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_ARP: u16 = 0x0806;
const ETH_P_IPV6: u16 = 0x86dd;
/// How long an answer of the kernel's tables is gone by. A pod that is removed is no longer sent to after this time, and its
/// address is given to nobody for far longer.
const HELD_NANOSECONDS: u64 = 10_000_000;
/// Pairs of pods that talk at one time; with more, those that talk least ask the tables again.
const WAYS_MAX: u32 = 4096;
/// `BPF_FIB_LKUP_RET_SUCCESS`, `BPF_FIB_LKUP_RET_FWD_DISABLED`.
const FOUND: i64 = 0;
const FORWARDING_IS_OFF: i64 = 5;

#[map(name = "pod_counts")]
static COUNTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Count::ALL.len() as u32, 0);

/// The kernel's answers about packets from pod to pod: to ask takes two thirds of a packet's time here.
#[map(name = "pod_ways")]
static WAYS: LruHashMap<Pair, Way> = LruHashMap::with_max_entries(WAYS_MAX, 0);

/// Which packets.
#[repr(C)]
#[derive(Clone, Copy)]
struct Pair {
    /// The link they come in by.
    link: u32,
    /// Their source; an IPv4 address is the first word.
    from: [u32; 4],
    /// Their destination.
    to: [u32; 4],
}

/// Where to, and who may send so.
#[repr(C)]
#[derive(Clone, Copy)]
struct Way {
    /// Nanoseconds since the boot, until which this holds.
    until: u64,
    /// The link of the pod they are for.
    link: u32,
    /// The hardware address of the pod they are from.
    source: [u8; 6],
    /// The hardware address of the pod they are for.
    to: [u8; 6],
}

/// Ethernet and IPv4 without options, as bytes are on the wire.
#[repr(C, packed)]
#[derive(Clone, Copy)]
struct HeadV4 {
    target: [u8; 6],
    source: [u8; 6],
    kind: u16,
    unread: [u8; 8],
    life: u8,
    protocol: u8,
    sum: u16,
    from: u32,
    to: u32,
}

/// Ethernet and IPv6.
#[repr(C, packed)]
#[derive(Clone, Copy)]
struct HeadV6 {
    target: [u8; 6],
    source: [u8; 6],
    kind: u16,
    unread: [u8; 7],
    life: u8,
    from: [u32; 4],
    to: [u32; 4],
}

/// Sees what a pod sends, on the way in by the host's end of its link.
#[classifier]
pub(crate) fn pod_sends(packet: TcContext) -> i32 {
    inspect(&packet).unwrap_or(TC_ACT_OK as i32)
}

/// An error is a packet that is too short for its kind: the stack knows what to do with it.
#[inline(always)]
fn inspect(packet: &TcContext) -> Result<i32, i64> {
    // SAFETY: the kernel passes a valid `__sk_buff`, and the field is read-only; it is the low half, as on the wire.
    let kind = unsafe { (*packet.skb.skb).protocol } as u16;
    match u16::from_be(kind) {
        ETH_P_IP => {
            let head: HeadV4 = packet.load(0).map_err(i64::from)?;
            let pair = Pair {
                link: link_of(packet),
                from: [head.from, 0, 0, 0],
                to: [head.to, 0, 0, 0],
            };
            Ok(match decide(packet, AF_INET, &pair, head.source, head.life) {
                Decision::Cross(way) => cross(packet, &older_v4(head, &way), way.link),
                Decision::Action(action) => action,
            })
        }
        ETH_P_IPV6 => {
            let head: HeadV6 = packet.load(0).map_err(i64::from)?;
            let pair = Pair {
                link: link_of(packet),
                from: head.from,
                to: head.to,
            };
            // Questions of the link itself come from nowhere yet; the stack answers or drops them.
            if pair.from == [0; 4] {
                return Ok(TC_ACT_OK as i32);
            }
            Ok(match decide(packet, AF_INET6, &pair, head.source, head.life) {
                Decision::Cross(way) => cross(packet, &older_v6(&head, &way), way.link),
                Decision::Action(action) => action,
            })
        }
        ETH_P_ARP => Ok(TC_ACT_OK as i32),
        _ => Ok(drop_as(Count::Kind)),
    }
}

/// What becomes of a packet.
enum Decision {
    /// It goes to another pod at once.
    Cross(Way),
    /// It goes up the stack, or is dropped.
    Action(i32),
}

#[inline(always)]
fn decide(packet: &TcContext, family: u8, pair: &Pair, source: [u8; 6], life: u8) -> Decision {
    // SAFETY: the helper takes nothing and answers a number.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    // SAFETY: an entry that another packet replaces meanwhile is still one of the map's own.
    if let Some(way) = unsafe { WAYS.get(pair) }
        && now < way.until
        && way.source == source
        && life > 1
    {
        return Decision::Cross(*way);
    }
    let mut back = question(family, pair.link, [0; 4], pair.from);
    match look_up(packet, &mut back) {
        FOUND if back.ifindex != pair.link => return Decision::Action(drop_as(Count::Source)),
        FOUND if back.dmac != source => return Decision::Action(drop_as(Count::Mac)),
        FOUND => {}
        FORWARDING_IS_OFF => return Decision::Action(TC_ACT_OK as i32),
        _ => return Decision::Action(drop_as(Count::Source)),
    }
    let mut way = question(family, pair.link, pair.from, pair.to);
    if look_up(packet, &mut way) != FOUND || way.smac != HOST_MAC || way.ifindex == pair.link || life <= 1 {
        return Decision::Action(TC_ACT_OK as i32);
    }
    let way = Way {
        until: now + HELD_NANOSECONDS,
        link: way.ifindex,
        source,
        to: way.dmac,
    };
    // Without a place for it the next packet asks again.
    let _ = WAYS.insert(pair, way, 0);
    Decision::Cross(way)
}

/// The packet's head as the other pod's link would have made it: one hop older, between that link's hardware addresses.
#[inline(always)]
fn older_v4(head: HeadV4, way: &Way) -> HeadV4 {
    // A hop less is a word less by 0x100; the checksum is the more by it, with the carry at the other end.
    let (sum, carries) = u16::from_be(head.sum).overflowing_add(0x100);
    HeadV4 {
        target: way.to,
        source: HOST_MAC,
        life: head.life.wrapping_sub(1),
        sum: sum.wrapping_add(u16::from(carries)).to_be(),
        ..head
    }
}

#[inline(always)]
fn older_v6(head: &HeadV6, way: &Way) -> HeadV6 {
    HeadV6 {
        target: way.to,
        source: HOST_MAC,
        life: head.life.wrapping_sub(1),
        ..*head
    }
}

#[inline(always)]
fn cross<Head>(packet: &TcContext, head: &Head, link: u32) -> i32 {
    if packet.store(0, head, 0).is_err() {
        return TC_ACT_SHOT as i32;
    }
    count(Count::Crossed);
    // SAFETY: the helper takes numbers only.
    i64::from(unsafe { bpf_redirect_peer(link, 0) }) as i32
}

#[inline(always)]
fn link_of(packet: &TcContext) -> u32 {
    // SAFETY: the kernel passes a valid `__sk_buff`, and the field is read-only.
    unsafe { (*packet.skb.skb).ifindex }
}

#[inline(always)]
fn question(family: u8, link: u32, from: [u32; 4], to: [u32; 4]) -> Lookup {
    // SAFETY: all fields are numbers, for which zero is a value.
    let mut lookup: Lookup = unsafe { core::mem::zeroed() };
    lookup.family = family;
    lookup.ifindex = link;
    lookup.__bindgen_anon_3.ipv6_src = from;
    lookup.__bindgen_anon_4.ipv6_dst = to;
    lookup
}

#[inline(always)]
fn look_up(packet: &TcContext, lookup: &mut Lookup) -> i64 {
    let length = size_of::<Lookup>() as i32;
    // SAFETY: the context is this call's own, and the kernel writes at most `length` bytes to `lookup`.
    let answer = unsafe { bpf_fib_lookup(packet.as_ptr(), lookup, length, 0) };
    answer as i64
}

#[inline(always)]
fn drop_as(why: Count) -> i32 {
    count(why);
    TC_ACT_SHOT as i32
}

#[inline(always)]
fn count(what: Count) {
    if let Some(counter) = COUNTS.get_ptr_mut(what as u32) {
        // SAFETY: a lookup returned the pointer, and only this CPU writes its copy.
        unsafe { *counter += 1 };
    }
}
