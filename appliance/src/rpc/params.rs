//! Decodes a method's parameters into its struct, with errors that name the parameter and the
//! allowed values.
//!
//! The structs derive `Deserialize` with `deny_unknown_fields`. This file only supplies the
//! deserializer of the outermost object, so that serde's knowledge of the fields appears in error
//! messages for operators.

use std::fmt;

use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use crate::log::Lsn;
use crate::reactor::yield_now;
use crate::volume::span_ns;

/// The parameters of a method that has none.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoParams {}

/// The parameters of a list that is returned in pages.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PageParams {
    #[serde(default)]
    from: u64,
    limit: Option<usize>,
}

/// The maximum number of entries in one answer.
pub(super) const PAGE_ENTRIES_MAX: usize = 10_000;

/// The maximum number of entries collected in one turn of the reactor: about 100 us.
const PIECE_ENTRIES_MAX: usize = 256;

impl PageParams {
    /// A page from a position on.
    pub(super) fn new(from: u64, limit: Option<usize>) -> Self {
        PageParams { from, limit }
    }

    /// Collects the page in pieces that each fit into a short turn of the reactor, however long the
    /// list is. `piece` returns at most the given number of entries from a position on, or none to
    /// end the page; `lsn_of` returns the position of an entry.
    ///
    /// # Errors
    /// The first error of `piece`.
    pub(super) async fn gather<T, E>(
        self,
        mut piece: impl FnMut(Lsn, usize) -> Result<Vec<T>, E>,
        lsn_of: impl Fn(&T) -> u64,
    ) -> Result<Vec<T>, E> {
        let limit = self.limit.unwrap_or(PAGE_ENTRIES_MAX).min(PAGE_ENTRIES_MAX);
        let mut from = Lsn(self.from);
        let mut page = Vec::new();
        while page.len() < limit {
            let entries = piece(from, PIECE_ENTRIES_MAX.min(limit.saturating_sub(page.len())))?;
            let Some(last) = entries.last() else { break };
            from = Lsn(lsn_of(last).saturating_add(1));
            page.extend(entries);
            yield_now().await;
        }
        Ok(page)
    }
}

/// A span of time in nanoseconds; in JSON a text like `1m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SpanNs(pub(super) u64);

impl<'de> Deserialize<'de> for SpanNs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let span_ns = span_ns(&text);
        span_ns.map(SpanNs).ok_or_else(|| {
            de::Error::custom(format!(
                "'{text}' is no span of time; write it like 10m, 90s, 1h30m or '5 min'"
            ))
        })
    }
}

/// What is wrong with parameters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParamError {
    /// The method has no such parameter.
    #[error("unknown parameter '{name}'; {}", allowed_text(allowed))]
    Unknown {
        /// The parameter.
        name: String,
        /// The parameters that it has.
        allowed: &'static [&'static str],
    },
    /// A required parameter is missing.
    #[error("parameter '{name}' is missing")]
    Missing {
        /// The parameter.
        name: &'static str,
    },
    /// A parameter has an invalid value.
    #[error("parameter '{name}': {reason}")]
    Value {
        /// The parameter.
        name: String,
        /// What is wrong, and what is expected.
        reason: String,
    },
    /// An error of the parameters as a whole.
    #[error("{reason}")]
    Other {
        /// What is wrong.
        reason: String,
    },
}

fn allowed_text(allowed: &[&str]) -> String {
    if allowed.is_empty() {
        "it takes none".to_owned()
    } else {
        format!("allowed are {}", allowed.join(", "))
    }
}

impl ParamError {
    /// Details for programs: the parameter, and for an unknown one the parameters that exist.
    pub fn data(&self) -> Option<Value> {
        match self {
            ParamError::Unknown { name, allowed } => Some(json!({"parameter": name, "allowed": allowed})),
            ParamError::Missing { name } => Some(json!({"parameter": name})),
            ParamError::Value { name, .. } => Some(json!({"parameter": name})),
            ParamError::Other { .. } => None,
        }
    }
}

impl de::Error for ParamError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        ParamError::Other { reason: message.to_string() }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        ParamError::Unknown { name: field.to_owned(), allowed: expected }
    }

    fn missing_field(field: &'static str) -> Self {
        ParamError::Missing { name: field }
    }
}

/// Decodes `params` into `P`.
///
/// # Errors
/// [`ParamError`], for the first thing that is wrong.
pub fn decode<P: DeserializeOwned>(params: Map<String, Value>) -> Result<P, ParamError> {
    P::deserialize(Params(params))
}

struct Params(Map<String, Value>);

impl<'de> Deserializer<'de> for Params {
    type Error = ParamError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParamError> {
        visitor.visit_map(Access { entries: self.0.into_iter(), current: None })
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

struct Access {
    entries: serde_json::map::IntoIter,
    current: Option<(String, Value)>,
}

impl<'de> MapAccess<'de> for Access {
    type Error = ParamError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, ParamError> {
        let Some((name, value)) = self.entries.next() else { return Ok(None) };
        let key = seed.deserialize(name.as_str().into_deserializer())?;
        self.current = Some((name, value));
        Ok(Some(key))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, ParamError> {
        let (name, value) = self.current.take().ok_or_else(|| ParamError::Other {
            reason: "a value was asked for before its name".to_owned(),
        })?;
        seed.deserialize(value).map_err(|error| ParamError::Value { name, reason: error.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::units::SizeBytes;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only decoding is tested")]
    struct Example {
        name: String,
        size: SizeBytes,
        uuid: Option<uuid::Uuid>,
    }

    fn error_of(params: Value) -> String {
        let Value::Object(params) = params else { panic!("an object") };
        decode::<Example>(params).expect_err("must be refused").to_string()
    }

    #[test]
    fn good_parameters_are_decoded() {
        let Value::Object(params) = json!({"name": "a", "size": "1GiB", "uuid": null}) else { panic!() };
        let example: Example = decode(params).expect("good");
        assert_eq!((example.name.as_str(), example.size.0), ("a", 1 << 30));
    }

    #[test]
    fn errors_name_the_parameter_and_what_is_allowed() {
        assert_eq!(
            error_of(json!({"name": "a", "size": 1, "foo": 1})),
            "unknown parameter 'foo'; allowed are name, size, uuid"
        );
        assert_eq!(error_of(json!({"name": "a"})), "parameter 'size' is missing");
        let text = error_of(json!({"name": 7, "size": 1}));
        assert!(text.starts_with("parameter 'name': ") && text.contains("expected a string"), "{text}");
        let text = error_of(json!({"name": "a", "size": "lots"}));
        assert!(text.starts_with("parameter 'size': ") && text.contains("512MiB"), "{text}");
        let text = error_of(json!({"name": "a", "size": -1}));
        assert!(text.starts_with("parameter 'size': "), "{text}");
        let text = error_of(json!({"name": "a", "size": 1, "uuid": "x"}));
        assert!(text.starts_with("parameter 'uuid': "), "{text}");
    }

    #[test]
    fn a_method_without_parameters_says_so() {
        let Value::Object(params) = json!({"x": 1}) else { panic!() };
        let error = decode::<NoParams>(params).expect_err("none are allowed");
        assert_eq!(error.to_string(), "unknown parameter 'x'; it takes none");
        assert_eq!(error.data(), Some(json!({"parameter": "x", "allowed": []})));
        decode::<NoParams>(Map::new()).expect("empty is right");
    }
}
