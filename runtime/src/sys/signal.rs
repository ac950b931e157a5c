//! What a new process must forget of its parent's signal handling, and what it does about signals until its exec.

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask};

use super::clone::exit_now;

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

/// Has the signals that ask a process to end do so, in a process that the kernel would not end by them otherwise: the
/// first of a pid namespace.
pub(crate) fn end_when_asked() -> nix::Result<()> {
    let action = SigAction::new(SigHandler::Handler(end), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        // SAFETY: the handler makes one system call, which does not return.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

extern "C" fn end(signal: libc::c_int) {
    exit_now(128 + signal)
}
