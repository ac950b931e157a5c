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
        let layout = Layout::from_size_align(100_000, 64).unwrap();
        // SAFETY: used within its size, and given back with its layout.
        unsafe {
            let memory = Kept.alloc_zeroed(layout);
            assert!(memory.addr() % 64 == 0 && *memory.add(99_999) == 0);
            memory.write(7);
            let memory = Kept.realloc(memory, layout, 200_000);
            assert_eq!(*memory, 7);
            Kept.dealloc(memory, Layout::from_size_align(200_000, 64).unwrap());
        }
        trim();
    }
}
