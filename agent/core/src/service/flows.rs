//! Which flows at links are over.

use std::collections::HashMap;

use ebpf_common::flow::{Entry, Flow, Role, Seen, Tuple, lifetime};

/// The entries of the flows whose last packet is longer ago than they are remembered at `now`, in seconds since the
/// machine started. All entries of a flow go together.
pub fn over(entries: &[(Tuple, Entry)], now: u32) -> Vec<(Tuple, Entry)> {
    let flows: Vec<Flow> = entries.iter().map(|(key, entry)| entry.flow(key)).collect();
    // A full table has 262,144 entries; ordered by a tree, they take several times as long.
    let mut states: HashMap<Tuple, State> = HashMap::with_capacity(entries.len());
    for ((_, entry), flow) in entries.iter().zip(&flows) {
        states.entry(name(flow)).or_default().add(entry, now);
    }
    let is_over = |flow: &Flow| states.get(&name(flow)).is_some_and(|state| state.is_over(flow));
    let each = entries.iter().zip(&flows);
    each.filter(|(_, flow)| is_over(flow))
        .map(|(entry, _)| *entry)
        .collect()
}

/// A flow by what its backend sees: each has another mask or client there.
fn name(flow: &Flow) -> Tuple {
    let role = if flow.is_of_node {
        Role::ReplyToNode
    } else if flow.is_masked() {
        Role::ReplyToMask
    } else {
        Role::Reply
    };
    flow.key(role)
}

/// What all entries of a flow have seen.
#[derive(Clone, Copy)]
struct State {
    requests: Seen,
    replies: Seen,
    /// Seconds since the last packet.
    silent: u32,
}

impl Default for State {
    fn default() -> Self {
        Self {
            requests: Seen::NOTHING,
            replies: Seen::NOTHING,
            silent: u32::MAX,
        }
    }
}

impl State {
    fn add(&mut self, entry: &Entry, now: u32) {
        match entry.role() {
            Role::Request | Role::MaskedRequest | Role::CarryingRequest | Role::CarriedRequest | Role::NodeRequest => {
                self.requests = self.requests.and(entry.seen())
            }
            Role::ReplyToMask | Role::Reply | Role::ReplyToNode => self.replies = self.replies.and(entry.seen()),
        }
        // A packet may have come after `now` was read.
        self.silent = self.silent.min(now.saturating_sub(entry.last));
    }

    fn is_over(&self, flow: &Flow) -> bool {
        // Replies that go to the client directly are not seen here.
        let replies = if flow.is_carrying() {
            self.requests
        } else {
            self.replies
        };
        self.silent > lifetime(flow.protocol, self.requests, replies)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use ebpf_common::flow::Way;
    use ebpf_common::maps::{SCTP, Slot4, TCP, UDP};
    use ebpf_common::record::Peer;

    use super::*;

    fn peer(last: u8, port: u16) -> Peer {
        let slot = Slot4::new(Ipv4Addr::new(192, 0, 2, last), port);
        Peer::v4(slot.address, slot.port)
    }

    fn flow(protocol: u8, client: u16, masked: bool) -> Flow {
        let request = Tuple::new(&peer(1, client), &peer(2, 80), protocol, Way::Arriving);
        let mut flow = Flow::new(&request, &peer(3, 8080), 7);
        if masked {
            flow.mask = peer(9, 61_000 + client);
        }
        flow
    }

    fn entries(flow: &Flow, now: u32) -> Vec<(Tuple, Entry)> {
        flow.roles()
            .iter()
            .map(|role| (flow.key(*role), flow.entry(*role, now)))
            .collect()
    }

    #[test]
    fn a_flow_goes_as_a_whole() {
        let mut all = entries(&flow(UDP, 1, true), 100);
        all.extend(entries(&flow(UDP, 2, false), 120));
        assert_eq!(over(&all, 130), []);
        assert_eq!(over(&all, 131).len(), 4);
        assert_eq!(over(&all, 151).len(), 6);
    }

    #[test]
    fn one_lively_entry_keeps_the_others() {
        for masked in [false, true] {
            let flow = flow(TCP, 1, masked);
            let mut all = entries(&flow, 100);
            all[0].1.note(Seen::of(2), 100);
            let last = all.len() - 1;
            all[last].1.note(Seen::of(18), 1000);
            assert_eq!(over(&all, 1050), []);
            assert_eq!(over(&all, 1061).len(), all.len());
            all[0].1.note(Seen::of(16), 1001);
            assert_eq!(over(&all, 80_000), [], "established");
        }
    }

    #[test]
    fn an_association_of_the_node_lives_by_both_its_entries() {
        let flow = Flow {
            mask: flow(SCTP, 1, false).client,
            is_of_node: true,
            ..flow(SCTP, 1, false)
        };
        let mut all = entries(&flow, 100);
        assert_eq!(all.len(), 2);
        all[0].1.note(Seen::of(2), 100);
        all[1].1.note(Seen::of(18), 1000);
        assert_eq!(over(&all, 1002), []);
        assert_eq!(over(&all, 80_000).len(), 2);
    }

    #[test]
    fn requests_alone_keep_a_flow_whose_replies_go_elsewhere() {
        let mut flow = flow(TCP, 1, false);
        flow.mask = flow.service;
        let mut all = entries(&flow, 100);
        all[0].1.note(Seen::of(2), 100);
        assert_eq!(over(&all, 161).len(), 3, "only begun");
        all[0].1.note(Seen::of(16), 100);
        assert_eq!(over(&all, 80_000), [], "established");
    }

    #[test]
    fn a_clock_that_is_behind_ends_nothing() {
        assert_eq!(over(&entries(&flow(UDP, 1, false), 500), 400), []);
    }
}
