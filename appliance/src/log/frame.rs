//! The frame of every structure on a medium: superblocks, headers and trailers of the log, of
//! archived objects, of archive devices and of tapes.
//!
//! ```text
//! | magic | ... version ... owner (UUID of the pool or store) ... fields ... | CRC32C |
//! ```
//!
//! The file of a structure defines its fields and declares it with `framed!`; only this file writes
//! and checks the frame. Invariants, asserted at compile time: the magic is at byte 0, and the
//! checksum is the last four bytes. The checksum covers all bytes before it. For a structure whose
//! checksum covers more (the entries of a record), it also covers the bytes that follow.
//!
//! The checks run in this order: length, magic, checksum, version. The first failed check is the
//! error. The caller checks the owner with [`Framed::is_of`], because some callers do not know it
//! yet.

use std::ops::RangeInclusive;

use uuid::Uuid;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::checksum::{ZeroRuns, crc32c, crc32c_parts};

/// The size of the checksum in bytes.
const CRC_BYTES: usize = 4;

/// Why bytes are not the expected structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameError {
    /// There are too few bytes, or not exactly as many as the structure has.
    Length,
    /// They do not begin with the magic.
    Magic,
    /// The checksum is wrong.
    Checksum,
    /// The version is one that this build does not read.
    Version(u32),
}

/// A structure with a frame. Only `framed!` implements it, which asserts the layout.
pub(crate) trait Framed: FromBytes + IntoBytes + Immutable + KnownLayout + Sized {
    /// Its magic.
    const MAGIC: &'static [u8];
    /// The versions that this build reads.
    const VERSIONS: RangeInclusive<u32>;

    /// The bytes in the field of the magic.
    fn magic(&self) -> &[u8];
    /// The version.
    fn version(&self) -> u32;
    /// The UUID of its pool or store.
    fn owner(&self) -> [u8; 16];
    /// The checksum.
    fn crc(&self) -> u32;
    /// Sets the checksum.
    fn set_crc(&mut self, crc: u32);

    /// Computes the checksum over its bytes and the bytes that follow it, and stores it.
    fn seal(&mut self, following: &[u8]) {
        self.set_crc(computed_crc(self, following));
    }

    /// Sets the checksum, which covers `following` and then a run of zero bytes.
    fn seal_before_zeroes<const COUNT: usize>(
        &mut self,
        following: &[u8],
        zeroes: &ZeroRuns<COUNT>,
        steps: usize,
    ) {
        self.set_crc(zeroes.after(computed_crc(self, following), steps));
    }

    /// Returns the structure with a checksum that covers only itself.
    #[must_use]
    fn sealed(mut self) -> Self {
        self.seal(&[]);
        self
    }

    /// Checks magic, checksum and version; `following` are the bytes after it that the checksum
    /// covers.
    fn check(&self, following: &[u8]) -> Result<(), FrameError> {
        if self.magic() != Self::MAGIC {
            return Err(FrameError::Magic);
        }
        if self.crc() != computed_crc(self, following) {
            return Err(FrameError::Checksum);
        }
        if !Self::VERSIONS.contains(&self.version()) {
            return Err(FrameError::Version(self.version()));
        }
        Ok(())
    }

    /// Views bytes as the structure, which must have exactly this length, and checks them.
    fn view(bytes: &[u8]) -> Result<&Self, FrameError> {
        let raw = Self::ref_from_bytes(bytes).map_err(|_| FrameError::Length)?;
        raw.check(&[])?;
        Ok(raw)
    }

    /// Whether it belongs to this pool or store.
    fn is_of(&self, owner: Uuid) -> bool {
        self.owner() == *owner.as_bytes()
    }
}

/// The correct checksum of a structure.
fn computed_crc<T: Framed>(raw: &T, following: &[u8]) -> u32 {
    // `framed!` asserts that the structure is longer than its checksum.
    let covered = raw.as_bytes().split_last_chunk::<CRC_BYTES>().map_or(&[][..], |(covered, _)| covered);
    if following.is_empty() { crc32c(covered) } else { crc32c_parts(&[covered, following]) }
}

/// `framed!(Raw, MAGIC, 1..=2, owner: pool)` declares a structure with a frame. The fields `magic`,
/// `version` and `crc` have these names in every structure; the macro gets the name of the owner's
/// field.
macro_rules! framed {
    ($raw:ty, $magic:expr, $versions:expr, owner: $owner:ident) => {
        const _: () = {
            assert!(core::mem::offset_of!($raw, magic) == 0);
            assert!(core::mem::offset_of!($raw, crc).saturating_add(4) == size_of::<$raw>());
        };

        impl $crate::log::frame::Framed for $raw {
            const MAGIC: &'static [u8] = &$magic;
            const VERSIONS: std::ops::RangeInclusive<u32> = $versions;

            fn magic(&self) -> &[u8] {
                &self.magic
            }

            fn version(&self) -> u32 {
                self.version.into()
            }

            fn owner(&self) -> [u8; 16] {
                self.$owner
            }

            fn crc(&self) -> u32 {
                self.crc.get()
            }

            fn set_crc(&mut self, crc: u32) {
                self.crc = crc.into();
            }
        }
    };
}

pub(crate) use framed;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zerocopy::Unaligned;
    use zerocopy::little_endian::{U16, U32};

    use super::*;

    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug)]
    #[repr(C)]
    struct Raw {
        magic: [u8; 8],
        version: U16,
        pool: [u8; 16],
        fields: [u8; 34],
        crc: U32,
    }

    framed!(Raw, *b"VARVE-XX", 2..=3, owner: pool);

    fn raw(version: u16, pool: [u8; 16], fields: [u8; 34]) -> Raw {
        Raw { magic: *b"VARVE-XX", version: version.into(), pool, fields, crc: 0.into() }
    }

    proptest! {
        #[test]
        fn what_is_sealed_is_read_and_any_flipped_bit_is_found(
            version in 2..=3_u16,
            pool: [u8; 16],
            fields: [u8; 34],
            following: Vec<u8>,
            bit: prop::sample::Index,
        ) {
            let mut whole = raw(version, pool, fields);
            whole.seal(&following);
            prop_assert_eq!(whole.check(&following), Ok(()));
            prop_assert!(whole.is_of(Uuid::from_bytes(pool)));
            let mut bytes = [whole.as_bytes(), &following].concat();
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let (changed, following) = Raw::ref_from_prefix(&bytes).unwrap();
            let expected = if bit / 8 < 8 { FrameError::Magic } else { FrameError::Checksum };
            prop_assert_eq!(changed.check(following), Err(expected));
        }

        #[test]
        fn a_view_wants_exactly_its_bytes(len in 0..200_usize) {
            let bytes = vec![0; len];
            let expected = if len == size_of::<Raw>() { FrameError::Magic } else { FrameError::Length };
            prop_assert_eq!(Raw::view(&bytes).err(), Some(expected));
        }

        #[test]
        fn a_version_that_is_not_read_is_named_once_the_checksum_is_right(version: u16) {
            let whole = raw(version, [7; 16], [1; 34]).sealed();
            let expected = if (2..=3).contains(&version) {
                Ok(())
            } else {
                Err(FrameError::Version(u32::from(version)))
            };
            prop_assert_eq!(Raw::view(whole.as_bytes()).map(|_| ()), expected);
        }
    }

    #[test]
    fn the_checksum_is_the_crc32c_of_the_bytes_before_it() {
        let whole = raw(2, [7; 16], [9; 34]).sealed();
        let bytes = whole.as_bytes();
        assert_eq!(bytes[60..], crc32c(&bytes[..60]).to_le_bytes());
        let mut longer = whole;
        longer.seal(b"entries");
        assert_eq!(longer.crc.get(), crc32c(&[&bytes[..60], b"entries"].concat()));
    }
}
