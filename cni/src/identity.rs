//! How an attachment is written on its link, so that the kernel's tables are the only record of it.
//!
//! The host's end is named after a hash of (container id, ifname), so that everybody finds it without a search. Its alias
//! says in plain text whose it is. Each address is an alternative name of it: the kernel keeps names unique, so no two
//! links can hold one address, whatever processes race or die.

use std::{
    hash::Hasher,
    net::{IpAddr, Ipv6Addr},
};

use crate::{
    bandwidth::{Bandwidth, Rate},
    step::Mac,
};

/// Leads every host link's name.
const NAME_PREFIX: &str = "orl";
/// Leads every alias.
const ALIAS_PREFIX: &str = "orlop:";
/// Leads every alternative name that stands for an address.
const ADDRESS_PREFIX: &str = "orlop-";
/// Leads the alternative name that stands for a hardware address that was asked for.
const MAC_PREFIX: &str = "orlmac-";
/// Leads the alternative name that stands for limits that were asked for.
const LIMITS_PREFIX: &str = "orlbits-";
/// `IFALIASZ - 1`: longest alias that the kernel takes, in bytes.
const ALIAS_BYTES_MAX: usize = 255;
/// `IFNAMSIZ - 1`: longest link name, in bytes.
const IFNAME_BYTES_MAX: usize = 15;
/// `IFLA_GROUP` of every host link; spells "orl".
pub const GROUP: u32 = 0x6f_72_6c;
/// `rtm_protocol` of every route but those to peers; none of those that iproute2's `rt_protos` names.
pub const ROUTE_PROTOCOL: u8 = 111;
/// `rtm_protocol` of the routes to peers, which are asked for by it: a node has few of them and many to pods.
pub const PEER_PROTOCOL: u8 = 112;
/// Protocol of detours and their rules, see [`crate::detours`].
pub const DETOUR_PROTOCOL: u8 = 113;

/// Whose a link is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// Name of the network.
    pub network: String,
    /// Id of the container or pod.
    pub container_id: String,
    /// Name of the link inside the pod's namespace.
    pub ifname: String,
}

impl Identity {
    /// Checks the three names by the CNI specification's rules and the kernel's lengths.
    ///
    /// # Errors
    /// A sentence that names the wrong part.
    pub fn new(network: &str, container_id: &str, ifname: &str) -> Result<Self, String> {
        if !is_name(network) {
            return Err(format!(
                "network name {network:?} is not of the form [A-Za-z0-9][A-Za-z0-9_.-]*"
            ));
        }
        if !is_name(container_id) {
            return Err(format!(
                "container id {container_id:?} is not of the form [A-Za-z0-9][A-Za-z0-9_.-]*"
            ));
        }
        check_ifname(ifname)?;
        let identity = Self {
            network: network.to_owned(),
            container_id: container_id.to_owned(),
            ifname: ifname.to_owned(),
        };
        if identity.alias().len() > ALIAS_BYTES_MAX {
            return Err(format!(
                "network name {network:?} and container id {container_id:?} together are too long for a link's alias \
                 of {ALIAS_BYTES_MAX} bytes"
            ));
        }
        Ok(identity)
    }

    /// The text on the link: `orlop:<network>/<container id>/<ifname>`.
    pub fn alias(&self) -> String {
        format!("{ALIAS_PREFIX}{}/{}/{}", self.network, self.container_id, self.ifname)
    }

    /// Reads [`Self::alias`] back; `None` for anybody else's text.
    pub fn from_alias(alias: &str) -> Option<Self> {
        let mut parts = alias.strip_prefix(ALIAS_PREFIX)?.splitn(3, '/');
        Self::new(parts.next()?, parts.next()?, parts.next()?).ok()
    }

    /// Name of the host's end.
    pub fn host_link(&self) -> String {
        host_link(&self.container_id, &self.ifname)
    }
}

/// Name of the host's end for a container and ifname: 60 bits of hash in 12 letters, the same in every version.
pub fn host_link(container_id: &str, ifname: &str) -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let hash = fnv1a([container_id.as_bytes(), b"/", ifname.as_bytes()].concat().as_slice());
    let letter = |place: u32| LETTERS[usize::from((hash >> (5 * place)).to_le_bytes()[0] & 31)];
    let letters = (0..12).map(|place| char::from(letter(place)));
    NAME_PREFIX.chars().chain(letters).collect()
}

/// FNV-1a, 64 bits: fixed for ever, unlike std's hashers. <https://www.rfc-editor.org/rfc/rfc9923>
pub(crate) struct Fnv1a(u64);

impl Default for Fnv1a {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv1a {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// [`Fnv1a`] of some bytes.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    let mut hasher = Fnv1a::default();
    hasher.write(bytes);
    hasher.finish()
}

/// The alternative link name that stands for an address. A name has no colon, so IPv6 is written with hyphens.
pub fn address_name(address: IpAddr) -> String {
    format!("{ADDRESS_PREFIX}{}", address.to_string().replace(':', "-"))
}

/// Reads [`address_name`] back; `None` for any other name.
pub fn address_of_name(name: &str) -> Option<IpAddr> {
    let text = name.strip_prefix(ADDRESS_PREFIX)?;
    match text.contains('-') {
        true => text.replace('-', ":").parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        false => text.parse().ok(),
    }
}

/// The alternative link name that keeps a hardware address that was asked for; the link's own name makes it unique.
pub fn mac_name(mac: Mac, host_link: &str) -> String {
    let digits: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{MAC_PREFIX}{digits}-{host_link}")
}

/// Reads [`mac_name`] back; `None` for any other name.
pub fn mac_of_name(name: &str) -> Option<Mac> {
    let (digits, _) = name.strip_prefix(MAC_PREFIX)?.split_once('-')?;
    let byte = |place: usize| u8::from_str_radix(digits.get(2 * place..2 * place + 2)?, 16).ok();
    let mac = [byte(0)?, byte(1)?, byte(2)?, byte(3)?, byte(4)?, byte(5)?];
    (digits.len() == 12).then_some(mac)
}

/// The alternative link name that keeps limits that were asked for: bits a second and of a burst, of what the pod receives
/// and of what it sends. The link's own name makes it unique.
pub fn limits_name(bandwidth: Bandwidth, host_link: &str) -> String {
    let part = |rate: Option<Rate>| {
        rate.map_or_else(String::new, |rate| {
            format!("{}.{}", rate.bits_per_second, rate.burst_bits)
        })
    };
    format!(
        "{LIMITS_PREFIX}{}-{}-{host_link}",
        part(bandwidth.ingress),
        part(bandwidth.egress)
    )
}

/// Reads [`limits_name`] back; `None` for any other name.
pub fn limits_of_name(name: &str) -> Option<Bandwidth> {
    let mut parts = name.strip_prefix(LIMITS_PREFIX)?.splitn(3, '-');
    let mut part = || match parts.next()? {
        "" => Some(None),
        text => {
            let (rate, burst) = text.split_once('.')?;
            Some(Some(Rate {
                bits_per_second: rate.parse().ok()?,
                burst_bits: burst.parse().ok()?,
            }))
        }
    };
    Some(Bandwidth {
        ingress: part()?,
        egress: part()?,
    })
}

/// Whether the text is what CNI allows for network names and container ids.
pub fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// Whether the kernel would take `ifname` as a link's name (`dev_valid_name`).
///
/// # Errors
/// A sentence that says what is wrong.
pub fn check_ifname(ifname: &str) -> Result<(), String> {
    let wrong = if ifname.is_empty() {
        "is empty"
    } else if ifname.len() > IFNAME_BYTES_MAX {
        "is longer than 15 bytes"
    } else if matches!(ifname, "." | "..") {
        "is a directory's name"
    } else if ifname.contains(|c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace()) {
        "has a slash, a colon or white space"
    } else {
        return Ok(());
    };
    Err(format!("interface name {ifname:?} {wrong}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn host_link_names_never_change() {
        assert_eq!(host_link("abc", "eth0"), "orl5gcn2iz3jtgm");
        assert_ne!(host_link("abc", "eth0"), host_link("abc", "eth1"));
        assert_eq!(host_link(&"x".repeat(200), "eth0").len(), IFNAME_BYTES_MAX);
    }

    #[test]
    fn wrong_names_are_refused() {
        for (network, id, ifname, reason) in [
            ("", "a", "eth0", "network name"),
            ("net", "-a", "eth0", "container id"),
            ("net", "a/b", "eth0", "container id"),
            ("net", "a", "", "empty"),
            ("net", "a", "sixteen-bytes-ab", "15 bytes"),
            ("net", "a", "..", "directory"),
            ("net", "a", "a b", "white space"),
            ("net", "a", "a:b", "colon"),
            ("net", &"a".repeat(250), "eth0", "too long"),
        ] {
            let error = Identity::new(network, id, ifname).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn other_aliases_are_nobodys() {
        for alias in ["", "orlop:", "orlop:a/b", "uplink", "orlop:a/b/c/d", "orlop:a//c"] {
            assert_eq!(Identity::from_alias(alias), None, "{alias}");
        }
    }

    proptest! {
        #[test]
        fn aliases_are_read_back(network in "[A-Za-z0-9][A-Za-z0-9_.-]{0,20}", id in "[A-Za-z0-9][A-Za-z0-9_.-]{0,80}") {
            let identity = Identity::new(&network, &id, "eth0").unwrap();
            prop_assert_eq!(Identity::from_alias(&identity.alias()), Some(identity));
        }

        #[test]
        fn hardware_addresses_are_read_back_from_valid_link_names(mac: Mac) {
            let name = mac_name(mac, "orl5gcn2iz3jtgm");
            prop_assert!(!name.contains([':', '/', ' ']) && name.len() < 128);
            prop_assert_eq!(mac_of_name(&name), Some(mac));
            prop_assert_eq!(address_of_name(&name), None);
        }

        #[test]
        fn limits_are_read_back_from_valid_link_names(ingress: Option<(u64, u64)>, egress: Option<(u64, u64)>) {
            let rate = |(bits_per_second, burst_bits)| Rate { bits_per_second, burst_bits };
            let bandwidth = Bandwidth { ingress: ingress.map(rate), egress: egress.map(rate) };
            let name = limits_name(bandwidth, "orl5gcn2iz3jtgm");
            prop_assert!(!name.contains([':', '/', ' ']) && name.len() < 128);
            prop_assert_eq!(limits_of_name(&name), Some(bandwidth));
            prop_assert_eq!((address_of_name(&name), mac_of_name(&name)), (None, None));
        }

        #[test]
        fn addresses_are_read_back_from_valid_link_names(address: IpAddr) {
            let name = address_name(address);
            prop_assert!(!name.contains([':', '/', ' ']) && name.len() < 128);
            prop_assert_eq!(address_of_name(&name), Some(address));
        }
    }
}
