//! nf_tables requests as bytes: tables, chains, sets, rules and the few expressions that `firewall` needs. Bytes only;
//! `netfilter` has the socket.
//!
//! Numbers are those of `linux/netfilter/nf_tables.h`, in network byte order on the wire.

/// A register of 4 bytes, from 8 on as the kernel counts them (`NFT_REG32_00`).
pub type Register = u32;

/// The registers that rules use: a key begins at `KEY`, what a map answers at `ANSWER`.
pub const KEY: Register = 8;
/// See [`KEY`].
pub const ANSWER: Register = 16;
/// `NFPROTO_INET`: both IP families in one table.
const INET: u8 = 1;

/// Where a base chain sees packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook {
    /// `filter` or `nat`.
    pub kind: &'static str,
    /// `NF_INET_*`.
    pub number: u32,
    /// Chains of one hook run in this order.
    pub priority: i32,
}

/// What a set or map holds; the type numbers are nft's own, for whoever lists the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetShape {
    /// Name in its table.
    pub name: &'static str,
    /// Type and bytes of a key.
    pub key: (u32, u32),
    /// Type and bytes of what a map answers; none for a set.
    pub data: Option<(u32, u32)>,
    /// Keys are ranges.
    pub is_interval: bool,
}

/// One element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Element {
    /// The key.
    pub key: Vec<u8>,
    /// What a map answers.
    pub data: Option<Vec<u8>>,
    /// Of an interval set: the first key behind a range.
    pub is_end: bool,
    /// Whose it is: text that the kernel keeps with it.
    pub owner: Option<String>,
}

/// A part of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression {
    /// Load a fact about the packet (`NFT_META_*`).
    Meta(u32, Register),
    /// Load bytes of a header: base (1 network, 2 transport), offset, length.
    Payload(u32, u32, u32, Register),
    /// Load what the routing table says: result (`NFT_FIB_RESULT_*`), flags (`NFTA_FIB_F_*`).
    Fib(u32, u32, Register),
    /// Load the connection's status bits.
    ConnectionStatus(Register),
    /// Keep some bits.
    Mask(Register, [u8; 4]),
    /// Go on if the register has these bytes.
    Equals(Register, Vec<u8>),
    /// Go on if the register has other bytes.
    Differs(Register, Vec<u8>),
    /// Go on if the set has the key.
    In(&'static str, Register),
    /// Go on if the set lacks the key.
    NotIn(&'static str, Register),
    /// Go on with what the map answers.
    Map(&'static str, Register, Register),
    /// Load bytes.
    Load(Register, Vec<u8>),
    /// Change the destination: family, registers of address and port.
    DestinationNat(u32, Register, Register),
    /// Change the source: family, register of the address.
    SourceNat(u32, Register),
    /// Change the source to the address of the link that the packet leaves by.
    Masquerade,
    /// Count packets and bytes.
    Counter,
    /// Drop.
    Drop,
    /// Go on in another chain, and come back.
    Jump(&'static str),
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NftStep {
    /// Make the table if it is not there.
    Table,
    /// Make a chain if it is not there.
    Chain(&'static str, Option<Hook>),
    /// Make a set if it is not there.
    Set(SetShape),
    /// Remove all rules of a chain.
    FlushChain(&'static str),
    /// Remove all elements of a set.
    FlushSet(&'static str),
    /// Append a rule.
    Rule(&'static str, Vec<Expression>),
    /// Add elements; one that is there with another answer is refused (`EEXIST`).
    Add(&'static str, Vec<Element>),
    /// Remove elements by their keys.
    Remove(&'static str, Vec<Element>),
    /// Remove the table and all in it.
    DropTable,
    /// List the elements of a set.
    List(&'static str),
}

impl std::fmt::Display for NftStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Table => write!(f, "make the nftables table"),
            Self::Chain(name, _) => write!(f, "make the nftables chain {name}"),
            Self::Set(shape) => write!(f, "make the nftables set {}", shape.name),
            Self::FlushChain(name) => write!(f, "empty the nftables chain {name}"),
            Self::FlushSet(name) => write!(f, "empty the nftables set {name}"),
            Self::Rule(chain, _) => write!(f, "add a rule to the nftables chain {chain}"),
            Self::Add(set, _) => write!(f, "add to the nftables set {set}"),
            Self::Remove(set, _) => write!(f, "remove from the nftables set {set}"),
            Self::DropTable => write!(f, "remove the nftables table"),
            Self::List(set) => write!(f, "list the nftables set {set}"),
        }
    }
}

/// A list of attributes under construction.
#[derive(Debug, Default)]
struct Attributes(Vec<u8>);

impl Attributes {
    fn put(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).expect("an attribute is shorter than 64 KiB");
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn number(self, kind: u16, value: u32) -> Self {
        self.put(kind, &value.to_be_bytes())
    }

    fn text(self, kind: u16, value: &str) -> Self {
        self.put(kind, &[value.as_bytes(), b"\0"].concat())
    }

    fn nest(self, kind: u16, inner: &Self) -> Self {
        const NLA_F_NESTED: u16 = 1 << 15;
        self.put(kind | NLA_F_NESTED, &inner.0)
    }

    fn list(self, kind: u16, items: impl Iterator<Item = Self>) -> Self {
        const NFTA_LIST_ELEM: u16 = 1;
        let list = items.fold(Self::default(), |list, item| list.nest(NFTA_LIST_ELEM, &item));
        self.nest(kind, &list)
    }
}

/// The message type, its netlink flags and its payload.
pub fn encode(table: &str, step: &NftStep) -> (u16, u16, Vec<u8>) {
    const NLM_F_CREATE: u16 = 0x400;
    const NLM_F_APPEND: u16 = 0x800;
    const NLM_F_DUMP: u16 = 0x300;
    let of = |kind| Attributes::default().text(kind, table);
    let (message, flags, attributes) = match step {
        NftStep::Table => (0, NLM_F_CREATE, of(1)),
        NftStep::DropTable => (2, 0, of(1)),
        NftStep::Chain(name, hook) => (3, NLM_F_CREATE, chain(of(1), name, hook.as_ref())),
        NftStep::Rule(chain, parts) => (
            6,
            NLM_F_CREATE | NLM_F_APPEND,
            of(1).text(2, chain).list(4, parts.iter().map(expression)),
        ),
        NftStep::FlushChain(chain) => (8, 0, of(1).text(2, chain)),
        NftStep::Set(shape) => (9, NLM_F_CREATE, set(of(1), shape)),
        NftStep::Add(set, elements) => (
            12,
            NLM_F_CREATE,
            of(1).text(2, set).list(3, elements.iter().map(element)),
        ),
        NftStep::List(set) => (13, NLM_F_DUMP, of(1).text(2, set)),
        NftStep::Remove(set, elements) => (14, 0, of(1).text(2, set).list(3, elements.iter().map(element))),
        NftStep::FlushSet(set) => (14, 0, of(1).text(2, set)),
    };
    const NFNL_SUBSYS_NFTABLES: u16 = 10;
    let header = [INET, 0, 0, 0];
    (
        NFNL_SUBSYS_NFTABLES << 8 | message,
        flags,
        [&header[..], &attributes.0].concat(),
    )
}

/// Payload of the messages that begin and end a batch: the kernel does all of it or nothing.
pub fn batch_frame() -> [u8; 4] {
    [0, 0, 0, 10]
}

fn chain(attributes: Attributes, name: &str, hook: Option<&Hook>) -> Attributes {
    let attributes = attributes.text(3, name);
    match hook {
        None => attributes,
        Some(hook) => {
            let place = Attributes::default()
                .number(1, hook.number)
                .number(2, hook.priority.cast_unsigned());
            attributes.nest(4, &place).text(7, hook.kind)
        }
    }
}

fn set(attributes: Attributes, shape: &SetShape) -> Attributes {
    const NFT_SET_INTERVAL: u32 = 4;
    const NFT_SET_MAP: u32 = 8;
    let interval = if shape.is_interval { NFT_SET_INTERVAL } else { 0 };
    let map = if shape.data.is_some() { NFT_SET_MAP } else { 0 };
    let (key_type, key_bytes) = shape.key;
    // The kernel wants an id of every set, unique in its batch; nobody refers to it.
    let attributes = attributes
        .text(2, shape.name)
        .number(3, interval | map)
        .number(4, key_type)
        .number(5, key_bytes)
        .number(10, 1);
    match shape.data {
        None => attributes,
        Some((data_type, data_bytes)) => attributes.number(6, data_type).number(7, data_bytes),
    }
}

fn element(element: &Element) -> Attributes {
    const NFT_SET_ELEM_INTERVAL_END: u32 = 1;
    let mut attributes = Attributes::default().nest(1, &value(&element.key));
    if let Some(data) = &element.data {
        attributes = attributes.nest(2, &value(data));
    }
    if element.is_end {
        attributes = attributes.number(3, NFT_SET_ELEM_INTERVAL_END);
    }
    if let Some(owner) = &element.owner {
        attributes = attributes.put(6, &comment(owner));
    }
    attributes
}

/// User data as nft writes a comment: type 0, length, text with its end.
fn comment(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let length = u8::try_from(bytes.len() + 1).expect("a link's name is short");
    [&[0, length], bytes, &[0]].concat()
}

fn value(bytes: &[u8]) -> Attributes {
    Attributes::default().put(1, bytes)
}

fn expression(expression: &Expression) -> Attributes {
    let none = Attributes::default;
    let (name, data) = match expression {
        Expression::Meta(key, to) => ("meta", none().number(1, *to).number(2, *key)),
        Expression::Payload(base, offset, length, to) => (
            "payload",
            none()
                .number(1, *to)
                .number(2, *base)
                .number(3, *offset)
                .number(4, *length),
        ),
        Expression::Fib(result, flags, to) => ("fib", none().number(1, *to).number(2, *result).number(3, *flags)),
        Expression::ConnectionStatus(to) => {
            const NFT_CT_STATUS: u32 = 2;
            ("ct", none().number(1, *to).number(2, NFT_CT_STATUS))
        }
        Expression::Mask(register, mask) => (
            "bitwise",
            none()
                .number(1, *register)
                .number(2, *register)
                .number(3, 4)
                .nest(4, &value(mask))
                .nest(5, &value(&[0; 4])),
        ),
        Expression::Equals(register, bytes) => ("cmp", none().number(1, *register).number(2, 0).nest(3, &value(bytes))),
        Expression::Differs(register, bytes) => {
            ("cmp", none().number(1, *register).number(2, 1).nest(3, &value(bytes)))
        }
        Expression::In(set, key) => ("lookup", none().text(1, set).number(2, *key)),
        Expression::NotIn(set, key) => ("lookup", none().text(1, set).number(2, *key).number(5, 1)),
        Expression::Map(map, key, to) => ("lookup", none().text(1, map).number(2, *key).number(3, *to)),
        Expression::Load(to, bytes) => ("immediate", none().number(1, *to).nest(2, &value(bytes))),
        Expression::DestinationNat(family, address, port) => (
            "nat",
            none()
                .number(1, 1)
                .number(2, *family)
                .number(3, *address)
                .number(5, *port),
        ),
        Expression::SourceNat(family, address) => ("nat", none().number(1, 0).number(2, *family).number(3, *address)),
        Expression::Masquerade => ("masq", none()),
        Expression::Counter => ("counter", none()),
        Expression::Drop => ("immediate", verdict(0, None)),
        Expression::Jump(chain) => ("immediate", verdict(-3, Some(chain))),
    };
    none().text(1, name).nest(2, &data)
}

fn verdict(code: i32, chain: Option<&str>) -> Attributes {
    let verdict = Attributes::default().number(1, code.cast_unsigned());
    let verdict = match chain {
        Some(chain) => verdict.text(2, chain),
        None => verdict,
    };
    let data = Attributes::default().nest(2, &verdict);
    Attributes::default().number(1, 0).nest(2, &data)
}

/// Reads the elements out of one message of a set's listing.
pub fn decode_elements(payload: &[u8]) -> Vec<Element> {
    let attributes = payload.get(4..).unwrap_or_default();
    let lists = parts(attributes).filter(|(kind, _)| *kind == 3).map(|(_, value)| value);
    lists
        .flat_map(parts)
        .filter_map(|(_, item)| decode_element(item))
        .collect()
}

fn decode_element(item: &[u8]) -> Option<Element> {
    let mut element = Element::default();
    for (kind, bytes) in parts(item) {
        match kind {
            1 => element.key = only_value(bytes)?,
            2 => element.data = Some(only_value(bytes)?),
            3 => element.is_end = bytes.last().is_some_and(|flags| flags & 1 != 0),
            6 => element.owner = decode_comment(bytes),
            _ => {}
        }
    }
    (!element.key.is_empty()).then_some(element)
}

fn only_value(bytes: &[u8]) -> Option<Vec<u8>> {
    parts(bytes)
        .find(|(kind, _)| *kind == 1)
        .map(|(_, value)| value.to_vec())
}

fn decode_comment(bytes: &[u8]) -> Option<String> {
    let [0, length, rest @ ..] = bytes else { return None };
    let text = rest.get(..usize::from(*length))?.strip_suffix(&[0])?;
    String::from_utf8(text.to_vec()).ok()
}

/// The attributes of a list, without the flags in their types; ends where the bytes make no sense.
fn parts(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    const NLA_TYPE_MASK: u16 = 0x3fff;
    std::iter::from_fn(move || {
        let [a, b, c, d] = *bytes.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([c, d]) & NLA_TYPE_MASK, value))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn elements_are_read_back() {
        let elements = vec![
            Element {
                key: vec![1, 2, 3, 4],
                data: Some(vec![10, 0, 0, 2, 0, 80, 0, 0]),
                is_end: false,
                owner: Some("orlabc".to_owned()),
            },
            Element {
                key: vec![9; 16],
                is_end: true,
                ..Element::default()
            },
        ];
        let (_, _, payload) = encode("t", &NftStep::Add("s", elements.clone()));
        assert_eq!(decode_elements(&payload), elements);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            decode_elements(&bytes);
        }
    }
}
