//! One packet from a pod: whether it may go on, and which way.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{TC_ACT_OK, TC_ACT_SHOT, bpf_fib_lookup as Lookup};
use aya_ebpf::helpers::generated::{bpf_fib_lookup, bpf_redirect_peer};
use aya_ebpf::macros::{classifier, map};
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::TcContext;
use ebpf_common::pods::{Count, HOST_MAC};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_ARP: u16 = 0x0806;
const ETH_P_IPV6: u16 = 0x86dd;
/// Bytes of an Ethernet header; the rest of offsets are from there on.
const ETHERNET: usize = 14;
/// `BPF_FIB_LKUP_RET_SUCCESS`, `BPF_FIB_LKUP_RET_FWD_DISABLED`.
const FOUND: i64 = 0;
const FORWARDING_IS_OFF: i64 = 5;

#[map(name = "pod_counts")]
static COUNTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Count::ALL.len() as u32, 0);

/// Sees what a pod sends, on the way in by the host's end of its link.
#[classifier]
pub(crate) fn pod_sends(packet: TcContext) -> i32 {
    inspect(&packet).unwrap_or(TC_ACT_OK as i32)
}

/// An error is a packet that is too short for its kind: the stack knows what to do with it.
#[inline(always)]
fn inspect(packet: &TcContext) -> Result<i32, i64> {
    let source: [u8; 6] = packet.load(6).map_err(i64::from)?;
    match u16::from_be(packet.load(12).map_err(i64::from)?) {
        ETH_P_IP => {
            let from: u32 = packet.load(ETHERNET + 12).map_err(i64::from)?;
            let to: u32 = packet.load(ETHERNET + 16).map_err(i64::from)?;
            let life: u8 = packet.load(ETHERNET + 8).map_err(i64::from)?;
            Ok(decide(packet, AF_INET, [from, 0, 0, 0], [to, 0, 0, 0], source, life))
        }
        ETH_P_IPV6 => {
            let from: [u32; 4] = packet.load(ETHERNET + 8).map_err(i64::from)?;
            // Questions of the link itself come from nowhere yet; the stack answers or drops them.
            if from == [0; 4] {
                return Ok(TC_ACT_OK as i32);
            }
            let to: [u32; 4] = packet.load(ETHERNET + 24).map_err(i64::from)?;
            let life: u8 = packet.load(ETHERNET + 7).map_err(i64::from)?;
            Ok(decide(packet, AF_INET6, from, to, source, life))
        }
        ETH_P_ARP => Ok(TC_ACT_OK as i32),
        _ => Ok(drop_as(Count::Kind)),
    }
}

#[inline(always)]
fn decide(packet: &TcContext, family: u8, from: [u32; 4], to: [u32; 4], source: [u8; 6], life: u8) -> i32 {
    // SAFETY: the kernel passes a valid `__sk_buff`, and the field is read-only.
    let link = unsafe { (*packet.skb.skb).ifindex };
    let mut back = question(family, link, [0; 4], from);
    match look_up(packet, &mut back) {
        FOUND if back.ifindex != link => return drop_as(Count::Source),
        FOUND if back.dmac != source => return drop_as(Count::Mac),
        FOUND => {}
        FORWARDING_IS_OFF => return TC_ACT_OK as i32,
        _ => return drop_as(Count::Source),
    }
    let mut way = question(family, link, from, to);
    if look_up(packet, &mut way) != FOUND || way.smac != HOST_MAC || way.ifindex == link || life <= 1 {
        return TC_ACT_OK as i32;
    }
    match cross(packet, family, &way) {
        Ok(action) => action,
        Err(_) => TC_ACT_SHOT as i32,
    }
}

/// Hands the packet to the other pod as its link would have: one hop older, between the hardware addresses of that link.
#[inline(always)]
fn cross(packet: &TcContext, family: u8, way: &Lookup) -> Result<i32, i64> {
    if family == AF_INET {
        // Time to live and protocol are one word of the checksum.
        let old: u16 = packet.load(ETHERNET + 8).map_err(i64::from)?;
        let new = u16::from_be(old).wrapping_sub(0x100).to_be();
        packet
            .l3_csum_replace(ETHERNET + 10, old.into(), new.into(), 2)
            .map_err(i64::from)?;
        packet.store(ETHERNET + 8, &new, 0).map_err(i64::from)?;
    } else {
        let life: u8 = packet.load(ETHERNET + 7).map_err(i64::from)?;
        packet
            .store(ETHERNET + 7, &life.wrapping_sub(1), 0)
            .map_err(i64::from)?;
    }
    packet.store(0, &way.dmac, 0).map_err(i64::from)?;
    packet.store(6, &way.smac, 0).map_err(i64::from)?;
    count(Count::Crossed);
    // SAFETY: the helper takes numbers only.
    Ok(i64::from(unsafe { bpf_redirect_peer(way.ifindex, 0) }) as i32)
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
