//! The kernel's maps as the pure choice sees them, whoever asks.

use ebpf_common::lookup::{Caller, World};
use ebpf_common::maps::{Affinity, AffinityKey, Frontend4, Frontend6, Member, Service, Slot4, Slot6, Traits};

use crate::maps;

/// Who wants to reach a Service.
pub(crate) trait Asker {
    /// Who that is, for a Service of either family.
    fn caller(&self, is_v6: bool) -> Caller;

    /// A number to draw a backend by.
    fn draw(&self, traits: Traits) -> u32;
}

/// The maps, for one who asks.
pub(crate) struct Maps<'a, A>(pub(crate) &'a A);

macro_rules! world {
    ($key:ty, $slot:ty, $service:path, $read:path, $is_v6:literal) => {
        impl<A: Asker> World<$key, $slot> for Maps<'_, A> {
            #[inline(always)]
            fn service(&self, frontend: &$key) -> Option<Service> {
                $service(frontend)
            }

            #[inline(always)]
            fn slot(&self, index: u32) -> Option<$slot> {
                $read(index)
            }

            #[inline(always)]
            fn caller(&self) -> Caller {
                self.0.caller($is_v6)
            }

            #[inline(always)]
            fn draw(&self, traits: Traits) -> u32 {
                self.0.draw(traits)
            }

            #[inline(always)]
            fn now(&self) -> u32 {
                maps::now()
            }

            #[inline(always)]
            fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
                maps::affinity(key)
            }

            #[inline(always)]
            fn keep(&self, key: &AffinityKey, affinity: &Affinity) {
                maps::keep(key, affinity);
            }

            #[inline(always)]
            fn is_member(&self, member: &Member) -> bool {
                maps::is_member(member)
            }

            #[inline(always)]
            fn allows(&self, id: u32, source: &[u32; 4]) -> bool {
                maps::allows(id, source)
            }
        }
    };
}

world!(Frontend4, Slot4, maps::service4, maps::slot4, false);
world!(Frontend6, Slot6, maps::service6, maps::slot6, true);
