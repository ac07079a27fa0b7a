//! Controller properties (registers) that Property Get and Set read and write (Base section 3.1.3).
//!
//! The registers are bit fields. Each type here has getters and builders for them.

use super::macros::wire_enum;

wire_enum! {
    /// Offsets of the properties a Fabrics controller has (Base figure "Property Definition").
    pub enum Property: u32 {
        /// CAP, 8 bytes.
        Capabilities = 0x00,
        /// VS, 4 bytes.
        Version = 0x08,
        /// CC, 4 bytes.
        Configuration = 0x14,
        /// CSTS, 4 bytes.
        Status = 0x1C,
        /// NSSR, 4 bytes.
        SubsystemReset = 0x20,
        /// CRTO, 4 bytes.
        ReadyTimeouts = 0x68,
    }
}

impl Property {
    /// Bytes of the property.
    pub const fn bytes(self) -> u8 {
        match self {
            Self::Capabilities => 8,
            _ => 4,
        }
    }
}

/// Version 2.0.0 as encoded in VS and Identify.
pub const VERSION_2_0: u32 = 0x0002_0000;
/// The value that a host writes to NSSR to reset the subsystem: "`NVMe`".
pub const SUBSYSTEM_RESET_MAGIC: u32 = 0x4E56_4D65;

macro_rules! bits {
    ($repr:ty; $($(#[$attr:meta])* $get:ident, $with:ident: $low:literal .. $width:literal;)+) => {
        $(
            $(#[$attr])*
            pub const fn $get(self) -> u32 {
                #[allow(clippy::unnecessary_cast)]
                let field = ((self.0 >> $low) & ((1 << $width) - 1)) as u32;
                field
            }

            /// The same register with the field set to the value, truncated to its width.
            #[must_use]
            pub const fn $with(self, value: u32) -> Self {
                let mask: $repr = ((1 << $width) - 1) << $low;
                #[allow(clippy::unnecessary_cast)]
                let field = ((value as $repr) << $low) & mask;
                Self((self.0 & !mask) | field)
            }
        )+
    };
}

/// CAP: controller capabilities (Base figure "Offset 0h").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cap(pub u64);

impl Cap {
    bits! { u64;
        /// MQES: most entries of an I/O queue, 0's based. At least 1.
        queue_entries_less_one, with_queue_entries_less_one: 0 .. 16;
        /// CQR: queues must be contiguous. 1 over Fabrics.
        contiguous_queues, with_contiguous_queues: 16 .. 1;
        /// TO: the longest time to become ready, in units of 500 ms.
        timeout_500ms, with_timeout_500ms: 24 .. 8;
        /// DSTRD: doorbell stride. 0 over Fabrics.
        doorbell_stride, with_doorbell_stride: 32 .. 4;
        /// NSSRS: subsystem reset is supported.
        subsystem_reset, with_subsystem_reset: 36 .. 1;
        /// CSS bit 0: the NVM command set is supported.
        nvm_command_set, with_nvm_command_set: 37 .. 1;
        /// CSS bit 6: several I/O command sets, see Identify CNS 1Ch.
        io_command_sets, with_io_command_sets: 43 .. 1;
        /// CSS bit 7: no I/O command set, admin only.
        admin_only, with_admin_only: 44 .. 1;
        /// MPSMIN: least memory page size, 2 ^ (12 + n) bytes.
        page_size_least, with_page_size_least: 48 .. 4;
        /// MPSMAX: largest memory page size, 2 ^ (12 + n) bytes.
        page_size_most, with_page_size_most: 52 .. 4;
        /// CRMS bit 0: controller ready with media is supported (2.0: required).
        ready_with_media, with_ready_with_media: 59 .. 1;
        /// CRMS bit 1: controller ready independent of media is supported.
        ready_without_media, with_ready_without_media: 60 .. 1;
    }
}

/// CC: controller configuration (Base figure "Offset 14h").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cc(pub u32);

impl Cc {
    bits! { u32;
        /// EN: enable.
        enable, with_enable: 0 .. 1;
        /// CSS: command set selected: 0 NVM, 6 all of CAP.CSS, 7 admin only.
        command_set, with_command_set: 4 .. 3;
        /// MPS: memory page size, 2 ^ (12 + n) bytes.
        page_size, with_page_size: 7 .. 4;
        /// AMS: arbitration. 0 is round robin.
        arbitration, with_arbitration: 11 .. 3;
        /// SHN: 0 none, 1 normal shutdown, 2 abrupt shutdown.
        shutdown, with_shutdown: 14 .. 2;
        /// IOSQES: entry size of I/O submission queues, as a power of 2: 6.
        submission_entry_size, with_submission_entry_size: 16 .. 4;
        /// IOCQES: entry size of I/O completion queues, as a power of 2: 4.
        completion_entry_size, with_completion_entry_size: 20 .. 4;
        /// CRIME: ready independent of media enable.
        ready_without_media, with_ready_without_media: 24 .. 1;
    }

    /// [`Cc::shutdown`] for a normal shutdown.
    pub const SHUTDOWN_NORMAL: u32 = 1;
    /// [`Cc::shutdown`] for an abrupt shutdown.
    pub const SHUTDOWN_ABRUPT: u32 = 2;

    /// The value with which a host enables a controller with the NVM command set.
    pub const fn enabled() -> Self {
        Self(0).with_enable(1).with_submission_entry_size(6).with_completion_entry_size(4)
    }
}

/// CSTS: controller status (Base figure "Offset 1Ch").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Csts(pub u32);

impl Csts {
    bits! { u32;
        /// RDY: ready.
        ready, with_ready: 0 .. 1;
        /// CFS: controller fatal status.
        fatal, with_fatal: 1 .. 1;
        /// SHST: 0 normal operation, 1 shutdown in progress, 2 shutdown complete.
        shutdown_status, with_shutdown_status: 2 .. 2;
        /// NSSRO: a subsystem reset occurred.
        subsystem_reset_occurred, with_subsystem_reset_occurred: 4 .. 1;
        /// PP: processing paused.
        paused, with_paused: 5 .. 1;
        /// ST: the shutdown applies to the whole subsystem.
        shutdown_type, with_shutdown_type: 6 .. 1;
    }

    /// [`Csts::shutdown_status`] while a shutdown runs.
    pub const SHUTDOWN_BUSY: u32 = 1;
    /// [`Csts::shutdown_status`] when a shutdown is complete.
    pub const SHUTDOWN_COMPLETE: u32 = 2;
}

/// CRTO: controller ready timeouts (Base figure "Offset 68h").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Crto(pub u32);

impl Crto {
    bits! { u32;
        /// CRWMT: time to ready with media, in units of 500 ms.
        media_500ms, with_media_500ms: 0 .. 16;
        /// CRIMT: time to ready independent of media, in units of 500 ms.
        no_media_500ms, with_no_media_500ms: 16 .. 16;
    }
}
