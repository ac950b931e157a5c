//! Which addresses of Services the node's own packets of SCTP go to by a detour: those that no link of the node has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::table::{Frontend, NodeFacts, Scope};

/// A detour: under which source, and how large packets may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The node's address.
    pub source: IpAddr,
    /// Bytes of the largest packet.
    pub mtu: u32,
}

/// Detours by their destinations.
pub type Ways = BTreeMap<IpAddr, Way>;

/// What is to be done about detours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetourStep {
    /// Have detours followed and answers taken. It may be so already.
    Begin,
    /// Make a detour, in the place of another one.
    Route(IpAddr, Way),
    /// Forget a detour.
    Forget(IpAddr),
    /// Have none any more, and no rule for them. It may be so already.
    End,
}

/// The addresses of frontends that the node reaches by a detour, under its own address of the family.
pub fn addresses(frontends: impl Iterator<Item = Frontend>, node: &NodeFacts) -> BTreeMap<IpAddr, IpAddr> {
    let own = node.own.iter().flat_map(|(_, addresses)| addresses);
    let own: Vec<IpAddr> = own.copied().collect();
    let is_ours = |address: &IpAddr| {
        // Without an address it is for what carries another one, from another node.
        address.is_unspecified()
            || address.is_loopback()
            || [&own, &node.addresses, &node.node_port_addresses]
                .iter()
                .any(|of| of.contains(address))
    };
    let asked = frontends.filter(|frontend| frontend.is_association() && frontend.scope == Scope::Inside);
    let asked: BTreeSet<IpAddr> = asked.map(|frontend| frontend.address.ip()).collect();
    let source = |to: IpAddr| own.iter().find(|own| own.is_ipv4() == to.is_ipv4()).copied();
    let away = asked.into_iter().filter(|address| !is_ours(address));
    away.filter_map(|to| Some((to, source(to)?))).collect()
}

/// What is to be done. `stay` are addresses that associations go on with, which keep their detours.
pub fn plan(have: &Ways, want: &Ways, stay: &BTreeSet<IpAddr>, is_needed: bool) -> Vec<DetourStep> {
    if !is_needed {
        return vec![DetourStep::End];
    }
    let others = want.iter().filter(|(to, way)| have.get(*to) != Some(*way));
    let gone = have.keys().filter(|to| !want.contains_key(*to) && !stay.contains(*to));
    // A kernel without rules has no other tables either: the routes would be everybody's.
    let mut steps = vec![DetourStep::Begin];
    steps.extend(others.map(|(to, way)| DetourStep::Route(*to, *way)));
    steps.extend(gone.map(|to| DetourStep::Forget(*to)));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn ways(list: &[(&str, u32)]) -> Ways {
        let source = ip("192.0.2.1");
        list.iter()
            .map(|(to, mtu)| (ip(to), Way { source, mtu: *mtu }))
            .collect()
    }

    #[test]
    fn detours_follow_the_frontends() {
        use DetourStep::{Begin, End, Forget, Route};
        let (none, a, b) = (Ways::new(), ways(&[("10.96.0.1", 1500)]), ways(&[("10.96.0.2", 1500)]));
        let (small, nobody) = (ways(&[("10.96.0.1", 1400)]), BTreeSet::new());
        let route = |ways: &Ways| ways.iter().map(|(to, way)| Route(*to, *way)).next().unwrap();
        for (have, want, is_needed, steps) in [
            (&none, &a, true, vec![Begin, route(&a)]),
            (&a, &a, true, vec![Begin]),
            (&a, &small, true, vec![Begin, route(&small)]),
            (&a, &b, true, vec![Begin, route(&b), Forget(ip("10.96.0.1"))]),
            (&a, &none, true, vec![Begin, Forget(ip("10.96.0.1"))]),
            (&a, &none, false, vec![End]),
        ] {
            assert_eq!(plan(have, want, &nobody, is_needed), steps);
        }
        assert_eq!(
            plan(&a, &b, &BTreeSet::from([ip("10.96.0.1")]), true),
            [Begin, route(&b)],
            "somebody is on it"
        );
    }
}
