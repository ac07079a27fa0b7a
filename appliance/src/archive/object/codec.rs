//! Compression contexts, created once and used for all objects of a thread.

use zstd_safe::{CCtx, CParameter, DCtx, compress_bound, get_error_name, max_c_level, min_c_level};

use super::raw::{self, Streak};
use super::{Damage, FRAME_BYTES_MAX, ObjectError};

/// The default compression level.
pub const LEVEL_DEFAULT: i32 = 3;

/// A compression context with its buffers. Its memory is bounded: the context's own for the level,
/// one frame's content (at most 1 MiB), and one compressed frame or one segment's compressed
/// entries.
pub struct Compressor {
    context: CCtx<'static>,
    compressed: Vec<u8>,
    pub(super) content: Vec<u8>,
    streak: Streak,
}

impl Compressor {
    /// Creates a context for `level`.
    ///
    /// # Errors
    /// [`ObjectError::Level`], [`ObjectError::OutOfMemory`].
    pub fn new(level: i32) -> Result<Self, ObjectError> {
        if !(min_c_level()..=max_c_level()).contains(&level) {
            return Err(ObjectError::Level(level));
        }
        let mut context = CCtx::try_create().ok_or(ObjectError::OutOfMemory)?;
        // Without zstd's own checksums: the seek table has a checksum of each frame, and computing
        // both costs as much as the digest.
        for parameter in [CParameter::CompressionLevel(level), CParameter::ChecksumFlag(false)] {
            context.set_parameter(parameter).map_err(|code| ObjectError::Compress(get_error_name(code)))?;
        }
        Ok(Compressor { context, compressed: Vec::new(), content: Vec::new(), streak: Streak::default() })
    }

    /// Creates a context that adds zstd's own checksum to each frame, as older builds did.
    #[cfg(test)]
    pub(super) fn with_frame_checksums(level: i32) -> Result<Self, ObjectError> {
        let mut compressor = Self::new(level)?;
        let set = compressor.context.set_parameter(CParameter::ChecksumFlag(true));
        set.map_err(|code| ObjectError::Compress(get_error_name(code)))?;
        Ok(compressor)
    }

    /// Prepares for the next object: discards the collected content of the last one and its
    /// compression statistics.
    pub(super) fn begin(&mut self) {
        self.content.clear();
        self.streak = Streak::default();
    }

    /// Returns `content` as one frame that is always compressed.
    pub(super) fn compress(&mut self, content: &[u8]) -> Result<&[u8], ObjectError> {
        compress(&mut self.context, &mut self.compressed, content)?;
        Ok(&self.compressed)
    }

    /// Returns the content of a data frame as one frame.
    pub(super) fn frame(&mut self, content: &[u8]) -> Result<&[u8], ObjectError> {
        frame(&mut self.context, &mut self.streak, &mut self.compressed, content)?;
        Ok(&self.compressed)
    }

    /// Returns the collected content as one frame; empties the collection.
    pub(super) fn collected_frame(&mut self) -> Result<&[u8], ObjectError> {
        frame(&mut self.context, &mut self.streak, &mut self.compressed, &self.content)?;
        self.content.clear();
        Ok(&self.compressed)
    }
}

fn frame(
    context: &mut CCtx<'static>,
    streak: &mut Streak,
    compressed: &mut Vec<u8>,
    content: &[u8],
) -> Result<(), ObjectError> {
    if streak.skips(content) {
        compressed.clear();
        raw::store(content, compressed);
        return Ok(());
    }
    compress(context, compressed, content)?;
    streak.note(content.len(), compressed.len());
    Ok(())
}

fn compress(
    context: &mut CCtx<'static>,
    compressed: &mut Vec<u8>,
    content: &[u8],
) -> Result<(), ObjectError> {
    compressed.clear();
    compressed.reserve(compress_bound(content.len()));
    context.compress2(compressed, content).map_err(|code| ObjectError::Compress(get_error_name(code)))?;
    Ok(())
}

/// A decompression context with its buffers: one compressed frame and its content, each bounded by
/// the format.
pub struct Decompressor {
    context: DCtx<'static>,
    pub(super) compressed: Vec<u8>,
    pub(super) content: Vec<u8>,
}

impl Decompressor {
    /// Creates a context.
    ///
    /// # Errors
    /// [`ObjectError::OutOfMemory`].
    pub fn new() -> Result<Self, ObjectError> {
        let context = DCtx::try_create().ok_or(ObjectError::OutOfMemory)?;
        Ok(Decompressor { context, compressed: Vec::new(), content: Vec::new() })
    }

    /// Decompresses `self.compressed`, which must be exactly one frame with `content_bytes` of
    /// content, into `self.content`.
    pub(super) fn decompress(&mut self, content_bytes: usize) -> Result<(), Damage> {
        self.content.clear();
        match zstd_safe::find_frame_compressed_size(&self.compressed) {
            Ok(frame_bytes) if frame_bytes == self.compressed.len() => {}
            Ok(_) => return Err(Damage::Field("length of the frame")),
            Err(code) => return Err(Damage::Zstd(get_error_name(code))),
        }
        self.content.reserve(content_bytes);
        // The buffer may be larger than requested; the length check below detects a frame with too
        // much content.
        let result = self.context.decompress(&mut self.content, &self.compressed);
        match result {
            Ok(len) if len == content_bytes => Ok(()),
            Ok(_) => Err(Damage::Field("length of the content")),
            Err(code) => Err(Damage::Zstd(get_error_name(code))),
        }
    }
}

/// The most bytes of a compressed data frame of the largest size.
pub(super) fn frame_compressed_max() -> u64 {
    compress_bound(FRAME_BYTES_MAX as usize) as u64
}
