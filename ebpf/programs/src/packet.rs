//! A packet at a link of the node: what it is, and how an address in it is exchanged with all its checksums.

use aya_ebpf::bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM};
use aya_ebpf::helpers::{bpf_csum_diff, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_store_bytes};
use aya_ebpf::programs::TcContext;
use ebpf_common::carried::MAX_LADEN;
use ebpf_common::crc;
use ebpf_common::flow::{Tuple, Way, flags_of_chunk};
use ebpf_common::fragment::{FragmentKey, FragmentPorts};
use ebpf_common::maps::{SCTP, TCP, UDP};
use ebpf_common::record::Peer;

use crate::maps;

/// Bytes of an Ethernet header. The agent attaches to no other links.
pub(crate) const ETHERNET: u32 = 14;
pub(crate) const IPV4: u32 = 0x0800_u16.to_be() as u32;
pub(crate) const IPV6: u32 = 0x86dd_u16.to_be() as u32;
/// Where SCTP has its checksum.
const SCTP_CHECK: u32 = 8;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// Extension headers of IPv6 that are passed over; a packet with more is left alone.
const MAX_EXTENSIONS: usize = 6;
/// Bytes of an ICMP header before the packet that it quotes.
const ICMP_HEADER: u32 = 8;

/// What is found at a link.
pub(crate) enum Found {
    /// A packet with ports.
    Transport(Packet),
    /// An ICMP error.
    Error(Error),
    /// Something that Services have nothing to do with.
    Other,
    /// A packet that ends before its ports, or a piece of one whose first piece is unknown.
    Unreadable,
}

/// A packet with ports.
pub(crate) struct Packet {
    pub(crate) tuple: Tuple,
    /// TCP's, or what they would be of an SCTP packet; zero for other protocols.
    pub(crate) flags: u8,
    place: Place,
    /// Whether its ports and its checksum are in it: not in the later pieces of a packet.
    has_ports: bool,
}

/// An ICMP error: who sends it to whom, and the packet it is about.
pub(crate) struct Error {
    pub(crate) from: [u32; 4],
    pub(crate) quoted: Tuple,
    place: Place,
    inner: Place,
}

/// Where the headers are, in bytes from the start of the frame.
#[derive(Clone, Copy)]
struct Place {
    is_v6: bool,
    network: u32,
    transport: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Header4 {
    version: u8,
    tos: u8,
    length: u16,
    number: u16,
    fragment: u16,
    ttl: u8,
    protocol: u8,
    check: u16,
    source: u32,
    destination: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Header6 {
    version: u32,
    length: u16,
    next: u8,
    hops: u8,
    source: [u32; 4],
    destination: [u32; 4],
}

/// A network header, read.
struct Network {
    place: Place,
    source: [u32; 4],
    destination: [u32; 4],
    protocol: u8,
    /// Identification of a packet in pieces.
    number: u32,
    is_first: bool,
    is_last: bool,
}

/// The protocols whose packets have ports where TCP has them.
#[inline(always)]
pub(crate) fn has_ports(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | SCTP)
}

/// Reads the packet, if it is of one of these protocols, or an error about one that is.
#[inline(always)]
pub(crate) fn read(context: &TcContext, way: Way, is_read: impl Fn(u8) -> bool) -> Found {
    // SAFETY: the kernel passes a valid context.
    let is_v6 = match unsafe { (*context.skb.skb).protocol } {
        IPV4 => false,
        IPV6 => true,
        _ => return Found::Other,
    };
    let Some(network) = network(context, is_v6, ETHERNET) else {
        return Found::Unreadable;
    };
    match network.protocol {
        // SCTP makes no pieces by itself, and its checksum covers all of them.
        SCTP if !(network.is_first && network.is_last) => Found::Unreadable,
        protocol if is_read(protocol) => transport(context, &network, way),
        ICMP if !is_v6 && network.is_first => error(context, &network, way, is_read),
        ICMPV6 if is_v6 && network.is_first => error(context, &network, way, is_read),
        _ => Found::Other,
    }
}

/// Who sends a packet without options to whom; what is read here alone costs the verifier little.
#[inline(always)]
pub(crate) fn read_bare(context: &TcContext, is_v6: bool, way: Way) -> Option<Tuple> {
    let at = ETHERNET as usize;
    let (source, destination, protocol, header) = if is_v6 {
        let header: Header6 = context.load(at).ok()?;
        (header.source, header.destination, header.next, size_of::<Header6>())
    } else {
        let header: Header4 = context.load(at).ok()?;
        let [source, destination] = [header.source, header.destination].map(|word| Peer::v4(word, 0).address);
        (source, destination, header.protocol, size_of::<Header4>())
    };
    let [from, to] = context.load::<[u16; 2]>(at + header).ok()?;
    let (from, to) = (Peer::v6(source, from), Peer::v6(destination, to));
    has_ports(protocol).then(|| Tuple::new(&from, &to, protocol, way))
}

#[inline(always)]
fn network(context: &TcContext, is_v6: bool, at: u32) -> Option<Network> {
    if is_v6 {
        network6(context, at)
    } else {
        network4(context, at)
    }
}

#[inline(always)]
fn network4(context: &TcContext, at: u32) -> Option<Network> {
    const MORE: u16 = 0x2000;
    const OFFSET: u16 = 0x1fff;
    let header: Header4 = context.load(at as usize).ok()?;
    let length = u32::from(header.version & 15) * 4;
    if header.version >> 4 != 4 || length < 20 {
        return None;
    }
    let fragment = u16::from_be(header.fragment);
    Some(Network {
        place: Place {
            is_v6: false,
            network: at,
            transport: at + length,
        },
        source: Peer::v4(header.source, 0).address,
        destination: Peer::v4(header.destination, 0).address,
        protocol: header.protocol,
        number: u32::from(header.number),
        is_first: fragment & OFFSET == 0,
        is_last: fragment & MORE == 0,
    })
}

#[inline(always)]
fn network6(context: &TcContext, at: u32) -> Option<Network> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DESTINATION: u8 = 60;
    let header: Header6 = context.load(at as usize).ok()?;
    let mut network = Network {
        place: Place {
            is_v6: true,
            network: at,
            transport: at + size_of::<Header6>() as u32,
        },
        source: header.source,
        destination: header.destination,
        protocol: header.next,
        number: 0,
        is_first: true,
        is_last: true,
    };
    for _ in 0..MAX_EXTENSIONS {
        let place = network.place.transport;
        match network.protocol {
            HOP_BY_HOP | ROUTING | DESTINATION => {
                let [next, length]: [u8; 2] = context.load(place as usize).ok()?;
                network.protocol = next;
                network.place.transport = place + (u32::from(length) + 1) * 8;
            }
            FRAGMENT => {
                let [start, number]: [u32; 2] = context.load(place as usize).ok()?;
                let start = u32::from_be(start);
                network.protocol = (start >> 24) as u8;
                network.is_first = start & 0xfff8 == 0;
                network.is_last = start & 1 == 0;
                network.number = number;
                network.place.transport = place + 8;
                if !network.is_first {
                    break;
                }
            }
            _ => break,
        }
    }
    Some(network)
}

#[inline(always)]
fn transport(context: &TcContext, network: &Network, way: Way) -> Found {
    let from = Peer::v6(network.source, 0);
    let to = Peer::v6(network.destination, 0);
    let mut tuple = Tuple::new(&from, &to, network.protocol, way);
    let piece = FragmentKey::new(&tuple, network.number);
    if !network.is_first {
        let Some(ports) = maps::fragment(&piece) else {
            return Found::Unreadable;
        };
        (tuple.source_port, tuple.destination_port) = (ports.source, ports.destination);
        return Found::Transport(Packet {
            tuple,
            flags: 0,
            place: network.place,
            has_ports: false,
        });
    }
    let start = network.place.transport as usize;
    let Ok([source, destination]) = context.load::<[u16; 2]>(start) else {
        return Found::Unreadable;
    };
    (tuple.source_port, tuple.destination_port) = (source, destination);
    if !network.is_last {
        maps::note_fragment(&piece, &FragmentPorts { source, destination });
    }
    let flags = match network.protocol {
        TCP => match context.load::<u8>(start + 13) {
            Ok(flags) => flags,
            Err(_) => return Found::Unreadable,
        },
        SCTP => match context.load::<u8>(start + 12) {
            Ok(kind) => flags_of_chunk(kind),
            Err(_) => return Found::Unreadable,
        },
        _ => 0,
    };
    Found::Transport(Packet {
        tuple,
        flags,
        place: network.place,
        has_ports: true,
    })
}

/// The quoted packet went the other way: what is looked up is the answer to it.
#[inline(always)]
fn error(context: &TcContext, network: &Network, way: Way, is_read: impl Fn(u8) -> bool) -> Found {
    let Ok(kind) = context.load::<u8>(network.place.transport as usize) else {
        return Found::Unreadable;
    };
    let is_error = if network.place.is_v6 {
        kind < 128
    } else {
        matches!(kind, 3 | 11 | 12)
    };
    if !is_error {
        return Found::Other;
    }
    let Some(inner) = self::network(context, network.place.is_v6, network.place.transport + ICMP_HEADER) else {
        return Found::Other;
    };
    if !inner.is_first || !is_read(inner.protocol) {
        return Found::Other;
    }
    let Ok([source, destination]) = context.load::<[u16; 2]>(inner.place.transport as usize) else {
        return Found::Other;
    };
    let (from, to) = (Peer::v6(inner.source, source), Peer::v6(inner.destination, destination));
    Found::Error(Error {
        from: network.source,
        quoted: Tuple::new(&from, &to, inner.protocol, way),
        place: network.place,
        inner: inner.place,
    })
}

impl Packet {
    /// Whether it opens a connection of TCP, or an association of SCTP.
    pub(crate) const fn is_opening(&self) -> bool {
        self.flags & 0b1_0110 == 0b0_0010
    }

    pub(crate) const fn is_v6(&self) -> bool {
        self.place.is_v6
    }

    /// Whether it may carry the address of a Service: the first of a connection, or a datagram; whole, small and without
    /// options.
    #[inline(always)]
    pub(crate) fn may_carry(&self, context: &TcContext) -> bool {
        const BARE4: u32 = size_of::<Header4>() as u32;
        const BARE6: u32 = size_of::<Header6>() as u32;
        let header = self.place.transport.wrapping_sub(self.place.network);
        let is_bare = self.has_ports && header == if self.place.is_v6 { BARE6 } else { BARE4 };
        is_bare
            && (self.is_opening() || self.tuple.protocol() == UDP)
            && context.len() <= MAX_LADEN
            && (self.place.is_v6 || self.place.is_in_one_piece4(context))
    }

    /// Exchanges the destination of an arriving packet, or the source of a leaving one.
    #[inline(always)]
    pub(crate) fn rewrite(&self, context: &TcContext, becomes: &Peer) -> Option<()> {
        let skb = context.skb.skb;
        let is_source = matches!(self.tuple.way(), Way::Leaving);
        let old = if is_source { self.tuple.from() } else { self.tuple.to() };
        let change = difference(self.place.is_v6, &old.address, &becomes.address)?;
        if self.has_ports {
            self.rewrite_port(context, is_source, old.port, becomes.port, change)?;
        }
        self.place.exchange_address(skb, is_source, &becomes.address, change)
    }

    #[inline(always)]
    fn rewrite_port(&self, context: &TcContext, is_source: bool, old: u16, new: u16, change: u64) -> Option<()> {
        const TCP_CHECK: u32 = 16;
        const UDP_CHECK: u32 = 6;
        let skb = context.skb.skb;
        let start = self.place.transport;
        // A UDP checksum of zero means none, on IPv4.
        let (check, flags) = match self.tuple.protocol() {
            TCP => (start + TCP_CHECK, 0),
            UDP => (start + UDP_CHECK, u64::from(BPF_F_MARK_MANGLED_0)),
            _ if old == new => return Some(()),
            _ => return self.rewrite_association(context, is_source, old, new),
        };
        l4_check(skb, check, 0, change, flags | u64::from(BPF_F_PSEUDO_HDR))?;
        if old != new {
            l4_check(skb, check, u64::from(old), u64::from(new), flags | 2)?;
            store(skb, start + if is_source { 0 } else { 2 }, &new)?;
        }
        Some(())
    }

    /// SCTP's checksum covers its ports and no address.
    #[inline(always)]
    fn rewrite_association(&self, context: &TcContext, is_source: bool, old: u16, new: u16) -> Option<()> {
        let start = self.place.transport;
        let word = u32::from(u16::from_le(old ^ new)) << if is_source { 0 } else { 16 };
        self.recheck(context, word)?;
        store_with(
            context.skb.skb,
            start + if is_source { 0 } else { 2 },
            &new,
            BPF_F_RECOMPUTE_CSUM,
        )
    }

    /// Follows a change of the ports in the checksum of an SCTP packet.
    #[inline(always)]
    fn recheck(&self, context: &TcContext, change: u32) -> Option<()> {
        let at = self.place.transport + SCTP_CHECK;
        let check: u32 = context.load(at as usize).ok()?;
        // Zero: it is computed when the packet leaves the machine, if it does.
        if check == 0 {
            return Some(());
        }
        let check = check ^ crc_change(change, self.place.length(context)?).to_le();
        store_with(context.skb.skb, at, &check, BPF_F_RECOMPUTE_CSUM)
    }

    /// Exchanges both sides of a packet of SCTP. One after the other they would be as many ways more through the program.
    #[inline(always)]
    pub(crate) fn rewrite_both(&self, context: &TcContext, source: &Peer, destination: &Peer) -> Option<()> {
        let (skb, old) = (context.skb.skb, &self.tuple);
        let word = |source: u16, destination: u16| {
            u32::from(u16::from_le(source)) | u32::from(u16::from_le(destination)) << 16
        };
        let change = word(old.source_port ^ source.port, old.destination_port ^ destination.port);
        if change != 0 {
            self.recheck(context, change)?;
            let ports = [source.port, destination.port];
            store_with(skb, self.place.transport, &ports, BPF_F_RECOMPUTE_CSUM)?;
        }
        let change = difference(self.place.is_v6, &old.source, &source.address)?;
        self.place.exchange_address(skb, true, &source.address, change)?;
        let change = difference(self.place.is_v6, &old.destination, &destination.address)?;
        self.place.exchange_address(skb, false, &destination.address, change)
    }

    /// Makes the addresses that the first packet of an association lists padding (RFC 4820), where its checksum is still to be
    /// computed: whoever gets it knows the sender by the address that it comes from, and no other.
    #[inline(always)]
    pub(crate) fn hide_addresses(&self, context: &TcContext) -> Option<()> {
        const PARAMETERS: u32 = 32;
        const PADDING: u16 = 0x8005_u16.to_be();
        /// More than the addresses of a usual node. They come first.
        const MOST: usize = 16;
        let start = self.place.transport;
        if context.load::<u32>((start + SCTP_CHECK) as usize).ok()? != 0 {
            return Some(());
        }
        let mut at = start + PARAMETERS;
        for _ in 0..MOST {
            let Ok(kind) = context.load::<u16>(at as usize) else {
                break;
            };
            let length = length_of_address(u16::from_be(kind));
            if length == 0 {
                break;
            }
            store(context.skb.skb, at, &PADDING)?;
            at += length;
        }
        Some(())
    }
}

/// Bytes of a parameter of SCTP that is an address; zero for others. Looked up, as the kernel's verifier would follow each
/// kind on its own.
#[inline(always)]
fn length_of_address(kind: u16) -> u32 {
    static LENGTHS: [u8; 8] = [0, 0, 0, 0, 0, 8, 20, 0];
    LENGTHS.get(usize::from(kind)).copied().map_or(0, u32::from)
}

/// A function that is seen from outside of the object, so that the verifier goes through it once and not with every call.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn crc_change(word: u32, length: u32) -> u32 {
    crc::change(word, length)
}

impl Error {
    /// The packet that would answer the quoted one, which an entry of `flows` may be for.
    pub(crate) const fn key(&self, way: Way) -> Tuple {
        self.quoted.answer(way)
    }

    /// Exchanges an address in the quoted packet, the source where the error arrives and the destination where it leaves;
    /// and the outer address that goes with it.
    #[inline(always)]
    pub(crate) fn rewrite(&self, context: &TcContext, way: Way, becomes: &Peer) -> Option<()> {
        let skb = context.skb.skb;
        let is_v6 = self.place.is_v6;
        let is_arriving = matches!(way, Way::Arriving);
        let old = if is_arriving {
            self.quoted.from()
        } else {
            self.quoted.to()
        };
        let change = difference(is_v6, &old.address, &becomes.address)?;
        let check = self.place.transport + 2;
        self.inner
            .exchange_address(skb, is_arriving, &becomes.address, change)?;
        if is_v6 {
            // On IPv4 the quoted header's own checksum makes up for its address.
            l4_check(skb, check, 0, change, 0)?;
        }
        if old.port != becomes.port {
            l4_check(skb, check, u64::from(old.port), u64::from(becomes.port), 2)?;
            store(
                skb,
                self.inner.transport + if is_arriving { 0 } else { 2 },
                &becomes.port,
            )?;
        }
        // An error of a router on the way keeps the router's address.
        if !is_arriving && self.from != old.address {
            return Some(());
        }
        if is_v6 {
            l4_check(skb, check, 0, change, u64::from(BPF_F_PSEUDO_HDR))?;
        }
        self.place.exchange_address(skb, !is_arriving, &becomes.address, change)
    }
}

impl Place {
    #[inline(always)]
    fn is_in_one_piece4(&self, context: &TcContext) -> bool {
        let fragment = context.load::<u16>((self.network + 6) as usize);
        fragment.is_ok_and(|fragment| u16::from_be(fragment) & 0x3fff == 0)
    }

    /// Bytes from the ports to the end of the packet.
    #[inline(always)]
    fn length(&self, context: &TcContext) -> Option<u32> {
        let (header, field) = if self.is_v6 {
            (size_of::<Header6>() as u32, 4)
        } else {
            (0, 2)
        };
        let length: u16 = context.load((self.network + field) as usize).ok()?;
        (self.network + header + u32::from(u16::from_be(length))).checked_sub(self.transport)
    }

    #[inline(always)]
    fn exchange_address(&self, skb: *mut __sk_buff, is_source: bool, new: &[u32; 4], change: u64) -> Option<()> {
        const CHECK4: u32 = 10;
        if self.is_v6 {
            return store(skb, self.network + if is_source { 8 } else { 24 }, new);
        }
        // SAFETY: the kernel passes a valid context and checks the offset.
        let result = unsafe { bpf_l3_csum_replace(skb, self.network + CHECK4, 0, change, 0) };
        if result != 0 {
            return None;
        }
        store(skb, self.network + if is_source { 12 } else { 16 }, &new[3])
    }
}

/// What a checksum has to be changed by.
#[inline(always)]
fn difference(is_v6: bool, old: &[u32; 4], new: &[u32; 4]) -> Option<u64> {
    let (old, new) = (*old, *new);
    let (from, to): (*const u32, *const u32) = (old.as_ptr(), new.as_ptr());
    let change = if is_v6 {
        // SAFETY: sixteen bytes lie behind both pointers.
        unsafe { bpf_csum_diff(from.cast_mut(), 16, to.cast_mut(), 16, 0) }
    } else {
        // SAFETY: the last word of four is in bounds.
        let (from, to) = unsafe { (from.add(3), to.add(3)) };
        // SAFETY: four bytes lie behind both pointers.
        unsafe { bpf_csum_diff(from.cast_mut(), 4, to.cast_mut(), 4, 0) }
    };
    u64::try_from(change).ok()
}

/// The same for words of which some are exchanged.
#[inline(always)]
pub(crate) fn sum_change(old: &[u32; 3], new: &[u32; 3]) -> Option<u64> {
    let (old, new) = (*old, *new);
    // SAFETY: twelve bytes lie behind both pointers.
    let change = unsafe { bpf_csum_diff(old.as_ptr().cast_mut(), 12, new.as_ptr().cast_mut(), 12, 0) };
    u64::try_from(change).ok()
}

#[inline(always)]
fn l4_check(skb: *mut __sk_buff, at: u32, from: u64, to: u64, flags: u64) -> Option<()> {
    // SAFETY: the kernel passes a valid context and checks the offset.
    let result = unsafe { bpf_l4_csum_replace(skb, at, from, to, flags) };
    (result == 0).then_some(())
}

#[inline(always)]
pub(crate) fn store<T>(skb: *mut __sk_buff, at: u32, value: &T) -> Option<()> {
    store_with(skb, at, value, 0)
}

#[inline(always)]
fn store_with<T>(skb: *mut __sk_buff, at: u32, value: &T, flags: u32) -> Option<()> {
    let bytes: *const T = value;
    // SAFETY: the kernel passes a valid context and checks the offset; `value` is as long as is said.
    let result = unsafe { bpf_skb_store_bytes(skb, at, bytes.cast(), size_of::<T>() as u32, u64::from(flags)) };
    (result == 0).then_some(())
}
