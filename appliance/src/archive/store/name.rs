//! Names of objects, in the one form that every kind of store supports.

use std::fmt;
use std::sync::Arc;

/// The longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 200;

/// The name of an object: 1 to 200 bytes of lower-case letters, digits, `.`, `_`, `-`, in parts
/// between single slashes; no part begins with a dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// Why a text is not a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not the name of an object: 1 to {NAME_BYTES_MAX} bytes of a-z, 0-9, '.', '_' and '-', in parts between single slashes, none beginning with a dot"
)]
pub struct InvalidName;

impl Name {
    /// Checks a text.
    ///
    /// # Errors
    /// [`InvalidName`].
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        let allowed = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-')
        };
        let part_valid = |part: &str| !part.is_empty() && !part.starts_with('.') && part.bytes().all(allowed);
        if text.len() > NAME_BYTES_MAX || !text.split('/').all(part_valid) {
            return Err(InvalidName);
        }
        Ok(Name(text.into()))
    }

    /// The text in a field of the maximum size, padded with zeroes, and its length in bytes.
    pub(super) fn padded(&self) -> ([u8; NAME_BYTES_MAX], u16) {
        let mut field = [0; NAME_BYTES_MAX];
        for (free, byte) in field.iter_mut().zip(self.0.bytes()) {
            *free = byte;
        }
        (field, self.0.len() as u16)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_for_every_store() {
        for good in ["a", "v1/x/seg/00.zst", "a-b_c.9"] {
            assert_eq!(Name::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "/a", "a/", "a//b", "..", "a/../b", ".a", "A", "a b", "ä", &"x".repeat(201)] {
            assert_eq!(Name::new(bad), Err(InvalidName), "{bad}");
        }
    }
}
