//! Starts QEMU with one VM in it and ends it.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::emulator::Emulator;
use super::kernel::Kernel;
use crate::command;

/// `clocksource=hpet tsc=unstable`: an emulated TSC that is calibrated while the host is busy makes the guest's clock
/// run up to 20 times too fast. `panic=-1` with `-no-reboot` ends QEMU on a crash.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 panic=-1 oops=panic quiet audit=0 cryptomgr.notests no_timer_check \
    clocksource=hpet tsc=unstable random.trust_cpu=on rcupdate.rcu_expedited=1";
/// A 7.x kernel on a processor without `cmpxchg16b` refuses every allocation of BPF's socket storage and timers otherwise. It
/// makes every allocation of a kernel go the slow way.
const WITHOUT_CMPXCHG16B: &str = "slub_debug=Z,kmalloc*";
/// In place of AppArmor, and from the first policy on enforced.
const WITH_SELINUX: &str = "security=selinux selinux=1 enforcing=1";
const CONNECT_LIMIT: Duration = Duration::from_secs(20);

/// What to boot.
#[derive(Debug)]
pub(crate) struct Machine<'a> {
    /// What boots it.
    pub(crate) emulator: &'a Emulator,
    /// The kernel and its modules.
    pub(crate) kernel: &'a Kernel,
    /// Archives that make the initial file system, in their order.
    pub(crate) initrd: Vec<&'a Path>,
    /// A disk that it may read, the first of its kind.
    pub(crate) disk: &'a Path,
    /// Cables to other machines; none for a machine on its own.
    pub(crate) nics: Vec<Nic>,
    /// Which of the kernel's two modules rules who may do what.
    pub(crate) security: Security,
    /// For sockets and the console's log.
    pub(crate) dir: &'a Path,
}

/// A security module that gives processes and files labels. A kernel has one of them at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Security {
    /// Debian's own choice.
    AppArmor,
    /// With a policy of the tests' own.
    Selinux,
}

/// One end of a cable between two machines.
#[derive(Debug, Clone)]
pub(crate) struct Nic {
    /// For instance `52:54:00:00:00:01`.
    pub(crate) mac: String,
    /// The unix socket of this end.
    pub(crate) local: PathBuf,
    /// The unix socket of the other end.
    pub(crate) remote: PathBuf,
}

/// A running machine. It is killed on drop.
#[derive(Debug)]
pub(crate) struct Vm {
    qemu: Child,
    lines: Receiver<String>,
    console: PathBuf,
}

impl Machine<'_> {
    /// Starts QEMU and waits until it has opened the port for results.
    pub(crate) fn boot(&self) -> anyhow::Result<Vm> {
        let initrd = self.dir.join("initrd");
        join(&self.initrd, &initrd)?;
        let socket = self.dir.join("results");
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).with_context(|| format!("listen on {}", socket.display()))?;
        let console = self.dir.join("console");
        let mut command = self.command(&initrd, &socket, &console);
        let mut qemu = command
            .spawn()
            .with_context(|| format!("start {}", command::describe(&command)))?;
        let stream = match accept(&listener, &mut qemu) {
            Ok(stream) => stream,
            Err(error) => {
                let _ = qemu.kill();
                let _ = qemu.wait();
                return Err(error);
            }
        };
        Ok(Vm {
            qemu,
            lines: read_lines(stream),
            console,
        })
    }

    fn command(&self, initrd: &Path, socket: &Path, console: &Path) -> Command {
        let mut command = self.emulator.command();
        command.args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
            "-machine",
            "q35",
            "-smp",
            "1",
        ]);
        command.args(["-m", "2G"]);
        command
            .arg("-kernel")
            .arg(&self.kernel.image)
            .arg("-initrd")
            .arg(initrd)
            .arg("-append")
            .arg(self.kernel_arguments());
        command
            .arg("-chardev")
            .arg(format!("file,id=console,path={}", console.display()));
        command.args(["-serial", "chardev:console", "-device", "virtio-serial-pci"]);
        command
            .arg("-chardev")
            .arg(format!("socket,id=results,path={}", socket.display()));
        command.args(["-device", "virtserialport,chardev=results,name=orlop.results"]);
        command
            .arg("-drive")
            .arg(format!(
                "if=none,id=disk,format=raw,readonly=on,file={}",
                self.disk.display()
            ))
            .args(["-device", "virtio-blk-pci,drive=disk"]);
        for (index, nic) in self.nics.iter().enumerate() {
            let (local, remote) = (nic.local.display(), nic.remote.display());
            command.arg("-netdev").arg(format!(
                "dgram,id=n{index},local.type=unix,local.path={local},remote.type=unix,remote.path={remote}"
            ));
            command
                .arg("-device")
                .arg(format!("virtio-net-pci,netdev=n{index},mac={}", nic.mac));
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    fn kernel_arguments(&self) -> String {
        let processor = (!self.emulator.has_cmpxchg16b()).then_some(WITHOUT_CMPXCHG16B);
        let security = (self.security == Security::Selinux).then_some(WITH_SELINUX);
        let more = processor.into_iter().chain(security);
        more.fold(KERNEL_ARGUMENTS.to_owned(), |line, word| format!("{line} {word}"))
    }
}

impl Vm {
    /// The next line that the guest reports; `None` when the guest is gone.
    ///
    /// # Errors
    /// Nothing came within `limit`.
    pub(crate) fn line(&self, limit: Duration) -> anyhow::Result<Option<String>> {
        use std::sync::mpsc::RecvTimeoutError;
        match self.lines.recv_timeout(limit) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => bail!("the VM said nothing for {limit:?}"),
        }
    }

    /// The end of the kernel's console, for the report of a crash.
    pub(crate) fn console_tail(&self) -> String {
        let bytes = std::fs::read(&self.console).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

fn join(parts: &[&Path], target: &Path) -> anyhow::Result<()> {
    let mut output = File::create(target).with_context(|| format!("create {}", target.display()))?;
    for part in parts {
        let mut input = File::open(part).with_context(|| format!("open {}", part.display()))?;
        std::io::copy(&mut input, &mut output).with_context(|| format!("copy {}", part.display()))?;
    }
    Ok(())
}

fn accept(listener: &UnixListener, qemu: &mut Child) -> anyhow::Result<UnixStream> {
    listener
        .set_nonblocking(true)
        .context("set the socket to non-blocking")?;
    let deadline = Instant::now() + CONNECT_LIMIT;
    while Instant::now() < deadline {
        if let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(false).context("set the socket to blocking")?;
            return Ok(stream);
        }
        if let Some(status) = qemu.try_wait().context("wait for QEMU")? {
            bail!("QEMU ended with {status} before the machine ran");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("QEMU did not connect within {CONNECT_LIMIT:?}")
}

fn read_lines(stream: UnixStream) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}
