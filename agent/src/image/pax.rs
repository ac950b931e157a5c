//! PAX extended headers: `LENGTH KEY=VALUE\n` records (pax(1), "pax Extended Header"). Pure.
//!
//! Keys that change nothing about what is unpacked (times other than mtime, names of owners, comments) are skipped.

/// What an extended header says about the entry behind it.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) linkpath: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(String, Vec<u8>)>,
}

/// Why an extended header is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PaxError {
    /// A record whose length doesn't fit or that lacks its parts.
    #[error("a record that is not LENGTH KEY=VALUE")]
    Record,
    /// The same key twice: readers disagree on which one counts.
    #[error("the key {0} twice")]
    Repeated(String),
    /// A value that isn't what its key needs.
    #[error("a bad value for {0}")]
    Value(String),
    /// A GNU sparse file: its content isn't what the header says.
    #[error("the key {0}, of sparse files, which layers can't have")]
    Sparse(String),
}

impl Pax {
    /// Whether nothing that matters was said.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self, PaxError> {
        let mut pax = Self::default();
        while !bytes.is_empty() {
            let (key, value, rest) = record(bytes).ok_or(PaxError::Record)?;
            pax.set(key, value)?;
            bytes = rest;
        }
        Ok(pax)
    }

    fn set(&mut self, key: &str, value: &[u8]) -> Result<(), PaxError> {
        let bad = || PaxError::Value(key.to_owned());
        let is_repeated = match key {
            "path" => self.path.replace(value.to_owned()).is_some(),
            "linkpath" => self.linkpath.replace(value.to_owned()).is_some(),
            "size" => self.size.replace(number(value).ok_or_else(bad)?).is_some(),
            "uid" => self.uid.replace(number(value).ok_or_else(bad)?).is_some(),
            "gid" => self.gid.replace(number(value).ok_or_else(bad)?).is_some(),
            "mtime" => self.mtime.replace(time(value).ok_or_else(bad)?).is_some(),
            _ if key.starts_with("GNU.sparse.") => return Err(PaxError::Sparse(key.to_owned())),
            _ => match key.strip_prefix("SCHILY.xattr.") {
                Some(name) => self.add_xattr(name, value),
                None => false,
            },
        };
        if is_repeated {
            Err(PaxError::Repeated(key.to_owned()))
        } else {
            Ok(())
        }
    }

    fn add_xattr(&mut self, name: &str, value: &[u8]) -> bool {
        let is_repeated = self.xattrs.iter().any(|(other, _)| other == name);
        self.xattrs.push((name.to_owned(), value.to_owned()));
        is_repeated
    }
}

/// Splits off the first record; its length counts itself, the space and the newline.
fn record(bytes: &[u8]) -> Option<(&str, &[u8], &[u8])> {
    let space = bytes.iter().take(8).position(|byte| *byte == b' ')?;
    let length = usize::try_from(number(&bytes[..space])?).ok()?;
    let body = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|byte| *byte == b'=')?;
    let key = std::str::from_utf8(&body[..equals])
        .ok()
        .filter(|key| !key.is_empty())?;
    Some((key, &body[equals + 1..], &bytes[length..]))
}

fn number(digits: &[u8]) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| is_number)?.parse().ok()
}

/// Decimal seconds, perhaps negative, perhaps with a fraction; digits below nanoseconds are cut.
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let (is_negative, value) = match value.strip_prefix(b"-") {
        Some(value) => (true, value),
        None => (false, value),
    };
    let mut parts = value.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(number(parts.next()?)?).ok()?;
    let nanoseconds = parts.next().map_or(Some(0), nanoseconds)?;
    Some(match (is_negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

fn nanoseconds(fraction: &[u8]) -> Option<u32> {
    let is_number = fraction.iter().all(u8::is_ascii_digit);
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    is_number.then(|| digits.fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(key: &str, value: &str) -> Vec<u8> {
        let body = key.len() + value.len() + 3;
        let length = (body + 1..)
            .find(|length| length.to_string().len() + body == *length)
            .unwrap();
        format!("{length} {key}={value}\n").into_bytes()
    }

    #[test]
    fn what_matters_is_read_and_the_rest_skipped() {
        let lines = [
            ("path", "a/b"),
            ("size", "12"),
            ("mtime", "1700000000.25"),
            ("atime", "nonsense"),
            ("SCHILY.xattr.user.k", "v=\n"),
            ("comment", ""),
        ];
        let bytes: Vec<u8> = lines.iter().flat_map(|(key, value)| line(key, value)).collect();
        let pax = Pax::parse(&bytes).unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"a/b"[..]));
        assert_eq!((pax.size, pax.mtime), (Some(12), Some((1_700_000_000, 250_000_000))));
        assert_eq!(pax.xattrs, [("user.k".to_owned(), b"v=\n".to_vec())]);
        assert!(Pax::parse(&line("comment", "0123456789")).unwrap().is_empty());
    }

    #[test]
    fn times_before_1970_round_down() {
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"-3"), Some((-3, 0)));
        for bad in ["", "-", "1e3", "+1", "1.x", "99999999999999999999"] {
            assert_eq!(time(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn what_readers_disagree_on_is_refused() {
        let twice = [line("path", "a"), line("path", "b")].concat();
        assert_eq!(Pax::parse(&twice), Err(PaxError::Repeated("path".to_owned())));
        assert_eq!(
            Pax::parse(&line("GNU.sparse.size", "1")),
            Err(PaxError::Sparse("GNU.sparse.size".to_owned()))
        );
        assert_eq!(Pax::parse(&line("size", "-1")), Err(PaxError::Value("size".to_owned())));
        for bad in [
            "x",
            "5 a=b",
            "9 a=b\n",
            "6 ab=c\n",
            "0 \n",
            "18446744073709551616 a=b\n",
            "5 =b\n",
        ] {
            assert_eq!(Pax::parse(bad.as_bytes()), Err(PaxError::Record), "{bad:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn parsing_never_panics(bytes: Vec<u8>) {
            let _ = Pax::parse(&bytes);
        }

        #[test]
        fn what_is_written_is_read(value in "[^\0]{0,200}") {
            let pax = Pax::parse(&line("path", &value)).unwrap();
            proptest::prop_assert_eq!(pax.path, Some(value.into_bytes()));
        }
    }
}
