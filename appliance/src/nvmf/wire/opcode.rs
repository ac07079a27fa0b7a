//! Opcodes of the admin, NVM and Fabrics commands.

use super::macros::wire_enum;

wire_enum! {
    /// Admin commands (Base figure "Opcodes for Admin Commands").
    pub enum AdminOpcode: u8 {
        /// Delete I/O Submission Queue (not over Fabrics).
        DeleteSubmissionQueue = 0x00,
        /// Create I/O Submission Queue (not over Fabrics).
        CreateSubmissionQueue = 0x01,
        /// Get Log Page.
        GetLogPage = 0x02,
        /// Delete I/O Completion Queue (not over Fabrics).
        DeleteCompletionQueue = 0x04,
        /// Create I/O Completion Queue (not over Fabrics).
        CreateCompletionQueue = 0x05,
        /// Identify.
        Identify = 0x06,
        /// Abort.
        Abort = 0x08,
        /// Set Features.
        SetFeatures = 0x09,
        /// Get Features.
        GetFeatures = 0x0A,
        /// Asynchronous Event Request.
        AsyncEventRequest = 0x0C,
        /// Namespace Management.
        NamespaceManagement = 0x0D,
        /// Firmware Commit.
        FirmwareCommit = 0x10,
        /// Firmware Image Download.
        FirmwareDownload = 0x11,
        /// Device Self-test.
        DeviceSelfTest = 0x14,
        /// Namespace Attachment.
        NamespaceAttachment = 0x15,
        /// Keep Alive.
        KeepAlive = 0x18,
        /// Directive Send.
        DirectiveSend = 0x19,
        /// Directive Receive.
        DirectiveReceive = 0x1A,
        /// Virtualization Management (not over Fabrics).
        VirtualizationManagement = 0x1C,
        /// NVMe-MI Send.
        MiSend = 0x1D,
        /// NVMe-MI Receive.
        MiReceive = 0x1E,
        /// Capacity Management.
        CapacityManagement = 0x20,
        /// Lockdown.
        Lockdown = 0x24,
        /// Doorbell Buffer Config (not over Fabrics).
        DoorbellBufferConfig = 0x7C,
        /// A Fabrics command, see [`FabricsType`].
        Fabrics = 0x7F,
        /// Format NVM.
        FormatNvm = 0x80,
        /// Security Send.
        SecuritySend = 0x81,
        /// Security Receive.
        SecurityReceive = 0x82,
        /// Sanitize.
        Sanitize = 0x84,
        /// Get LBA Status.
        GetLbaStatus = 0x86,
    }
}

wire_enum! {
    /// I/O commands of the NVM command set (NVM figure "Opcodes for NVM Commands").
    pub enum IoOpcode: u8 {
        /// Flush.
        Flush = 0x00,
        /// Write.
        Write = 0x01,
        /// Read.
        Read = 0x02,
        /// Write Uncorrectable.
        WriteUncorrectable = 0x04,
        /// Compare.
        Compare = 0x05,
        /// Write Zeroes.
        WriteZeroes = 0x08,
        /// Dataset Management.
        DatasetManagement = 0x09,
        /// Verify.
        Verify = 0x0C,
        /// Reservation Register.
        ReservationRegister = 0x0D,
        /// Reservation Report.
        ReservationReport = 0x0E,
        /// Reservation Acquire.
        ReservationAcquire = 0x11,
        /// Reservation Release.
        ReservationRelease = 0x15,
        /// Copy.
        Copy = 0x19,
        /// A Fabrics command on an I/O queue (Connect, Disconnect, authentication).
        Fabrics = 0x7F,
    }
}

wire_enum! {
    /// Fabrics command types, FCTYPE (Base section 6, figure "Fabrics Command Types").
    pub enum FabricsType: u8 {
        /// Property Set.
        PropertySet = 0x00,
        /// Connect.
        Connect = 0x01,
        /// Property Get.
        PropertyGet = 0x04,
        /// Authentication Send.
        AuthenticationSend = 0x05,
        /// Authentication Receive.
        AuthenticationReceive = 0x06,
        /// Disconnect.
        Disconnect = 0x08,
    }
}

wire_enum! {
    /// The direction of data in a standard opcode: its lower 2 bits (Base figure "Opcode").
    pub enum DataDirection: u8 {
        /// No data.
        None = 0b00,
        /// The host sends data.
        HostToController = 0b01,
        /// The controller sends data.
        ControllerToHost = 0b10,
        /// Both.
        Both = 0b11,
    }
}

impl DataDirection {
    /// The direction in which a standard opcode moves data. For a Fabrics command pass FCTYPE,
    /// whose lower 2 bits have the same meaning.
    pub const fn of_opcode(opcode: u8) -> Self {
        match opcode & 0b11 {
            0b00 => Self::None,
            0b01 => Self::HostToController,
            0b10 => Self::ControllerToHost,
            _ => Self::Both,
        }
    }
}
