//! The allocators of our programs: one for debug builds, which proves something, and one for released ones, which is fast.

#[cfg(any(target_env = "musl", test))]
mod kept;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI32, Ordering};

#[cfg(any(target_env = "musl", test))]
pub use kept::Kept;
#[cfg(target_env = "musl")]
pub(crate) use kept::trim;

/// The system's allocator, for the process that first used it only: it aborts one that allocates between clone and exec.
///
/// A copy of a process that has not executed anything yet has another id than the one that allocated first. With this
/// as the global allocator of a program, every container that it creates proves that its child did not allocate.
#[derive(Debug, Default)]
pub struct OneProcessOnly {
    owner: AtomicI32,
}

impl OneProcessOnly {
    /// For a `#[global_allocator]` static.
    pub const fn new() -> Self {
        Self {
            owner: AtomicI32::new(0),
        }
    }

    fn check(&self) {
        // SAFETY: getpid(2) touches no memory and always succeeds.
        let process = unsafe { libc::getpid() };
        match self
            .owner
            .compare_exchange(0, process, Ordering::Relaxed, Ordering::Relaxed)
        {
            Err(owner) if owner != process => {
                const MESSAGE: &[u8] = b"memory was allocated between clone and exec\n";
                // SAFETY: the buffer is good for its length.
                let _ = unsafe { libc::write(2, MESSAGE.as_ptr().cast(), MESSAGE.len()) };
                // SAFETY: abort(3) does not return.
                unsafe { libc::abort() }
            }
            _ => {}
        }
    }
}

// SAFETY: everything is passed to the system's allocator as it came; `check` only reads and may end the process.
unsafe impl GlobalAlloc for OneProcessOnly {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.check();
        // SAFETY: the caller keeps the contract of the same function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.check();
        // SAFETY: the caller keeps the contract of the same function, and the memory came from it.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.check();
        // SAFETY: the caller keeps the contract of the same function, and the memory came from it.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
