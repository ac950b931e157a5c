//! Pseudoterminals: ioctl_tty(2).

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// Size of a terminal's window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// Sets the window size of `terminal` (`TIOCSWINSZ`); its foreground processes get SIGWINCH.
pub fn set_window_size(terminal: BorrowedFd<'_>, size: WindowSize) -> nix::Result<()> {
    let size = libc::winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the ioctl reads one winsize.
    Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }).map(drop)
}
