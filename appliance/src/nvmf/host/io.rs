//! The I/O commands of a queue: asynchronous `submit_*`, and synchronous convenience functions.

use bytes::Bytes;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

use super::error::HostError;
use super::geometry::Geometry;
use super::queue::Queue;
use super::slots::Payload;
use crate::nvmf::wire::command::{
    DATASET_RANGES_MAX, DatasetManagement, DatasetRange, FLAGS_SGL, Rw, Sqe, dataset_attribute, rw_control,
};
use crate::nvmf::wire::opcode::IoOpcode;

/// The most blocks of one command.
const COMMAND_BLOCKS_MAX: usize = 65_536;

impl Queue {
    /// Sets the namespace for the I/O commands that follow.
    pub fn set_geometry(&mut self, geometry: Geometry) {
        self.geometry = Some(geometry);
    }

    /// The namespace of the I/O commands. Before one is set: NSID 1 with blocks of 512 bytes.
    pub fn geometry(&self) -> Geometry {
        self.geometry.unwrap_or(Geometry { nsid: 1, block_bytes: 512, size_blocks: 0 })
    }

    /// Submits a read of `blocks` (1 to 65536) from `lba`.
    ///
    /// # Errors
    /// As for [`Queue::submit`], and when `blocks` is out of its range.
    pub fn submit_read(&mut self, lba: u64, blocks: u32, tag: u64) -> Result<(), HostError> {
        let geometry = self.geometry();
        check_blocks(blocks, geometry.block_bytes)?;
        let bytes = u64::from(blocks) * u64::from(geometry.block_bytes);
        let limit_bytes = self.options.transfer_bytes_max;
        let bytes = u32::try_from(bytes).map_err(|_| HostError::TransferTooLarge { bytes, limit_bytes })?;
        let command = Rw::new(IoOpcode::Read, geometry.nsid, lba, blocks);
        self.submit(command.into(), Payload::Read(bytes), tag)
    }

    /// Submits a write of `data` (whole blocks) at `lba`, with FUA if `force_unit_access`.
    ///
    /// # Errors
    /// As for [`Queue::submit`], and when `data` is not whole blocks.
    pub fn submit_write(
        &mut self,
        lba: u64,
        data: &[u8],
        force_unit_access: bool,
        tag: u64,
    ) -> Result<(), HostError> {
        self.submit_write_of(lba, Payload::Write(data), data.len(), force_unit_access, tag)
    }

    /// Like [`submit_write`](Self::submit_write), but bytes that do not fit a capsule are shared,
    /// not copied.
    ///
    /// # Errors
    /// As for [`submit_write`](Self::submit_write).
    pub fn submit_write_shared(
        &mut self,
        lba: u64,
        data: &Bytes,
        force_unit_access: bool,
        tag: u64,
    ) -> Result<(), HostError> {
        self.submit_write_of(lba, Payload::WriteShared(data), data.len(), force_unit_access, tag)
    }

    fn submit_write_of(
        &mut self,
        lba: u64,
        payload: Payload<'_>,
        len_bytes: usize,
        force_unit_access: bool,
        tag: u64,
    ) -> Result<(), HostError> {
        let geometry = self.geometry();
        let blocks = whole_blocks(len_bytes, geometry.block_bytes)?;
        let mut command = Rw::new(IoOpcode::Write, geometry.nsid, lba, blocks);
        if force_unit_access {
            command.control = U16::new(rw_control::FORCE_UNIT_ACCESS);
        }
        self.submit(command.into(), payload, tag)
    }

    /// Submits a comparison of `data` (whole blocks) with the data at `lba`.
    ///
    /// # Errors
    /// As for [`Queue::submit_write`].
    pub fn submit_compare(&mut self, lba: u64, data: &[u8], tag: u64) -> Result<(), HostError> {
        let geometry = self.geometry();
        let blocks = whole_blocks(data.len(), geometry.block_bytes)?;
        let command = Rw::new(IoOpcode::Compare, geometry.nsid, lba, blocks);
        self.submit(command.into(), Payload::Write(data), tag)
    }

    /// Submits a flush of the namespace.
    ///
    /// # Errors
    /// As for [`Queue::submit`].
    pub fn submit_flush(&mut self, tag: u64) -> Result<(), HostError> {
        let command = Sqe::new(IoOpcode::Flush.into(), self.geometry().nsid);
        self.submit(command, Payload::None, tag)
    }

    /// Submits Write Zeroes for `blocks` (1 to 65536) from `lba`, with DEAC if `deallocate`.
    ///
    /// # Errors
    /// As for [`Queue::submit`], and when `blocks` is out of its range.
    pub fn submit_write_zeroes(
        &mut self,
        lba: u64,
        blocks: u32,
        deallocate: bool,
        tag: u64,
    ) -> Result<(), HostError> {
        let geometry = self.geometry();
        check_blocks(blocks, geometry.block_bytes)?;
        let mut command = Rw::new(IoOpcode::WriteZeroes, geometry.nsid, lba, blocks);
        if deallocate {
            command.control = U16::new(rw_control::DEALLOCATE);
        }
        self.submit(command.into(), Payload::None, tag)
    }

    /// Submits a Dataset Management command that deallocates ranges of (lba, blocks).
    ///
    /// # Errors
    /// As for [`Queue::submit`], and when there are no ranges or more than 256.
    pub fn submit_trim(&mut self, ranges: &[(u64, u32)], tag: u64) -> Result<(), HostError> {
        if ranges.is_empty() || ranges.len() > DATASET_RANGES_MAX {
            return Err(HostError::RangeCount { count: ranges.len() });
        }
        let mut list = [DatasetRange::default(); DATASET_RANGES_MAX];
        for (entry, &(lba, blocks)) in list.iter_mut().zip(ranges) {
            entry.start_lba = U64::new(lba);
            entry.blocks = U32::new(blocks);
        }
        let command = DatasetManagement {
            opcode: IoOpcode::DatasetManagement.into(),
            flags: FLAGS_SGL,
            nsid: U32::new(self.geometry().nsid),
            ranges_less_one: (ranges.len() - 1) as u8,
            attributes: U32::new(dataset_attribute::DEALLOCATE),
            ..DatasetManagement::default()
        };
        self.submit(command.into(), Payload::Write(list[..ranges.len()].as_bytes()), tag)
    }

    /// Reads whole blocks into `data` and waits for completion.
    ///
    /// # Errors
    /// As for [`Queue::execute`], and when `data` is not whole blocks.
    pub fn read(&mut self, lba: u64, data: &mut [u8]) -> Result<(), HostError> {
        let geometry = self.geometry();
        let blocks = whole_blocks(data.len(), geometry.block_bytes)?;
        let command = Rw::new(IoOpcode::Read, geometry.nsid, lba, blocks);
        self.execute("Read", command.into(), Payload::Read(data.len() as u32), data)?;
        Ok(())
    }

    /// Writes whole blocks and waits for completion.
    ///
    /// # Errors
    /// As for [`Queue::execute`], and when `data` is not whole blocks.
    pub fn write(&mut self, lba: u64, data: &[u8]) -> Result<(), HostError> {
        let geometry = self.geometry();
        let blocks = whole_blocks(data.len(), geometry.block_bytes)?;
        let command = Rw::new(IoOpcode::Write, geometry.nsid, lba, blocks);
        self.execute("Write", command.into(), Payload::Write(data), &mut [])?;
        Ok(())
    }

    /// Flushes the namespace and waits for completion.
    ///
    /// # Errors
    /// As for [`Queue::execute`].
    pub fn flush(&mut self) -> Result<(), HostError> {
        let command = Sqe::new(IoOpcode::Flush.into(), self.geometry().nsid);
        self.execute("Flush", command, Payload::None, &mut [])?;
        Ok(())
    }
}

fn check_blocks(blocks: u32, block_bytes: u32) -> Result<(), HostError> {
    if (1..=COMMAND_BLOCKS_MAX).contains(&(blocks as usize)) {
        Ok(())
    } else {
        Err(HostError::NotWholeBlocks { bytes: blocks as usize * block_bytes as usize, block_bytes })
    }
}

fn whole_blocks(bytes: usize, block_bytes: u32) -> Result<u32, HostError> {
    let block = block_bytes as usize;
    if bytes == 0 || !bytes.is_multiple_of(block) || bytes / block > COMMAND_BLOCKS_MAX {
        return Err(HostError::NotWholeBlocks { bytes, block_bytes });
    }
    Ok((bytes / block) as u32)
}
