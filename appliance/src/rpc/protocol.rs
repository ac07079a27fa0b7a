//! JSON-RPC 2.0: turns the bytes of one request or batch into the bytes of its answer. No sockets
//! here.
//!
//! As in SPDK, `jsonrpc` must be `"2.0"`, parameters are given by name only, and members that the
//! standard does not define are refused. A request without an id is a notification: it is executed
//! and never answered, not even with an error.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::{Map, Value, json};

use super::error::RpcError;
use crate::audit::Caller;

/// The maximum number of JSON values in a request, names included (SPDK's limit).
pub const MAX_REQUEST_VALUES: usize = 8192;

/// The maximum length of a string id, in characters (SPDK's limit).
pub const MAX_ID_CHARS: usize = 128;

/// The maximum length of an answer, in bytes (SPDK's limit).
pub const MAX_ANSWER_BYTES: usize = 32 << 20;

/// The result of a call as JSON. It is written once and sent as it is, so a long list needs no more
/// memory than its text.
pub type ResultText = Vec<u8>;

/// Executes calls. Many threads call it at once; a call may block its own thread as long as it
/// needs.
pub trait Dispatch: Send + Sync + 'static {
    /// Calls a method.
    ///
    /// # Errors
    /// The error for the client.
    fn dispatch(&self, method: &str, params: Map<String, Value>) -> Result<Value, RpcError>;

    /// Calls a method for a known caller, which the audit log records with a change.
    ///
    /// # Errors
    /// The error for the client.
    fn dispatch_for(
        &self,
        _caller: &Caller,
        method: &str,
        params: Map<String, Value>,
    ) -> Result<ResultText, RpcError> {
        self.dispatch(method, params).map(|result| result.to_string().into_bytes())
    }
}

/// The answer to the bytes of one JSON value, with a newline after it; `None` if nothing is to be
/// sent.
pub fn answer(request: &[u8], caller: &Caller, dispatch: &dyn Dispatch) -> Option<Vec<u8>> {
    let refused = |error: &RpcError| Answer::refusal(&Value::Null, error);
    let answer = match serde_json::from_slice::<Value>(request) {
        Ok(value) if count_values(&value) > MAX_REQUEST_VALUES => Some(refused(&invalid(format!(
            "it has more than {MAX_REQUEST_VALUES} JSON values; send it in parts"
        )))),
        Ok(Value::Array(calls)) if calls.is_empty() => {
            Some(refused(&invalid("a batch must hold at least one request")))
        }
        Ok(Value::Array(calls)) => answer_batch(calls, caller, dispatch),
        Ok(value) => answer_one(value, caller, dispatch),
        Err(error) => Some(refused(&RpcError::Parse { reason: error.to_string() })),
    }?;
    Some(answer.into_bytes())
}

/// An error answer without an id, because no request could be read.
pub fn anonymous_refusal(error: &RpcError) -> Vec<u8> {
    Answer::refusal(&Value::Null, error).into_bytes()
}

/// An answer as text.
struct Answer {
    /// Of its request; null for a batch.
    id: Value,
    text: Vec<u8>,
    /// Its length in bytes. It is more than the text has if the text was too long to be kept.
    len_bytes: usize,
}

impl Answer {
    fn refusal(id: &Value, error: &RpcError) -> Self {
        let text = refusal(id, error).to_string().into_bytes();
        Answer { id: id.clone(), len_bytes: text.len(), text }
    }

    fn result(id: Value, result: ResultText) -> Self {
        let head = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":");
        // In place, because a list may be long.
        let mut text = result;
        text.reserve_exact(head.len().saturating_add(2));
        text.splice(..0, head.into_bytes());
        text.push(b'}');
        Answer { id, len_bytes: text.len(), text }
    }

    fn into_bytes(self) -> Vec<u8> {
        let mut bytes = self.text;
        if self.len_bytes >= MAX_ANSWER_BYTES {
            let reason = format!(
                "the answer has {} bytes, more than the {MAX_ANSWER_BYTES} that can be sent; ask for less",
                self.len_bytes
            );
            bytes = refusal(&self.id, &RpcError::Internal { reason }).to_string().into_bytes();
        }
        bytes.push(b'\n');
        bytes
    }
}

/// Executes all calls of a batch. Answers that cannot be sent, because they are too long together,
/// are only counted.
fn answer_batch(calls: Vec<Value>, caller: &Caller, dispatch: &dyn Dispatch) -> Option<Answer> {
    let mut batch = Answer { id: Value::Null, text: vec![b'['], len_bytes: 1 };
    for answer in calls.into_iter().filter_map(|call| answer_one(call, caller, dispatch)) {
        batch.len_bytes = batch.len_bytes.saturating_add(answer.len_bytes).saturating_add(1);
        if batch.len_bytes < MAX_ANSWER_BYTES {
            batch.text.extend_from_slice(&answer.text);
            batch.text.push(b',');
        } else {
            batch.text = Vec::new();
        }
    }
    if let Some(last) = batch.text.last_mut() {
        *last = b']';
    }
    (batch.len_bytes > 1).then_some(batch)
}

fn answer_one(call: Value, caller: &Caller, dispatch: &dyn Dispatch) -> Option<Answer> {
    let call = match Call::parse(call) {
        Ok(call) => call,
        Err(refused) => return Some(Answer::refusal(&refused.id, &refused.error)),
    };
    let result = call.params.and_then(|params| {
        // A panic in one method must not end the connection or the appliance.
        let called = catch_unwind(AssertUnwindSafe(|| dispatch.dispatch_for(caller, &call.method, params)));
        called.unwrap_or_else(|_| {
            let reason = format!("{} failed unexpectedly; the appliance's log has the details", call.method);
            Err(RpcError::Internal { reason })
        })
    });
    let id = call.id?;
    Some(match result {
        Ok(result) => Answer::result(id, result),
        Err(error) => Answer::refusal(&id, &error),
    })
}

fn refusal(id: &Value, error: &RpcError) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "error": error.to_object()})
}

fn invalid(reason: impl Into<String>) -> RpcError {
    RpcError::InvalidRequest { reason: reason.into() }
}

/// A malformed request, and the id for its answer.
struct Refused {
    id: Value,
    error: RpcError,
}

fn refuse<T>(id: Value, reason: impl Into<String>) -> Result<T, Box<Refused>> {
    Err(Box::new(Refused { id, error: invalid(reason) }))
}

/// A well-formed request.
struct Call {
    method: String,
    params: Result<Map<String, Value>, RpcError>,
    /// `None` for a notification.
    id: Option<Value>,
}

impl Call {
    /// Splits a request into its members.
    fn parse(value: Value) -> Result<Self, Box<Refused>> {
        let Value::Object(mut members) = value else {
            return refuse(Value::Null, "a request is a JSON object");
        };
        let id = match members.remove("id") {
            Some(Value::String(id)) if id.chars().count() > MAX_ID_CHARS => {
                return refuse(Value::Null, format!("its id has more than {MAX_ID_CHARS} characters"));
            }
            Some(id @ (Value::Null | Value::Number(_) | Value::String(_))) => Some(id),
            Some(_) => return refuse(Value::Null, "an id is a number, a string or null"),
            None => None,
        };
        let answer_id = id.clone().unwrap_or(Value::Null);
        let fail = |reason: String| refuse(answer_id, reason);
        match members.remove("jsonrpc") {
            Some(Value::String(version)) if version == "2.0" => {}
            Some(other) => return fail(format!("jsonrpc must be \"2.0\", not {other}")),
            None => return fail("the member jsonrpc is missing; it must be \"2.0\"".to_owned()),
        }
        let method = match members.remove("method") {
            Some(Value::String(method)) => method,
            Some(_) => return fail("the method must be a string".to_owned()),
            None => return fail("the member method is missing".to_owned()),
        };
        let params = match members.remove("params") {
            Some(Value::Object(params)) => Ok(params),
            None => Ok(Map::new()),
            Some(_) => Err(RpcError::ParamsNotObject { method: method.clone() }),
        };
        if let Some(name) = members.keys().next() {
            return fail(format!("a request has no member '{name}'; it has jsonrpc, method, params, id"));
        }
        Ok(Call { method, params, id })
    }
}

/// The number of values, the names of members included. The parser bounds the nesting.
fn count_values(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.iter().map(count_values).fold(1, usize::saturating_add),
        Value::Object(members) => {
            let values = members.values().map(count_values);
            values.fold(1, usize::saturating_add).saturating_add(members.len())
        }
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Echo;

    impl Dispatch for Echo {
        fn dispatch(&self, _: &str, params: Map<String, Value>) -> Result<Value, RpcError> {
            Ok(Value::Object(params))
        }
    }

    /// A possible value of a request's member.
    fn member() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            Just(json!("2.0")),
            Just(json!({})),
            Just(json!([1])),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ]
    }

    fn request() -> impl Strategy<Value = Value> {
        let name = prop::sample::select(vec!["jsonrpc", "method", "params", "id", "other"]);
        prop::collection::vec((name, member()), 0..6).prop_map(|members| {
            Value::Object(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
        })
    }

    fn is_answer(answer: &Value) -> bool {
        answer["jsonrpc"] == "2.0"
            && answer.get("id").is_some()
            && answer.get("result").is_some() != answer["error"]["code"].is_i64()
    }

    proptest! {
        #[test]
        fn whatever_comes_the_answer_is_one(requests in prop::collection::vec(request(), 1..5), batch in any::<bool>()) {
            let request = if batch { Value::from(requests) } else { requests[0].clone() };
            if let Some(bytes) = answer(request.to_string().as_bytes(), &Caller::Unknown, &Echo) {
                prop_assert_eq!(bytes.last(), Some(&b'\n'));
                let answer: Value = serde_json::from_slice(&bytes).expect("JSON");
                match answer {
                    Value::Array(answers) => prop_assert!(batch && answers.iter().all(is_answer)),
                    answer => prop_assert!(is_answer(&answer)),
                }
            }
        }

        #[test]
        fn whatever_bytes_come_they_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let answer = answer(&bytes, &Caller::Unknown, &Echo);
            prop_assert!(answer.is_some_and(|answer| !answer.is_empty()));
        }
    }
}
