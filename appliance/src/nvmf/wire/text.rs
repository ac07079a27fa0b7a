//! Fixed-width text fields: NUL-padded names (NQNs, addresses) and space-padded ASCII.

/// Errors of text fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// The field has no NUL although its kind must be terminated.
    #[error("a {capacity}-byte text field is not terminated by NUL")]
    NotTerminated {
        /// The width of the field in bytes.
        capacity: usize,
    },
    /// The field contains bytes that are not UTF-8.
    #[error("a text field is not UTF-8 from byte {valid_up_to} on")]
    NotUtf8 {
        /// The number of bytes before the first wrong one.
        valid_up_to: usize,
    },
    /// The string does not fit the field.
    #[error("a string of {length} bytes does not fit a field of {capacity} bytes")]
    TooLong {
        /// The string's length in bytes.
        length: usize,
        /// The width of the field in bytes, minus the terminator if one is required.
        capacity: usize,
    },
}

/// Reads a field that must hold a NUL-terminated UTF-8 string (Base 4.5, NQNs).
///
/// # Errors
/// When no NUL is found or the bytes before it are not UTF-8.
pub fn nul_terminated(field: &[u8]) -> Result<&str, TextError> {
    let mut pieces = field.splitn(2, |&byte| byte == 0);
    match (pieces.next(), pieces.next()) {
        (Some(text), Some(_)) => utf8(text),
        _ => Err(TextError::NotTerminated { capacity: field.len() }),
    }
}

/// Reads a field of ASCII text padded with spaces on the right (or, from lenient peers, with NULs).
///
/// # Errors
/// When the text is not UTF-8.
pub fn padded(field: &[u8]) -> Result<&str, TextError> {
    let mut text = field;
    while let Some((b' ' | 0, before)) = text.split_last() {
        text = before;
    }
    utf8(text)
}

/// Writes a string into a field that is padded with NULs and must keep at least one.
///
/// # Errors
/// When the string does not fit. The field is then unchanged.
pub fn set_nul_terminated(field: &mut [u8], text: &str) -> Result<(), TextError> {
    set(field, text, field.len().saturating_sub(1), 0)
}

/// Writes a string into a field that is padded with spaces.
///
/// # Errors
/// When the string does not fit. The field is then unchanged.
pub fn set_space_padded(field: &mut [u8], text: &str) -> Result<(), TextError> {
    set(field, text, field.len(), b' ')
}

fn set(field: &mut [u8], text: &str, capacity: usize, pad: u8) -> Result<(), TextError> {
    if text.len() > capacity {
        return Err(TextError::TooLong { length: text.len(), capacity });
    }
    let (head, tail) = field.split_at_mut(text.len());
    head.copy_from_slice(text.as_bytes());
    tail.fill(pad);
    Ok(())
}

fn utf8(bytes: &[u8]) -> Result<&str, TextError> {
    core::str::from_utf8(bytes).map_err(|error| TextError::NotUtf8 { valid_up_to: error.valid_up_to() })
}
