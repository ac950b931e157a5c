//! The caller's own terminal: raw while an exec with a terminal runs, and given back however that ends.

use std::io::{self, IsTerminal};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::server::frame::Size;

/// Raw mode of stdin; dropped, the terminal is as it was.
pub(super) struct Raw {
    before: Termios,
}

impl Raw {
    /// Makes stdin raw.
    pub(super) fn enter() -> io::Result<Raw> {
        let before = tcgetattr(rustix::stdio::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &raw)?;
        Ok(Raw { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing back.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Whether stdin is a terminal.
pub(super) fn is_present() -> bool {
    io::stdin().is_terminal()
}

/// The terminal's size, where there is one.
pub(super) fn size() -> Option<Size> {
    let size = tcgetwinsize(rustix::stdio::stdin())
        .or_else(|_| tcgetwinsize(rustix::stdio::stdout()))
        .ok()?;
    Some(Size {
        rows: size.ws_row,
        columns: size.ws_col,
    })
}
