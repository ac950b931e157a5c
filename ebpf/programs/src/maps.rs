//! The maps, and what of them the choice of a backend reads. Keys and values stand in `ebpf_common::maps`.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuHashMap, SkStorage};
use aya_ebpf::macros::btf_map;
use ebpf_common::lookup::Maps;
use ebpf_common::maps::{
    Counters, Frontend4, Frontend6, MAX_COUNTERS, MAX_FRONTENDS4, MAX_FRONTENDS6, MAX_REPLIES, MAX_SLOTS4, MAX_SLOTS6,
    Region, ReplyKey, ReplyValue, Service, Slot4, Slot6, SocketRecord,
};

const MMAPABLE: usize = BPF_F_MMAPABLE as usize;
const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map(name = "svc4")]
static SERVICES4: HashMap<Frontend4, Service, { MAX_FRONTENDS4 as usize }> = HashMap::new();
#[btf_map(name = "svc6")]
static SERVICES6: HashMap<Frontend6, Service, { MAX_FRONTENDS6 as usize }> = HashMap::new();
#[btf_map(name = "slots4")]
static SLOTS4: Array<Slot4, { MAX_SLOTS4 as usize }, MMAPABLE> = Array::new();
#[btf_map(name = "slots6")]
static SLOTS6: Array<Slot6, { MAX_SLOTS6 as usize }, MMAPABLE> = Array::new();
#[btf_map(name = "sockets")]
pub(crate) static SOCKETS: SkStorage<SocketRecord> = SkStorage::new();
#[btf_map(name = "replies")]
pub(crate) static REPLIES: LruHashMap<ReplyKey, ReplyValue, { MAX_REPLIES as usize }> = LruHashMap::new();
#[btf_map(name = "counters")]
static COUNTERS: PerCpuHashMap<u32, Counters, { MAX_COUNTERS as usize }, ON_DEMAND> = PerCpuHashMap::new();

/// The Service maps of the kernel.
pub(crate) struct Kernel;

impl Maps<Frontend4, Slot4> for Kernel {
    #[inline(always)]
    fn service(&self, frontend: &Frontend4) -> Option<Service> {
        SERVICES4.get_ptr(frontend).map(read)
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<Slot4> {
        SLOTS4.get(index).copied()
    }
}

impl Maps<Frontend6, Slot6> for Kernel {
    #[inline(always)]
    fn service(&self, frontend: &Frontend6) -> Option<Service> {
        SERVICES6.get_ptr(frontend).map(read)
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<Slot6> {
        SLOTS6.get(index).copied()
    }
}

#[inline(always)]
fn read(service: *const Service) -> Service {
    // SAFETY: a pointer that a map lookup returned is aligned and readable until the program ends.
    let region: *const Region = unsafe { &raw const (*service).region };
    // SAFETY: as above; volatile, so that the word is read once and whole while the agent may replace it.
    let region = unsafe { region.read_volatile() };
    // SAFETY: as above. An id of another Service only counts wrongly.
    let id = unsafe { (*service).id };
    Service::new(region, id)
}

/// Adds to the counters of a Service port on this CPU; a port that the agent does not count is passed over.
#[inline(always)]
pub(crate) fn count(id: u32, add: impl Fn(&mut Counters)) {
    if let Some(counters) = COUNTERS.get_ptr_mut(id) {
        // SAFETY: a lookup returned the pointer, and only this CPU writes its copy.
        add(unsafe { &mut *counters });
    }
}
