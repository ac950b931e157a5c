//! Frames, made and read with all their checksums.

use std::net::{IpAddr, SocketAddr};

/// An Ethernet frame with an IP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) transport: Transport,
    pub(crate) payload: Vec<u8>,
    /// Words of IPv4 options, or extension headers of IPv6.
    pub(crate) options: usize,
    /// Whether a UDP datagram has a checksum, or a packet of SCTP does already.
    pub(crate) has_check: bool,
    /// Identification, offset in bytes, and whether more follow.
    pub(crate) piece: Option<(u16, u16, bool)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// With these flags.
    Tcp(u8),
    Udp,
    /// With a first chunk of this type.
    Sctp(u8),
    /// An ICMP error; the payload is what it quotes.
    Error,
    /// The later piece of a packet: the payload is all there is.
    Rest(u8),
}

impl Frame {
    pub(crate) fn tcp(from: SocketAddr, to: SocketAddr, flags: u8) -> Self {
        Self::new(from, to, Transport::Tcp(flags), &[])
    }

    pub(crate) fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Self {
        Self::new(from, to, Transport::Udp, payload)
    }

    /// The chunk's header is all that is in it but for the payload.
    pub(crate) fn sctp(from: SocketAddr, to: SocketAddr, kind: u8) -> Self {
        Self::new(from, to, Transport::Sctp(kind), &[])
    }

    /// The same to another destination.
    pub(crate) fn towards(self, to: SocketAddr) -> Self {
        Self { to, ..self }
    }

    /// An ICMP error about another packet, whose header it quotes.
    pub(crate) fn error(from: IpAddr, to: IpAddr, about: &Frame) -> Self {
        let quoted = about.bytes();
        let length = (quoted.len() - ETHERNET).min(64);
        let quoted = &quoted[ETHERNET..ETHERNET + length];
        Self::new(
            SocketAddr::new(from, 0),
            SocketAddr::new(to, 0),
            Transport::Error,
            quoted,
        )
    }

    /// Around what follows the network header of a packet of SCTP.
    pub(crate) fn around(segment: &[u8], from: IpAddr, to: IpAddr) -> Self {
        let nobody = |address| SocketAddr::new(address, 0);
        Self::parse(&Self::new(nobody(from), nobody(to), Transport::Rest(132), segment).bytes())
    }

    fn new(from: SocketAddr, to: SocketAddr, transport: Transport, payload: &[u8]) -> Self {
        Self {
            from,
            to,
            transport,
            payload: payload.into(),
            options: 0,
            has_check: true,
            piece: None,
        }
    }

    pub(crate) fn with_payload(self, payload: &[u8]) -> Self {
        Self {
            payload: payload.into(),
            ..self
        }
    }

    /// The two pieces of a datagram; the first has `at` bytes behind the network header.
    pub(crate) fn pieces(&self, number: u16, at: u16) -> [Frame; 2] {
        let bytes = self.bytes();
        let rest = bytes[ETHERNET + self.network_length() + usize::from(at)..].to_vec();
        let first = Frame {
            piece: Some((number, 0, true)),
            payload: self.payload[..usize::from(at) - 8].to_vec(),
            has_check: false,
            ..self.clone()
        };
        let nobody = |address: SocketAddr| SocketAddr::new(address.ip(), 0);
        let last = Frame {
            from: nobody(self.from),
            to: nobody(self.to),
            transport: Transport::Rest(17),
            payload: rest,
            piece: Some((number, at, false)),
            ..self.clone()
        };
        [first, last]
    }

    fn network_length(&self) -> usize {
        let extensions = self.options * if self.from.is_ipv6() { 8 } else { 4 };
        let fragment = if self.from.is_ipv6() && self.piece.is_some() {
            8
        } else {
            0
        };
        extensions + fragment + if self.from.is_ipv6() { 40 } else { 20 }
    }

    /// Who an error says the packet was from, and whom it was for.
    pub(crate) fn quoted(&self) -> (SocketAddr, SocketAddr) {
        assert_eq!(self.transport, Transport::Error);
        let (from, to, start, _) = network(&self.payload);
        let port = |at: usize| u16::from_be_bytes([self.payload[at], self.payload[at + 1]]);
        if self.payload[0] >> 4 == 4 {
            assert_eq!(
                fold(sum(&self.payload[..start])),
                0xffff,
                "the quoted header's checksum"
            );
        }
        (SocketAddr::new(from, port(start)), SocketAddr::new(to, port(start + 2)))
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let segment = self.segment();
        let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                bytes.extend([8, 0]);
                let header = 20 + 4 * self.options;
                let length = u16::try_from(header + segment.len()).unwrap().to_be_bytes();
                let (number, offset, more) = self.piece.unwrap_or_default();
                let fragment = (offset / 8) | (u16::from(more) << 13);
                let mut network = vec![0x40 | u8::try_from(header / 4).unwrap(), 0, length[0], length[1]];
                network.extend(number.to_be_bytes());
                network.extend(fragment.to_be_bytes());
                network.extend([64, self.number(), 0, 0]);
                network.extend(from.octets());
                network.extend(to.octets());
                network.resize(header, 1);
                let check = (!fold(sum(&network))).to_be_bytes();
                network[10..12].copy_from_slice(&check);
                bytes.extend(network);
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                bytes.extend([0x86, 0xdd]);
                let extensions = self.extensions();
                let length = u16::try_from(extensions.len() + segment.len()).unwrap().to_be_bytes();
                let first = match (self.options, self.piece) {
                    (0, None) => self.number(),
                    (0, Some(_)) => 44,
                    _ => 0,
                };
                bytes.extend([0x60, 0, 0, 0, length[0], length[1], first, 64]);
                bytes.extend(from.octets());
                bytes.extend(to.octets());
                bytes.extend(extensions);
            }
            _ => panic!("one family"),
        }
        bytes.extend(segment);
        bytes
    }

    /// Hop-by-hop first, then destination options, then the fragment header.
    fn extensions(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for index in 0..self.options {
            let next = match (index + 1 == self.options, self.piece) {
                (false, _) => 60,
                (true, Some(_)) => 44,
                (true, None) => self.number(),
            };
            bytes.extend([next, 0, 1, 4, 0, 0, 0, 0]);
        }
        if let Some((number, offset, more)) = self.piece {
            let place = (offset | u16::from(more)).to_be_bytes();
            let number = u32::from(number).to_be_bytes();
            bytes.extend([self.number(), 0, place[0], place[1]]);
            bytes.extend(number);
        }
        bytes
    }

    fn number(&self) -> u8 {
        match self.transport {
            Transport::Tcp(_) => 6,
            Transport::Udp => 17,
            Transport::Sctp(_) => 132,
            Transport::Error => {
                if self.from.is_ipv6() {
                    58
                } else {
                    1
                }
            }
            Transport::Rest(number) => number,
        }
    }

    /// What follows the network header.
    pub(crate) fn segment(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let check_at = match self.transport {
            Transport::Rest(_) => return self.payload.clone(),
            Transport::Tcp(flags) => {
                bytes.extend(self.from.port().to_be_bytes());
                bytes.extend(self.to.port().to_be_bytes());
                bytes.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 1, 0, 0, 0, 0, 0]);
                16
            }
            Transport::Udp => {
                let length = u16::try_from(8 + self.payload.len()).unwrap();
                bytes.extend(self.from.port().to_be_bytes());
                bytes.extend(self.to.port().to_be_bytes());
                bytes.extend(length.to_be_bytes());
                bytes.extend([0, 0]);
                6
            }
            Transport::Sctp(kind) => {
                bytes.extend(self.from.port().to_be_bytes());
                bytes.extend(self.to.port().to_be_bytes());
                bytes.extend([0, 0, 0, 7, 0, 0, 0, 0, kind, 0, 0, 4]);
                8
            }
            Transport::Error => {
                let kind = if self.from.is_ipv6() { [2, 0] } else { [3, 4] };
                bytes.extend(kind);
                bytes.extend([0, 0, 0, 0, 5, 0]);
                2
            }
        };
        bytes.extend(&self.payload);
        if self.has_check && matches!(self.transport, Transport::Sctp(_)) {
            let check = crc32c(&bytes).to_le_bytes();
            bytes[8..12].copy_from_slice(&check);
        } else if self.has_check {
            let check = (!fold(self.pseudo(bytes.len()) + sum(&bytes))).to_be_bytes();
            bytes[check_at..check_at + 2].copy_from_slice(&check);
        }
        bytes
    }

    fn pseudo(&self, length: usize) -> u64 {
        let rest = u64::from(self.number()) + length as u64;
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(_), IpAddr::V4(_)) if self.transport == Transport::Error => 0,
            (IpAddr::V4(from), IpAddr::V4(to)) => sum(&from.octets()) + sum(&to.octets()) + rest,
            (IpAddr::V6(from), IpAddr::V6(to)) => sum(&from.octets()) + sum(&to.octets()) + rest,
            _ => panic!("one family"),
        }
    }

    /// Reads a frame and checks every checksum in it.
    #[track_caller]
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let packet = &bytes[ETHERNET..];
        let (from, to, start, found) = network(packet);
        let is_v6 = from.is_ipv6();
        if !is_v6 {
            assert_eq!(fold(sum(&packet[..start])), 0xffff, "the network header's checksum");
        }
        let segment = &packet[start..];
        let port = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
        let (transport, ports, skip) = match found.protocol {
            number if found.piece.is_some_and(|(_, offset, _)| offset > 0) => (Transport::Rest(number), (0, 0), 0),
            6 => (Transport::Tcp(segment[13]), (port(0), port(2)), 20),
            17 => (Transport::Udp, (port(0), port(2)), 8),
            132 => (Transport::Sctp(segment[12]), (port(0), port(2)), 16),
            _ => (Transport::Error, (0, 0), 8),
        };
        let is_first = found.piece.is_some_and(|(_, _, more)| more);
        let lacks_check = match transport {
            Transport::Udp => port(6) == 0,
            Transport::Sctp(_) => segment[8..12] == [0; 4],
            Transport::Tcp(_) | Transport::Error | Transport::Rest(_) => false,
        };
        let has_check = !(is_first || lacks_check);
        let frame = Self {
            from: SocketAddr::new(from, ports.0),
            to: SocketAddr::new(to, ports.1),
            transport,
            payload: segment[skip..].to_vec(),
            options: found.options,
            has_check,
            piece: found.piece,
        };
        if has_check && matches!(transport, Transport::Sctp(_)) {
            let check = u32::from_le_bytes(segment[8..12].try_into().unwrap());
            let bare = [&segment[..8], &[0; 4], &segment[12..]].concat();
            assert_eq!(check, crc32c(&bare), "the checksum of {frame:?}");
        } else if has_check && !matches!(transport, Transport::Rest(_)) {
            let whole = fold(frame.pseudo(segment.len()) + sum(segment));
            assert_eq!(whole, 0xffff, "the checksum of {frame:?}");
        }
        frame
    }
}

const ETHERNET: usize = 14;

struct Found {
    protocol: u8,
    options: usize,
    piece: Option<(u16, u16, bool)>,
}

fn network(packet: &[u8]) -> (IpAddr, IpAddr, usize, Found) {
    let word = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    if packet[0] >> 4 == 4 {
        let four = |at: usize| <[u8; 4]>::try_from(&packet[at..at + 4]).unwrap().into();
        let start = usize::from(packet[0] & 15) * 4;
        let place = (word(4), (word(6) & 0x1fff) * 8, word(6) & 0x2000 != 0);
        let found = Found {
            protocol: packet[9],
            options: start / 4 - 5,
            piece: (place.1 > 0 || place.2).then_some(place),
        };
        return (four(12), four(16), start, found);
    }
    let six = |at: usize| <[u8; 16]>::try_from(&packet[at..at + 16]).unwrap().into();
    let mut found = Found {
        protocol: packet[6],
        options: 0,
        piece: None,
    };
    let mut start = 40;
    loop {
        match found.protocol {
            0 | 60 => found.options += 1,
            44 => found.piece = Some((word(start + 6), word(start + 2) & 0xfff8, word(start + 2) & 1 != 0)),
            _ => return (six(8), six(24), start, found),
        }
        let length = if found.protocol == 44 { 0 } else { packet[start + 1] };
        found.protocol = packet[start];
        start += 8 * (1 + usize::from(length));
    }
}

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    })
}

fn sum(bytes: &[u8]) -> u64 {
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
    bytes.chunks(2).map(word).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    u16::try_from(sum).unwrap()
}
