//! The client side of the JSON-RPC plane.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::rpc::ErrorObject;
use crate::rpc::protocol::MAX_ANSWER_BYTES;

/// How long a client waits for an answer by default.
pub const DEFAULT_ANSWER_TIMEOUT: Duration = Duration::from_mins(1);

/// Why a call did not give a result.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error(
        "no appliance answers on {}: {source}; is it running (varve serve), and is this its socket (--rpc or VARVE_RPC; the default is varve-data/rpc.sock in this directory, then /run/varve/rpc.sock)?",
        path.display()
    )]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The connection failed.
    #[error("the connection to the appliance on {} failed: {source}; the call may have taken effect: look with a list command before you repeat it", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection ended before the answer was whole.
    #[error("the appliance on {} closed the connection before it answered; the call may have taken effect: look with a list command before you repeat it", path.display())]
    Closed {
        /// The socket.
        path: PathBuf,
    },
    /// No answer in time.
    #[error(
        "the appliance on {} did not answer within {} s; the call may still take effect. Look with a list command first; wait longer with --timeout",
        path.display(), timeout.as_secs()
    )]
    TimedOut {
        /// The socket.
        path: PathBuf,
        /// How long the client waited.
        timeout: Duration,
    },
    /// The bytes received are not an answer.
    #[error("what answers on {} does not speak JSON-RPC 2.0: {reason}; is this the appliance's socket?", path.display())]
    Protocol {
        /// The socket.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The appliance refused the call.
    #[error("{}{error} (code {})", method_prefix(method, error), error.code)]
    Refused {
        /// The method.
        method: String,
        /// The error it returned.
        error: Box<ErrorObject>,
    },
}

/// The method's name as a prefix, unless the message already contains it.
fn method_prefix(method: &str, error: &ErrorObject) -> String {
    if error.message.contains(method) { String::new() } else { format!("{method}: ") }
}

/// A connection to an appliance; one call at a time.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    path: PathBuf,
    timeout: Duration,
    next_id: u64,
    /// Bytes read after the newline of the last answer. The server sends nothing there, so it stays
    /// empty.
    buffer: Vec<u8>,
}

impl Client {
    /// Connects to the socket at `path`. Each call may take `timeout`.
    ///
    /// # Errors
    /// [`ClientError::Connect`].
    pub fn connect(path: &Path, timeout: Duration) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path)
            .map_err(|source| ClientError::Connect { path: path.to_owned(), source })?;
        Ok(Client { stream, path: path.to_owned(), timeout, next_id: 1, buffer: Vec::new() })
    }

    /// Makes one call and waits for its result.
    ///
    /// # Errors
    /// Every [`ClientError`] but `Connect`.
    pub fn call(&mut self, method: &str, params: Map<String, Value>) -> Result<Value, ClientError> {
        let id = self.next_id;
        self.next_id += 1;
        let mut request = json!({"jsonrpc": "2.0", "id": id, "method": method});
        if !params.is_empty() {
            request["params"] = Value::Object(params);
        }
        let deadline = Instant::now() + self.timeout;
        self.stream.set_write_timeout(Some(self.timeout)).map_err(|error| self.io_error(error))?;
        self.stream.write_all(request.to_string().as_bytes()).map_err(|error| self.io_error(error))?;
        let line = self.read_line(deadline)?;
        self.result_of(method, id, &line)
    }

    /// Reads one answer; the server writes each on one line.
    fn read_line(&mut self, deadline: Instant) -> Result<Vec<u8>, ClientError> {
        let mut chunk = vec![0; 64 * 1024];
        let mut searched = 0;
        loop {
            if let Some(end) = self.buffer[searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(searched + end + 1);
                return Ok(std::mem::replace(&mut self.buffer, rest));
            }
            searched = self.buffer.len();
            if searched > MAX_ANSWER_BYTES {
                return Err(self.protocol_error(format!("its answer has more than {MAX_ANSWER_BYTES} bytes")));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ClientError::TimedOut { path: self.path.clone(), timeout: self.timeout });
            }
            self.stream.set_read_timeout(Some(left)).map_err(|error| self.io_error(error))?;
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(ClientError::Closed { path: self.path.clone() }),
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                // The start of the loop decides whether the time is over.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(self.io_error(error)),
            }
        }
    }

    fn result_of(&self, method: &str, id: u64, line: &[u8]) -> Result<Value, ClientError> {
        let answer: Value =
            serde_json::from_slice(line).map_err(|error| self.protocol_error(error.to_string()))?;
        let Value::Object(mut members) = answer else {
            return Err(self.protocol_error("its answer is no object".to_owned()));
        };
        if let Some(error) = members.remove("error") {
            let error =
                serde_json::from_value(error).map_err(|error| self.protocol_error(error.to_string()))?;
            return Err(ClientError::Refused { method: method.to_owned(), error });
        }
        if members.get("id").and_then(Value::as_u64) != Some(id) {
            return Err(self.protocol_error("its answer belongs to another call".to_owned()));
        }
        members
            .remove("result")
            .ok_or_else(|| self.protocol_error("its answer has neither a result nor an error".to_owned()))
    }

    fn io_error(&self, source: io::Error) -> ClientError {
        ClientError::Io { path: self.path.clone(), source }
    }

    fn protocol_error(&self, reason: String) -> ClientError {
        ClientError::Protocol { path: self.path.clone(), reason }
    }
}
