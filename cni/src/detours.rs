//! Detours of the node's own packets of SCTP: to addresses of Services, which no link has, by `lo`, where a program sees them.
//! No other protocol is touched, and no packet of anybody else.
//!
//! ```text
//! 132: from all iif lo ipproto sctp lookup 132132      for both families
//! 132: from all ipproto sctp fwmark 0x3 nop            IPv4; the number says which settings of lo are ours
//! table 132132: 10.96.0.1 dev lo src 192.0.2.1 mtu 1500, local fd00:96::1 dev lo src 2001:db8::1 mtu 1500
//! ```
//!
//! An answer comes in by `lo` under the Service's address. The kernel checks its source (`rp_filter`) by the same rule, if it
//! knows then which protocol the packet is of; it looks for that only where a rule for packets of others asks for it, which is
//! what the second rule is for.

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use nix::errno::Errno;

use crate::{
    answer::{decode_detour, decode_mark},
    message::Table,
    netlink::Connection,
    observe,
    pod_network::{NetworkError, connect},
    step::{DetourRule, LinkStep},
    sysctl,
};

/// What `lo` has to take for packets that come in by it without having left by it: sources that are the node's own,
/// loopback addresses, and packets for others.
///
/// Not IPv6's `forwarding`: each writing of a 1 to it makes the node forget the routes that routers told it. Where a node does
/// not forward IPv6 on all links, the program hands nothing on, and the kernel does (`force_forwarding`, Linux 6.17).
const SETTINGS: [&str; 4] = [
    "/proc/sys/net/ipv4/conf/lo/accept_local",
    "/proc/sys/net/ipv4/conf/lo/route_localnet",
    "/proc/sys/net/ipv4/conf/lo/forwarding",
    "/proc/sys/net/ipv6/conf/lo/force_forwarding",
];
const FOLLOW: [DetourRule; 2] = [
    DetourRule::Follow { is_ipv4: true },
    DetourRule::Follow { is_ipv4: false },
];
/// Where nothing says how large packets may be.
const USUAL_MTU: u32 = 1500;

/// Under which source, and how large at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// An address of the node.
    pub source: IpAddr,
    /// Bytes.
    pub mtu: u32,
}

/// The detours of the network namespace of the calling thread.
#[derive(Debug)]
pub struct Detours(Connection);

impl Detours {
    /// Opens a way to the kernel.
    ///
    /// # Errors
    /// When it has none for us.
    pub fn open() -> Result<Self, NetworkError> {
        Ok(Self(connect()?))
    }

    /// The detours that there are, by their destinations.
    ///
    /// # Errors
    /// When the kernel's tables can't be read.
    pub fn list(&self) -> Result<BTreeMap<IpAddr, Way>, NetworkError> {
        let mut routes = self.0.dump(Table::DetoursV4).map_err(NetworkError::Look)?;
        routes.extend(self.0.dump(Table::DetoursV6).map_err(NetworkError::Look)?);
        let ways = routes.iter().filter_map(|route| decode_detour(route));
        Ok(ways.map(|(to, source, mtu)| (to, Way { source, mtu })).collect())
    }

    /// Bytes of the largest packet that all pods' links and the ways off the node take.
    ///
    /// # Errors
    /// When the kernel's tables can't be read.
    pub fn mtu(&self) -> Result<u32, NetworkError> {
        Ok(observe::node_mtu(&self.0)?.unwrap_or(USUAL_MTU))
    }

    /// Has detours followed, and answers taken.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn begin(&self) -> Result<(), NetworkError> {
        if self.changed()?.is_none() {
            let off = |(place, setting): (usize, &&str)| {
                let is_off = sysctl::read(Path::new(setting)).as_deref() == Some("0");
                u32::from(is_off) << place
            };
            let mark = SETTINGS.iter().enumerate().map(off).sum();
            let rule = DetourRule::Know { mark };
            self.0.perform(&[LinkStep::AddRule { rule }], None)?;
        }
        for setting in SETTINGS.map(Path::new) {
            if sysctl::read(setting).as_deref() == Some("0") {
                sysctl::write(setting, "1")?;
            }
        }
        self.each_rule(|rule| LinkStep::AddRule { rule })
    }

    /// Takes back what [`Self::begin`] did, and forgets all detours.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn end(&self) -> Result<(), NetworkError> {
        self.each_rule(|rule| LinkStep::RemoveRule { rule })?;
        for to in self.list()?.into_keys() {
            self.forget(to)?;
        }
        let Some(changed) = self.changed()? else {
            return Ok(());
        };
        for (place, setting) in SETTINGS.iter().enumerate() {
            let setting = Path::new(setting);
            if changed >> place & 1 == 1 && sysctl::read(setting).as_deref() != Some("0") {
                sysctl::write(setting, "0")?;
            }
        }
        let rule = DetourRule::Know { mark: changed };
        Ok(self.0.perform(&[LinkStep::RemoveRule { rule }], None).map(drop)?)
    }

    /// Makes a detour, in the place of another one to the same address.
    ///
    /// # Errors
    /// When the kernel refuses: the source is not an address of the node.
    pub fn route(&self, to: IpAddr, way: Way) -> Result<(), NetworkError> {
        let Way { source, mtu } = way;
        let step = LinkStep::AddDetour { to, source, mtu };
        Ok(self.0.perform(&[step], None).map(drop)?)
    }

    /// Forgets a detour.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn forget(&self, to: IpAddr) -> Result<(), NetworkError> {
        Ok(self.0.perform(&[LinkStep::RemoveDetour { to }], None).map(drop)?)
    }

    /// Which settings were off before; `None` where nothing has begun, and with a kernel that has no rules.
    fn changed(&self) -> Result<Option<u32>, NetworkError> {
        match self.0.dump(Table::Rules) {
            Ok(rules) => Ok(rules.iter().find_map(|rule| decode_mark(rule))),
            Err(refusal) if matches!(refusal.errno, Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT) => Ok(None),
            Err(refusal) => Err(NetworkError::Look(refusal)),
        }
    }

    /// One by one: a kernel without IPv6 refuses what is about it.
    fn each_rule(&self, step: impl Fn(DetourRule) -> LinkStep) -> Result<(), NetworkError> {
        for rule in FOLLOW {
            self.0.perform(&[step(rule)], None)?;
        }
        Ok(())
    }
}
