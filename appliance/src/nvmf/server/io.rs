//! I/O commands of the NVM command set (NVM section 3.2): checks them and translates them into
//! requests of a volume.

use std::rc::Rc;

use zerocopy::FromBytes;

use super::config::{BLOCK_BYTES, NAMESPACE_ID};
use super::context::Context;
use super::subsystem::Subsystem;
use crate::dma::DmaBuf;
use crate::nvmf::wire::command::{
    DATASET_RANGES_MAX, DatasetManagement, DatasetRange, NSID_ALL, Rw, Sqe, dataset_attribute, rw_control,
};
use crate::nvmf::wire::opcode::IoOpcode;
use crate::nvmf::wire::status::Status;
use crate::volume::{IoError, MAX_IO_BLOCKS, Request, Sink, Submitted, VolumeId};

const _: () = assert!(DATASET_RANGES_MAX <= crate::volume::MAX_TRIM_RANGES);

/// The data that a valid command moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transfer {
    /// Nothing.
    None,
    /// This many bytes from the host.
    FromHost(u32),
    /// This many bytes to the host.
    ToHost(u32),
}

/// The location of the data from the host.
#[derive(Debug, Clone, Copy)]
pub(super) enum HostData<'a> {
    /// In the receive buffer, only during the call.
    Capsule(&'a [u8]),
    /// In its own memory, which the storage may keep.
    Received(&'a DmaBuf),
}

impl<'a> HostData<'a> {
    fn bytes(self) -> &'a [u8] {
        match self {
            HostData::Capsule(bytes) => bytes,
            HostData::Received(buffer) => buffer,
        }
    }
}

/// The outcome of starting a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Started {
    /// It has ended.
    Done(Status),
    /// Its completion comes to the sink.
    Queued,
    /// The storage has no room now. Try again.
    Busy,
}

/// Checks everything that can be checked before the data arrives, and returns what the command
/// moves. Every error is final for the command as it is, so it has "do not retry" set.
pub(super) fn check(subsystem: &Subsystem, sqe: &Sqe) -> Result<(IoOpcode, Transfer), Status> {
    check_retryable(subsystem, sqe).map_err(Status::do_not_retry)
}

fn check_retryable(subsystem: &Subsystem, sqe: &Sqe) -> Result<(IoOpcode, Transfer), Status> {
    let opcode = IoOpcode::try_from(sqe.opcode).map_err(|_| Status::INVALID_OPCODE)?;
    let nsid = sqe.nsid.get();
    if nsid != NAMESPACE_ID && !(nsid == NSID_ALL && opcode == IoOpcode::Flush) {
        return Err(Status::INVALID_NAMESPACE);
    }
    let transfer = match opcode {
        IoOpcode::Flush => Transfer::None,
        IoOpcode::Read => Transfer::ToHost(check_blocks(subsystem, sqe, MAX_IO_BLOCKS)? * BLOCK_BYTES),
        IoOpcode::Compare => Transfer::FromHost(check_blocks(subsystem, sqe, MAX_IO_BLOCKS)? * BLOCK_BYTES),
        IoOpcode::Verify => {
            check_blocks(subsystem, sqe, MAX_IO_BLOCKS)?;
            Transfer::None
        }
        IoOpcode::Write => {
            check_writable(subsystem)?;
            Transfer::FromHost(check_blocks(subsystem, sqe, MAX_IO_BLOCKS)? * BLOCK_BYTES)
        }
        IoOpcode::WriteZeroes => {
            check_writable(subsystem)?;
            check_blocks(subsystem, sqe, u32::MAX)?;
            Transfer::None
        }
        IoOpcode::DatasetManagement => {
            let command = sqe.view::<DatasetManagement>();
            if command.attributes.get() & dataset_attribute::DEALLOCATE != 0 {
                check_writable(subsystem)?;
            }
            let ranges = u32::from(command.ranges_less_one) + 1;
            Transfer::FromHost(ranges * size_of::<DatasetRange>() as u32)
        }
        _ => return Err(Status::INVALID_OPCODE),
    };
    Ok((opcode, transfer))
}

fn check_writable(subsystem: &Subsystem) -> Result<(), Status> {
    if subsystem.read_only.get() { Err(Status::NAMESPACE_WRITE_PROTECTED) } else { Ok(()) }
}

/// Checks SLBA and NLB, and returns the number of blocks.
fn check_blocks(subsystem: &Subsystem, sqe: &Sqe, blocks_max: u32) -> Result<u32, Status> {
    let command = sqe.view::<Rw>();
    let blocks = command.blocks();
    // Without metadata, PRACT and the protection information checks have no meaning and are ignored
    // (NVM section 5.2).
    if blocks > blocks_max {
        return Err(Status::INVALID_FIELD);
    }
    let end = command.start_lba.get().checked_add(u64::from(blocks));
    if end.is_none_or(|end| end > subsystem.size_blocks.get()) {
        return Err(Status::LBA_OUT_OF_RANGE);
    }
    Ok(blocks)
}

/// Starts a checked command. `data` is from the host and has exactly the length that [`check`]
/// returned.
pub(super) fn start(
    context: &Context,
    volume: VolumeId,
    opcode: IoOpcode,
    sqe: &Sqe,
    data: HostData<'_>,
    tag: u64,
    sink: &Rc<Sink>,
) -> Started {
    let command = sqe.view::<Rw>();
    let block = command.start_lba.get();
    let submitted = match opcode {
        // Compare and Verify read. The data is checked when it arrives.
        IoOpcode::Read | IoOpcode::Compare | IoOpcode::Verify => {
            let request = Request::Read { block, len_blocks: command.blocks() };
            context.storage.submit(volume, &request, tag, sink)
        }
        IoOpcode::Write => {
            let force_unit_access = command.has(rw_control::FORCE_UNIT_ACCESS);
            match data {
                HostData::Capsule(bytes) => {
                    let request = Request::Write { block, data: &[bytes], force_unit_access };
                    context.storage.submit(volume, &request, tag, sink)
                }
                HostData::Received(data) => {
                    let request = Request::WriteReceived { block, data, force_unit_access };
                    context.storage.submit(volume, &request, tag, sink)
                }
            }
        }
        IoOpcode::WriteZeroes => {
            let request = Request::WriteZeroes {
                block,
                len_blocks: u64::from(command.blocks()),
                force_unit_access: command.has(rw_control::FORCE_UNIT_ACCESS),
            };
            context.storage.submit(volume, &request, tag, sink)
        }
        IoOpcode::Flush => context.storage.submit(volume, &Request::Flush, tag, sink),
        IoOpcode::DatasetManagement => {
            let attributes = sqe.view::<DatasetManagement>().attributes.get();
            if attributes & dataset_attribute::DEALLOCATE == 0 {
                // Only hints, which have no use here.
                return Started::Done(Status::SUCCESS);
            }
            let Ok(wire_ranges) = <[DatasetRange]>::ref_from_bytes(data.bytes()) else {
                return Started::Done(Status::INVALID_DATA_SGL_LENGTH);
            };
            let mut ranges = [(0, 0); DATASET_RANGES_MAX];
            for (range, wire) in ranges.iter_mut().zip(wire_ranges) {
                *range = (wire.start_lba.get(), u64::from(wire.blocks.get()));
            }
            let count = wire_ranges.len().min(DATASET_RANGES_MAX);
            context.storage.submit(volume, &Request::Trim { ranges: &ranges[..count] }, tag, sink)
        }
        _ => return Started::Done(Status::INVALID_OPCODE.do_not_retry()),
    };
    match submitted {
        Submitted::Queued => Started::Queued,
        Submitted::Busy => Started::Busy,
    }
}

/// Bytes that a checked command moves between host and controller, in either direction.
pub(super) fn transfer_bytes(opcode: IoOpcode, sqe: &Sqe) -> u32 {
    match opcode {
        IoOpcode::Read | IoOpcode::Write | IoOpcode::Compare => sqe.view::<Rw>().blocks() * BLOCK_BYTES,
        _ => 0,
    }
}

/// Units of work in an I/O command, independent of its data: a discard has up to 256 ranges, and
/// each range costs about as much as a command.
pub(super) fn parts(sqe: &Sqe) -> isize {
    let is_discard = sqe.opcode == u8::from(IoOpcode::DatasetManagement);
    if is_discard { 1 + isize::from(sqe.view::<DatasetManagement>().ranges_less_one) } else { 1 }
}

/// Bytes that the storage reads for a checked command.
pub(super) fn reading_bytes(opcode: IoOpcode, sqe: &Sqe) -> u32 {
    match opcode {
        IoOpcode::Read | IoOpcode::Compare | IoOpcode::Verify => sqe.view::<Rw>().blocks() * BLOCK_BYTES,
        _ => 0,
    }
}

/// The status that reports an error to the host.
pub(super) fn status_of(error: IoError) -> Status {
    match error {
        IoError::OutOfRange => Status::LBA_OUT_OF_RANGE.do_not_retry(),
        IoError::InvalidLength => Status::INVALID_FIELD.do_not_retry(),
        IoError::CapacityExceeded => Status::CAPACITY_EXCEEDED.do_not_retry(),
        // Hosts retry, because "do not retry" is not set.
        IoError::NoRoom => Status::CAPACITY_EXCEEDED,
        // The host must retry: this is the only status for which the specification demands that.
        IoError::NotNow => Status::COMMAND_INTERRUPTED,
        IoError::ReadFault => Status::UNRECOVERED_READ_ERROR.do_not_retry(),
        IoError::WriteFault => Status::WRITE_FAULT.do_not_retry(),
        IoError::ReadOnly => Status::NAMESPACE_WRITE_PROTECTED.do_not_retry(),
        IoError::Gone => Status::INVALID_NAMESPACE.do_not_retry(),
    }
}
