//! Aligned buffers for direct I/O, from a pool that is filled once and then recycled.

use bytes::Bytes;
use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    ops::{Deref, DerefMut},
    ptr::NonNull,
    sync::{Arc, Mutex, PoisonError},
};

/// Alignment of every buffer: the largest logical block size of disks in use.
pub const ALIGNMENT: usize = 4096;

/// Sizes of the pool's buffers; a request gets the smallest that fits. The last is the largest piece that a front hands
/// to the core.
const CLASSES: [usize; 5] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, LARGEST];

/// The largest buffer of the pool.
pub const LARGEST: usize = 1 << 20;

/// Bytes that are kept for reuse per class; what is above goes back to the allocator.
const KEPT_BYTES: usize = 16 << 20;

struct Memory {
    start: NonNull<u8>,
    size: usize,
}

// SAFETY: `Memory` is the sole owner of its allocation, like a Box.
unsafe impl Send for Memory {}
// SAFETY: shared access only reads; writing needs `&mut`.
unsafe impl Sync for Memory {}

impl Memory {
    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, ALIGNMENT)
            .expect("invariant: sizes are small multiples of the alignment")
    }

    fn new(size: usize) -> Self {
        let layout = Self::layout(size);
        // SAFETY: the layout's size is not 0: `Pool::take` never asks for 0 bytes.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Self { start, size }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout and not freed before.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.size)) }
    }
}

type Shelves = [Mutex<Vec<Memory>>; CLASSES.len()];

/// Where buffers come from and go back to when they are dropped.
#[derive(Clone)]
pub struct Pool {
    shelves: Arc<Shelves>,
}

impl Default for Pool {
    fn default() -> Self {
        Self { shelves: Arc::new(std::array::from_fn(|_| Mutex::new(Vec::new()))) }
    }
}

impl Pool {
    /// A buffer of exactly `length` visible bytes, whose content is whatever its last user left.
    #[must_use]
    pub fn take(&self, length: usize) -> Buffer {
        let memory = match CLASSES.iter().position(|size| *size >= length) {
            Some(class) => {
                let shelf = self.shelves[class].lock().unwrap_or_else(PoisonError::into_inner).pop();
                shelf.unwrap_or_else(|| Memory::new(CLASSES[class]))
            }
            None => Memory::new(length.next_multiple_of(ALIGNMENT)),
        };
        Buffer { memory: Some(memory), length, pool: self.clone() }
    }

    /// `data` in a buffer of the pool, aligned.
    #[must_use]
    pub fn copy(&self, data: &[u8]) -> Buffer {
        let mut buffer = self.take(data.len());
        buffer.copy_from_slice(data);
        buffer
    }

    fn give_back(&self, memory: Memory) {
        let Some(class) = CLASSES.iter().position(|size| *size == memory.size) else { return };
        let mut shelf = self.shelves[class].lock().unwrap_or_else(PoisonError::into_inner);
        if shelf.len() * memory.size < KEPT_BYTES {
            shelf.push(memory);
        }
    }
}

/// One aligned buffer. Dropping it gives its memory back to the pool.
pub struct Buffer {
    memory: Option<Memory>,
    length: usize,
    pool: Pool,
}

impl Buffer {
    /// How many bytes it could show.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.memory.as_ref().map_or(0, |memory| memory.size)
    }

    /// Shows only the first `length` bytes, at most the capacity.
    pub fn set_length(&mut self, length: usize) {
        assert!(length <= self.capacity(), "a buffer shows no more than it has");
        self.length = length;
    }

    /// The same memory as shared, immutable bytes; it returns to the pool with the last clone.
    #[must_use]
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }

    /// Where the bytes are.
    #[cfg(test)]
    fn pointer(&mut self) -> *mut u8 {
        self.memory.as_ref().map_or(std::ptr::null_mut(), |memory| memory.start.as_ptr())
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.memory {
            // SAFETY: `length` never exceeds the allocation, which was zeroed, so all bytes are initialised.
            Some(memory) => unsafe { std::slice::from_raw_parts(memory.start.as_ptr(), self.length) },
            None => &[],
        }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &self.memory {
            // SAFETY: as in `deref`; `&mut self` makes the access exclusive.
            Some(memory) => unsafe { std::slice::from_raw_parts_mut(memory.start.as_ptr(), self.length) },
            None => &mut [],
        }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            self.pool.give_back(memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_have_the_asked_length() {
        let pool = Pool::default();
        for length in [1, 512, 4096, 4097, 65536, LARGEST, LARGEST + 1] {
            let mut buffer = pool.take(length);
            assert_eq!(buffer.len(), length);
            assert_eq!(buffer.pointer() as usize % ALIGNMENT, 0);
        }
    }

    #[test]
    fn memory_comes_back_when_the_last_clone_of_the_bytes_is_gone() {
        let pool = Pool::default();
        let mut first = pool.take(4096);
        let place = first.pointer();
        let bytes = first.freeze();
        let clone = bytes.slice(10..20);
        drop(bytes);
        assert_ne!(pool.take(4096).pointer(), place);
        drop(clone);
        // The buffer taken in between went back first, so the shelf now holds both.
        let (mut a, mut b) = (pool.take(4096), pool.take(4096));
        assert!(a.pointer() == place || b.pointer() == place);
    }
}
