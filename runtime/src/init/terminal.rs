//! Steps about the terminal.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::statfs::{FsType, fstatfs};
use nix::sys::termios::{OutputFlags, SetArg, tcgetattr, tcsetattr};
use nix::unistd::{Uid, dup2_stderr, dup2_stdin, dup2_stdout, fchown};

use super::{Init, inside};
use crate::guard::Guard;
use crate::report::Report;
use crate::sys::channel::send_with_fd;
use crate::sys::mount::{move_mount, open_tree_clone};
use crate::sys::pty::{WindowSize, open_peer, set_controlling, set_window_size};

/// `DEVPTS_SUPER_MAGIC` of linux/magic.h.
const DEVPTS: FsType = FsType(0x1cd1);

impl Init<'_> {
    /// The slave comes from the master itself, not by its path, which others could have replaced (CVE-2025-52565).
    pub(super) fn open_terminal(&mut self, size: Option<WindowSize>, owner: u32, plain_lines: bool) -> nix::Result<()> {
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY;
        let master = inside::open_without_links(self.root()?, c"dev/pts/ptmx", flags)?;
        if fstatfs(&master)?.filesystem_type() != DEVPTS {
            return Err(Errno::ENODEV);
        }
        let slave = open_peer(master.as_fd())?;
        if let Some(size) = size {
            set_window_size(master.as_fd(), size)?;
        }
        if plain_lines {
            leave_lines_alone(&slave)?;
        }
        fchown(&slave, Some(Uid::from_raw(owner)), None)?;
        set_controlling(slave.as_fd())?;
        dup2_stdin(&slave)?;
        dup2_stdout(&slave)?;
        dup2_stderr(&slave)?;
        send_with_fd(self.channel, &Report::Terminal.encode(), master.as_fd())?;
        self.terminal = Some(slave);
        Ok(())
    }

    pub(super) fn bind_console(&mut self) -> nix::Result<()> {
        if Guard::TerminalOfMaster.is_out() {
            self.trust_the_terminals_path()?;
        }
        let slave = self.terminal.as_ref().ok_or(Errno::EBADF)?;
        let console = open_tree_clone(slave.as_fd(), c"", false)?;
        let directory = inside::open_without_links(self.root()?, c"dev", OFlag::O_PATH | OFlag::O_DIRECTORY)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o600);
        inside::exists_or(nix::fcntl::openat(directory.as_fd(), c"console", flags, mode).map(drop))?;
        let target = inside::open_without_links(self.root()?, c"dev/console", OFlag::O_PATH)?;
        move_mount(console.as_fd(), target.as_fd())
    }

    /// The mistake of CVE-2025-52565, for the test of its guard.
    fn trust_the_terminals_path(&mut self) -> nix::Result<()> {
        self.terminal = Some(inside::open(self.root()?, c"dev/pts/0", OFlag::O_PATH)?);
        Ok(())
    }
}

fn leave_lines_alone(terminal: &OwnedFd) -> nix::Result<()> {
    let mut settings = tcgetattr(terminal)?;
    settings.output_flags.remove(OutputFlags::ONLCR);
    tcsetattr(terminal, SetArg::TCSANOW, &settings)
}
