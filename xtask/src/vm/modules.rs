//! Picks the modules that tests need from a kernel's packages, in their order of loading, ready for `finit_module`.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::cpio::Archive;
use crate::command;

/// What a Debian host has loaded by the time a node agent runs, or loads on demand; the VM has no `modprobe`.
const WANTED: &[&str] = &[
    "virtio_pci",
    "virtio_console",
    "virtio_net",
    "virtio_blk",
    "ext4",
    "loop",
    "overlay",
    "erofs",
    "fuse",
    "veth",
    "bridge",
    "br_netfilter",
    "dummy",
    "tun",
    "macvlan",
    "ipvlan",
    "vxlan",
    "geneve",
    "wireguard",
    "nf_tables",
    "nft_ct",
    "nft_nat",
    "nft_masq",
    "nft_reject_inet",
    "nft_fib_inet",
    "nft_chain_nat",
    "nft_compat",
    "nf_conntrack",
    "nf_nat",
    "ip_tables",
    "iptable_nat",
    "iptable_filter",
    "xt_conntrack",
    "xt_comment",
    "xt_mark",
    "xt_MASQUERADE",
    "xt_nat",
    "xt_addrtype",
    "cls_bpf",
    "act_bpf",
    "sch_ingress",
    "sch_fq",
    "sch_fq_codel",
    "sch_tbf",
    "inet_diag",
    "tcp_diag",
    "udp_diag",
    "unix_diag",
    "netlink_diag",
    "af_packet_diag",
    "raw_diag",
    "configs",
    "nbd",
    "ipv6",
    "sctp",
];
const SIGNATURE_MAGIC: &[u8] = b"~Module signature appended~\n";
/// `struct module_signature`, whose last four bytes are the big-endian length of the signature before it.
const SIGNATURE_HEADER: usize = 12;

/// A short id of the list, for caches.
pub(crate) fn list_id() -> String {
    let mut hasher = DefaultHasher::new();
    WANTED.hash(&mut hasher);
    format!("{:08x}", hasher.finish() & 0xffff_ffff)
}

/// Writes an archive of the wanted modules that `dir` (`/lib/modules/V`) has, with what they depend on. What the kernel
/// has built in, or lacks, is left out.
pub(crate) fn pack(dir: &Path, target: &Path) -> anyhow::Result<()> {
    let mut closure = Closure {
        files: index(dir)?,
        order: Vec::new(),
    };
    for name in WANTED {
        closure.add(name)?;
    }
    let file = File::create(target).with_context(|| format!("create {}", target.display()))?;
    let mut archive = Archive::new(BufWriter::new(file));
    for (position, (name, bytes)) in closure.order.iter().enumerate() {
        archive.file(format!("/modules/{position:03}-{name}.ko"), without_signature(bytes))?;
    }
    archive.directory("/modules")?;
    archive.finish()
}

struct Closure {
    files: BTreeMap<String, PathBuf>,
    order: Vec<(String, Vec<u8>)>,
}

impl Closure {
    /// Adds what the module depends on, then the module.
    fn add(&mut self, name: &str) -> anyhow::Result<()> {
        let name = name.replace('-', "_");
        let Some(path) = self.files.get(&name) else {
            return Ok(());
        };
        if self.order.iter().any(|(known, _)| *known == name) {
            return Ok(());
        }
        let bytes = read(path)?;
        for dependency in dependencies(&bytes) {
            self.add(&dependency)?;
        }
        self.order.push((name, bytes));
        Ok(())
    }
}

/// Module files by name; a name's dashes are underscores.
fn index(dir: &Path) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let mut find = std::process::Command::new("find");
    let listing = command::output(find.arg(dir.join("kernel")).args(["-name", "*.ko*", "-type", "f"]))?;
    let name = |path: &Path| Some(path.file_name()?.to_str()?.split(".ko").next()?.replace('-', "_"));
    Ok(listing
        .lines()
        .map(PathBuf::from)
        .filter_map(|path| Some((name(&path)?, path)))
        .collect())
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => command::filter("xz", &["-dc"], path),
        Some("zst") => command::filter("zstd", &["-dc"], path),
        _ => std::fs::read(path).with_context(|| format!("read {}", path.display())),
    }
}

/// The names in the `depends=` entry of the `.modinfo` section: entries are strings that end in NUL.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = module[start + KEY.len()..]
        .split(|byte| *byte == 0)
        .next()
        .unwrap_or_default();
    let names = String::from_utf8_lossy(value);
    names
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Checking a signature costs more than all the rest of loading when emulated, and the VM's kernel doesn't ask for it.
fn without_signature(module: &[u8]) -> &[u8] {
    let Some(signed) = module.strip_suffix(SIGNATURE_MAGIC) else {
        return module;
    };
    let Some((_, length)) = signed.split_last_chunk::<4>() else {
        return module;
    };
    let signature = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    let end = signed
        .len()
        .checked_sub(SIGNATURE_HEADER)
        .and_then(|end| end.checked_sub(signature));
    end.map_or(module, |end| &module[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_the_names_in_modinfo() {
        assert_eq!(
            dependencies(b"x\0license=GPL\0depends=nf_tables,nf-nat\0name=a\0"),
            ["nf_tables", "nf-nat"]
        );
        assert!(dependencies(b"x\0depends=\0name=a\0").is_empty());
        assert!(dependencies(b"").is_empty());
    }

    #[test]
    fn a_signature_is_cut_and_a_wrong_length_is_left_alone() {
        let signed = |length: u32| [b"code", &b"sig"[..], &[0; 8], &length.to_be_bytes(), SIGNATURE_MAGIC].concat();
        assert_eq!(without_signature(&signed(3)), b"code");
        assert_eq!(without_signature(&signed(1000)), signed(1000));
        assert_eq!(without_signature(b"unsigned"), b"unsigned");
    }
}
