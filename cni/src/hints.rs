//! The pools of a node as the bytes of their file. Every attach reads and writes all of them, so they are made for that:
//! records of one length behind a word that says how many they are, a range's before those of its addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{
    cidr::Cidr,
    ipam::{Entry, Pool},
};

/// First in the file. Another form has another one.
const FORM: [u8; 4] = *b"ipam";
const HEAD: usize = 8;
/// A number, a kind, a prefix length, two bytes that mean nothing, and what the kind says.
const RECORD: usize = 24;
const RANGE_V4: u8 = 4;
const RANGE_V6: u8 = 6;
const HELD: u8 = 1;
const COOLING: u8 = 2;

/// The pools by range.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Pools {
    pools: Vec<(Cidr, Pool)>,
}

impl Pools {
    /// Reads [`Self::to_bytes`]. Whatever else stands there, because its writer was killed or it is another version's, is no
    /// pools.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let records = bytes.split_at_checked(HEAD).and_then(|(head, records)| {
            let (records, rest) = records.as_chunks();
            (rest.is_empty() && head == self::head(records.len())).then_some(records)
        });
        records.and_then(Self::of_records).unwrap_or_default()
    }

    fn of_records(records: &[[u8; RECORD]]) -> Option<Self> {
        let mut all = Self::default();
        for (place, record) in records.iter().enumerate() {
            let number = u32::from_le_bytes(*record.first_chunk()?);
            let (kind, prefix, what) = (record[4], record[5], record.last_chunk::<16>()?);
            let network = match kind {
                RANGE_V4 => IpAddr::V4(Ipv4Addr::from(*what.first_chunk()?)),
                RANGE_V6 => IpAddr::V6(Ipv6Addr::from(*what)),
                HELD => {
                    all.pools.last_mut()?.1.set(number, Entry::Held(*what));
                    continue;
                }
                COOLING => {
                    let released = u64::from_le_bytes(*what.first_chunk()?);
                    all.pools.last_mut()?.1.set(number, Entry::Cooling(released));
                    continue;
                }
                _ => return None,
            };
            let pool = all.pool(&Cidr::containing(network, prefix)?);
            pool.next = number;
            // At once for all that can be its own.
            pool.expect(records.len() - place);
        }
        Some(all)
    }

    /// The pool of a range, made when it is missed.
    pub(crate) fn pool(&mut self, cidr: &Cidr) -> &mut Pool {
        let place = self.pools.iter().position(|(of, _)| of == cidr);
        let place = place.unwrap_or_else(|| {
            self.pools.push((*cidr, Pool::default()));
            self.pools.len() - 1
        });
        &mut self.pools[place].1
    }

    /// All pools.
    pub(crate) fn all(&mut self) -> impl Iterator<Item = &mut Pool> {
        self.pools.iter_mut().map(|(_, pool)| pool)
    }

    /// As the bytes of the file.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let count = self.pools.iter().map(|(_, pool)| 1 + pool.entries().len()).sum();
        let mut bytes = Vec::with_capacity(HEAD + count * RECORD);
        bytes.extend(head(count));
        for (cidr, pool) in &self.pools {
            let (kind, network) = match cidr.network() {
                IpAddr::V4(v4) => (RANGE_V4, padded(&v4.octets())),
                IpAddr::V6(v6) => (RANGE_V6, v6.octets()),
            };
            bytes.extend_from_slice(&record(pool.next, kind, cidr.prefix(), network));
            for (offset, entry) in pool.entries() {
                bytes.extend_from_slice(&match entry {
                    Entry::Held(holder) => record(*offset, HELD, 0, *holder),
                    Entry::Cooling(released) => record(*offset, COOLING, 0, padded(&released.to_le_bytes())),
                });
            }
        }
        bytes
    }
}

fn head(count: usize) -> [u8; HEAD] {
    let [a, b, c, d] = FORM;
    let [e, f, g, h] = u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes();
    [a, b, c, d, e, f, g, h]
}

fn record(number: u32, kind: u8, prefix: u8, what: [u8; 16]) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[..4].copy_from_slice(&number.to_le_bytes());
    (record[4], record[5]) = (kind, prefix);
    record[8..].copy_from_slice(&what);
    record
}

fn padded(bytes: &[u8]) -> [u8; 16] {
    let mut padded = [0; 16];
    padded[..bytes.len()].copy_from_slice(bytes);
    padded
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cidr() -> Cidr {
        "10.0.0.0/28".parse().unwrap()
    }

    #[test]
    fn what_is_not_whole_is_no_pools() {
        let mut pools = Pools::default();
        pools.pool(&cidr()).take(&cidr(), "a", 7);
        pools.pool(&"fd00::/64".parse().unwrap());
        let bytes = pools.to_bytes();
        assert_eq!(Pools::parse(&bytes), pools);
        for length in 0..bytes.len() {
            assert_eq!(Pools::parse(&bytes[..length]), Pools::default(), "{length}");
        }
        let longer = [&bytes[..], &[0; RECORD]].concat();
        assert_eq!(Pools::parse(&longer), Pools::default());
        let headless = [&head(1)[..], &record(2, HELD, 0, [0; 16])].concat();
        assert_eq!(Pools::parse(&headless), Pools::default());
    }

    proptest! {
        #[test]
        fn pools_survive_their_own_bytes(links in prop::collection::vec("[a-z]{1,15}", 0..20)) {
            let mut pools = Pools::default();
            for link in &links {
                pools.pool(&cidr()).take(&cidr(), link, 7);
                pools.all().for_each(|pool| pool.release(links.first().unwrap(), 8));
            }
            prop_assert_eq!(Pools::parse(&pools.to_bytes()), pools);
        }

        #[test]
        fn no_bytes_make_the_reader_panic(
            records in prop::collection::vec((any::<u32>(), 0u8..8, 0u8..140, any::<[u8; 16]>()), 0..20),
            count in 0usize..20,
        ) {
            let records = records.into_iter().map(|(number, kind, prefix, what)| record(number, kind, prefix, what));
            let records: Vec<_> = records.collect();
            Pools::parse(&[&head(count)[..], records.as_flattened()].concat());
            Pools::parse(&[&head(records.len())[..], records.as_flattened()].concat());
        }
    }
}
