//! Which endpoints of a Service take its traffic on this node: the categorisation of kube-proxy
//! (`CategorizeEndpoints` in `pkg/proxy/topology.go`), restated.

use std::net::SocketAddr;
use std::sync::Arc;

use super::endpoint::Endpoint;

/// Where this node stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The node's name.
    pub node: String,
    /// Its zone, `topology.kubernetes.io/zone`; empty if it has none.
    pub zone: String,
}

/// What a Service port says about who may serve whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policies {
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// Whether it has an address for clients outside: a node port, a load balancer's or an external one.
    pub is_external: bool,
}

/// Addresses of endpoints, each once, in order. A copy costs nothing: frontends and what is said of them share it.
pub type Backends = Arc<[SocketAddr]>;

/// The endpoints that are used, by policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Categories {
    /// For the policy `Cluster`; `None` if nothing of the Service follows it.
    pub cluster: Option<Backends>,
    /// For the policy `Local`; `None` if nothing of the Service follows it.
    pub local: Option<Backends>,
    /// Whether there is a usable endpoint anywhere, even if none of the two lists has it.
    pub any: bool,
}

/// Sorts out the endpoints: ready ones, near ones where hints say so, and terminating ones that still serve where there is
/// no other.
pub fn categorize(endpoints: &[Endpoint], policies: Policies, place: &Place) -> Categories {
    let uses_cluster = !policies.internal_local || policies.is_external;
    let uses_local = policies.internal_local || policies.external_local && policies.is_external;
    let cluster = uses_cluster.then(|| cluster(endpoints, place));
    let local = uses_local.then(|| ready_or_leaving(endpoints, |endpoint| endpoint.is_local));
    let any = match (&cluster, uses_local) {
        (Some(cluster), false) => !cluster.is_empty(),
        _ => endpoints.iter().any(|endpoint| endpoint.ready || is_leaving(endpoint)),
    };
    Categories { cluster, local, any }
}

impl Categories {
    /// Every endpoint that can be reached from here, each once, in order.
    pub fn reachable(&self) -> Backends {
        match (&self.cluster, &self.local) {
            (Some(all), None) | (None, Some(all)) => Arc::clone(all),
            (None, None) => Backends::default(),
            (Some(cluster), Some(local)) => in_order(cluster.iter().chain(&**local).copied().collect()),
        }
    }
}

fn cluster(endpoints: &[Endpoint], place: &Place) -> Backends {
    match Nearness::of(endpoints, place) {
        Nearness::Any => ready_or_leaving(endpoints, |_| true),
        Nearness::Node => ready(endpoints, |endpoint| endpoint.nodes.contains(&place.node)),
        Nearness::Zone => ready(endpoints, |endpoint| endpoint.zones.contains(&place.zone)),
    }
}

fn ready(endpoints: &[Endpoint], is_wanted: impl Fn(&Endpoint) -> bool) -> Backends {
    addresses(endpoints, |endpoint| endpoint.ready && is_wanted(endpoint))
}

fn ready_or_leaving(endpoints: &[Endpoint], is_wanted: impl Fn(&Endpoint) -> bool) -> Backends {
    let ready = ready(endpoints, &is_wanted);
    if ready.is_empty() {
        addresses(endpoints, |endpoint| is_leaving(endpoint) && is_wanted(endpoint))
    } else {
        ready
    }
}

fn addresses(endpoints: &[Endpoint], is_wanted: impl Fn(&Endpoint) -> bool) -> Backends {
    let wanted = endpoints.iter().filter(|endpoint| is_wanted(endpoint));
    let mut addresses = Vec::with_capacity(endpoints.len());
    addresses.extend(wanted.map(|endpoint| endpoint.address));
    in_order(addresses)
}

fn in_order(mut addresses: Vec<SocketAddr>) -> Backends {
    addresses.sort_unstable();
    addresses.dedup();
    addresses.into()
}

fn is_leaving(endpoint: &Endpoint) -> bool {
    endpoint.serving && endpoint.terminating
}

/// How near an endpoint has to be.
enum Nearness {
    Any,
    Node,
    Zone,
}

impl Nearness {
    /// Hints count only if every ready endpoint has them and one is meant for here.
    fn of(endpoints: &[Endpoint], place: &Place) -> Self {
        let ready = || endpoints.iter().filter(|endpoint| endpoint.ready);
        let all_hint = |hints: fn(&Endpoint) -> &Vec<String>, here: &String| {
            ready().all(|endpoint| !hints(endpoint).is_empty())
                && ready().any(|endpoint| hints(endpoint).contains(here))
        };
        if all_hint(|endpoint| &endpoint.nodes, &place.node) {
            Nearness::Node
        } else if all_hint(|endpoint| &endpoint.zones, &place.zone) {
            Nearness::Zone
        } else {
            Nearness::Any
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `1 ready zone=a,b node=n local`: the endpoint 10.0.0.1:80 and what is said of it.
    fn endpoint(text: &str) -> Endpoint {
        let mut words = text.split(' ');
        let number = words.next().unwrap_or_default();
        let mut endpoint = Endpoint {
            address: format!("10.0.0.{number}:80").parse().unwrap(),
            ready: false,
            serving: false,
            terminating: false,
            is_local: false,
            zones: Vec::new(),
            nodes: Vec::new(),
        };
        for word in words {
            let hints = |list: &str| list.split(',').map(str::to_owned).collect();
            match word.split_once('=').unwrap_or((word, "")) {
                ("ready", _) => (endpoint.ready, endpoint.serving) = (true, true),
                ("leaving", _) => (endpoint.serving, endpoint.terminating) = (true, true),
                ("local", _) => endpoint.is_local = true,
                ("zone", zones) => endpoint.zones = hints(zones),
                ("node", nodes) => endpoint.nodes = hints(nodes),
                (other, _) => panic!("what is {other}?"),
            }
        }
        endpoint
    }

    fn policies(text: &str) -> Policies {
        Policies {
            internal_local: text.contains("iTP"),
            external_local: text.contains("eTP"),
            is_external: text.contains("nodePort"),
        }
    }

    fn text(addresses: Option<&Backends>) -> String {
        let last = |address: &SocketAddr| address.ip().to_string().rsplit('.').next().unwrap().to_owned();
        addresses.map_or("-".into(), |addresses| {
            addresses.iter().map(last).collect::<Vec<_>>().join(" ")
        })
    }

    /// The cases of upstream's `TestCategorizeEndpoints`: the policies (`iTP` and `eTP` stand for `Local`), the zone, the
    /// endpoints; then those for Cluster, for Local (`-`: not used), all of them, and whether there are any at all.
    #[test]
    fn endpoints_are_categorized_as_upstream_does() {
        type Row = (
            &'static str,
            &'static str,
            &'static [&'static str],
            [&'static str; 3],
            bool,
        );
        const ZONES: [&str; 4] = ["3 ready zone=a", "4 ready zone=b", "5 ready zone=c", "6 ready zone=a"];
        const LOCAL: [&str; 4] = [
            "3 ready zone=a local",
            "4 ready zone=b local",
            "5 ready zone=c",
            "6 ready zone=a",
        ];
        const SOME: [&str; 2] = ["0 ready local", "1 ready"];
        const REMOTE: [&str; 2] = ["0 ready", "1 ready"];
        const REMOTE_LEAVING: [&str; 2] = ["0 leaving", "1 leaving"];
        const MIXED: [&str; 4] = ["0 ready", "1 local", "2 leaving local", "3 leaving"];
        let rows: &[Row] = &[
            ("", "a", &ZONES, ["3 6", "-", "3 6"], true),
            ("eTP nodePort", "a", &LOCAL, ["3 6", "3 4", "3 4 6"], true),
            ("iTP nodePort", "a", &LOCAL, ["3 6", "3 4", "3 4 6"], true),
            ("", "", &["3 ready zone=a"], ["3", "-", "3"], true),
            ("", "b", &["3 ready zone=a"], ["3", "-", "3"], true),
            ("", "a", &["3 ready zone=a", "6 zone=a"], ["3", "-", "3"], true),
            (
                "",
                "a",
                &["3 zone=a", "4 ready zone=b", "5 ready zone=c", "6 zone=a"],
                ["4 5", "-", "4 5"],
                true,
            ),
            (
                "",
                "a",
                &["3 ready zone=a", "4 ready zone=b", "5 ready"],
                ["3 4 5", "-", "3 4 5"],
                true,
            ),
            (
                "",
                "c",
                &[
                    "3 ready zone=a,b,c",
                    "4 ready zone=b,c",
                    "5 ready zone=b,d",
                    "6 ready zone=c",
                ],
                ["3 4 6", "-", "3 4 6"],
                true,
            ),
            (
                "eTP nodePort",
                "a",
                &[
                    "0 ready zone=a local",
                    "1 ready zone=b local",
                    "2 ready zone=a",
                    "3 ready zone=b",
                ],
                ["0 2", "0 1", "0 1 2"],
                true,
            ),
            (
                "",
                "a",
                &["1 ready node=here zone=a", "2 ready node=there zone=a"],
                ["1", "-", "1"],
                true,
            ),
            (
                "",
                "a",
                &["1 ready node=there zone=a", "2 ready node=else zone=b"],
                ["1", "-", "1"],
                true,
            ),
            (
                "",
                "a",
                &["1 ready node=here", "2 ready zone=a"],
                ["1 2", "-", "1 2"],
                true,
            ),
            ("iTP", "", &[], ["-", "", ""], false),
            ("iTP", "", &REMOTE, ["-", "", ""], true),
            (
                "iTP",
                "",
                &["0 ready local", "1 ready local"],
                ["-", "0 1", "0 1"],
                true,
            ),
            ("iTP", "", &SOME, ["-", "0", "0"], true),
            ("", "", &["0", "1"], ["", "-", ""], false),
            ("", "", &["0", "1 ready"], ["1", "-", "1"], true),
            ("", "", &["0 leaving local", "1 leaving"], ["0 1", "-", "0 1"], true),
            ("iTP nodePort", "", &SOME, ["0 1", "0", "0 1"], true),
            ("eTP nodePort", "", &SOME, ["0 1", "0", "0 1"], true),
            ("iTP eTP nodePort", "", &SOME, ["0 1", "0", "0 1"], true),
            ("iTP eTP nodePort", "", &REMOTE, ["0 1", "", "0 1"], true),
            ("iTP eTP nodePort", "", &REMOTE_LEAVING, ["0 1", "", "0 1"], true),
            ("eTP nodePort", "", &MIXED, ["0", "2", "0 2"], true),
            ("eTP", "", &["0 ready", "1 ready local"], ["0 1", "-", "0 1"], true),
        ];
        for (policy, zone, endpoints, [cluster, local, all], any) in rows {
            let place = Place {
                node: "here".into(),
                zone: (*zone).into(),
            };
            let parsed: Vec<Endpoint> = endpoints.iter().map(|text| endpoint(text)).collect();
            let found = categorize(&parsed, policies(policy), &place);
            let row = format!("{policy:?} in {zone:?}: {endpoints:?}");
            assert_eq!(text(found.cluster.as_ref()), *cluster, "cluster, {row}");
            assert_eq!(text(found.local.as_ref()), *local, "local, {row}");
            assert_eq!(text(Some(&found.reachable())), *all, "all, {row}");
            assert_eq!(found.any, *any, "any, {row}");
        }
    }
}
