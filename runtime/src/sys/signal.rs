//! What a new process must forget of its parent's signal handling.

use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

/// `struct sigaction` as the kernel has it, with room for 64 signals; all zeros mean the default action.
#[repr(C)]
struct KernelAction([usize; 3], u64);

/// Gives every signal its default action and unblocks all of them, whatever the parent had set
/// ([signal(7)](https://man7.org/linux/man-pages/man7/signal.7.html)). Ignored signals would survive execve(2).
pub(crate) fn reset_signals() -> nix::Result<()> {
    let (default, none) = (KernelAction([0; 3], 0), std::ptr::null_mut::<KernelAction>());
    // Not by sigaction(3), which keeps two signals to itself.
    for signal in 1..=64 {
        // SAFETY: reads one action, which has no handler. Signals that can't be changed answer EINVAL.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                &raw const default,
                none,
                size_of::<u64>(),
            )
        };
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}
