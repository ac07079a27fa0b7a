//! A block device in memory. Its contents are a separate object that can outlive the device.
//!
//! [`MemoryBdev`] completes everything in `poll`, in order. Its contents are a [`MemoryDisk`],
//! shared by reference: a test drops the device, changes bytes, and opens the same contents again.
//! The contents are sparse: the first write of a block allocates memory, and a discard frees it.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::rc::Rc;

use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::transfer::complete;
use super::{BLOCK_BYTES, Bdev, BdevErrorKind, BdevInfo, Command, Completion, Operation, Submit};

/// The queue depth in commands, unless [`MemoryBdev::with_queue_depth`] changes it.
pub const DEFAULT_QUEUE_DEPTH: usize = 256;

/// Why the contents could not be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// No blocks, or more bytes than the address space has.
    #[error("a memory device of {len_blocks} blocks of 4096 bytes cannot be: ask for 1 to 2^51 blocks")]
    Size {
        /// Blocks that were requested.
        len_blocks: u64,
    },
    /// The system has no space for the mapping.
    #[error("the system refuses memory for {len_blocks} blocks of 4096 bytes: {}", std::io::Error::from_raw_os_error(*.errno))]
    Refused {
        /// Blocks that were requested.
        len_blocks: u64,
        /// The system's error number.
        errno: i32,
    },
}

/// The contents of a memory device. Clones share them. They are freed with the last clone and the
/// last device.
#[derive(Clone)]
pub struct MemoryDisk {
    mapping: Rc<Mapping>,
}

/// An anonymous private mapping. It is not `Send`, so all copies in and out are sequential.
struct Mapping {
    start: NonNull<u8>,
    len_bytes: usize,
}

impl Mapping {
    fn new(len_blocks: u64) -> Result<Self, MemoryError> {
        let len_bytes = usize::try_from(len_blocks)
            .ok()
            .and_then(|blocks| blocks.checked_mul(BLOCK_BYTES))
            .filter(|&bytes| bytes > 0 && isize::try_from(bytes).is_ok())
            .ok_or(MemoryError::Size { len_blocks })?;
        // SAFETY: a new anonymous mapping at an address that the kernel chooses touches no existing
        // memory.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                len_bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }
        .map_err(|errno| MemoryError::Refused { len_blocks, errno: errno.raw_os_error() })?;
        let start: NonNull<u8> = NonNull::new(start.cast())
            .ok_or(MemoryError::Refused { len_blocks, errno: rustix::io::Errno::NOMEM.raw_os_error() })?;
        Ok(Mapping { start, len_bytes })
    }

    /// Allocates all of the memory now, in huge pages if the system has them.
    fn populate(&self) -> rustix::io::Result<()> {
        // SAFETY: the range is the mapping's own. The advice changes only when, and in which pages,
        // its memory is allocated.
        unsafe {
            let start = self.start.as_ptr().cast();
            if let Err(error) = rustix::mm::madvise(start, self.len_bytes, Advice::LinuxHugepage) {
                tracing::debug!(%error, "a memory device without huge pages");
            }
            rustix::mm::madvise(start, self.len_bytes, Advice::LinuxPopulateWrite)
        }
    }

    /// The address of a range.
    ///
    /// # Panics
    /// When the range is not inside the mapping.
    fn range(&self, offset_bytes: usize, len_bytes: usize) -> *mut u8 {
        assert!(
            offset_bytes <= self.len_bytes && len_bytes <= self.len_bytes - offset_bytes,
            "bytes {offset_bytes}+{len_bytes} of a memory device of {} bytes",
            self.len_bytes
        );
        // SAFETY: the offset was just checked to lie within the mapping.
        unsafe { self.start.as_ptr().add(offset_bytes) }
    }

    fn read(&self, offset_bytes: usize, into: &mut [u8]) {
        let from = self.range(offset_bytes, into.len());
        // SAFETY: `range` checked the bounds. No slice is ever made of the mapping, so the two
        // cannot overlap. The mapping stays on this thread, so nobody writes meanwhile.
        unsafe { std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) }
    }

    fn write(&self, offset_bytes: usize, from: &[u8]) {
        let to = self.range(offset_bytes, from.len());
        // SAFETY: as for `read`.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) }
    }

    /// Frees whole blocks. They read as zeroes afterwards.
    fn discard(&self, offset_bytes: usize, len_bytes: usize) -> rustix::io::Result<()> {
        if len_bytes == 0 {
            return Ok(());
        }
        let start = self.range(offset_bytes, len_bytes);
        // SAFETY: the range lies within the mapping, and nobody holds a reference into it.
        unsafe { rustix::mm::madvise(start.cast(), len_bytes, Advice::LinuxDontNeed) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this object owns the mapping, and its last user is gone.
        if let Err(error) = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len_bytes) } {
            tracing::warn!(%error, "the memory of a memory device could not be given back");
        }
    }
}

impl MemoryDisk {
    /// Creates contents of zeroes.
    ///
    /// # Panics
    /// When [`try_new`](Self::try_new) fails.
    pub fn new(len_blocks: u64) -> Self {
        Self::try_new(len_blocks).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Creates contents of zeroes.
    ///
    /// # Errors
    /// [`MemoryError`], for no blocks or too many.
    pub fn try_new(len_blocks: u64) -> Result<Self, MemoryError> {
        Ok(MemoryDisk { mapping: Rc::new(Mapping::new(len_blocks)?) })
    }

    /// Creates contents of zeroes and allocates their memory immediately, in huge pages, so that no
    /// first write of a block waits for the system. For measurements.
    ///
    /// # Errors
    /// [`MemoryError`], also when the system does not have that much memory.
    pub fn try_new_resident(len_blocks: u64) -> Result<Self, MemoryError> {
        let mapping = Mapping::new(len_blocks)?;
        mapping
            .populate()
            .map_err(|errno| MemoryError::Refused { len_blocks, errno: errno.raw_os_error() })?;
        Ok(MemoryDisk { mapping: Rc::new(mapping) })
    }

    /// Size in blocks.
    pub fn len_blocks(&self) -> u64 {
        (self.mapping.len_bytes / BLOCK_BYTES) as u64
    }

    /// A device with these contents.
    pub fn open(&self, name: impl Into<String>) -> MemoryBdev {
        MemoryBdev {
            info: BdevInfo {
                name: name.into(),
                kind: "memory",
                len_blocks: self.len_blocks(),
                volatile_cache: false,
                queue_depth: DEFAULT_QUEUE_DEPTH,
            },
            disk: self.clone(),
            queued: VecDeque::new(),
        }
    }

    /// Copies bytes out, independently of all devices.
    ///
    /// # Panics
    /// When the range is not inside the contents.
    pub fn read_raw(&self, offset_bytes: u64, into: &mut [u8]) {
        self.mapping.read(offset_bytes as usize, into);
    }

    /// Overwrites bytes, independently of all devices.
    ///
    /// # Panics
    /// When the range is not inside the contents.
    pub fn write_raw(&self, offset_bytes: u64, bytes: &[u8]) {
        self.mapping.write(offset_bytes as usize, bytes);
    }

    /// A copy of all the contents.
    pub fn snapshot(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.mapping.len_bytes];
        self.mapping.read(0, &mut bytes);
        bytes
    }
}

/// A device whose contents are a [`MemoryDisk`].
pub struct MemoryBdev {
    info: BdevInfo,
    disk: MemoryDisk,
    /// At most `info.queue_depth` commands.
    queued: VecDeque<Command>,
}

impl MemoryBdev {
    /// A device of zeroes with its own contents.
    ///
    /// # Panics
    /// When [`try_new`](Self::try_new) fails.
    pub fn new(name: impl Into<String>, len_blocks: u64) -> Self {
        MemoryDisk::new(len_blocks).open(name)
    }

    /// A device of zeroes with its own contents.
    ///
    /// # Errors
    /// [`MemoryError`], for no blocks or too many.
    pub fn try_new(name: impl Into<String>, len_blocks: u64) -> Result<Self, MemoryError> {
        Ok(MemoryDisk::try_new(len_blocks)?.open(name))
    }

    /// Changes the queue depth, at least 1 command.
    #[must_use]
    pub fn with_queue_depth(mut self, queue_depth: usize) -> Self {
        self.info.queue_depth = queue_depth.max(1);
        self
    }

    /// Changes what the device reports about its cache, so that its users flush. Nothing is lost
    /// either way.
    #[must_use]
    pub fn with_volatile_cache(mut self, volatile_cache: bool) -> Self {
        self.info.volatile_cache = volatile_cache;
        self
    }

    /// The contents.
    pub fn disk(&self) -> MemoryDisk {
        self.disk.clone()
    }

    fn run(&self, command: Command) -> Completion {
        let mut operation = command.operation;
        let outcome =
            operation.check(self.info.len_blocks).and_then(|()| perform(&self.disk.mapping, &mut operation));
        complete(&self.info, Command { tag: command.tag, operation }, outcome)
    }
}

/// Executes an operation that has been checked.
fn perform(mapping: &Mapping, operation: &mut Operation) -> Result<(), BdevErrorKind> {
    let mut offset = operation.block() as usize * BLOCK_BYTES;
    match operation {
        Operation::Read { buffers, .. } => {
            for buffer in buffers {
                mapping.read(offset, buffer.as_mut_slice());
                offset += buffer.len();
            }
        }
        Operation::Write { buffers, .. } => {
            for buffer in buffers {
                mapping.write(offset, buffer);
                offset += buffer.len();
            }
        }
        Operation::Flush => {}
        Operation::Discard { len_blocks, .. } => mapping
            .discard(offset, *len_blocks as usize * BLOCK_BYTES)
            .map_err(|errno| BdevErrorKind::Os(errno.raw_os_error()))?,
    }
    Ok(())
}

impl Bdev for MemoryBdev {
    fn info(&self) -> &BdevInfo {
        &self.info
    }

    fn submit(&mut self, command: Command) -> Submit {
        if self.queued.len() >= self.info.queue_depth {
            return Submit::Full(command);
        }
        self.queued.push_back(command);
        Submit::Queued
    }

    fn poll(&mut self, completions: &mut Vec<Completion>) -> usize {
        let count = self.queued.len();
        while let Some(command) = self.queued.pop_front() {
            completions.push(self.run(command));
        }
        count
    }

    fn in_flight(&self) -> usize {
        self.queued.len()
    }

    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl Drop for MemoryBdev {
    fn drop(&mut self) {
        // Submitted commands are executed, as with every other kind.
        self.poll(&mut Vec::new());
    }
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::*;
    use crate::dma::DmaPool;

    #[test]
    fn the_content_outlives_its_device() {
        let pool = DmaPool::new(1 << 20);
        let disk = MemoryDisk::new(8);
        let mut device = disk.open("memory");
        let mut buffer = pool.allocate(BLOCK_BYTES).expect("within the budget");
        buffer.as_mut_slice().fill(9);
        let operation = Operation::Write { block: 3, buffers: smallvec![buffer.freeze()] };
        assert!(matches!(device.submit(Command { tag: 1, operation }), Submit::Queued));
        drop(device);
        let mut byte = [0];
        disk.read_raw(3 * BLOCK_BYTES as u64, &mut byte);
        assert_eq!(byte, [9], "a submitted command runs when the device is dropped");
        disk.write_raw(3 * BLOCK_BYTES as u64, &[5]);
        let mut device = disk.open("again");
        let buffers = smallvec![pool.allocate(BLOCK_BYTES).expect("within the budget")];
        assert!(matches!(
            device.submit(Command { tag: 2, operation: Operation::Read { block: 3, buffers } }),
            Submit::Queued
        ));
        let mut completions = Vec::new();
        assert_eq!(device.poll(&mut completions), 1);
        assert_eq!(completions[0].buffers[0].as_slice()[..2], [5, 9]);
        assert_eq!(disk.snapshot().iter().filter(|&&byte| byte != 0).count(), BLOCK_BYTES);
    }

    #[test]
    fn impossible_sizes_are_refused() {
        assert_eq!(MemoryDisk::try_new(0).err(), Some(MemoryError::Size { len_blocks: 0 }));
        assert!(matches!(MemoryDisk::try_new(u64::MAX), Err(MemoryError::Size { .. })));
        assert!(matches!(MemoryBdev::try_new("huge", 1 << 50), Err(MemoryError::Refused { .. })));
    }
}
