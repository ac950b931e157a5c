//! execve(2) with everything made ready beforehand.

use std::ffi::{CStr, CString, c_char};
use std::fmt;

use nix::errno::Errno;

/// Strings and the null-terminated array of pointers to them that execve(2) takes.
pub(crate) struct StringArray {
    strings: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl StringArray {
    pub(crate) fn new(strings: Vec<CString>) -> Self {
        // A CString's buffer stays where it is when the Vec or the array moves.
        let pointers = strings
            .iter()
            .map(|string| string.as_ptr())
            .chain([std::ptr::null()])
            .collect();
        Self { strings, pointers }
    }

    /// The null-terminated array, good for as long as this lives.
    pub(crate) fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr()
    }

    /// Adds one string at the end.
    pub(crate) fn push(&mut self, string: CString) {
        let mut strings = std::mem::take(&mut self.strings);
        strings.push(string);
        *self = Self::new(strings);
    }

    pub(crate) fn strings(&self) -> &[CString] {
        &self.strings
    }
}

impl fmt::Debug for StringArray {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.strings.fmt(formatter)
    }
}

/// Executes `program`; returns only when that failed ([execve(2)](https://man7.org/linux/man-pages/man2/execve.2.html)).
pub(crate) fn execve(program: &CStr, arguments: &StringArray, environment: &StringArray) -> Errno {
    // SAFETY: the program is null-terminated, and so are both arrays, whose strings they own and never change.
    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    Errno::last()
}
