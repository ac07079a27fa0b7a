//! The structures of `NVMe` over Fabrics as they are on the wire, and nothing else.
//!
//! Every structure is a `zerocopy` type without padding and with alignment 1: a received byte slice
//! is viewed in place, and a structure to send is viewed as bytes. The byte range at the start of
//! each field's documentation is its layout. Sizes and key offsets are asserted at compile time.
//!
//! Sources: NVM Express Base Specification 2.0 ("Base"), NVM Command Set Specification 1.0 ("NVM"),
//! `NVMe` over Fabrics in Base section 3.3.2 and Fabrics command section 6, NVMe/TCP Transport
//! Specification 1.0 ("TCP").
//!
//! This module depends on nothing else in the crate, so that target, host and fuzzers can share it.

#![cfg_attr(not(test), deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects))]

mod macros;

pub mod admin_command;
pub mod command;
pub mod discovery;
pub mod fabrics;
pub mod feature;
pub mod identify;
pub mod log_page;
pub mod opcode;
pub mod pdu;
pub mod pdu_check;
pub mod property;
pub mod sgl;
pub mod status;
pub mod text;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panic")]
mod tests;

/// A field has a value that the specification does not define (or that we do not know).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} has the unknown value {value:#x}")]
pub struct UnknownValue {
    /// The name of the type to decode.
    pub what: &'static str,
    /// The value found.
    pub value: u32,
}
