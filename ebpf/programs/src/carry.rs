//! Puts the address of a Service into a request that goes to another node, and takes it out there.

use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_NET;
use aya_ebpf::helpers::bpf_l3_csum_replace;
use aya_ebpf::programs::TcContext;
use ebpf_common::carried::{BARE, Carried4, Carried6, DESTINATION_OPTIONS, LADEN};
use ebpf_common::record::Peer;

use crate::packet::{ETHERNET, IPV4, IPV6, store, sum_change};

const CHECK4: u32 = ETHERNET + 10;
const OPTION4: u32 = ETHERNET + 20;
const LENGTH6: u32 = ETHERNET + 4;
const NEXT6: u32 = ETHERNET + 6;
const EXTENSION6: u32 = ETHERNET + 40;
const ROOM4: i32 = size_of::<Carried4>() as i32;
const ROOM6: i32 = size_of::<Carried6>() as i32;

/// Has a packet without options carry an address. `None` leaves it half-written.
#[inline(always)]
pub(crate) fn put_in(context: &TcContext, is_v6: bool, service: &Peer) -> Option<()> {
    let skb = context.skb.skb;
    if is_v6 {
        let next: u8 = context.load(NEXT6 as usize).ok()?;
        make_room(context, ROOM6)?;
        lengthen6(context, ROOM6)?;
        store(skb, NEXT6, &DESTINATION_OPTIONS)?;
        return store(skb, EXTENSION6, &Carried6::new(next, service));
    }
    let old: [u8; 4] = context.load(ETHERNET as usize).ok()?;
    let new = lengthened4(old, LADEN, ROOM4);
    let carried = Carried4::new(service);
    make_room(context, ROOM4)?;
    check4(context, &words(old, None), &words(new, Some(carried)))?;
    store(skb, ETHERNET, &new)?;
    store(skb, OPTION4, &carried)
}

/// Takes the address out of a packet that carries one; says whether it is one of IPv6. An error is a packet that is
/// half-written.
#[inline(always)]
pub(crate) fn take_out(context: &TcContext) -> Result<Option<(bool, Peer)>, ()> {
    // SAFETY: the kernel passes a valid context.
    match unsafe { (*context.skb.skb).protocol } {
        IPV4 => Ok(take_out4(context)?.map(|service| (false, service))),
        IPV6 => Ok(take_out6(context)?.map(|service| (true, service))),
        _ => Ok(None),
    }
}

#[inline(always)]
fn take_out4(context: &TcContext) -> Result<Option<Peer>, ()> {
    let (Ok(old), Ok(carried)) = (
        context.load::<[u8; 4]>(ETHERNET as usize),
        context.load::<Carried4>(OPTION4 as usize),
    ) else {
        return Ok(None);
    };
    let Some(service) = carried.service().filter(|_| old[0] == LADEN) else {
        return Ok(None);
    };
    let new = lengthened4(old, BARE, -ROOM4);
    let done = check4(context, &words(old, Some(carried)), &words(new, None))
        .and_then(|()| store(context.skb.skb, ETHERNET, &new))
        .and_then(|()| make_room(context, -ROOM4));
    done.map(|()| Some(service)).ok_or(())
}

#[inline(always)]
fn take_out6(context: &TcContext) -> Result<Option<Peer>, ()> {
    let (Ok(next), Ok(carried)) = (
        context.load::<u8>(NEXT6 as usize),
        context.load::<Carried6>(EXTENSION6 as usize),
    ) else {
        return Ok(None);
    };
    let Some(service) = carried.service().filter(|_| next == DESTINATION_OPTIONS) else {
        return Ok(None);
    };
    let done = store(context.skb.skb, NEXT6, &carried.next)
        .and_then(|()| lengthen6(context, -ROOM6))
        .and_then(|()| make_room(context, -ROOM6));
    done.map(|()| Some(service)).ok_or(())
}

/// Room behind the network header without its options; less of it for a negative number.
#[inline(always)]
fn make_room(context: &TcContext, bytes: i32) -> Option<()> {
    context.adjust_room(bytes, BPF_ADJ_ROOM_NET, 0).ok()
}

#[inline(always)]
fn lengthened4([_, service, high, low]: [u8; 4], first: u8, by: i32) -> [u8; 4] {
    let length = u16::from_be_bytes([high, low]).wrapping_add(by as u16);
    let [high, low] = length.to_be_bytes();
    [first, service, high, low]
}

#[inline(always)]
fn lengthen6(context: &TcContext, by: i32) -> Option<()> {
    let length: u16 = context.load(LENGTH6 as usize).ok()?;
    let length = u16::from_be(length).wrapping_add(by as u16);
    store(context.skb.skb, LENGTH6, &length.to_be())
}

/// The words of an IPv4 header that are not the same with and without an option.
#[inline(always)]
fn words(first: [u8; 4], carried: Option<Carried4>) -> [u32; 3] {
    let [kind, address] = carried.map_or([0; 2], |carried| {
        let [a, b, c, d, e, f, g, h] = carried.to_bytes();
        [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
    });
    [u32::from_ne_bytes(first), kind, address]
}

#[inline(always)]
fn check4(context: &TcContext, old: &[u32; 3], new: &[u32; 3]) -> Option<()> {
    let change = sum_change(old, new)?;
    // SAFETY: the kernel passes a valid context and checks the offset.
    let result = unsafe { bpf_l3_csum_replace(context.skb.skb, CHECK4, 0, change, 0) };
    (result == 0).then_some(())
}
