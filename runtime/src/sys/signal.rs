//! What a new process must forget of its parent's signal handling.

use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

/// Gives every signal its default action and unblocks all of them, whatever the parent had set
/// ([signal(7)](https://man7.org/linux/man-pages/man7/signal.7.html)). Ignored signals would survive execve(2).
pub(crate) fn reset_signals() -> nix::Result<()> {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL is no code of ours. Signals that can't be changed answer EINVAL, which changes nothing.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}
