//! Errors between this host and a controller.

use std::io;
use std::net::SocketAddr;

use crate::nvmf::wire::pdu_check::PduError;
use crate::nvmf::wire::status::Status;
use crate::nvmf::wire::text::TextError;

/// An error of the host.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// The TCP connection could not be established.
    #[error("Cannot connect to {address}")]
    Connect {
        /// The controller's address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// The controller's `ICResp` is not acceptable.
    #[error("Connection initialization failed")]
    Negotiation(#[from] Negotiation),
    /// The connection is lost. It is unknown whether the outstanding commands took effect.
    #[error("Queue {queue_id} is lost with {} commands outstanding", outstanding.len())]
    Lost {
        /// The queue. 0 is the admin queue.
        queue_id: u16,
        /// The cause.
        #[source]
        cause: Loss,
        /// Tags of the commands without completion, in any order.
        outstanding: Vec<u64>,
    },
    /// The queue failed before. See the error returned then.
    #[error("Queue {queue_id} was lost before")]
    AlreadyLost {
        /// The queue.
        queue_id: u16,
    },
    /// A command completed with a status other than success.
    #[error("{operation} failed: {status}")]
    Status {
        /// The command.
        operation: &'static str,
        /// Its status.
        status: Status,
        /// DW0 and DW1 of the completion.
        result: u64,
    },
    /// As many commands as the queue's depth are outstanding: poll first.
    #[error("All {depth} slots of the queue are in use")]
    QueueFull {
        /// The depth.
        depth: u16,
    },
    /// The command moves more data than a slot's buffer or the controller allows.
    #[error("A transfer of {bytes} bytes is over the limit of {limit_bytes} bytes")]
    TransferTooLarge {
        /// Bytes requested.
        bytes: u64,
        /// Bytes allowed.
        limit_bytes: u32,
    },
    /// A buffer is not a whole number of blocks (1 to 65536).
    #[error("A buffer of {bytes} bytes is not 1 to 65536 blocks of {block_bytes} bytes")]
    NotWholeBlocks {
        /// Bytes of the buffer.
        bytes: usize,
        /// Bytes of a block.
        block_bytes: u32,
    },
    /// A list of ranges is empty or has more than 256 entries.
    #[error("{count} ranges where 1 to 256 fit one command")]
    RangeCount {
        /// The count.
        count: usize,
    },
    /// A synchronous call was made while earlier commands are outstanding.
    #[error("A synchronous call needs an idle queue, {outstanding} commands are outstanding")]
    NotIdle {
        /// How many.
        outstanding: u16,
    },
    /// Identify Controller contains values that the Linux host refuses.
    #[error("The controller's Identify data is not acceptable")]
    Identify(#[from] IdentifyRejection),
    /// The controller did not become ready, or did not shut down, in time.
    #[error("The controller did not reach the wanted state ({wanted}) in time: CSTS {csts:#x}")]
    ControllerState {
        /// The state waited for.
        wanted: &'static str,
        /// CSTS as last read.
        csts: u32,
    },
    /// The discovery log page changed each time it was read.
    #[error("The discovery log page did not hold still in {attempts} attempts")]
    DiscoveryUnstable {
        /// The number of reads.
        attempts: u32,
    },
    /// The discovery log page claims an impossible number of entries.
    #[error("The discovery log page claims {records} entries, over the limit of {limit}")]
    DiscoverySize {
        /// NUMREC.
        records: u64,
        /// The most that is read.
        limit: u64,
    },
    /// A namespace's data is not valid.
    #[error("Namespace {nsid} has no usable LBA format")]
    NamespaceFormat {
        /// The namespace.
        nsid: u32,
    },
    /// A name does not fit or is not text.
    #[error("A name is not usable")]
    Text(#[from] TextError),
}

/// Causes of a lost connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Loss {
    /// The controller closed the connection.
    #[error("the controller closed the connection")]
    Closed,
    /// The socket failed.
    #[error("the socket failed on {operation}")]
    Socket {
        /// The operation.
        operation: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The controller sent a termination request.
    #[error(
        "the controller terminated the connection: status {fatal_error:#x}, information {information:#x}"
    )]
    Terminated {
        /// FES.
        fatal_error: u16,
        /// FEI.
        information: u32,
    },
    /// A received PDU is malformed.
    #[error("a malformed PDU was received")]
    Pdu(#[from] PduError),
    /// A received PDU is well-formed but not allowed.
    #[error("the controller broke the protocol")]
    Violation(#[from] Violation),
    /// A command took longer than allowed.
    #[error("no completion within {timeout_ms} ms")]
    Timeout {
        /// The limit.
        timeout_ms: u64,
    },
}

/// How a controller broke the protocol, as the Linux host would see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// A PDU type that does not belong here.
    #[error("PDU type {pdu_type:#x} is not expected now")]
    UnexpectedPdu {
        /// The type.
        pdu_type: u8,
    },
    /// A command identifier that is not outstanding.
    #[error("command identifier {command_id} is not outstanding")]
    UnknownCommand {
        /// The identifier.
        command_id: u16,
    },
    /// `C2HData` for a command that reads nothing.
    #[error("C2HData for command {command_id}, which reads nothing")]
    DataForNonRead {
        /// The identifier.
        command_id: u16,
    },
    /// `C2HData` that does not continue the data received so far, or exceeds the end.
    #[error(
        "C2HData of {data_bytes} bytes at {data_offset} for command {command_id}, which expects {expected_offset} of {total_bytes}"
    )]
    DataRange {
        /// The identifier.
        command_id: u16,
        /// DATAO.
        data_offset: u32,
        /// DATAL.
        data_bytes: u32,
        /// Bytes received before.
        expected_offset: u32,
        /// Bytes of the whole transfer.
        total_bytes: u32,
    },
    /// SUCCESS without `LAST_PDU`.
    #[error("C2HData for command {command_id} has SUCCESS without LAST_PDU")]
    SuccessWithoutLast {
        /// The identifier.
        command_id: u16,
    },
    /// A command succeeded before all its data arrived.
    #[error("command {command_id} succeeded with {received_bytes} of {total_bytes} bytes")]
    ShortData {
        /// The identifier.
        command_id: u16,
        /// Bytes received.
        received_bytes: u32,
        /// Bytes of the whole transfer.
        total_bytes: u32,
    },
    /// A write succeeded before the controller requested all its data.
    #[error("write {command_id} succeeded with {sent_bytes} of {total_bytes} bytes asked for")]
    ShortWrite {
        /// The identifier.
        command_id: u16,
        /// Bytes requested.
        sent_bytes: u32,
        /// Bytes of the whole transfer.
        total_bytes: u32,
    },
    /// R2T for a command that has no data to transfer.
    #[error("R2T for command {command_id}, which has nothing to transfer")]
    R2tForNonWrite {
        /// The identifier.
        command_id: u16,
    },
    /// R2T that requests nothing, data that was already sent, or data beyond the end.
    #[error(
        "R2T of {data_bytes} bytes at {data_offset} for command {command_id}, which has sent {sent_bytes} of {total_bytes}"
    )]
    R2tRange {
        /// The identifier.
        command_id: u16,
        /// R2TO.
        data_offset: u32,
        /// R2TL.
        data_bytes: u32,
        /// Bytes requested before.
        sent_bytes: u32,
        /// Bytes of the whole transfer.
        total_bytes: u32,
    },
    /// A second R2T while the first is being served, although MAXR2T is 0.
    #[error("a second R2T for command {command_id} while the first is served")]
    R2tLimit {
        /// The identifier.
        command_id: u16,
    },
    /// The data digest does not match.
    #[error("data digest of command {command_id} is {found:#010x} where {computed:#010x} was computed")]
    DataDigest {
        /// The identifier.
        command_id: u16,
        /// The received digest.
        found: u32,
        /// The digest of the received data.
        computed: u32,
    },
}

/// Why an `ICResp` is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Negotiation {
    /// The exchange itself failed.
    #[error("the exchange of ICReq and ICResp failed")]
    Exchange(#[source] Loss),
    /// PFV is not 0.
    #[error("PDU format version {found}")]
    FormatVersion {
        /// The received value.
        found: u16,
    },
    /// The digests are not exactly the requested ones.
    #[error("digest bits {found:#x} where {asked:#x} were asked for")]
    Digests {
        /// The received bits.
        found: u8,
        /// The requested bits.
        asked: u8,
    },
    /// CPDA over 31.
    #[error("controller data alignment {found}")]
    Alignment {
        /// The received value.
        found: u8,
    },
    /// MAXH2CDATA under 4096 or not a multiple of 4.
    #[error("MAXH2CDATA {found}")]
    H2cDataMax {
        /// The received value.
        found: u32,
    },
}

/// Fields of Identify Controller for which the Linux host refuses a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentifyRejection {
    /// CNTLID differs from Connect's.
    #[error("CNTLID {found} where Connect gave {expected}")]
    ControllerId {
        /// The value in Identify.
        found: u16,
        /// The value in Connect's result.
        expected: u16,
    },
    /// KAS is 0.
    #[error("KAS is 0: no keep alive")]
    NoKeepAlive,
    /// IOCCSZ under 4.
    #[error("IOCCSZ {found} is under 4")]
    CommandCapsule {
        /// The value in Identify.
        found: u32,
    },
    /// IORCSZ under 1.
    #[error("IORCSZ is 0")]
    ResponseCapsule,
    /// ICDOFF is not 0.
    #[error("ICDOFF {found} is not 0")]
    InCapsuleOffset {
        /// The value in Identify.
        found: u16,
    },
    /// SGLs are not supported.
    #[error("SGLS {found:#x} lacks SGL support")]
    Sgl {
        /// The value in Identify.
        found: u32,
    },
    /// MAXCMD is 0.
    #[error("MAXCMD is 0")]
    OutstandingCommands,
    /// CNTRLTYPE does not match the subsystem.
    #[error("CNTRLTYPE {found} does not fit the subsystem")]
    ControllerType {
        /// The value in Identify.
        found: u8,
    },
}

/// Accepts a failure by status. The loss of the connection is still an error.
pub(super) fn tolerate<T>(result: Result<T, HostError>) -> Result<Option<T>, HostError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(HostError::Status { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
