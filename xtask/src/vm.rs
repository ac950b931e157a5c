//! Test VMs: Debian's cloud kernels under QEMU, with an initial file system made for one job.
//!
//! `kernel` fetches and unpacks kernels, `modules` picks what a kernel has as modules, `initrd` packs the machine's
//! files, `peers` makes the disk of Debian's own programs, `emulator` chooses a QEMU, `qemu` starts it. It knows nothing
//! of tests but their programs and names.

pub(crate) mod apt;
pub(crate) mod cpio;
pub(crate) mod emulator;
pub(crate) mod image;
pub(crate) mod initrd;
pub(crate) mod kernel;
pub(crate) mod modules;
pub(crate) mod peers;
pub(crate) mod qemu;
