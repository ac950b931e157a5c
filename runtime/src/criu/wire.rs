//! As much of protocol buffers as CRIU's requests take: numbers, texts and messages.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// How a value is encoded: a number, or bytes with their length before them.
const NUMBER: u64 = 0;
const BYTES: u64 = 2;

/// A message while it is made.
#[derive(Debug, Default)]
pub(super) struct Message(Vec<u8>);

impl Message {
    pub(super) fn number(&mut self, field: u32, value: u64) {
        self.varint(u64::from(field) << 3 | NUMBER);
        self.varint(value);
    }

    /// Says nothing when it is not set.
    pub(super) fn flag(&mut self, field: u32, is_set: bool) {
        if is_set {
            self.number(field, 1);
        }
    }

    pub(super) fn text(&mut self, field: u32, text: &str) {
        self.bytes(field, text.as_bytes());
    }

    pub(super) fn texts(&mut self, field: u32, texts: &[String]) {
        for text in texts {
            self.text(field, text);
        }
    }

    pub(super) fn path(&mut self, field: u32, path: &Path) {
        self.bytes(field, path.as_os_str().as_bytes());
    }

    pub(super) fn message(&mut self, field: u32, message: &Self) {
        self.bytes(field, &message.0);
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.varint(u64::from(field) << 3 | BYTES);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn varint(&mut self, mut value: u64) {
        loop {
            let low = value.to_le_bytes()[0] & 0x7f;
            value >>= 7;
            if value == 0 {
                return self.0.push(low);
            }
            self.0.push(low | 0x80);
        }
    }
}

/// A value of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message in their order; `None` and the end where it is none.
pub(super) fn fields(mut bytes: &[u8]) -> impl Iterator<Item = Option<(u32, Value<'_>)>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let field = field(&mut bytes);
        if field.is_none() {
            bytes = &[];
        }
        Some(field)
    })
}

fn field<'a>(bytes: &mut &'a [u8]) -> Option<(u32, Value<'a>)> {
    let key = varint(bytes)?;
    let number = u32::try_from(key >> 3).ok()?;
    match key & 7 {
        NUMBER => Some((number, Value::Number(varint(bytes)?))),
        BYTES => {
            let length = usize::try_from(varint(bytes)?).ok()?;
            let (value, rest) = bytes.split_at_checked(length)?;
            *bytes = rest;
            Some((number, Value::Bytes(value)))
        }
        _ => None,
    }
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut inner = Message::default();
        inner.text(2, "x");
        let mut message = Message::default();
        message.number(1, 300);
        message.flag(3, false);
        message.path(200, Path::new("/a"));
        message.message(4, &inner);
        let bytes = message.into_bytes();
        assert_eq!(bytes[..3], [0x08, 0xac, 0x02], "as the encoding's description has it");
        let fields: Vec<_> = fields(&bytes).map(Option::unwrap).collect();
        let expected = [
            (1, Value::Number(300)),
            (200, Value::Bytes(b"/a")),
            (4, Value::Bytes(b"\x12\x01x")),
        ];
        assert_eq!(fields, expected);
    }

    #[test]
    fn what_is_cut_off_is_no_message() {
        for bytes in [&[0x08][..], &[0x08, 0x80], &[0x0a, 2, 0], &[0x0b], &[0x80; 12]] {
            assert_eq!(fields(bytes).last(), Some(None), "{bytes:?}");
        }
    }
}
