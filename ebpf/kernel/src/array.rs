//! An array map in this process's own memory: what is stored there, programs read. No call is made for it, however many
//! elements there are. See `BPF_F_MMAPABLE`, Linux 5.5.

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, fence};

const WORD: usize = size_of::<u64>();

/// An array whose elements, each of `VALUE` bytes, can be mapped.
#[derive(Debug)]
pub struct MappedArray<const VALUE: usize> {
    map: OwnedFd,
    elements: u32,
}

/// Some of its elements, mapped as long as this is there: they count as memory of the process meanwhile.
#[derive(Debug)]
pub struct View<const VALUE: usize> {
    pages: NonNull<AtomicU64>,
    /// Bytes.
    length: usize,
    /// Words on the first page before the first element.
    before: usize,
    range: Range<u32>,
}

impl<const VALUE: usize> MappedArray<VALUE> {
    /// The first `elements` of an array.
    pub fn new(map: OwnedFd, elements: u32) -> Self {
        const {
            assert!(
                VALUE > 0 && VALUE.is_multiple_of(WORD),
                "the kernel has each element begin at a multiple of eight"
            )
        };
        Self { map, elements }
    }

    /// How many elements there are.
    pub fn len(&self) -> u32 {
        self.elements
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.elements == 0
    }

    /// Maps some elements.
    ///
    /// # Errors
    /// `EINVAL` where there are none, or not so many; else what mmap(2) says: `EPERM` or `ENOTSUPP` for an array that can't
    /// be mapped.
    pub fn view(&self, range: Range<u32>) -> io::Result<View<VALUE>> {
        if range.is_empty() || range.end > self.elements {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let start = range.start as usize * VALUE;
        let offset = start - start % page_size();
        let length = range.end as usize * VALUE - offset;
        let at = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        let (protection, map) = (libc::PROT_READ | libc::PROT_WRITE, self.map.as_raw_fd());
        // SAFETY: a new mapping, wherever the kernel has room for it; it refuses one beyond the array's end.
        let pages = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, map, at) };
        if pages == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let pages = NonNull::new(pages.cast()).ok_or(io::ErrorKind::Other)?;
        let before = (start - offset) / WORD;
        Ok(View {
            pages,
            length,
            before,
            range,
        })
    }
}

impl<const VALUE: usize> View<VALUE> {
    /// One element; `None` for one that is not mapped here.
    pub fn read(&self, index: u32) -> Option<[u8; VALUE]> {
        let mut value = [0; VALUE];
        let words = self.elements(index, 1)?;
        for (bytes, word) in value.chunks_exact_mut(WORD).zip(words) {
            bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        Some(value)
    }

    /// Writes elements from `first` on, before whatever is done next; nothing at all, and `false`, where they reach beyond
    /// what is mapped here.
    pub fn write(&self, first: u32, values: impl ExactSizeIterator<Item = [u8; VALUE]>) -> bool {
        let Some(words) = self.elements(first, values.len()) else {
            return false;
        };
        for (words, value) in words.chunks_exact(VALUE / WORD).zip(values) {
            for (word, bytes) in words.iter().zip(value.as_chunks().0) {
                word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
            }
        }
        fence(Ordering::Release);
        true
    }

    fn elements(&self, first: u32, count: usize) -> Option<&[AtomicU64]> {
        let first = first.checked_sub(self.range.start)? as usize;
        let start = self.before + first * (VALUE / WORD);
        self.all()
            .get(start..start.checked_add(count.checked_mul(VALUE / WORD)?)?)
    }

    fn all(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has this many words, is aligned to a page and stays until the value is dropped; others write
        // to it too, which atomics allow.
        unsafe { std::slice::from_raw_parts(self.pages.as_ptr(), self.length / WORD) }
    }
}

impl<const VALUE: usize> Drop for View<VALUE> {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and has this length, and no reference to it outlives the value.
        unsafe { libc::munmap(self.pages.as_ptr().cast(), self.length) };
    }
}

/// What a mapping begins at a multiple of. See sysconf(3).
fn page_size() -> usize {
    // SAFETY: takes a number and gives one.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn what_is_written_is_there_for_others() {
        let path = std::env::temp_dir().join(format!("orlop-array-{}", std::process::id()));
        let mut options = File::options();
        let file = options.read(true).write(true).create_new(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        file.set_len(4 * 4096).unwrap();
        let array = MappedArray::<24>::new(file.try_clone().unwrap().into(), 680);
        let view = array.view(677..680).unwrap();
        assert!(view.write(678, [[1; 24], [2; 24]].into_iter()));
        let read = [676, 677, 678, 679, 680].map(|index| view.read(index));
        assert_eq!(read, [None, Some([0; 24]), Some([1; 24]), Some([2; 24]), None]);
        let mut bytes = [0; 24];
        file.read_exact_at(&mut bytes, 679 * 24).unwrap();
        assert_eq!(bytes, [2; 24]);
    }

    #[test]
    fn nothing_is_written_beyond_the_end() {
        let file = File::options().read(true).write(true).open("/dev/zero").unwrap();
        let array = MappedArray::<8>::new(file.into(), 2);
        let view = array.view(0..2).unwrap();
        assert!(!view.write(1, [[1; 8], [2; 8]].into_iter()));
        assert!(!view.write(u32::MAX, [[1; 8]].into_iter()));
        assert_eq!([0, 1].map(|index| view.read(index)), [Some([0; 8]); 2]);
        assert!(array.view(1..3).is_err() && array.view(1..1).is_err());
    }
}
