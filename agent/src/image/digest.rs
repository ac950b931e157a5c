//! `sha256:<64 lower-case hex digits>`: the name of a blob, and what computes it while bytes pass.
//!
//! Other algorithms are refused rather than trusted unverified; no registry in wide use serves them.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// The digest of a blob, valid by construction (image-spec, descriptor.md#digests).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// Why a text is not a digest that we can verify.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// An algorithm that we don't verify.
    #[error("digest {0:?} is not sha256, the one algorithm that is verified here")]
    Algorithm(String),
    /// `sha256:` followed by something else than 64 lower-case hex digits.
    #[error("digest {0:?} is not sha256: and 64 lower-case hex digits")]
    Malformed(String),
}

impl Digest {
    /// The digest of bytes at hand.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_hash(Sha256::digest(bytes).as_slice())
    }

    /// The 64 hex digits alone, fit for a file name.
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }

    /// The digest as it is written everywhere, `sha256:…`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn from_hash(hash: &[u8]) -> Self {
        hash.iter().fold(Self("sha256:".to_owned()), |mut digest, byte| {
            write!(digest.0, "{byte:02x}").expect("a String takes every write");
            digest
        })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let hex = text
            .strip_prefix("sha256:")
            .ok_or_else(|| DigestError::Algorithm(text.to_owned()))?;
        let is_hex = hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if is_hex {
            Ok(Self(text.to_owned()))
        } else {
            Err(DigestError::Malformed(text.to_owned()))
        }
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

/// Hashes and counts what passes.
#[derive(Clone, Default)]
pub(super) struct Hasher {
    hash: Sha256,
    count: u64,
}

impl Hasher {
    /// Takes the next bytes.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.count += bytes.len() as u64;
    }

    /// How many bytes have passed.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The digest of everything that has passed.
    pub(super) fn finish(self) -> Digest {
        Digest::from_hash(self.hash.finalize().as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lower_case_sha256_is_a_digest() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").to_string(), format!("sha256:{hex}"));
        assert_eq!(format!("sha256:{hex}").parse::<Digest>().unwrap().hex(), hex);
        for bad in [
            "",
            "sha256:",
            "sha256:abc",
            &format!("sha256:{}", hex.to_uppercase()),
            &format!("sha256:{hex}0"),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
        assert!(matches!("sha512:00".parse::<Digest>(), Err(DigestError::Algorithm(_))));
    }
}
