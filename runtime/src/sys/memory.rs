//! Memory that a process which only waits can do without.

use std::ptr::addr_of;

unsafe extern "C" {
    /// Where the linker has put the beginning of the program, and the end of its code.
    static __executable_start: u8;
    static etext: u8;
}

/// Gives back the pages of the program's code and constants, which come again from its file when they are needed, and
/// what is free of the heap: most of what a busy time has used is not needed to wait for the next one.
///
/// [madvise(2)](https://man7.org/linux/man-pages/man2/madvise.2.html) with `MADV_DONTNEED`, malloc_trim(3).
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: gives free memory back, of which by definition there is no user.
    unsafe {
        libc::malloc_trim(0)
    };
    #[cfg(target_env = "musl")]
    super::allocator::trim();
    let (begin, end) = (addr_of!(__executable_start), addr_of!(etext));
    // SAFETY: touches no memory; the size of a page of this kernel.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(0);
    // The page of the end may hold data.
    let pages = end.addr().saturating_sub(begin.addr()).checked_div(page).unwrap_or(0);
    // SAFETY: between the two is only what is never written to, mapped from the program's file: each page is read from
    // there again when it is next touched. Nothing moves.
    unsafe { libc::madvise(begin.cast_mut().cast(), pages * page, libc::MADV_DONTNEED) };
}

/// Has the allocator give back what is freed, for a process that lives for months and needs much only for moments: blocks
/// of a mebibyte and more are mapped each for itself, a mebibyte that is free at the end of the heap goes, and threads
/// share one heap, as little is allocated at the same time. To be called before there are other threads.
///
/// By itself glibc raises both limits with each large block that is freed, up to 32 MiB, and keeps as much for ever.
///
/// [mallopt(3)](https://man7.org/linux/man-pages/man3/mallopt.3.html). musl does so anyhow.
pub fn keep_little() {
    #[cfg(target_env = "gnu")]
    for (limit, value) in [
        (libc::M_MMAP_THRESHOLD, MEBIBYTE),
        (libc::M_TRIM_THRESHOLD, MEBIBYTE),
        (libc::M_ARENA_MAX, 1),
    ] {
        // SAFETY: takes two numbers; one that it does not know it leaves alone.
        unsafe { libc::mallopt(limit, value) };
    }
}

#[cfg(target_env = "gnu")]
const MEBIBYTE: libc::c_int = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_goes_on() {
        let before = vec![7; 100_000];
        give_back();
        assert!(before.iter().all(|byte| *byte == 7));
    }
}
