//! Manifests, indexes and configurations: what an image consists of, for this machine's platform. Pure.
//!
//! Both the OCI and the docker formats of the last decade are read (image-spec, manifest.md and image-index.md; docker's
//! schema 2). Labels, annotations and the `urls` of layers are never acted on.

use std::collections::BTreeMap;

use oci_spec::image::ImageConfiguration;
use sha2::{Digest as _, Sha256};

use super::digest::Digest;

/// The largest manifest, index or configuration that is read.
pub(super) const DOCUMENT_BYTES: u64 = 4 << 20;
const LAYERS: usize = 127;
const INDEX_ENTRIES: usize = 100;

pub(super) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(super) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// A manifest or an index, whichever it turned out to be.
#[derive(Debug, PartialEq)]
pub(super) enum Document {
    Manifest(Manifest),
    Index(Index),
}

/// One platform's image.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Manifest {
    pub(super) config: Descriptor,
    /// The lowest first.
    pub(super) layers: Vec<Descriptor>,
}

/// Images for several platforms.
#[derive(Debug, PartialEq)]
pub(super) struct Index(pub(super) Vec<Descriptor>);

/// Points to a blob (image-spec, descriptor.md). `urls` are left out on purpose: following them lets an image send the
/// node to addresses of its choice.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) platform: Option<Platform>,
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, String>,
}

/// What an image runs on.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct Platform {
    /// Go's word for the system, `linux`.
    pub os: String,
    /// Go's word for the processor, `amd64`.
    pub architecture: String,
}

/// Why an image's documents are refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or not of the format's shape.
    #[error("read the {kind} {digest}")]
    Json {
        /// `manifest`, `configuration`, …
        kind: &'static str,
        /// Of the document.
        digest: Digest,
        /// What and where.
        source: serde_json::Error,
    },
    /// Of the right shape, but not acceptable.
    #[error("{kind} {digest}: {why}")]
    Refused {
        /// `manifest`, `configuration`, …
        kind: &'static str,
        /// Of the document.
        digest: Digest,
        /// What is wrong with it.
        why: String,
    },
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: u32,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

/// Reads a manifest or an index. `served_as` is the media type that the other side gave for it.
pub(super) fn parse(bytes: &[u8], served_as: Option<&str>) -> Result<Document, ManifestError> {
    let digest = Digest::of(bytes);
    let shape: Shape = serde_json::from_slice(bytes).map_err(|source| ManifestError::Json {
        kind: "manifest",
        digest: digest.clone(),
        source,
    })?;
    document(shape, served_as).map_err(|why| ManifestError::Refused {
        kind: "manifest",
        digest,
        why,
    })
}

fn document(shape: Shape, served_as: Option<&str>) -> Result<Document, String> {
    if shape.schema_version != 2 {
        return Err(format!(
            "schema version {} is not supported, only 2 is; push the image again",
            shape.schema_version
        ));
    }
    let document = match (shape.manifests, shape.config, shape.layers) {
        (Some(manifests), None, None) => Document::Index(Index(manifests)),
        (None, Some(config), Some(layers)) => Document::Manifest(Manifest { config, layers }),
        (Some(_), _, _) => return Err("it has both manifests and layers, so readers would disagree on it".to_owned()),
        (None, _, _) => return Err("it has neither config and layers nor manifests".to_owned()),
    };
    for media_type in [shape.media_type.as_deref(), served_as].into_iter().flatten() {
        check_media_type(&document, media_type)?;
    }
    match &document {
        Document::Index(Index(entries)) if entries.len() > INDEX_ENTRIES => Err(format!(
            "{} platforms, more than the limit of {INDEX_ENTRIES}",
            entries.len()
        )),
        Document::Manifest(manifest) if manifest.layers.len() > LAYERS => Err(format!(
            "{} layers, more than the limit of {LAYERS}",
            manifest.layers.len()
        )),
        Document::Index(_) | Document::Manifest(_) => Ok(document),
    }
}

fn check_media_type(document: &Document, media_type: &str) -> Result<(), String> {
    let is_as_said = match media_type {
        OCI_INDEX | DOCKER_LIST => matches!(document, Document::Index(_)),
        OCI_MANIFEST | DOCKER_MANIFEST => matches!(document, Document::Manifest(_)),
        _ => true,
    };
    if is_as_said {
        Ok(())
    } else {
        Err(format!("it is not the {media_type} that it is said to be"))
    }
}

impl Index {
    /// The image for `platform`; the first one, as the specification has it.
    pub(super) fn choose(&self, platform: &Platform, digest: &Digest) -> Result<&Descriptor, ManifestError> {
        let found = self.0.iter().find(|entry| entry.platform.as_ref() == Some(platform));
        found.ok_or_else(|| {
            let has: Vec<_> = self
                .0
                .iter()
                .filter_map(|entry| entry.platform.as_ref())
                .map(Platform::to_string)
                .collect();
            let why = format!(
                "no image for {platform}, only for {}",
                if has.is_empty() { "none".into() } else { has.join(", ") }
            );
            ManifestError::Refused {
                kind: "index",
                digest: digest.clone(),
                why,
            }
        })
    }
}

/// An index within an index: no registry serves one for a tag, and following them could go on for ever.
pub(super) fn nested(digest: &Digest) -> ManifestError {
    let why = "it is an index within an index, which is not followed".to_owned();
    ManifestError::Refused {
        kind: "index",
        digest: digest.clone(),
        why,
    }
}

impl Platform {
    /// This machine's.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
        }
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)
    }
}

/// Checks an image configuration for `platform` and returns the digests of its layers' uncompressed tars, the lowest
/// first, as many as the manifest has layers.
pub(super) fn diff_ids(bytes: &[u8], layers: usize, platform: &Platform) -> Result<Vec<Digest>, ManifestError> {
    let kind = "configuration";
    let digest = Digest::of(bytes);
    let parsed: ImageConfiguration = serde_json::from_slice(bytes).map_err(|source| ManifestError::Json {
        kind,
        digest: digest.clone(),
        source,
    })?;
    let refuse = |why| ManifestError::Refused {
        kind,
        digest: digest.clone(),
        why,
    };
    let is_for = Platform {
        os: parsed.os().to_string(),
        architecture: parsed.architecture().to_string(),
    };
    if is_for != *platform {
        return Err(refuse(format!("the image is for {is_for}, this machine is {platform}")));
    }
    let diff_ids = parsed.rootfs().diff_ids().iter().map(|id| id.parse());
    let diff_ids = diff_ids
        .collect::<Result<Vec<Digest>, _>>()
        .map_err(|error| refuse(error.to_string()))?;
    if diff_ids.len() != layers {
        return Err(refuse(format!(
            "it lists {} layers, the manifest {layers}",
            diff_ids.len()
        )));
    }
    Ok(diff_ids)
}

/// The name of each stack of layers, the lowest first: a layer unpacked above another stack may differ in the
/// directories it only implies, so it is another one on disk (image-spec, config.md#layer-chainid).
pub(super) fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chain.push(match chain.last() {
            None => diff_id.clone(),
            Some(parent) => Digest::from_hash(Sha256::digest(format!("{parent} {diff_id}")).as_slice()),
        });
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(content: &str) -> String {
        format!(
            r#"{{"mediaType":"x","digest":"{}","size":{}}}"#,
            Digest::of(content.as_bytes()),
            content.len()
        )
    }

    #[test]
    fn shapes_are_told_apart_and_ambiguous_ones_refused() {
        let d = descriptor("x");
        let manifest = format!(r#"{{"schemaVersion":2,"config":{d},"layers":[{d}]}}"#);
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{d}]}}"#);
        assert!(matches!(
            parse(manifest.as_bytes(), Some(OCI_MANIFEST)),
            Ok(Document::Manifest(_))
        ));
        assert!(matches!(
            parse(index.as_bytes(), Some(DOCKER_LIST)),
            Ok(Document::Index(_))
        ));
        let many = vec![d.as_str(); 128].join(",");
        for (json, served_as, why) in [
            (manifest.clone(), Some(OCI_INDEX), "said to be"),
            (index.clone(), Some(DOCKER_MANIFEST), "said to be"),
            (
                format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","manifests":[]}}"#),
                None,
                "said to be",
            ),
            (
                format!(r#"{{"schemaVersion":2,"config":{d},"layers":[{d}],"manifests":[]}}"#),
                None,
                "both",
            ),
            (r#"{"schemaVersion":2}"#.to_owned(), None, "neither"),
            (
                r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned(),
                None,
                "schema version 1",
            ),
            (
                format!(r#"{{"schemaVersion":2,"config":{d},"layers":[{many}]}}"#),
                None,
                "more than the limit of 127",
            ),
            (
                format!(r#"{{"schemaVersion":2,"manifests":[{many}]}}"#),
                None,
                "more than the limit of 100",
            ),
            (
                format!(r#"{{"schemaVersion":2,"config":{d},"layers":[],"layers":[]}}"#),
                None,
                "read the manifest",
            ),
            (
                r#"{"schemaVersion":2,"manifests":[{"digest":"sha512:0","size":1}]}"#.to_owned(),
                None,
                "read the manifest",
            ),
            ("nonsense".to_owned(), None, "read the manifest"),
        ] {
            let error = parse(json.as_bytes(), served_as).expect_err(&json).to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn the_platform_chooses() {
        let entry = |os: &str, architecture: &str| {
            let platform = Platform {
                os: os.to_owned(),
                architecture: architecture.to_owned(),
            };
            let digest = Digest::of(platform.to_string().as_bytes());
            let (media_type, annotations) = (String::new(), BTreeMap::new());
            Descriptor {
                media_type,
                digest,
                size: 1,
                platform: Some(platform),
                annotations,
            }
        };
        let index = Index(vec![
            entry("linux", "arm64"),
            entry("linux", "amd64"),
            entry("unknown", "unknown"),
        ]);
        let amd64 = Platform {
            os: "linux".to_owned(),
            architecture: "amd64".to_owned(),
        };
        assert_eq!(
            index.choose(&amd64, &Digest::of(b"")).unwrap().digest,
            Digest::of(b"linux/amd64")
        );
        let riscv = Platform {
            architecture: "riscv64".to_owned(),
            ..amd64
        };
        let error = index.choose(&riscv, &Digest::of(b"")).unwrap_err().to_string();
        assert!(
            error.contains("no image for linux/riscv64, only for linux/arm64, linux/amd64"),
            "{error}"
        );
    }

    #[test]
    fn a_configuration_must_fit_its_manifest() {
        let amd64 = Platform {
            os: "linux".to_owned(),
            architecture: "amd64".to_owned(),
        };
        let id = Digest::of(b"layer");
        let config = |architecture: &str, ids: &str| {
            format!(
                r#"{{"architecture":"{architecture}","os":"linux","config":{{"Labels":null}},"rootfs":{{"type":"layers","diff_ids":[{ids}]}}}}"#
            )
        };
        let good = config("amd64", &format!("\"{id}\""));
        assert_eq!(diff_ids(good.as_bytes(), 1, &amd64).unwrap(), [id]);
        for (json, layers, why) in [
            (good.clone(), 2, "lists 1 layers, the manifest 2"),
            (config("arm64", ""), 0, "for linux/arm64"),
            (config("amd64", "\"sha256:xyz\""), 1, "sha256"),
            ("{}".to_owned(), 0, "read the configuration"),
        ] {
            let error = diff_ids(json.as_bytes(), layers, &amd64).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn chain_ids_name_stacks() {
        let ids = [Digest::of(b"a"), Digest::of(b"b")];
        let chain = chain_ids(&ids);
        assert_eq!(chain[0], ids[0]);
        assert_eq!(chain[1], Digest::of(format!("{} {}", ids[0], ids[1]).as_bytes()));
    }
}
