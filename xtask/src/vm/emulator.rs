//! Which QEMU runs the VMs, and how: with KVM where the hardware gives it, else by emulation of a version that is fast
//! and sound at it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use super::apt::AptDir;
use crate::{command, workspace};

const PROGRAM: &str = "qemu-system-x86_64";
/// From this major version on, emulation of `cmpxchg16b` is sound; it starts processes in less than half the time, too.
const SOUND: u32 = 10;
/// What a kernel uses where it is there, and pays for where it is emulated: strings are copied byte by byte instead of by
/// eight, every access to a process's memory begins and ends a block of code, and a page table has a level more.
const DEAR: &str = "-erms,-fsrm,-smap,-smep,-la57";
/// Of the same kind, in versions that are sound.
const DEAR_SINCE_SOUND: &str = "-fsrs,-fzrm,-fsrc";
const BACKPORTS: &str = "bookworm-backports";
const PACKAGES: [&str; 5] = [
    "qemu-system-x86",
    "qemu-system-common",
    "qemu-system-data",
    "seabios",
    "ipxe-qemu",
];

/// A QEMU that can be started.
#[derive(Debug, Clone)]
pub(crate) struct Emulator {
    program: PathBuf,
    /// Where its firmware is, if not where it looks by itself.
    firmware: Vec<PathBuf>,
    has_kvm: bool,
    major: u32,
}

impl Emulator {
    /// The machine's own QEMU; on Debian 12 without KVM the newer one of its backports, unpacked in the cache.
    pub(crate) fn obtain() -> anyhow::Result<Self> {
        let own = Self::new(PathBuf::from(PROGRAM), Vec::new())?;
        if own.has_kvm || own.major >= SOUND || !is_bookworm() {
            return Ok(own);
        }
        backport().or_else(|error| {
            eprintln!("  {} it is, and slower: {error:#}", own.program.display());
            Ok(own)
        })
    }

    fn new(program: PathBuf, firmware: Vec<PathBuf>) -> anyhow::Result<Self> {
        let text = command::output(Command::new(&program).arg("--version"))?;
        let version = text.split("version ").nth(1).and_then(|rest| rest.split('.').next());
        let major = version.and_then(|major| major.parse().ok());
        let major = major.with_context(|| format!("no version in {text:?}"))?;
        Ok(Self {
            program,
            firmware,
            has_kvm: has_kvm(),
            major,
        })
    }

    /// Whether its processor has `cmpxchg16b`.
    pub(crate) fn has_cmpxchg16b(&self) -> bool {
        self.has_kvm || self.major >= SOUND
    }

    /// The command, up to the machine's processor. QEMU ends with us, however we end.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(&self.program);
        for dir in &self.firmware {
            command.arg("-L").arg(dir);
        }
        let (accelerator, processor) = match (self.has_kvm, self.major >= SOUND) {
            (true, _) => ("kvm", "host".to_owned()),
            (false, true) => ("tcg", format!("max,{DEAR},{DEAR_SINCE_SOUND}")),
            // Its cmpxchg16b spoils the flags: every fourth boot crashes.
            (false, false) => ("tcg", format!("max,-cx16,{DEAR}")),
        };
        command.args(["-accel", accelerator, "-cpu", &processor]);
        command
    }
}

/// A nested `/dev/kvm` without the modules can't run stock kernels.
fn has_kvm() -> bool {
    let modules = ["/sys/module/kvm_intel", "/sys/module/kvm_amd"];
    let has_modules = modules.iter().any(|path| Path::new(path).exists());
    has_modules && File::options().read(true).write(true).open("/dev/kvm").is_ok()
}

fn is_bookworm() -> bool {
    std::fs::read_to_string("/etc/os-release").is_ok_and(|text| text.contains("VERSION_CODENAME=bookworm"))
}

/// Its libraries are those of the machine's own QEMU.
fn backport() -> anyhow::Result<Emulator> {
    let dir = workspace::cache_dir().join("tools/qemu").join(BACKPORTS);
    let root = dir.join("root");
    // Written last, so it says that the rest is complete.
    let stamp = dir.join("complete");
    if !stamp.exists() {
        eprintln!("  fetching the QEMU of Debian's {BACKPORTS} (14 MB), which emulates faster, for the test VM");
        let apt = AptDir::open(&dir.join("apt"), BACKPORTS)?;
        let packages = PACKAGES.map(str::to_owned);
        apt.unpack(&packages, &root)?;
        std::fs::remove_dir_all(dir.join("apt")).context("remove the apt directory")?;
        std::fs::write(&stamp, "").context("mark QEMU as complete")?;
    }
    let firmware = ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"].map(|path| root.join(path));
    Emulator::new(root.join("usr/bin").join(PROGRAM), firmware.into())
}
