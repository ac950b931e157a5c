//! The pure choice of a backend on the kernel's maps, as a program would make it, without a connection and without
//! leaving a trace in the maps.

use std::net::{IpAddr, SocketAddr};

use agent_core::service::table::Scope;
use aya::maps::MapError;
use aya::maps::lpm_trie::Key;
use ebpf_common::lookup::{Caller, Choice, Slot, World, choose};
use ebpf_common::maps::{
    Affinity, AffinityKey, Client, Frontend4, Frontend6, MAPPED, Member, NODE, RangeKey, Service, Slot4, Slot6, Traits,
    words,
};

use super::MapsError;
use super::content::Content;

/// Bits of a [`RangeKey`].
const WHOLE_RANGE: u32 = 8 * 20;

/// A connection that might be made.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// Who would make it.
    pub source: IpAddr,
    /// Whom it would be for.
    pub destination: SocketAddr,
    /// IP protocol number.
    pub protocol: u8,
}

/// What would become of it.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Whether the source is known as the node's or a pod's, whose sockets are served; others are served as packets.
    pub scope: Scope,
    /// Whether the source is the node itself.
    pub is_node: bool,
    /// The value of the frontend, if the destination is one.
    pub service: Option<Service>,
    /// The choice. Of several backends it names the first.
    pub choice: Choice,
    /// Everything that could be drawn, in the order of the slots.
    pub slots: Vec<SocketAddr>,
    /// The backend that the client keeps to, whether it is still one or not, and since when it was not heard of.
    pub kept: Option<(SocketAddr, u32)>,
}

pub(super) fn look(content: &Content, question: &Question, now: u32) -> Result<Finding, MapsError> {
    let client = client_of(content, question.source);
    let scope = if client.is_some() {
        Scope::Inside
    } else {
        Scope::Outside
    };
    let source = match question.source {
        IpAddr::V4(four) => [MAPPED[0], MAPPED[1], MAPPED[2], u32::from_ne_bytes(four.octets())],
        IpAddr::V6(six) => words(six),
    };
    let look = Look {
        content,
        now,
        caller: Caller {
            is_node: client.is_some_and(|client| client.is_node()),
            address: Some(source),
            identity: source,
        },
    };
    let (service, choice, slots) = match question.destination {
        SocketAddr::V4(to) => {
            let key = Frontend4::new(*to.ip(), to.port(), question.protocol);
            let key = if scope == Scope::Outside {
                key.from_outside()
            } else {
                key
            };
            let service = look.service(&key);
            (service, choose(&look, &key), slots::<Frontend4, Slot4>(&look, service))
        }
        SocketAddr::V6(to) => {
            let key = Frontend6::new(*to.ip(), to.port(), question.protocol);
            let key = if scope == Scope::Outside {
                key.from_outside()
            } else {
                key
            };
            let service = look.service(&key);
            (service, choose(&look, &key), slots::<Frontend6, Slot6>(&look, service))
        }
    };
    let kept = service
        .filter(|service| service.region.traits().has(Traits::STICKY))
        .and_then(|service| {
            let known = content.affinity(&AffinityKey::new(source, service.id)).ok()??;
            let backend = known.backend();
            Some((
                SocketAddr::new(backend.ip(), u16::from_be(backend.port)),
                now.wrapping_sub(known.last),
            ))
        });
    Ok(Finding {
        scope,
        is_node: look.caller.is_node,
        service,
        choice,
        slots,
        kept,
    })
}

/// The namespace that an address belongs to: one of the node's, whose loopback counts, or a pod's.
fn client_of(content: &Content, source: IpAddr) -> Option<Client> {
    let mapped = match source {
        IpAddr::V4(four) => [MAPPED[0], MAPPED[1], MAPPED[2], u32::from_ne_bytes(four.octets())],
        IpAddr::V6(six) => words(six),
    };
    let clients = content.clients();
    if source.is_loopback() {
        return clients
            .iter()
            .find(|(cookie, _)| *cookie == NODE)
            .map(|(_, client)| *client);
    }
    let has = |client: &Client| client.address4() == Some(mapped) || client.address6() == Some(mapped);
    clients.into_iter().map(|(_, client)| client).find(has)
}

fn slots<'a, K, S: Slot>(look: &Look<'a>, service: Option<Service>) -> Vec<SocketAddr>
where
    Look<'a>: World<K, S>,
{
    let region = service.map(|service| service.region);
    let indices = region.map_or(0..0, |region| region.base()..region.base() + u32::from(region.count()));
    let peers = indices.filter_map(|index| look.slot(index)).map(|slot| slot.peer());
    peers
        .map(|peer| SocketAddr::new(peer.ip(), u16::from_be(peer.port)))
        .collect()
}

struct Look<'a> {
    content: &'a Content,
    now: u32,
    caller: Caller,
}

macro_rules! world {
    ($key:ty, $slot:ty, $services:ident, $slots:ident) => {
        impl World<$key, $slot> for Look<'_> {
            fn service(&self, frontend: &$key) -> Option<Service> {
                let value = self.content.$services.get(&frontend.to_bytes(), 0).ok()?;
                Some(Service::from_bytes(value))
            }

            fn slot(&self, index: u32) -> Option<$slot> {
                let view = self.content.$slots.view(index..index.checked_add(1)?).ok()?;
                view.read(index).map(<$slot>::from_bytes)
            }

            fn caller(&self) -> Caller {
                self.caller
            }

            fn draw(&self, _: Traits) -> u32 {
                0
            }

            fn now(&self) -> u32 {
                self.now
            }

            fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
                self.content.affinity(key).ok().flatten()
            }

            fn keep(&self, _: &AffinityKey, _: &Affinity) {}

            fn is_member(&self, member: &Member) -> bool {
                self.content.members.get(&member.to_bytes(), 0).is_ok()
            }

            fn allows(&self, id: u32, source: &[u32; 4]) -> bool {
                let key = Key::new(WHOLE_RANGE, RangeKey::new(id, *source).to_bytes());
                self.content.ranges.get(&key, 0).is_ok()
            }
        }
    };
}

world!(Frontend4, Slot4, svc4, slots4);
world!(Frontend6, Slot6, svc6, slots6);

impl Content {
    fn affinity(&self, key: &AffinityKey) -> Result<Option<Affinity>, MapError> {
        match self.affinities.get(&key.to_bytes(), 0) {
            Ok(value) => Ok(Some(Affinity::from_bytes(value))),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn clients(&self) -> Vec<(u64, Client)> {
        let entries = self.clients.iter().flatten();
        entries
            .map(|(cookie, client)| (cookie, Client::from_bytes(client)))
            .collect()
    }
}
