//! Names of images: `[registry/]repository[:tag][@digest]`, normalised as docker does.
//!
//! Pure text. The grammar is the one of the distribution project's `reference` package, so that every name that docker
//! and kubelet take means the same image here.

use std::fmt;
use std::str::FromStr;

use super::digest::{Digest, DigestError};

/// The name of an image in full: `busybox` is `docker.io/library/busybox:latest`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text names no image. Kubelet's word for it is `InvalidImageName`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing, or white space around something.
    #[error("image name {0:?} is empty or has white space in it")]
    Blank(String),
    /// The host part is no host name with an optional port.
    #[error("image name {name:?}: registry {registry:?} is not a host name with an optional port")]
    Registry {
        /// The whole text.
        name: String,
        /// Its part before the first slash.
        registry: String,
    },
    /// Upper case, an empty component or a stray character between the registry and the tag.
    #[error(
        "image name {name:?}: repository {repository:?} must be lower-case letters, digits and separators \
         (. _ __ -) in components joined by single slashes"
    )]
    Repository {
        /// The whole text.
        name: String,
        /// The offending repository.
        repository: String,
    },
    /// Longer than 255 bytes without tag and digest.
    #[error("image name {0:?} is longer than 255 bytes")]
    TooLong(String),
    /// A tag that is not `[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}`.
    #[error("image name {name:?}: tag {tag:?} must be 1 to 128 letters, digits, underscores, dots and dashes")]
    Tag {
        /// The whole text.
        name: String,
        /// The offending tag.
        tag: String,
    },
    /// What stands behind `@` is no digest.
    #[error("image name {name:?} has a bad digest")]
    Digest {
        /// The whole text.
        name: String,
        /// What is wrong with it.
        source: DigestError,
    },
}

impl Reference {
    /// The registry's host name with its port if one was given, e.g. `docker.io` or `127.0.0.1:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path within the registry, e.g. `library/busybox`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `latest` when the name gave neither tag nor digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest that the image must have, if the name gave one.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// `registry/repository`, without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The last part of the manifest's address: the digest if there is one, else the tag.
    pub fn selector(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => "latest",
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(name: &str) -> Result<Self, ReferenceError> {
        if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(ReferenceError::Blank(name.to_owned()));
        }
        let (rest, digest) = split_digest(name)?;
        let (rest, tag) = split_tag(name, rest)?;
        let (registry, repository) = split_registry(name, rest)?;
        check_repository(name, &repository)?;
        if registry.len() + 1 + repository.len() > 255 {
            return Err(ReferenceError::TooLong(name.to_owned()));
        }
        let tag = tag.or_else(|| digest.is_none().then(|| "latest".to_owned()));
        Ok(Self {
            registry,
            repository,
            tag,
            digest,
        })
    }
}

fn split_digest(name: &str) -> Result<(&str, Option<Digest>), ReferenceError> {
    let Some((rest, digest)) = name.split_once('@') else {
        return Ok((name, None));
    };
    let digest = digest.parse().map_err(|source| ReferenceError::Digest {
        name: name.to_owned(),
        source,
    })?;
    Ok((rest, Some(digest)))
}

/// A colon starts the tag only behind the last slash; before it, it starts the registry's port.
fn split_tag<'a>(name: &str, rest: &'a str) -> Result<(&'a str, Option<String>), ReferenceError> {
    let after_slash = rest.rfind('/').map_or(0, |slash| slash + 1);
    let Some(colon) = rest[after_slash..].find(':') else {
        return Ok((rest, None));
    };
    let (rest, tag) = (&rest[..after_slash + colon], &rest[after_slash + colon + 1..]);
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let is_tag = tag.len() <= 128
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-');
    if !is_tag {
        return Err(ReferenceError::Tag {
            name: name.to_owned(),
            tag: tag.to_owned(),
        });
    }
    Ok((rest, Some(tag.to_owned())))
}

/// The first component is a registry only if it looks like a host: a dot, a port, upper case, or `localhost`.
fn split_registry(name: &str, rest: &str) -> Result<(String, String), ReferenceError> {
    let is_host = |s: &str| s.contains(['.', ':']) || s == "localhost" || s.bytes().any(|b| b.is_ascii_uppercase());
    let (registry, repository) = match rest.split_once('/') {
        Some((first, repository)) if is_host(first) => (first, repository),
        _ => ("docker.io", rest),
    };
    if !is_registry(registry) {
        return Err(ReferenceError::Registry {
            name: name.to_owned(),
            registry: registry.to_owned(),
        });
    }
    let registry = if registry == "index.docker.io" {
        "docker.io"
    } else {
        registry
    };
    let is_official = registry == "docker.io" && !repository.contains('/');
    let repository = if is_official {
        format!("library/{repository}")
    } else {
        repository.to_owned()
    };
    Ok((registry.to_owned(), repository))
}

fn is_registry(registry: &str) -> bool {
    let (host, port) = match registry.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') && (host.ends_with(']') || !host.contains(':')) => {
            (host, Some(port))
        }
        _ => (registry, None),
    };
    port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port != 0)) && is_host(host)
}

fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    host.split('.').all(|label| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    })
}

fn check_repository(name: &str, repository: &str) -> Result<(), ReferenceError> {
    if repository.split('/').all(is_component) {
        return Ok(());
    }
    Err(ReferenceError::Repository {
        name: name.to_owned(),
        repository: repository.to_owned(),
    })
}

/// Runs of lower-case letters and digits, joined by one dot, one or two underscores, or any number of dashes.
fn is_component(component: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_separator = |s: &str| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-');
    component.starts_with(word)
        && component.ends_with(word)
        && component
            .split(word)
            .filter(|separator| !separator.is_empty())
            .all(is_separator)
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

impl TryFrom<String> for Reference {
    type Error = ReferenceError;

    fn try_from(name: String) -> Result<Self, ReferenceError> {
        name.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_are_normalised_as_docker_does() {
        let digest = format!("sha256:{HEX}");
        for (short, full) in [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("busybox:1.36", "docker.io/library/busybox:1.36".to_owned()),
            ("user/app", "docker.io/user/app:latest".to_owned()),
            ("docker.io/busybox", "docker.io/library/busybox:latest".to_owned()),
            ("index.docker.io/busybox", "docker.io/library/busybox:latest".to_owned()),
            ("localhost/app", "localhost/app:latest".to_owned()),
            ("localhost:5000/app:v1", "localhost:5000/app:v1".to_owned()),
            ("127.0.0.1:5000/a/b/c", "127.0.0.1:5000/a/b/c:latest".to_owned()),
            ("[::1]:5000/app", "[::1]:5000/app:latest".to_owned()),
            ("Registry/app", "Registry/app:latest".to_owned()),
            ("quay.io/a__b/c-d.e--f", "quay.io/a__b/c-d.e--f:latest".to_owned()),
            (
                &format!("busybox@{digest}"),
                format!("docker.io/library/busybox@{digest}"),
            ),
            (
                &format!("busybox:1@{digest}"),
                format!("docker.io/library/busybox:1@{digest}"),
            ),
        ] {
            let reference: Reference = short.parse().unwrap();
            assert_eq!(reference.to_string(), full);
            assert_eq!(
                full.parse::<Reference>().unwrap(),
                reference,
                "the full name means the same"
            );
        }
    }

    #[test]
    fn the_digest_selects_before_the_tag() {
        let reference: Reference = format!("busybox:1@sha256:{HEX}").parse().unwrap();
        assert_eq!(reference.selector(), format!("sha256:{HEX}"));
        assert_eq!("busybox".parse::<Reference>().unwrap().selector(), "latest");
    }

    #[test]
    fn what_names_no_image_is_refused() {
        use ReferenceError as E;
        let long = "a".repeat(300);
        let long_tag = format!("a:{}", "t".repeat(129));
        type Case<'a> = (&'a str, fn(&E) -> bool);
        let cases: &[Case<'_>] = &[
            ("", |e| matches!(e, E::Blank(_))),
            (" busybox", |e| matches!(e, E::Blank(_))),
            ("busy\nbox", |e| matches!(e, E::Blank(_))),
            ("Busybox", |e| matches!(e, E::Repository { .. })),
            ("a//b", |e| matches!(e, E::Repository { .. })),
            ("a/../b", |e| matches!(e, E::Repository { .. })),
            ("../etc", |e| matches!(e, E::Registry { .. })),
            ("a/", |e| matches!(e, E::Repository { .. })),
            ("/a", |e| matches!(e, E::Repository { .. })),
            ("a___b", |e| matches!(e, E::Repository { .. })),
            ("a.-b", |e| matches!(e, E::Repository { .. })),
            ("host:port/a", |e| matches!(e, E::Registry { .. })),
            ("host:70000/a", |e| matches!(e, E::Registry { .. })),
            ("-host.io/a", |e| matches!(e, E::Registry { .. })),
            ("a:", |e| matches!(e, E::Tag { .. })),
            ("a:b:c", |e| matches!(e, E::Tag { .. })),
            (&long_tag, |e| matches!(e, E::Tag { .. })),
            (&long, |e| matches!(e, E::TooLong(_))),
            ("a@sha256:abc", |e| matches!(e, E::Digest { .. })),
            ("a@md5:abc", |e| matches!(e, E::Digest { .. })),
            ("a@", |e| matches!(e, E::Digest { .. })),
        ];
        for (name, is_expected) in cases {
            let error = name.parse::<Reference>().expect_err(name);
            assert!(is_expected(&error), "{name}: {error:?}");
        }
    }
}
