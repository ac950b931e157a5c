//! Links, addresses and routes of the network namespace that the calling thread is in, from `/proc/thread-self/net`.

/// One line for each link, IPv4 route of any table (addresses are `LOCAL` ones), IPv6 address and IPv6 route.
pub(super) fn facts() -> impl Iterator<Item = String> {
    let links: Vec<_> = read("dev").lines().skip(2).filter_map(link).collect();
    let addresses: Vec<_> = read("if_inet6").lines().filter_map(address_v6).collect();
    let routes: Vec<_> = read("ipv6_route").lines().filter_map(route_v6).collect();
    links
        .into_iter()
        .chain(routes_v4(&read("fib_trie")))
        .chain(addresses)
        .chain(routes)
}

fn read(file: &str) -> String {
    std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default()
}

fn link(line: &str) -> Option<String> {
    let (name, _) = line.split_once(':')?;
    Some(format!("link {}", name.trim()))
}

/// The leaves of the trie: an address line `|-- 10.0.0.0`, then its routes as `/24 link UNICAST`.
fn routes_v4(trie: &str) -> Vec<String> {
    let mut address = "";
    let mut routes = Vec::new();
    for line in trie.lines().map(str::trim) {
        if let Some(leaf) = line.strip_prefix("|-- ") {
            address = leaf;
        } else if line.starts_with('/') {
            routes.push(format!("route {address}{line}"));
        }
    }
    routes
}

fn address_v6(line: &str) -> Option<String> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let [address, _, length, _, _, link] = fields.as_slice() else {
        return None;
    };
    Some(format!("address {address}/{length} on {link}"))
}

/// Counters and metrics change by themselves; destination, length and link name the route.
fn route_v6(line: &str) -> Option<String> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let [destination, length, .., link] = fields.as_slice() else {
        return None;
    };
    Some(format!("route {destination}/{length} on {link}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_of_the_trie_are_routes_and_inner_nodes_are_not() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     |-- 10.0.0.5\n        /32 host LOCAL\n";
        assert_eq!(
            routes_v4(trie),
            ["route 0.0.0.0/0 universe UNICAST", "route 10.0.0.5/32 host LOCAL"]
        );
    }
}
