//! The errors of a call, with the codes of JSON-RPC 2.0 and of SPDK.
//!
//! | code | when |
//! |---|---|
//! | -32700 | the bytes are not JSON |
//! | -32600 | JSON, but not a request |
//! | -32601 | no such method |
//! | -32602 | an unknown, missing or mistyped parameter |
//! | -32603 | the appliance itself failed, or did not answer in time |
//! | -1 | the method exists, but not in this state of the appliance |
//! | -errno | the operation failed: -2 no such point, -5 the pool failed, -16 busy, -17 exists, -19 no such object, -22 invalid, -28 no room |

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::params::ParamError;
use super::target_view::ListenerError;
use crate::manage::ManageError;
use crate::reactor::CallError;
use crate::volume::{PointParseError, VolumeError};

/// An error in its wire format (JSON-RPC 2.0 section 5.1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ErrorObject {
    /// See the table in the module's documentation.
    pub code: i64,
    /// What went wrong and what to do about it, for people.
    pub message: String,
    /// More details, for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// The bytes are not JSON. Nothing marks the start of the next request, so the rest of the
    /// stream cannot be read.
    #[error("Parse error: {reason}")]
    Parse {
        /// What is wrong.
        reason: String,
    },
    /// JSON, but not a request.
    #[error("Invalid request: {reason}")]
    InvalidRequest {
        /// What is wrong.
        reason: String,
    },
    /// No such method.
    #[error("Method not found: '{method}'{}; rpc_get_methods lists every method", did_you_mean(suggestion.as_deref()))]
    MethodNotFound {
        /// The name in the request.
        method: String,
        /// The method with the most similar name, if one is similar enough.
        suggestion: Option<String>,
    },
    /// A parameter is unknown, missing or mistyped.
    #[error("Invalid parameters: {method}: {source}")]
    InvalidParams {
        /// The method.
        method: String,
        /// What is wrong.
        source: ParamError,
    },
    /// `params` is not an object.
    #[error("Invalid parameters: {method}: parameters are given by name, as a JSON object")]
    ParamsNotObject {
        /// The method.
        method: String,
    },
    /// The method exists but cannot be called now.
    #[error("{reason}")]
    WrongState {
        /// Why, and what to do.
        reason: &'static str,
    },
    /// The reactor that owns the pool did not accept or did not answer the call.
    #[error(
        "Internal error: {method}: {source}; the call may still take effect: look with the matching list method before trying again, and at the appliance's log if this repeats"
    )]
    NoAnswer {
        /// The method.
        method: String,
        /// Why.
        source: CallError,
    },
    /// A method panicked, or its answer cannot be sent.
    #[error("Internal error: {reason}")]
    Internal {
        /// What happened.
        reason: String,
    },
    /// The pool refused or failed.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// A text does not describe a point.
    #[error(transparent)]
    Point(#[from] PointParseError),
    /// A volume of that name exists, but it differs from the requested one.
    #[error(
        "a volume '{name}' exists already, with another {what} ({actual}, not {wanted}); choose another name, or ask for what exists"
    )]
    VolumeDiffers {
        /// The name.
        name: String,
        /// `size` or `UUID`.
        what: &'static str,
        /// The value that exists.
        actual: String,
        /// The requested value.
        wanted: String,
    },
    /// An object that is not a volume does not exist.
    #[error("there is no {kind} '{name}'; {advice}")]
    NoSuchObject {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What to do.
        advice: &'static str,
    },
    /// A value is well-formed, but this appliance does not support it.
    #[error("{reason}")]
    Unsupported {
        /// What and why.
        reason: String,
    },
    /// A listener could not be added or removed.
    #[error(transparent)]
    Listener(#[from] ListenerError),
}

impl From<ManageError> for RpcError {
    fn from(error: ManageError) -> Self {
        match error {
            ManageError::NotReady { reason } => RpcError::WrongState { reason },
            ManageError::Volume(error) => RpcError::Volume(error),
            ManageError::NoSuchVerification { id } => RpcError::NoSuchObject {
                kind: "verification",
                name: id.to_string(),
                advice: "archive_verify begins one and gives its id; the last 16 are remembered",
            },
            ManageError::Thread(_) => RpcError::Internal { reason: error.to_string() },
            ManageError::NoAnswer { job, source } => RpcError::NoAnswer { method: job.to_owned(), source },
        }
    }
}

fn did_you_mean(suggestion: Option<&str>) -> String {
    suggestion.map_or_else(String::new, |name| format!(", did you mean '{name}'?"))
}

impl RpcError {
    /// The code on the wire.
    pub fn code(&self) -> i64 {
        match self {
            RpcError::Parse { .. } => -32700,
            RpcError::InvalidRequest { .. } => -32600,
            RpcError::MethodNotFound { .. } => -32601,
            RpcError::InvalidParams { .. } | RpcError::ParamsNotObject { .. } => -32602,
            RpcError::NoAnswer { .. } | RpcError::Internal { .. } => -32603,
            RpcError::WrongState { .. } => -1,
            RpcError::Volume(error) => volume_code(error),
            RpcError::VolumeDiffers { .. } => -17,
            RpcError::NoSuchObject { .. } => -19,
            RpcError::Point(_) | RpcError::Unsupported { .. } => -22,
            RpcError::Listener(error) => error.code(),
        }
    }

    /// The error in its wire format.
    pub fn to_object(&self) -> ErrorObject {
        let data = match self {
            RpcError::InvalidParams { source, .. } => source.data(),
            RpcError::Volume(VolumeError::InUse { hosts, .. }) => Some(serde_json::json!({"hosts": hosts})),
            _ => None,
        };
        ErrorObject { code: self.code(), message: self.to_string(), data }
    }
}

fn volume_code(error: &VolumeError) -> i64 {
    match error {
        VolumeError::NoSuchPoint { .. } => -2,
        VolumeError::Failed { .. } | VolumeError::Archive { .. } | VolumeError::ArchiveAway { .. } => -5,
        VolumeError::Busy { .. } | VolumeError::InUse { .. } => -16,
        VolumeError::VolumeExists { .. } | VolumeError::GroupExists { .. } => -17,
        VolumeError::NoSuchVolume { .. } | VolumeError::NoSuchGroup { .. } => -19,
        VolumeError::Invalid { .. } => -22,
        VolumeError::NoSpace { .. } => -28,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_spdk() {
        let name = || "a".to_owned();
        for (error, code) in [
            (RpcError::from(VolumeError::NoSuchVolume { name: name() }), -19),
            (VolumeError::VolumeExists { name: name() }.into(), -17),
            (VolumeError::NoSuchGroup { name: name() }.into(), -19),
            (VolumeError::GroupExists { name: name() }.into(), -17),
            (VolumeError::NoSuchPoint { point: name(), reason: name() }.into(), -2),
            (VolumeError::Invalid { what: "size", reason: name() }.into(), -22),
            (VolumeError::NoSpace { reason: name() }.into(), -28),
            (VolumeError::Busy { reason: name() }.into(), -16),
            (VolumeError::Failed { reason: name() }.into(), -5),
            (VolumeError::Archive { reason: name() }.into(), -5),
            (VolumeError::ArchiveAway { reason: name() }.into(), -5),
            (VolumeError::InUse { name: name(), hosts: vec![name()], what: "delete it" }.into(), -16),
            (RpcError::Parse { reason: name() }, -32700),
            (RpcError::InvalidRequest { reason: name() }, -32600),
            (RpcError::MethodNotFound { method: name(), suggestion: None }, -32601),
            (RpcError::ParamsNotObject { method: name() }, -32602),
            (RpcError::Internal { reason: name() }, -32603),
            (RpcError::WrongState { reason: "" }, -1),
        ] {
            assert_eq!(error.code(), code, "{error}");
        }
    }

    #[test]
    fn a_near_method_is_suggested() {
        let error = RpcError::MethodNotFound {
            method: "volume_creat".into(),
            suggestion: Some("volume_create".into()),
        };
        assert!(error.to_string().contains("did you mean 'volume_create'?"), "{error}");
    }
}
