//! The same before anything else: where `orlop-oci` begins.
//!
//! A program that is about to execute itself once more has no use for a C library that is set up, for relocated data or
//! for parsed arguments, and these are most of what starting it costs. So its first instructions look whether there is
//! something to do, do it, and go on to the usual start otherwise. Whatever fails here is left to
//! [`super::run_from_read_only_file`], which has the words for it.
//!
//! Nothing here may need relocation, thread-local storage or the C library: plain values and system calls only.

use std::arch::{asm, naked_asm};
use std::mem::MaybeUninit;

/// The verbs after which a process of ours is in a container, each with its null; an array of addresses would be data to
/// relocate. A word too many costs one exec, no more.
const VERBS: [[u8; 7]; 4] = [*b"create\0", *b"exec\0\0\0", *b"start\0\0", *b"run\0\0\0\0"];

const PROGRAM: *const u8 = c"/proc/self/exe".as_ptr().cast();
const EMPTY: *const u8 = c"".as_ptr().cast();

/// `struct statfs` of asm/statfs.h is a row of words; libc has a name for each but the flags.
const STATFS_WORDS: usize = size_of::<libc::statfs>() / size_of::<u64>();
const STATFS_FLAGS: usize = 10;

unsafe extern "C" {
    /// The C library's.
    fn _start();
}

/// The entry point, named to the linker by build.rs. The kernel and the dynamic linker leave the arguments on the stack
/// and a function for the exit in rdx; both are as they were when the usual start gets them.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn orlop_begin() -> ! {
    naked_asm!(
        "mov rbx, rdx",
        "mov rbp, rsp",
        "mov rdi, rsp",
        "and rsp, -16",
        "call {seal}",
        "mov rsp, rbp",
        "mov rdx, rbx",
        "xor ebp, ebp",
        "jmp {start}",
        seal = sym seal,
        start = sym _start,
    )
}

/// Executes this program from a read-only mount of its file, unless it is one already or its verb does not ask for it.
///
/// # Safety
/// `stack` is what the kernel has left there: the number of arguments, and they and the environment as arrays of pointers
/// to null-terminated strings that end with a null.
unsafe extern "C" fn seal(stack: *const usize) {
    // SAFETY: the number comes first.
    let count = unsafe { *stack };
    // SAFETY: the arguments come next.
    let arguments = unsafe { stack.add(1) }.cast::<*const u8>();
    // SAFETY: behind so many of them and their null comes the environment.
    let environment = unsafe { arguments.add(count + 1) };
    // SAFETY: as the caller promises.
    if unsafe { has_verb(arguments) } && !is_read_only() {
        execute_read_only(arguments, environment);
    }
}

/// # Safety
/// `argument` is the first of an array of null-terminated strings, which ends with a null.
unsafe fn has_verb(mut argument: *const *const u8) -> bool {
    loop {
        // SAFETY: not behind the null at the end.
        let word = unsafe { *argument };
        if word.is_null() {
            return false;
        }
        // SAFETY: the caller's strings are null-terminated.
        if VERBS.iter().any(|verb| unsafe { is(word, verb) }) {
            return true;
        }
        // SAFETY: this one was not the end.
        argument = unsafe { argument.add(1) };
    }
}

/// # Safety
/// `word` is null-terminated.
unsafe fn is(mut word: *const u8, verb: &[u8]) -> bool {
    for expected in verb {
        // SAFETY: every byte before was equal to one of the verb and not the null.
        let byte = unsafe { *word };
        if byte != *expected || byte == 0 {
            return byte == *expected;
        }
        // SAFETY: that byte was not the null.
        word = unsafe { word.add(1) };
    }
    false
}

fn is_read_only() -> bool {
    // Filling it with zeros would be a call of the C library.
    let mut status = MaybeUninit::<[u64; STATFS_WORDS]>::uninit();
    if call(libc::SYS_statfs, [PROGRAM.addr(), status.as_mut_ptr().addr(), 0, 0, 0]) != 0 {
        return false;
    }
    // SAFETY: the kernel has filled it, and any bits are a number.
    let status = unsafe { status.assume_init_ref() };
    status[STATFS_FLAGS] & libc::ST_RDONLY != 0
}

/// Returns when that fails.
fn execute_read_only(arguments: *const *const u8, environment: *const *const u8) {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    let here = libc::AT_FDCWD.cast_unsigned() as usize;
    let mount = call(libc::SYS_open_tree, [here, PROGRAM.addr(), flags as usize, 0, 0]);
    let Ok(mount) = usize::try_from(mount) else { return };
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let (address, size) = (&raw const attributes, size_of_val(&attributes));
    let itself = libc::AT_EMPTY_PATH.cast_unsigned() as usize;
    if call(
        libc::SYS_mount_setattr,
        [mount, EMPTY.addr(), itself, address.addr(), size],
    ) == 0
    {
        let (arguments, environment) = (arguments.addr(), environment.addr());
        call(
            libc::SYS_execveat,
            [mount, EMPTY.addr(), arguments, environment, itself],
        );
    }
    call(libc::SYS_close, [mount, 0, 0, 0, 0]);
}

/// A system call; a negative result is an errno.
fn call(number: libc::c_long, [first, second, third, fourth, fifth]: [usize; 5]) -> libc::c_long {
    let result;
    // SAFETY: only this file calls, with addresses of what is alive and as long as the kernel expects; the registers are
    // those of the kernel's convention, two of which it overwrites.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") first,
            in("rsi") second,
            in("rdx") third,
            in("r10") fourth,
            in("r8") fifth,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::ptr::null;

    use super::*;

    fn asks(words: &str) -> bool {
        let words: Vec<CString> = words.split(' ').map(|word| CString::new(word).unwrap()).collect();
        let mut argument: Vec<*const u8> = words.iter().map(|word| word.as_ptr().cast()).collect();
        argument.push(null());
        // SAFETY: the strings live, and the array ends with a null.
        unsafe { has_verb(argument.as_ptr()) }
    }

    #[test]
    fn verbs_are_whole_words() {
        for words in ["o run x", "o --root r create x", "o exec", "o --debug start x"] {
            assert!(asks(words), "{words}");
        }
        for words in ["o", "o state x", "o runs x", "o ru x", "o  x", "o delete execs"] {
            assert!(!asks(words), "{words}");
        }
    }
}
