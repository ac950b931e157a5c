//! Unpacks the ELF `vmlinux` from a bzImage: QEMU boots it through its PVH entry, which saves the guest from
//! decompressing itself under emulation.
//!
//! The layout is that of the kernel's Documentation/arch/x86/boot.rst.

use std::path::Path;

use anyhow::{Context, bail};

use crate::command;

const SETUP_SECTORS: usize = 0x1f1;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR: usize = 512;

/// Writes the ELF image in the bzImage `source` to `target`.
pub(crate) fn extract(source: &Path, target: &Path) -> anyhow::Result<()> {
    let bytes = std::fs::read(source).with_context(|| format!("read {}", source.display()))?;
    let payload = payload(&bytes).with_context(|| format!("{} is not a bzImage", source.display()))?;
    let (program, arguments) = decompressor(payload)?;
    let packed = target.with_extension("packed");
    std::fs::write(&packed, payload).with_context(|| format!("write {}", packed.display()))?;
    let image = command::filter(program, arguments, &packed)?;
    std::fs::remove_file(&packed).with_context(|| format!("remove {}", packed.display()))?;
    anyhow::ensure!(
        image.starts_with(b"\x7fELF"),
        "the kernel in {} is not an ELF image",
        source.display()
    );
    std::fs::write(target, image).with_context(|| format!("write {}", target.display()))
}

/// The compressed kernel, without the four bytes of its unpacked size at the end.
fn payload(image: &[u8]) -> Option<&[u8]> {
    let sectors = usize::from(*image.get(SETUP_SECTORS)?);
    let start = (sectors + 1) * SECTOR + number(image, PAYLOAD_OFFSET)?;
    image.get(start..start + number(image, PAYLOAD_LENGTH)?.checked_sub(4)?)
}

fn number(image: &[u8], offset: usize) -> Option<usize> {
    let bytes = image.get(offset..offset + 4)?.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(bytes)).ok()
}

fn decompressor(payload: &[u8]) -> anyhow::Result<(&'static str, &'static [&'static str])> {
    match payload {
        [0x02, 0x21, 0x4c, 0x18, ..] => Ok(("lz4", &["-dc"])),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(("zstd", &["-dc"])),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => Ok(("xz", &["-dc"])),
        _ => bail!(
            "the kernel is compressed in a way that is not known here: {:02x?}",
            &payload[..4.min(payload.len())]
        ),
    }
}
