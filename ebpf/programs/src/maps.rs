//! The maps, and what of them the choice of a backend reads. Keys and values stand in `ebpf_common::maps`.

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, SkStorage};
use aya_ebpf::helpers::{bpf_get_smp_processor_id, bpf_ktime_get_boot_ns};
use aya_ebpf::macros::btf_map;
use ebpf_common::flow::{Entry, MAX_FLOWS, Tuple};
use ebpf_common::fragment::{FragmentKey, FragmentPorts, MAX_FRAGMENTS};
use ebpf_common::lookup::Frontend as _;
use ebpf_common::maps::{
    Affinity, AffinityKey, Client, Counters, Frontend4, Frontend6, MAX_AFFINITIES, MAX_CLIENTS, MAX_FRONTENDS4,
    MAX_FRONTENDS6, MAX_IDS, MAX_MEMBERS, MAX_RANGES, MAX_REPLIES, MAX_SLOTS4, MAX_SLOTS6, Member, RangeKey, Region,
    Service, Slot4, Slot6,
};
use ebpf_common::record::{ReplyKey, ReplyValue, SocketRecord};
use ebpf_common::stream::{MAX_STREAMS, MAX_TAKEN, Places, StreamRecord, Taken};

const MMAPABLE: usize = BPF_F_MMAPABLE as usize;
/// Bits of a [`RangeKey`].
const WHOLE_RANGE: u32 = 8 * size_of::<RangeKey>() as u32;

#[btf_map(name = "svc4")]
static SERVICES4: HashMap<Frontend4, Service, { MAX_FRONTENDS4 as usize }> = HashMap::new();
#[btf_map(name = "svc6")]
static SERVICES6: HashMap<Frontend6, Service, { MAX_FRONTENDS6 as usize }> = HashMap::new();
#[btf_map(name = "slots4")]
static SLOTS4: Array<Slot4, { MAX_SLOTS4 as usize }, MMAPABLE> = Array::new();
#[btf_map(name = "slots6")]
static SLOTS6: Array<Slot6, { MAX_SLOTS6 as usize }, MMAPABLE> = Array::new();
#[btf_map(name = "members")]
static MEMBERS: HashMap<Member, u32, { MAX_MEMBERS as usize }> = HashMap::new();
#[btf_map(name = "affinities")]
static AFFINITIES: LruHashMap<AffinityKey, Affinity, { MAX_AFFINITIES as usize }> = LruHashMap::new();
#[btf_map(name = "ranges")]
static RANGES: LpmTrie<RangeKey, u32, { MAX_RANGES as usize }> = LpmTrie::new();
#[btf_map(name = "clients")]
static CLIENTS: HashMap<u64, Client, { MAX_CLIENTS as usize }> = HashMap::new();
#[btf_map(name = "flows")]
pub(crate) static FLOWS: HashMap<Tuple, Entry, { MAX_FLOWS as usize }, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();
#[btf_map(name = "fragments")]
static FRAGMENTS: LruHashMap<FragmentKey, FragmentPorts, { MAX_FRAGMENTS as usize }> = LruHashMap::new();
#[btf_map(name = "streams")]
static STREAMS: Array<StreamRecord, { MAX_STREAMS as usize }> = Array::new();
#[btf_map(name = "taken")]
static TAKEN: Array<Taken, { MAX_TAKEN as usize }> = Array::new();
#[btf_map(name = "sockets")]
pub(crate) static SOCKETS: SkStorage<SocketRecord> = SkStorage::new();
#[btf_map(name = "replies")]
pub(crate) static REPLIES: LruHashMap<ReplyKey, ReplyValue, { MAX_REPLIES as usize }> = LruHashMap::new();
/// The agent makes it as many times as long as there are CPUs.
#[btf_map(name = "counters")]
static COUNTERS: Array<Counters, { MAX_IDS as usize }, MMAPABLE> = Array::new();

/// One frontend of either family.
#[inline(always)]
pub(crate) fn service4(frontend: &Frontend4) -> Option<Service> {
    SERVICES4
        .get_ptr(frontend)
        .map(|service| read(service, frontend.check()))
}

/// One frontend of either family.
#[inline(always)]
pub(crate) fn service6(frontend: &Frontend6) -> Option<Service> {
    SERVICES6
        .get_ptr(frontend)
        .map(|service| read(service, frontend.check()))
}

/// One backend.
#[inline(always)]
pub(crate) fn slot4(index: u32) -> Option<Slot4> {
    SLOTS4.get(index).copied()
}

/// One backend.
#[inline(always)]
pub(crate) fn slot6(index: u32) -> Option<Slot6> {
    SLOTS6.get(index).copied()
}

#[inline(always)]
fn read(service: *const Service, check: u16) -> Service {
    // SAFETY: a pointer that a map lookup returned is aligned and readable until the program ends.
    let region: *const Region = unsafe { &raw const (*service).region };
    // SAFETY: as above; volatile, so that the word is read once and whole while the agent may replace it.
    let before = unsafe { region.read_volatile() };
    // SAFETY: as above.
    let id = unsafe { (&raw const (*service).id).read_volatile() };
    // SAFETY: as above.
    let affinity = unsafe { (&raw const (*service).affinity).read_volatile() };
    // SAFETY: as for the first reading. The same word again means that what lies between belongs to it.
    let after = unsafe { region.read_volatile() };
    let region = if before == after {
        before
    } else {
        Region::new(0, 0, !check)
    };
    Service::new(region, id).keeping(affinity)
}

/// What is known of a network namespace.
#[inline(always)]
pub(crate) fn client(cookie: u64) -> Option<Client> {
    // SAFETY: the value is copied at once; the agent writes it when a pod starts and takes it away when it is gone.
    unsafe { CLIENTS.get(cookie) }.copied()
}

/// The backend that a client keeps to.
#[inline(always)]
pub(crate) fn affinity(key: &AffinityKey) -> Option<Affinity> {
    // SAFETY: the value is copied at once. What another connection of the same client writes meanwhile is as good, and a
    // mixture of two is no member.
    unsafe { AFFINITIES.get(key) }.copied()
}

/// Lets a client keep to a backend. A full table gives up its least recently used entry.
#[inline(always)]
pub(crate) fn keep(key: &AffinityKey, affinity: &Affinity) {
    // Without the entry, the next connection chooses for itself.
    let _ = AFFINITIES.insert(key, affinity, 0);
}

/// Whether a client may keep to a backend.
#[inline(always)]
pub(crate) fn is_member(member: &Member) -> bool {
    MEMBERS.get_ptr(member).is_some()
}

/// The places of TCP sockets.
pub(crate) struct Streams;

impl Places for Streams {
    #[inline(always)]
    fn place(&mut self, index: u32) -> Option<&mut StreamRecord> {
        let place = STREAMS.get_ptr_mut(index)?;
        // SAFETY: a lookup returned the pointer, and an array's elements stay. Only the socket whose cookie stands there is
        // served by it, one system call at a time; two that take a free place within the same few nanoseconds may mix
        // their records, of which none matches a peer then.
        Some(unsafe { &mut *place })
    }

    #[inline(always)]
    fn taken(&mut self, index: u32) -> Option<&mut Taken> {
        let taken = TAKEN.get_ptr_mut(index)?;
        // SAFETY: as above; each byte is written alone, on behalf of who has the place or finds it free.
        Some(unsafe { &mut *taken })
    }
}

/// Whether an address is in one of the ranges of a Service port.
#[inline(always)]
pub(crate) fn allows(id: u32, source: &[u32; 4]) -> bool {
    RANGES.get(&Key::new(WHOLE_RANGE, RangeKey::new(id, *source))).is_some()
}

/// Seconds since the machine started.
#[inline(always)]
pub(crate) fn now() -> u32 {
    // SAFETY: the helper takes nothing and always answers.
    let nanoseconds = unsafe { bpf_ktime_get_boot_ns() };
    (nanoseconds / 1_000_000_000) as u32
}

/// Adds to the counters of a Service port on this CPU.
#[inline(always)]
pub(crate) fn count(id: u32, add: impl Fn(&mut Counters)) {
    // SAFETY: the helper takes nothing and always answers.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    if let Some(counters) = COUNTERS.get_ptr_mut(Counters::place(cpu, id)) {
        // SAFETY: a lookup returned the pointer, and only this CPU writes its part.
        add(unsafe { &mut *counters });
    }
}

/// The ports of a packet whose first piece has been seen.
#[inline(always)]
pub(crate) fn fragment(key: &FragmentKey) -> Option<FragmentPorts> {
    // SAFETY: the value is copied at once; it is written once for each packet.
    unsafe { FRAGMENTS.get(key) }.copied()
}

/// Notes the ports of a packet for its later pieces.
#[inline(always)]
pub(crate) fn note_fragment(key: &FragmentKey, ports: &FragmentPorts) {
    // Without it the later pieces are passed on as they came.
    let _ = FRAGMENTS.insert(key, ports, 0);
}
