//! I/O commands of the NVM command set (NVM section 3.2): checks, and their translation into requests of a volume.

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

/// What a valid command moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transfer {
    /// Nothing.
    None,
    /// So many bytes come from the host.
    FromHost(u32),
    /// So many bytes go to the host.
    ToHost(u32),
}

/// Where the data from the host is.
#[derive(Debug, Clone, Copy)]
pub(super) enum HostData<'a> {
    /// In the receive buffer, for the time of the call.
    Capsule(&'a [u8]),
    /// In memory of its own, which the storage may keep.
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

/// What became of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Started {
    /// It is over.
    Done(Status),
    /// Its completion comes to the sink.
    Queued,
    /// No room now; try again.
    Busy,
}

/// Checks all that can be checked before the data is there, and says what the command moves. Every error is final for the
/// command as it stands, so that it comes with "do not retry".
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

/// Checks SLBA, NLB and PRINFO; gives the count of blocks.
fn check_blocks(subsystem: &Subsystem, sqe: &Sqe, blocks_max: u32) -> Result<u32, Status> {
    let command = sqe.view::<Rw>();
    let blocks = command.blocks();
    // Without metadata PRACT and the checks of protection information mean nothing and are ignored (NVM section 5.2).
    if blocks > blocks_max {
        return Err(Status::INVALID_FIELD);
    }
    let end = command.start_lba.get().checked_add(u64::from(blocks));
    if end.is_none_or(|end| end > subsystem.size_blocks.get()) {
        return Err(Status::LBA_OUT_OF_RANGE);
    }
    Ok(blocks)
}

/// Starts a checked command. `data` is what came from the host, exactly as long as [`check`] said.
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
        // Compare and Verify read; what they read is looked at when it is there.
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
                // Only hints, which are of no use here.
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

/// Bytes that a checked command moves between host and controller, whichever way.
pub(super) fn transfer_bytes(opcode: IoOpcode, sqe: &Sqe) -> u32 {
    match opcode {
        IoOpcode::Read | IoOpcode::Write | IoOpcode::Compare => sqe.view::<Rw>().blocks() * BLOCK_BYTES,
        _ => 0,
    }
}

/// Parts of an I/O command that are work of their own, whatever data it moves: a discard has up to
/// 256 ranges, and each costs about what a command does.
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

/// The status that tells the host of an error.
pub(super) fn status_of(error: IoError) -> Status {
    match error {
        IoError::OutOfRange => Status::LBA_OUT_OF_RANGE.do_not_retry(),
        IoError::InvalidLength => Status::INVALID_FIELD.do_not_retry(),
        IoError::CapacityExceeded => Status::CAPACITY_EXCEEDED.do_not_retry(),
        // Without the bit that forbids it, hosts try again.
        IoError::NoRoom => Status::CAPACITY_EXCEEDED,
        // The host is to try again: the one status of which the specification says so.
        IoError::NotNow => Status::COMMAND_INTERRUPTED,
        IoError::ReadFault => Status::UNRECOVERED_READ_ERROR.do_not_retry(),
        IoError::WriteFault => Status::WRITE_FAULT.do_not_retry(),
        IoError::ReadOnly => Status::NAMESPACE_WRITE_PROTECTED.do_not_retry(),
        IoError::Gone => Status::INVALID_NAMESPACE.do_not_retry(),
    }
}
