//! Splits a byte stream into JSON values. A request has no framing except the JSON value itself, so
//! this file finds the end of the value.
//!
//! Each byte is scanned once, however the stream is split into reads: the scan keeps its position,
//! its stack of open brackets and whether it is inside a string. It finds ends, not errors:
//! `serde_json` then parses the value and decides. Bytes that cannot start a request are reported
//! at once, so that a client that sends garbage gets an answer and not silence.

/// The maximum length of a request, in bytes (SPDK's limit).
pub const MAX_REQUEST_BYTES: usize = 256 * 1024;

/// The maximum nesting depth, which is also the limit of `serde_json`.
const MAX_DEPTH: usize = 127;

/// Consumed bytes are removed from the buffer only when there are at least this many, so that many
/// small requests do not move the rest each time.
const COMPACT_BYTES: usize = 64 * 1024;

/// Why the rest of a stream cannot be read: nothing marks the start of the next request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// A byte that cannot occur here in JSON.
    #[error("byte {offset} of the request, {byte:#04x}, cannot be there in JSON-RPC")]
    UnexpectedByte {
        /// Its offset from the start of the request.
        offset: usize,
        /// The byte.
        byte: u8,
    },
    /// Brackets are nested deeper than the limit.
    #[error("it is nested more than {MAX_DEPTH} levels deep")]
    TooDeep,
    /// More than [`MAX_REQUEST_BYTES`].
    #[error("it is longer than {MAX_REQUEST_BYTES} bytes; send less in one request")]
    TooLong,
}

/// Collects bytes and returns complete values.
#[derive(Debug, Default)]
pub struct Framer {
    buffer: Vec<u8>,
    /// Where the current value begins in `buffer`; all bytes before it are consumed.
    start: usize,
    /// How far the current value has been scanned.
    scanned: usize,
    /// The closing brackets that are still expected.
    open: Vec<u8>,
    in_string: bool,
    escaped: bool,
    failed: Option<FramingError>,
}

impl Framer {
    /// An empty framer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes of the stream. To bound the buffer, call [`next_value`](Self::next_value) until
    /// it returns `None` before adding more.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start >= COMPACT_BYTES {
            self.buffer.drain(..self.start);
            self.scanned = self.scanned.saturating_sub(self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether a value has begun and not ended.
    pub fn is_partial(&self) -> bool {
        !self.open.is_empty()
    }

    /// The bytes of the next complete value; `None` until more bytes arrive.
    ///
    /// # Errors
    /// [`FramingError`]; it is permanent, whatever bytes follow.
    pub fn next_value(&mut self) -> Result<Option<&[u8]>, FramingError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        match self.scan() {
            Ok(Some(end)) => {
                let start = self.start;
                self.start = end;
                Ok(Some(self.buffer.get(start..end).unwrap_or_default()))
            }
            Ok(None) => {
                if self.start == self.buffer.len() {
                    self.buffer.clear();
                    self.start = 0;
                    self.scanned = 0;
                }
                Ok(None)
            }
            Err(error) => {
                self.failed = Some(error.clone());
                self.buffer = Vec::new();
                Err(error)
            }
        }
    }

    /// Continues the scan; returns the end of the value if it is found.
    fn scan(&mut self) -> Result<Option<usize>, FramingError> {
        while let Some(&byte) = self.buffer.get(self.scanned) {
            let offset = self.scanned.saturating_sub(self.start);
            if offset >= MAX_REQUEST_BYTES {
                return Err(FramingError::TooLong);
            }
            self.scanned = self.scanned.saturating_add(1);
            if self.in_string {
                if self.escaped {
                    self.escaped = false;
                } else if byte == b'\\' {
                    self.escaped = true;
                } else if byte == b'"' {
                    self.in_string = false;
                }
                continue;
            }
            let unexpected = FramingError::UnexpectedByte { offset, byte };
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' => {
                    if self.open.is_empty() {
                        self.start = self.scanned;
                    }
                }
                b'{' | b'[' => {
                    if self.open.len() == MAX_DEPTH {
                        return Err(FramingError::TooDeep);
                    }
                    self.open.push(if byte == b'{' { b'}' } else { b']' });
                }
                _ if self.open.is_empty() => return Err(unexpected),
                b'}' | b']' => {
                    if self.open.pop() != Some(byte) {
                        return Err(unexpected);
                    }
                    if self.open.is_empty() {
                        return Ok(Some(self.scanned));
                    }
                }
                b'"' => self.in_string = true,
                // Separators, and the characters of numbers, true, false and null.
                b':'
                | b','
                | b'0'..=b'9'
                | b'+'
                | b'-'
                | b'.'
                | b'E'
                | b'a'
                | b'e'
                | b'f'
                | b'l'
                | b'n'
                | b'r'
                | b's'
                | b't'
                | b'u' => {}
                _ => return Err(unexpected),
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn cut(stream: &[u8], chunk_lens: &[usize]) -> (Vec<Vec<u8>>, Option<FramingError>) {
        let mut framer = Framer::new();
        let mut values = Vec::new();
        let mut rest = stream;
        let mut lens = chunk_lens.iter().cycle();
        while !rest.is_empty() {
            let len = lens.next().map_or(rest.len(), |len| (*len).clamp(1, rest.len()));
            framer.push(&rest[..len]);
            rest = &rest[len..];
            loop {
                match framer.next_value() {
                    Ok(Some(value)) => values.push(value.to_vec()),
                    Ok(None) => break,
                    Err(error) => return (values, Some(error)),
                }
            }
        }
        (values, None)
    }

    #[test]
    fn values_are_cut_without_any_separator() {
        let (values, error) = cut(br#" {"a":"}\"]"}[1,{"b":[]}]  {} "#, &[usize::MAX]);
        assert_eq!(error, None);
        assert_eq!(values, [br#"{"a":"}\"]"}"#.to_vec(), br#"[1,{"b":[]}]"#.to_vec(), b"{}".to_vec()]);
    }

    #[test]
    fn nonsense_is_reported_at_its_first_byte() {
        for (stream, offset) in
            [("hello", 0), ("42", 0), ("{\"a\" what", 5), ("{]", 1), ("}", 0), ("[}", 1), ("{'a':1}", 1)]
        {
            let (values, error) = cut(stream.as_bytes(), &[1]);
            let byte = stream.as_bytes()[offset];
            assert!(values.is_empty());
            assert_eq!(error, Some(FramingError::UnexpectedByte { offset, byte }), "{stream}");
        }
    }

    #[test]
    fn bounds_are_held() {
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(MAX_REQUEST_BYTES));
        assert_eq!(cut(long.as_bytes(), &[4096]).1, Some(FramingError::TooLong));
        let fits = format!("{{\"a\":\"{}\"}}", "x".repeat(MAX_REQUEST_BYTES - 8));
        assert_eq!(fits.len(), MAX_REQUEST_BYTES);
        assert_eq!(cut(fits.as_bytes(), &[4096]).0, [fits.into_bytes()]);
        assert_eq!(cut("[".repeat(MAX_DEPTH + 1).as_bytes(), &[7]).1, Some(FramingError::TooDeep));
        let deepest = "[".repeat(MAX_DEPTH) + &"]".repeat(MAX_DEPTH);
        let (values, _) = cut(deepest.as_bytes(), &[7]);
        serde_json::from_slice::<Value>(&values[0]).expect("serde_json takes it too");
    }

    #[test]
    fn an_error_stays() {
        let mut framer = Framer::new();
        framer.push(b"x");
        assert!(framer.next_value().is_err());
        framer.push(b"{}");
        assert!(framer.next_value().is_err());
    }

    #[test]
    fn many_small_requests_are_consumed() {
        let stream = "{\"id\":1}\n".repeat(50_000);
        let (values, error) = cut(stream.as_bytes(), &[100_000]);
        assert_eq!((values.len(), error), (50_000, None));
    }

    /// Any JSON value, as deep and wide as requests are.
    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::vec((any::<String>(), inner), 0..6)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_stream_in_any_chunks_gives_its_values(
            values in prop::collection::vec(json(), 0..8),
            chunk_lens in prop::collection::vec(1_usize..40, 1..8),
            pretty in any::<bool>(),
            separator in prop_oneof![Just(""), Just("\n"), Just(" \r\n\t")],
        ) {
            let values: Vec<Value> = values.into_iter().map(|value| serde_json::json!([value])).collect();
            let texts: Vec<String> = values
                .iter()
                .map(|value| if pretty { format!("{value:#}") } else { value.to_string() })
                .collect();
            let (cut_values, error) = cut(texts.join(separator).as_bytes(), &chunk_lens);
            prop_assert_eq!(error, None);
            let texts: Vec<Vec<u8>> = texts.into_iter().map(String::into_bytes).collect();
            prop_assert_eq!(cut_values, texts);
        }

        #[test]
        fn garbage_ends_the_same_in_any_chunks(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"{}[]\",:\\ 1tn".to_vec())], 0..200),
            chunk_lens in prop::collection::vec(1_usize..10, 1..5),
        ) {
            prop_assert_eq!(cut(&bytes, &chunk_lens), cut(&bytes, &[usize::MAX]));
        }
    }
}
