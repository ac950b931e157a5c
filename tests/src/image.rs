//! Makes small real OCI images as layout directories, from nothing but the host's static busybox.
//!
//! `tests::image::busybox(dir)` writes the image that the demo and the tests run; load it with `orlop load DIR`, which
//! names it [`BUSYBOX`], or hand it to any OCI tool (`skopeo copy oci:DIR …`). The same busybox gives the same digests
//! every time. [`Layout`] builds other images, well-formed or not, for tests of the store.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The name that the image of [`busybox`] carries. Its tag isn't `latest`, so that a pod's default pull policy takes the
/// local one.
pub const BUSYBOX: &str = "localhost/busybox:demo";

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Writes an image of `/bin/busybox` into `dir`, which is made if need be, as an OCI layout; returns `dir`.
///
/// It holds `/bin` with a link for every applet (sh, httpd, wget, nc, sleep, …), `/etc/passwd` and `/etc/group` with
/// `root`, `www` (33) and `nobody` (65534), `/tmp` (1777), `/root`, and `/www/index.html`. Its command is `sh`.
pub fn busybox(dir: &Path) -> anyhow::Result<PathBuf> {
    let binary = fs::read("/bin/busybox").context("read /bin/busybox; `apt-get install busybox-static` brings it")?;
    ensure!(
        is_static(&binary),
        "/bin/busybox is not a static program; `apt-get install busybox-static` replaces it"
    );
    let mut layer = Layer::default();
    layer.directories(
        &["bin", "dev", "etc", "proc", "root", "sys", "usr", "var", "www"],
        0o755,
    )?;
    layer.directories(&["tmp"], 0o1777)?;
    layer.file("bin/busybox", 0o755, &binary)?;
    for applet in applets()? {
        layer.symlink(&format!("bin/{applet}"), "busybox")?;
    }
    layer.file("etc/passwd", 0o644, PASSWD)?;
    layer.file("etc/group", 0o644, GROUP)?;
    layer.file("www/index.html", 0o644, b"hello from orlop\n")?;
    let config = json!({
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        "Cmd": ["sh"],
        "WorkingDir": "/",
    });
    Layout::new(BUSYBOX).config(config).gzip(&layer.finish()?)?.write(dir)
}

const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
    www:x:33:33:www:/www:/bin/sh\n\
    nobody:x:65534:65534:nobody:/:/bin/false\n";
const GROUP: &[u8] = b"root:x:0:\nwww:x:33:\nweb:x:100:www\nnogroup:x:65534:\n";

/// A 64-bit little-endian ELF program without a PT_INTERP header (elf(5)).
fn is_static(binary: &[u8]) -> bool {
    const PT_INTERP: u64 = 3;
    let number = |offset: usize, width: usize| {
        let bytes = binary.get(offset..offset.checked_add(width)?)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0, |number, byte| number << 8 | u64::from(*byte)),
        )
    };
    let headers = || {
        let (start, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        (0..count)
            .map(|i| number(usize::try_from(start.checked_add(i * size)?).ok()?, 4))
            .collect::<Option<Vec<_>>>()
    };
    binary.starts_with(b"\x7fELF\x02\x01") && headers().is_some_and(|kinds| !kinds.contains(&PT_INTERP))
}

fn applets() -> anyhow::Result<Vec<String>> {
    let output = Command::new("/bin/busybox")
        .arg("--list")
        .output()
        .context("run /bin/busybox --list")?;
    if !output.status.success() {
        bail!("/bin/busybox --list failed: {}", output.status);
    }
    let names = String::from_utf8(output.stdout).context("read the list of applets")?;
    Ok(names
        .lines()
        .filter(|name| *name != "busybox")
        .map(str::to_owned)
        .collect())
}

/// The tar of one layer. Entries are root's and from 1970, so that equal contents have equal digests.
pub struct Layer(tar::Builder<Vec<u8>>);

impl Default for Layer {
    fn default() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }
}

impl Layer {
    /// Appends directories of that mode.
    pub fn directories(&mut self, paths: &[&str], mode: u32) -> anyhow::Result<()> {
        paths
            .iter()
            .try_for_each(|path| self.entry(path, tar::EntryType::Directory, mode, b""))
    }

    /// Appends a regular file.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> anyhow::Result<()> {
        self.entry(path, tar::EntryType::Regular, mode, content)
    }

    /// Appends a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> anyhow::Result<()> {
        self.link(path, tar::EntryType::Symlink, target)
    }

    /// Appends a hard link to an earlier entry.
    pub fn hard_link(&mut self, path: &str, target: &str) -> anyhow::Result<()> {
        self.link(path, tar::EntryType::Link, target)
    }

    /// Appends an entry as it is told to, sensible or not: the name is written without any check.
    pub fn entry(&mut self, path: &str, kind: tar::EntryType, mode: u32, content: &[u8]) -> anyhow::Result<()> {
        let mut header = header(path, kind, mode)?;
        header.set_size(content.len() as u64);
        self.raw(header, content)
    }

    /// Appends a header of the caller's making, with its checksum set, and its content.
    pub fn raw(&mut self, mut header: tar::Header, content: &[u8]) -> anyhow::Result<()> {
        header.set_cksum();
        self.0.append(&header, content).context("append to a layer")
    }

    /// The tar, ended as tar wants it.
    pub fn finish(self) -> anyhow::Result<Vec<u8>> {
        self.0.into_inner().context("end a layer")
    }

    fn link(&mut self, path: &str, kind: tar::EntryType, target: &str) -> anyhow::Result<()> {
        let mut header = header(path, kind, 0o777)?;
        put(&mut header.as_old_mut().linkname, target)?;
        self.raw(header, b"")
    }
}

/// A header that names `path` as it stands: `tar::Header::set_path` refuses what hostile layers are made of.
pub fn header(path: &str, kind: tar::EntryType, mode: u32) -> anyhow::Result<tar::Header> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    put(&mut header.as_old_mut().name, path)?;
    Ok(header)
}

fn put(field: &mut [u8], text: &str) -> anyhow::Result<()> {
    let room = field
        .get_mut(..text.len())
        .with_context(|| format!("{text:?} is too long for a tar header"))?;
    room.copy_from_slice(text.as_bytes());
    Ok(())
}

/// An image about to be written as an OCI layout (image-spec, image-layout.md).
pub struct Layout {
    name: String,
    config: Value,
    layers: Vec<Blob>,
    diff_ids: Vec<String>,
}

struct Blob {
    bytes: Vec<u8>,
    media_type: String,
}

impl Layout {
    /// An image without layers, of that full name.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            config: json!({}),
            layers: Vec::new(),
            diff_ids: Vec::new(),
        }
    }

    /// Sets the `config` object of the image configuration (`Env`, `Cmd`, `User`, …).
    pub fn config(mut self, config: Value) -> Self {
        self.config = config;
        self
    }

    /// Adds a layer on top, compressed with gzip.
    pub fn gzip(self, tar: &[u8]) -> anyhow::Result<Self> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        std::io::Write::write_all(&mut encoder, tar).context("compress a layer")?;
        let bytes = encoder.finish().context("compress a layer")?;
        Ok(self.layer(bytes, &format!("{LAYER}+gzip"), &digest(tar)))
    }

    /// Adds a layer on top as it is.
    pub fn plain(self, tar: Vec<u8>) -> Self {
        let diff_id = digest(&tar);
        self.layer(tar, LAYER, &diff_id)
    }

    /// Adds a layer of the caller's making; nothing is checked.
    pub fn layer(mut self, bytes: Vec<u8>, media_type: &str, diff_id: &str) -> Self {
        self.layers.push(Blob {
            bytes,
            media_type: media_type.to_owned(),
        });
        self.diff_ids.push(diff_id.to_owned());
        self
    }

    /// The digests of the layers' blobs, the lowest first.
    pub fn layer_digests(&self) -> Vec<String> {
        self.layers.iter().map(|layer| digest(&layer.bytes)).collect()
    }

    /// Writes the layout into `dir`, which is made if need be, and returns `dir`.
    pub fn write(&self, dir: &Path) -> anyhow::Result<PathBuf> {
        fs::create_dir_all(dir.join("blobs/sha256")).with_context(|| format!("make {}", dir.display()))?;
        let layers = self
            .layers
            .iter()
            .map(|layer| write_blob(dir, &layer.bytes, &layer.media_type));
        let layers = layers.collect::<anyhow::Result<Vec<_>>>()?;
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": self.diff_ids },
        });
        let config = write_blob(dir, &serde_json::to_vec(&config)?, CONFIG)?;
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers });
        let mut manifest = write_blob(dir, &serde_json::to_vec(&manifest)?, MANIFEST)?;
        manifest["annotations"] = json!({
            "io.containerd.image.name": self.name,
            "org.opencontainers.image.ref.name": self.name.rsplit(':').next(),
        });
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        write(&dir.join("index.json"), &serde_json::to_vec(&index)?)?;
        write(&dir.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(dir.to_owned())
    }
}

/// This machine's architecture in Go's words, as images have it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// `sha256:…` of bytes.
pub fn digest(bytes: &[u8]) -> String {
    let hex = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>();
    format!("sha256:{hex}")
}

fn write_blob(dir: &Path, bytes: &[u8], media_type: &str) -> anyhow::Result<Value> {
    let digest = digest(bytes);
    write(&dir.join("blobs").join(digest.replace(':', "/")), bytes)?;
    Ok(json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() }))
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    fs::write(path, bytes).with_context(|| format!("write {}", path.display()))
}
