//! Standing in for a container in the foreground: its signals come from ours, its terminal is ours.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{OutputFlags, SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use runtime::container::{Exit, Running, Stdio, kill, set_window_size, window_size};
use runtime::sys::fd::duplicate_from;
use runtime::sys::wait::reap_others;

/// Bytes that are passed on at a time.
const CHUNK: usize = 8192;

/// How many milliseconds a terminal is left alone that nobody in the container has open: until somebody opens it again,
/// that is told again and again.
const CLOSED: u16 = 100;

/// The signals of this process, taken as messages from now on.
pub(crate) struct Foreground {
    signals: SignalFd,
}

impl Foreground {
    /// Takes all signals, before there is a container: one that comes early is passed on late, not lost.
    ///
    /// With `adopts` the processes that the container's processes leave behind become this one's to reap.
    pub(crate) fn take(adopts: bool) -> Result<Self> {
        if adopts {
            nix::sys::prctl::set_child_subreaper(true).context("become a subreaper")?;
        }
        let all = SigSet::all();
        all.thread_block().context("block signals")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self {
            signals: SignalFd::with_flags(&all, flags).context("open a signalfd")?,
        })
    }

    /// Passes signals and terminal on until the process ends.
    pub(crate) fn wait(self, mut running: Running) -> Result<Exit> {
        let terminal = running.terminal.take().map(OurTerminal::lend).transpose()?;
        match terminal {
            Some(terminal) => self.relay(&running, terminal),
            None => self.watch(&running),
        }
    }

    fn watch(&self, running: &Running) -> Result<Exit> {
        loop {
            let mut files = [running.pidfd.as_fd(), self.signals.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            wait_for(&mut files, PollTimeout::NONE)?;
            self.pass_signals(running, None)?;
            if let Some(exit) = Exit::try_wait(running.pidfd.as_fd()).context("wait for the container")? {
                return Ok(exit);
            }
        }
    }

    fn relay(&self, running: &Running, mut terminal: OurTerminal) -> Result<Exit> {
        let mut is_closed = false;
        loop {
            let [ended, input, output] = self.look(running, &terminal, is_closed)?;
            self.pass_signals(running, Some(terminal.master.as_fd()))?;
            if input {
                terminal.pass_input()?;
            }
            let more = output && terminal.pass_output()?;
            // What was said in one that had been closed is still heard.
            if ended && !more && !is_closed {
                return Exit::wait(running.pidfd.as_fd()).context("wait for the container");
            }
            is_closed = output && !more;
        }
    }

    /// Waits for something to happen: the container's end, input or output. One that `is_closed` has no output for a while.
    fn look(&self, running: &Running, terminal: &OurTerminal, is_closed: bool) -> Result<[bool; 3]> {
        let has_input = !terminal.input_ended;
        let nothing = || PollFd::new(running.pidfd.as_fd(), PollFlags::empty());
        let readable = |fd, is_asked| match is_asked {
            true => PollFd::new(fd, PollFlags::POLLIN),
            false => nothing(),
        };
        let mut files = [
            readable(running.pidfd.as_fd(), true),
            readable(self.signals.as_fd(), true),
            readable(terminal.input.as_fd(), has_input),
            readable(terminal.master.as_fd(), !is_closed),
        ];
        let timeout = if is_closed { CLOSED.into() } else { PollTimeout::NONE };
        wait_for(&mut files, timeout)?;
        let [ended, _, input, output] = files.map(|file| file.any().unwrap_or(false));
        Ok([ended, input && has_input, output && !is_closed])
    }

    fn pass_signals(&self, running: &Running, terminal: Option<BorrowedFd<'_>>) -> Result<()> {
        while let Some(signal) = self.signals.read_signal().context("read a signal")? {
            let number = i32::try_from(signal.ssi_signo).unwrap_or(0);
            match (number, terminal) {
                (libc::SIGCHLD, _) => reap_others(running.pid),
                (libc::SIGURG | libc::SIGPIPE, _) => {}
                (libc::SIGWINCH, Some(terminal)) => copy_size(terminal),
                // The container may have ended just now.
                _ => drop(kill(running.pidfd.as_fd(), number)),
            }
        }
        Ok(())
    }
}

/// Our own standard streams for the container, or a terminal of its own as large as ours.
///
/// `detached`: somebody else gets that terminal, and has settings of his own for it.
pub(crate) fn stdio(terminal: bool, detached: bool) -> Result<Stdio> {
    if terminal {
        return Ok(Stdio::Terminal {
            size: window_size(io::stdin().as_fd()).ok(),
            plain_lines: !detached,
        });
    }
    let copy = |fd: BorrowedFd<'_>| duplicate_from(fd, 3).context("duplicate a standard stream");
    Ok(Stdio::Streams {
        stdin: copy(io::stdin().as_fd())?,
        stdout: copy(io::stdout().as_fd())?,
        stderr: copy(io::stderr().as_fd())?,
    })
}

/// Our terminal while it is lent to the container, and the container's own.
struct OurTerminal {
    master: File,
    /// Stdin without the buffer that io::stdin() has: what poll(2) says must be what is there.
    input: File,
    /// How ours was set before; none when stdin is no terminal.
    before: Option<Termios>,
    /// Stdin is at its end.
    input_ended: bool,
}

impl OurTerminal {
    fn lend(master: OwnedFd) -> Result<Self> {
        let before = tcgetattr(io::stdin()).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            cfmakeraw(&mut raw);
            // The ends of lines come as the program has written them: ours makes them a terminal's.
            raw.output_flags.insert(OutputFlags::OPOST);
            tcsetattr(io::stdin(), SetArg::TCSANOW, &raw).context("set the terminal to raw mode")?;
        }
        let input = duplicate_from(io::stdin().as_fd(), 3).context("duplicate stdin")?;
        Ok(Self {
            master: master.into(),
            input: input.into(),
            before,
            input_ended: false,
        })
    }

    fn pass_input(&mut self) -> Result<()> {
        let mut chunk = [0; CHUNK];
        let length = self.input.read(&mut chunk).context("read stdin")?;
        self.input_ended = length == 0;
        // End of file, as a terminal says it.
        let bytes = if length == 0 { &[4] } else { &chunk[..length] };
        // A container that has closed its terminal does not hear.
        let _ = self.master.write_all(bytes);
        Ok(())
    }

    /// False when the container's side is closed.
    fn pass_output(&mut self) -> Result<bool> {
        let mut chunk = [0; CHUNK];
        let length = self.master.read(&mut chunk).unwrap_or(0);
        let mut stdout = io::stdout().lock();
        stdout
            .write_all(&chunk[..length])
            .and_then(|()| stdout.flush())
            .context("write stdout")?;
        Ok(length > 0)
    }
}

impl Drop for OurTerminal {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, before);
        }
    }
}

fn copy_size(terminal: BorrowedFd<'_>) {
    if let Ok(size) = window_size(io::stdin().as_fd()) {
        let _ = set_window_size(terminal, size);
    }
}

fn wait_for(files: &mut [PollFd<'_>], timeout: PollTimeout) -> Result<()> {
    match poll(files, timeout) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno).context("poll"),
    }
}
