//! What is found out about one port of a Service, and which of its backends each kind of client gets.

use std::net::IpAddr;

use super::super::ServicePort;
use super::super::topology::{Backends, Categories, Policies};

/// One port.
pub(super) struct Found {
    pub(super) owner: ServicePort,
    pub(super) policies: Policies,
    /// Of IPv4 and of IPv6: each family is a Service of its own.
    pub(super) categories: [Categories; 2],
}

impl Found {
    pub(super) fn of(&self, address: IpAddr) -> &Categories {
        &self.categories[usize::from(address.is_ipv6())]
    }

    pub(super) fn cluster(&self, address: IpAddr) -> (Backends, bool) {
        (self.of(address).cluster.clone().unwrap_or_default(), false)
    }

    fn local(&self, address: IpAddr) -> (Backends, bool) {
        (self.of(address).local.clone().unwrap_or_default(), true)
    }

    pub(super) fn inside(&self, address: IpAddr) -> (Backends, bool) {
        if self.policies.internal_local {
            self.local(address)
        } else {
            self.cluster(address)
        }
    }

    pub(super) fn outside(&self, address: IpAddr) -> (Backends, bool) {
        if self.policies.external_local {
            self.local(address)
        } else {
            self.cluster(address)
        }
    }
}
