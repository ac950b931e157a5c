//! A range of addresses in CIDR notation. Not an allocator: that is `ipam`.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// A network such as `10.244.0.0/24` or `fd00:10:244::/64`; the host bits are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    network: IpAddr,
    prefix: u8,
}

/// Why a text is no [`Cidr`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// Not `address/prefix`.
    #[error("{0:?} is not an address, a slash and a prefix length")]
    Malformed(String),
    /// The prefix is longer than the address.
    #[error("{0:?} has a prefix length above {1}")]
    Prefix(String, u8),
    /// The address has bits set behind the prefix.
    #[error("{given:?} has host bits set; the network is {network}")]
    HostBits {
        /// The text as given.
        given: String,
        /// The network that the text lies in.
        network: Cidr,
    },
}

impl Cidr {
    /// The network of `prefix` bits that `address` lies in; `None` when the prefix is longer than the address.
    pub fn containing(address: IpAddr, prefix: u8) -> Option<Self> {
        let network = match address {
            IpAddr::V4(v4) => {
                let host_bits = 32u32.checked_sub(prefix.into())?;
                IpAddr::V4(Ipv4Addr::from_bits(
                    v4.to_bits() & u32::MAX.checked_shl(host_bits).unwrap_or(0),
                ))
            }
            IpAddr::V6(v6) => {
                let host_bits = 128u32.checked_sub(prefix.into())?;
                IpAddr::V6(Ipv6Addr::from_bits(clear_low(v6.to_bits(), host_bits)))
            }
        };
        Some(Self { network, prefix })
    }

    /// The first address, with all host bits zero.
    pub fn network(&self) -> IpAddr {
        self.network
    }

    /// The count of fixed leading bits.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether the range is of IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.network.is_ipv4()
    }

    /// Whether `address` is of this family and lies in the range.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_ipv4() && Self::containing(address, self.prefix) == Some(*self)
    }

    /// Whether the two ranges share an address.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.network) || other.contains(self.network)
    }

    /// The last offset into the range: its size minus one.
    pub fn last_offset(&self) -> u128 {
        let bits = if self.is_ipv4() { 32 } else { 128 };
        !clear_low(u128::MAX, bits - u32::from(self.prefix))
    }

    /// The address `offset` places behind [`Self::network`]; `None` behind the end of the range.
    pub fn address(&self, offset: u128) -> Option<IpAddr> {
        if offset > self.last_offset() {
            return None;
        }
        Some(match self.network {
            IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() + u32::try_from(offset).ok()?)),
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() + offset)),
        })
    }

    /// How far `address` lies behind [`Self::network`]; `None` outside of the range.
    pub fn offset(&self, address: IpAddr) -> Option<u128> {
        if !self.contains(address) {
            return None;
        }
        match (self.network, address) {
            (IpAddr::V4(network), IpAddr::V4(v4)) => Some((v4.to_bits() - network.to_bits()).into()),
            (IpAddr::V6(network), IpAddr::V6(v6)) => Some(v6.to_bits() - network.to_bits()),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
        }
    }
}

/// `bits` with its lowest `count` bits cleared.
fn clear_low(bits: u128, count: u32) -> u128 {
    bits & u128::MAX.checked_shl(count).unwrap_or(0)
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let malformed = || CidrError::Malformed(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(malformed)?;
        let address: IpAddr = address.parse().map_err(|_| malformed())?;
        if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_digit()) {
            return Err(malformed());
        }
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let cidr = prefix.parse().ok().and_then(|prefix| Self::containing(address, prefix));
        let cidr = cidr.ok_or_else(|| CidrError::Prefix(text.to_owned(), longest))?;
        if cidr.network != address {
            return Err(CidrError::HostBits {
                given: text.to_owned(),
                network: cidr,
            });
        }
        Ok(cidr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_ranges_and_back() {
        for text in [
            "10.244.0.0/24",
            "0.0.0.0/0",
            "10.0.0.1/32",
            "fd00:10:244::/64",
            "::/0",
            "fd00::1/128",
        ] {
            assert_eq!(text.parse::<Cidr>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn wrong_texts_are_refused_with_the_reason() {
        for (text, reason) in [
            ("10.244.0.0", "not an address, a slash"),
            ("10.244.0/24", "not an address, a slash"),
            ("10.244.0.0/", "not an address, a slash"),
            ("10.244.0.0/+8", "not an address, a slash"),
            ("10.244.0.0/33", "above 32"),
            ("fd00::/129", "above 128"),
            ("10.244.0.0/99999999", "above 32"),
            ("10.244.0.1/24", "the network is 10.244.0.0/24"),
        ] {
            let error = text.parse::<Cidr>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn offsets_and_addresses_are_inverse_within_the_range() {
        let cidr: Cidr = "10.244.0.0/30".parse().unwrap();
        assert_eq!(cidr.last_offset(), 3);
        assert_eq!(cidr.address(3), Some("10.244.0.3".parse().unwrap()));
        assert_eq!(cidr.address(4), None);
        assert_eq!(cidr.offset("10.244.0.2".parse().unwrap()), Some(2));
        assert_eq!(cidr.offset("10.244.0.4".parse().unwrap()), None);
        assert_eq!(cidr.offset("::1".parse().unwrap()), None);
        let whole: Cidr = "::/0".parse().unwrap();
        assert_eq!(whole.last_offset(), u128::MAX);
    }

    #[test]
    fn ranges_overlap_when_one_holds_the_other() {
        let cidr = |text: &str| text.parse::<Cidr>().unwrap();
        assert!(cidr("10.0.0.0/8").overlaps(&cidr("10.244.0.0/24")));
        assert!(cidr("10.244.0.0/24").overlaps(&cidr("10.0.0.0/8")));
        assert!(!cidr("10.244.0.0/24").overlaps(&cidr("10.244.1.0/24")));
        assert!(!cidr("::/0").overlaps(&cidr("0.0.0.0/0")));
    }
}
