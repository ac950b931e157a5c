//! An array map in this process's own memory: what is stored there, programs read. No call is made for it, however many
//! elements there are. See `BPF_F_MMAPABLE`, Linux 5.5.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, fence};

const WORD: usize = size_of::<u64>();

/// The elements of a mapped array, each of `VALUE` bytes.
#[derive(Debug)]
pub struct MappedArray<const VALUE: usize> {
    words: NonNull<AtomicU64>,
    elements: usize,
}

// SAFETY: the memory belongs to no thread, and is read and written by atomic operations alone.
unsafe impl<const VALUE: usize> Send for MappedArray<VALUE> {}
// SAFETY: as above.
unsafe impl<const VALUE: usize> Sync for MappedArray<VALUE> {}

impl<const VALUE: usize> MappedArray<VALUE> {
    /// Maps the first `elements` of an array.
    ///
    /// # Errors
    /// What mmap(2) says: `EINVAL` for a map with less room, `EPERM` or `ENOTSUPP` for one that can't be mapped.
    pub fn open(map: BorrowedFd<'_>, elements: u32) -> io::Result<Self> {
        const {
            assert!(
                VALUE > 0 && VALUE.is_multiple_of(WORD),
                "the kernel has each element begin at a multiple of eight"
            )
        };
        let elements = elements as usize;
        // SAFETY: a new mapping, wherever the kernel has room for it; it refuses one beyond the array's end.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                elements * VALUE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let words = NonNull::new(start.cast()).ok_or(io::ErrorKind::Other)?;
        Ok(Self { words, elements })
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        self.elements
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.elements == 0
    }

    /// One element; `None` beyond the end.
    pub fn read(&self, index: u32) -> Option<[u8; VALUE]> {
        let mut value = [0; VALUE];
        let words = self.element(index)?;
        for (bytes, word) in value.chunks_exact_mut(WORD).zip(words) {
            bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        Some(value)
    }

    /// Writes elements from `first` on, before whatever is done next; nothing at all, and `false`, where they reach beyond
    /// the end.
    pub fn write(&self, first: u32, values: impl ExactSizeIterator<Item = [u8; VALUE]>) -> bool {
        let first = first as usize;
        let Some(end) = first.checked_add(values.len()).filter(|end| *end <= self.elements) else {
            return false;
        };
        let words = &self.all()[first * (VALUE / WORD)..end * (VALUE / WORD)];
        for (words, value) in words.chunks_exact(VALUE / WORD).zip(values) {
            for (word, bytes) in words.iter().zip(value.as_chunks().0) {
                word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
            }
        }
        fence(Ordering::Release);
        true
    }

    fn element(&self, index: u32) -> Option<&[AtomicU64]> {
        let first = index as usize * (VALUE / WORD);
        self.all().get(first..first + VALUE / WORD)
    }

    fn all(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has this many words, is aligned to a page and stays until the value is dropped; others write
        // to it too, which atomics allow.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), self.elements * (VALUE / WORD)) }
    }
}

impl<const VALUE: usize> Drop for MappedArray<VALUE> {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and has this length, and no reference to it outlives the value.
        unsafe { libc::munmap(self.words.as_ptr().cast(), self.elements * VALUE) };
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn what_is_written_is_there_for_others() {
        let path = std::env::temp_dir().join(format!("orlop-array-{}", std::process::id()));
        let mut options = File::options();
        let file = options.read(true).write(true).create_new(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        file.set_len(4096).unwrap();
        let array = MappedArray::<24>::open(file.as_fd(), 170).unwrap();
        assert!(array.write(168, [[1; 24], [2; 24]].into_iter()));
        let read = [167, 168, 169, 170].map(|index| array.read(index));
        assert_eq!(read, [Some([0; 24]), Some([1; 24]), Some([2; 24]), None]);
        let mut bytes = [0; 24];
        file.read_exact_at(&mut bytes, 169 * 24).unwrap();
        assert_eq!(bytes, [2; 24]);
    }

    #[test]
    fn nothing_is_written_beyond_the_end() {
        let file = File::options().read(true).write(true).open("/dev/zero").unwrap();
        let array = MappedArray::<8>::open(file.as_fd(), 2).unwrap();
        assert!(!array.write(1, [[1; 8], [2; 8]].into_iter()));
        assert!(!array.write(u32::MAX, [[1; 8]].into_iter()));
        assert_eq!([0, 1].map(|index| array.read(index)), [Some([0; 8]); 2]);
    }
}
