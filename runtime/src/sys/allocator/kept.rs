//! The heap of the released programs.
//!
//! musl's own allocator gives every page back as soon as it is free and asks for it anew, dozens of times in the making of
//! one container, each time with a page fault. This one keeps what it has until it is told.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, Ordering};

use dlmalloc::Dlmalloc;

/// For a `#[global_allocator]` static.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kept;

struct Heap {
    is_taken: AtomicBool,
    heap: UnsafeCell<Dlmalloc>,
}

static HEAP: Heap = Heap {
    is_taken: AtomicBool::new(false),
    heap: UnsafeCell::new(Dlmalloc::new()),
};

// SAFETY: whoever touches the heap has set `is_taken`, which one thread at a time does.
unsafe impl Sync for Heap {}

/// Gives back what is free.
pub(crate) fn trim() {
    // SAFETY: gives free memory back, of which by definition there is no user.
    with(|heap| unsafe { heap.trim(0) });
}

/// Our programs have one thread each, so that nobody ever waits here.
fn with<T>(act: impl FnOnce(&mut Dlmalloc) -> T) -> T {
    while HEAP.is_taken.swap(true, Ordering::Acquire) {
        spin_loop();
    }
    // SAFETY: `is_taken` was ours to set: until it is cleared there is no other reference. `act` is a function of the heap,
    // which neither allocates by way of us nor panics.
    let result = act(unsafe { &mut *HEAP.heap.get() });
    HEAP.is_taken.store(false, Ordering::Release);
    result
}

// SAFETY: what one of the heap's functions has given is passed back with the layout that it was asked for with.
unsafe impl GlobalAlloc for Kept {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: a layout's alignment is a power of two.
        with(|heap| unsafe { heap.malloc(layout.size(), layout.align()) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        with(|heap| unsafe { heap.calloc(layout.size(), layout.align()) })
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract: the memory came from here, with this layout.
        with(|heap| unsafe { heap.free(pointer, layout.size(), layout.align()) });
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller keeps the contract: the memory came from here, with this layout.
        with(|heap| unsafe { heap.realloc(pointer, layout.size(), layout.align(), size) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_is_kept_and_given_back() {
        let layout = |size| Layout::from_size_align(size, 64).unwrap();
        // SAFETY: the size is not zero.
        let memory = unsafe { Kept.alloc_zeroed(layout(100_000)) };
        assert!(memory.addr().is_multiple_of(64));
        // SAFETY: that many bytes were given, all zeros.
        let bytes = unsafe { std::slice::from_raw_parts_mut(memory, 100_000) };
        assert!(bytes.iter().all(|byte| *byte == 0));
        bytes.fill(7);
        // SAFETY: given with this layout.
        let memory = unsafe { Kept.realloc(memory, layout(100_000), 200_000) };
        // SAFETY: more than that many bytes were given, and they are what was written.
        let bytes = unsafe { std::slice::from_raw_parts(memory, 100_000) };
        assert!(bytes.iter().all(|byte| *byte == 7));
        // SAFETY: given with this layout, and not used any more.
        unsafe { Kept.dealloc(memory, layout(200_000)) };
        trim();
    }
}
