//! One packet from a pod: whether it may go on, and which way.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_fib_lookup as Lookup};
use aya_ebpf::helpers::generated::{bpf_fib_lookup, bpf_ktime_get_coarse_ns, bpf_redirect_peer};
use aya_ebpf::macros::{classifier, map};
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::TcContext;
use ebpf_common::maps::{TCP, UDP};
use ebpf_common::pods::{Count, HOST_MAC};

use crate::pace::is_too_much;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_ARP: u16 = 0x0806;
const ETH_P_IPV6: u16 = 0x86dd;
/// How long an answer of the kernel's tables is gone by. A pod that is removed is no longer sent to after this time, and its
/// address is given to nobody for far longer.
const HELD_NANOSECONDS: u64 = 10_000_000;
/// Bits of a place among the kernel's answers.
const PLACE_BITS: u32 = 10;
/// Words of an address of each family.
const WORDS_V4: usize = 1;
const WORDS_V6: usize = 4;
/// Fewer bytes than its kind has.
const TOO_SHORT: i64 = -1;
/// Up the stack, by way of the link's other programs.
const UP: i32 = TC_ACT_UNSPEC;
/// [`HOST_MAC`].
const HOST: Mac = halves(HOST_MAC);
/// `BPF_FIB_LKUP_RET_SUCCESS`, `BPF_FIB_LKUP_RET_FWD_DISABLED`.
const FOUND: i64 = 0;
const FORWARDING_IS_OFF: i64 = 5;

#[map(name = "pod_counts")]
static COUNTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Count::ALL.len() as u32, 0);

/// The kernel's answers about packets from pod to pod: to ask takes two thirds of a packet's time here. Each processor has
/// its own, where one packet at a time is looked at, so that nothing is locked or counted. Pairs whose places are the same
/// ask in turns.
#[map(name = "pod_ways")]
static WAYS: PerCpuArray<Way> = PerCpuArray::with_max_entries(1 << PLACE_BITS, 0);

/// As it lies in a packet. Halves of words, for all that is looked at here begins at an even byte: a processor that gets
/// single ones takes a packet apart for longer than it decides.
type Mac = [u16; 3];

/// Which packets.
#[repr(C)]
#[derive(Clone, Copy)]
struct Pair {
    /// The link they come in by.
    link: u32,
    /// The family of both addresses.
    family: u32,
    /// Their source; an IPv4 address is the first word.
    from: [u32; 4],
    /// Their destination.
    to: [u32; 4],
}

/// Where to, and who may send so.
#[repr(C)]
struct Way {
    /// Whose way.
    pair: Pair,
    /// Nanoseconds since the boot, until which this holds.
    until: u64,
    /// The link of the pod they are for.
    link: u32,
    /// The hardware address of the pod they are from.
    source: Mac,
    /// The hardware address of the pod they are for.
    to: Mac,
}

/// Ethernet and IPv4 without options, as bytes are on the wire.
#[repr(C)]
struct HeadV4 {
    target: Mac,
    source: Mac,
    kind: u16,
    unread: [u16; 4],
    life: u8,
    protocol: u8,
    sum: u16,
    from: [u16; 2],
    to: [u16; 2],
}

/// Ethernet and IPv6.
#[repr(C)]
struct HeadV6 {
    target: Mac,
    source: Mac,
    kind: u16,
    unread: [u16; 3],
    next: u8,
    life: u8,
    from: [u16; 8],
    to: [u16; 8],
}

/// Sees what a pod sends, on the way in by the host's end of its link.
#[classifier]
pub(crate) fn pod_sends(packet: TcContext) -> i32 {
    if is_too_much(&packet) {
        return drop_as(Count::Limit);
    }
    inspect(&packet).unwrap_or(UP)
}

/// An error is a packet that is too short for its kind: the stack knows what to do with it.
#[inline(always)]
fn inspect(packet: &TcContext) -> Result<i32, i64> {
    // SAFETY: the kernel passes a valid `__sk_buff`, and the field is read-only; it is the low half, as on the wire.
    let kind = unsafe { (*packet.skb.skb).protocol } as u16;
    match u16::from_be(kind) {
        ETH_P_IP => {
            let head: &mut HeadV4 = head(packet)?;
            let pair = Pair {
                link: link_of(packet),
                family: AF_INET.into(),
                from: [word(&head.from, 0), 0, 0, 0],
                to: [word(&head.to, 0), 0, 0, 0],
            };
            Ok(match way::<WORDS_V4>(packet, &pair, head.source, head.life) {
                Ok(_) if !crosses(head.protocol) => UP,
                Ok(way) => {
                    // A hop less is a word less by 0x100; the checksum is the more by it, with the carry at the other end.
                    let (sum, carries) = u16::from_be(head.sum).overflowing_add(0x100);
                    head.sum = sum.wrapping_add(u16::from(carries)).to_be();
                    head.life -= 1;
                    (head.target, head.source) = (way.to, HOST);
                    cross(way.link)
                }
                Err(action) => action,
            })
        }
        ETH_P_IPV6 => {
            let head: &mut HeadV6 = head(packet)?;
            let pair = Pair {
                link: link_of(packet),
                family: AF_INET6.into(),
                from: core::array::from_fn(|place| word(&head.from, place)),
                to: core::array::from_fn(|place| word(&head.to, place)),
            };
            // Questions of the link itself come from nowhere yet; the stack answers or drops them.
            if pair.from == [0; 4] {
                return Ok(UP);
            }
            Ok(match way::<WORDS_V6>(packet, &pair, head.source, head.life) {
                Ok(_) if !crosses(head.next) => UP,
                Ok(way) => {
                    head.life -= 1;
                    (head.target, head.source) = (way.to, HOST);
                    cross(way.link)
                }
                Err(action) => action,
            })
        }
        ETH_P_ARP => Ok(UP),
        _ => Ok(drop_as(Count::Kind)),
    }
}

/// Whether packets of this protocol go to the other pod's link at once. Those of SCTP, and errors about them, may be
/// answers from a Service, which the programs of that link name by its address.
#[inline(always)]
fn crosses(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP)
}

/// The first bytes of a packet, where they lie. Those of one that is in pieces are put together first.
#[inline(always)]
fn head<Head>(packet: &TcContext) -> Result<&mut Head, i64> {
    let length = size_of::<Head>();
    if packet.data() + length > packet.data_end() {
        packet.pull_data(length as u32)?;
        if packet.data() + length > packet.data_end() {
            return Err(TOO_SHORT);
        }
    }
    // SAFETY: so many bytes are there, which nobody else looks at while the program runs; numbers have any bits, and their
    // halves begin at even bytes, as Ethernet's header does.
    Ok(unsafe { &mut *(packet.data() as *mut Head) })
}

/// The way to another pod; without one the packet goes up the stack or is dropped, which the error says.
#[inline(always)]
fn way<const WORDS: usize>(packet: &TcContext, pair: &Pair, source: Mac, life: u8) -> Result<&'static Way, i32> {
    let held = WAYS.get_ptr_mut(place::<WORDS>(pair)).ok_or(UP)?;
    // SAFETY: a lookup returned the pointer, an array's elements stay, and of this copy of them this program alone reads
    // and writes on this CPU, one packet after the other.
    let held = unsafe { &mut *held };
    // SAFETY: the helper takes nothing and answers a number.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    if now < held.until && is_same::<WORDS>(&held.pair, pair) && held.source == source && life > 1 {
        return Ok(held);
    }
    let mut back = question(pair, [0; 4], pair.from);
    match look_up(packet, &mut back) {
        FOUND if back.ifindex != pair.link => return Err(drop_as(Count::Source)),
        FOUND if halves(back.dmac) != source => return Err(drop_as(Count::Mac)),
        FOUND => {}
        FORWARDING_IS_OFF => return Err(UP),
        _ => return Err(drop_as(Count::Source)),
    }
    let mut way = question(pair, pair.from, pair.to);
    if look_up(packet, &mut way) != FOUND || halves(way.smac) != HOST || way.ifindex == pair.link || life <= 1 {
        return Err(UP);
    }
    *held = Way {
        pair: *pair,
        until: now + HELD_NANOSECONDS,
        link: way.ifindex,
        source,
        to: halves(way.dmac),
    };
    Ok(held)
}

/// Where what is known about a pair stands, if anything is.
#[inline(always)]
fn place<const WORDS: usize>(pair: &Pair) -> u32 {
    /// Odd, with bits all over; what differs below differs above after it.
    const SPREAD: u32 = 0x9e37_79b1;
    let words = pair.from[..WORDS].iter().chain(&pair.to[..WORDS]);
    words.fold(pair.link, |sum, word| (sum ^ word).wrapping_mul(SPREAD)) >> (u32::BITS - PLACE_BITS)
}

/// Whether both are the same, when the addresses of the other's family are of so many words. Word by word: slices would be
/// compared by their bytes.
#[inline(always)]
fn is_same<const WORDS: usize>(one: &Pair, other: &Pair) -> bool {
    let is_same_word = |place: usize| one.from[place] == other.from[place] && one.to[place] == other.to[place];
    one.link == other.link && one.family == other.family && (0..WORDS).all(is_same_word)
}

#[inline(always)]
fn cross(link: u32) -> i32 {
    count(Count::Crossed);
    // SAFETY: the helper takes numbers only.
    i64::from(unsafe { bpf_redirect_peer(link, 0) }) as i32
}

/// One of the words that halves make, in the order of memory.
#[inline(always)]
fn word(halves: &[u16], place: usize) -> u32 {
    u32::from(halves[2 * place]) | u32::from(halves[2 * place + 1]) << 16
}

#[inline(always)]
const fn halves([a, b, c, d, e, f]: [u8; 6]) -> Mac {
    [
        u16::from_ne_bytes([a, b]),
        u16::from_ne_bytes([c, d]),
        u16::from_ne_bytes([e, f]),
    ]
}

#[inline(always)]
fn link_of(packet: &TcContext) -> u32 {
    // SAFETY: the kernel passes a valid `__sk_buff`, and the field is read-only.
    unsafe { (*packet.skb.skb).ifindex }
}

#[inline(always)]
fn question(pair: &Pair, from: [u32; 4], to: [u32; 4]) -> Lookup {
    // SAFETY: all fields are numbers, for which zero is a value.
    let mut lookup: Lookup = unsafe { core::mem::zeroed() };
    lookup.family = pair.family as u8;
    lookup.ifindex = pair.link;
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
pub(crate) fn drop_as(why: Count) -> i32 {
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
