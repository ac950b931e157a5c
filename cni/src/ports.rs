//! Ports of the node that lead to pods, and the rest of the network's nftables table: looks whether it is as it should be,
//! and has `netfilter` make it so.

use std::net::IpAddr;

use nix::errno::Errno;

use crate::{
    firewall::{PORT_MAPS, STATE, mapping_of, port_elements, table_name},
    mapping::PortMapping,
    netfilter::{Netfilter, NftError},
    netlink::Connection,
    nft::{Element, NftStep},
    node_network::NodeNetwork,
    observe,
    plan::HostEnd,
    pod_network::NetworkError,
};

/// Makes the network's table what it should be; costs one look when it is.
pub(crate) fn prepare(network: &NodeNetwork) -> Result<(), NetworkError> {
    let netfilter = connect()?;
    if is_prepared(&netfilter, network)? {
        return Ok(());
    }
    Ok(netfilter.perform(&table_name(&network.name), &network.firewall().steps())?)
}

/// Whether the network's table is what it should be.
pub(crate) fn is_prepared(netfilter: &Netfilter, network: &NodeNetwork) -> Result<bool, NetworkError> {
    let state = netfilter.list(&table_name(&network.name), STATE)?.unwrap_or_default();
    let wanted = network.firewall().state();
    Ok(state.iter().any(|element| element.key == wanted))
}

/// Removes the network's table.
pub(crate) fn clear(network: &str) -> Result<(), NetworkError> {
    let Some(netfilter) = connect_if_any()? else {
        return Ok(());
    };
    match netfilter.perform(&table_name(network), &[NftStep::DropTable]) {
        Err(error) if error.source.errno == Errno::ENOENT => Ok(()),
        other => Ok(other?),
    }
}

/// Lets ports of the node lead to a pod. Repeatable: what is there with the same answer is as good. A port of a pod whose
/// link is gone is taken over.
pub(crate) fn open(
    network: &NodeNetwork,
    netfilter: &Netfilter,
    node: &Connection,
    host: &HostEnd,
    ports: &[PortMapping],
) -> Result<(), NetworkError> {
    let table = table_name(&network.name);
    let steps: Vec<NftStep> = port_elements(ports, &host.addresses, &host.name)
        .into_iter()
        .map(|(map, element)| NftStep::Add(map, vec![element]))
        .collect();
    match netfilter.perform(&table, &steps) {
        Err(error) if error.source.errno == Errno::ENOENT => prepare(network)?,
        Err(error) if !is_taken(&error) => return Err(error.into()),
        Err(_) => {}
        Ok(()) => return Ok(()),
    }
    let owners: Vec<String> = observe::host_ends(node)?.into_iter().map(|end| end.name).collect();
    close(&network.name, |owner| !owners.iter().any(|name| name == owner))?;
    netfilter.perform(&table, &steps).map_err(|error| {
        let taken = ports
            .iter()
            .find(|port| is_taken(&error) && leads_by(&error.step, port, host));
        match taken {
            Some(port) => NetworkError::PortInUse(*port),
            None => error.into(),
        }
    })
}

fn is_taken(error: &NftError) -> bool {
    matches!(error.source.errno, Errno::EEXIST | Errno::EBUSY)
}

fn leads_by(step: &NftStep, port: &PortMapping, host: &HostEnd) -> bool {
    let elements = port_elements(&[*port], &host.addresses, &host.name);
    let mut steps = elements
        .into_iter()
        .map(|(map, element)| NftStep::Add(map, vec![element]));
    steps.any(|own| own == *step)
}

/// Takes the ports of these owners back. Owners are the names of host links.
pub(crate) fn close(network: &str, is_to_go: impl Fn(&str) -> bool) -> Result<(), NetworkError> {
    match connect_if_any()? {
        Some(netfilter) => close_by(&netfilter, network, is_to_go),
        None => Ok(()),
    }
}

/// [`close`] by a socket that the caller keeps for a while: when one is closed, the kernel first waits until nobody sees
/// what was removed lately, and lets nobody change a table meanwhile. A few milliseconds later there is nothing to wait for.
pub(crate) fn close_by(
    netfilter: &Netfilter,
    network: &str,
    is_to_go: impl Fn(&str) -> bool,
) -> Result<(), NetworkError> {
    let table = table_name(network);
    for map in PORT_MAPS {
        let Some(elements) = netfilter.list(&table, map)? else {
            return Ok(());
        };
        for element in elements
            .into_iter()
            .filter(|element| element.owner.as_deref().is_some_and(&is_to_go))
        {
            close_one(netfilter, &table, map, element)?;
        }
    }
    Ok(())
}

/// One at a time, for somebody else may do the same.
fn close_one(netfilter: &Netfilter, table: &str, map: &'static str, element: Element) -> Result<(), NetworkError> {
    match netfilter.perform(table, &[NftStep::Remove(map, vec![element])]) {
        Err(error) if error.source.errno == Errno::ENOENT => Ok(()),
        other => Ok(other?),
    }
}

/// Whether each port leads to these addresses.
pub(crate) fn are_open(
    network: &str,
    addresses: &[IpAddr],
    owner: &str,
    ports: &[PortMapping],
) -> Result<bool, NetworkError> {
    let (netfilter, table) = (connect()?, table_name(network));
    let mut wanted = port_elements(ports, addresses, owner);
    for map in PORT_MAPS {
        let elements = netfilter.list(&table, map)?.unwrap_or_default();
        wanted.retain(|(of, element)| *of != map || !elements.contains(element));
    }
    Ok(wanted.is_empty())
}

/// The open ports and whose they are. One for all addresses of the node is there for each family.
pub(crate) fn all(network: &str) -> Result<Vec<(String, PortMapping)>, NetworkError> {
    let Some(netfilter) = connect_if_any()? else {
        return Ok(Vec::new());
    };
    let mut all = Vec::new();
    for map in PORT_MAPS {
        let elements = netfilter.list(&table_name(network), map)?.unwrap_or_default();
        let owned = |element: Element| Some((element.owner.clone()?, mapping_of(map, &element)?));
        all.extend(elements.into_iter().filter_map(owned));
    }
    Ok(all)
}

pub(crate) fn connect() -> Result<Netfilter, NetworkError> {
    Netfilter::open().map_err(NetworkError::Socket)
}

/// No netfilter in the kernel, no ports to look for.
pub(crate) fn connect_if_any() -> Result<Option<Netfilter>, NetworkError> {
    match Netfilter::open() {
        Ok(netfilter) => Ok(Some(netfilter)),
        Err(error) if error.raw_os_error() == Some(Errno::EPROTONOSUPPORT as i32) => Ok(None),
        Err(error) => Err(NetworkError::Socket(error)),
    }
}
