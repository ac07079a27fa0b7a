//! Configuration files: a list of calls that configure an appliance, in SPDK's format.
//!
//! ```json
//! {"subsystems": [
//!   {"subsystem": "nvmf", "config": [{"method": "nvmf_subsystem_add_listener", "params": {}}]}
//! ]}
//! ```
//! The whole file is read and every method in it is looked up before the first call is made, so a
//! file with an unknown method changes nothing. The calls are then made in order. The first one
//! that fails stops the work and is named in the error.

use std::collections::HashSet;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::error::RpcError;
use super::protocol::Dispatch;

/// The maximum length of a configuration, in bytes.
pub const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// A configuration file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigFile {
    /// Its parts, in the order in which they are applied.
    pub subsystems: Vec<SubsystemConfig>,
}

/// The calls of one part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubsystemConfig {
    /// Its name, which is not interpreted.
    pub subsystem: String,
    /// Its calls. SPDK writes null if there are none.
    pub config: Option<Vec<ConfigElement>>,
}

/// An element of a part: one call, or several calls, as SPDK writes batches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ConfigElement {
    /// One call.
    One(ConfigCall),
    /// Several calls, made one after another.
    Batch(Vec<ConfigCall>),
}

/// One call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigCall {
    /// The method.
    pub method: String,
    /// Its parameters.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub params: Map<String, Value>,
}

/// Why a configuration was not applied, or only in part. `E` is the error of a call.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError<E: fmt::Display + fmt::Debug> {
    /// The text is not JSON, or not in this format.
    #[error(
        "the configuration is not understood: {0}; it is {{\"subsystems\": [{{\"subsystem\": NAME, \"config\": [{{\"method\": NAME, \"params\": {{...}}}}]}}]}}"
    )]
    Syntax(serde_json::Error),
    /// It names a method that does not exist. No call was made.
    #[error(
        "the configuration's part '{subsystem}' calls '{method}', which is not a method of this appliance; nothing was changed"
    )]
    UnknownMethod {
        /// The part.
        subsystem: String,
        /// The method.
        method: String,
    },
    /// The methods could not be listed. No call was made.
    #[error("the methods could not be listed: {0}; nothing was changed")]
    Methods(E),
    /// A call failed. The calls before it were made.
    #[error(
        "the configuration's part '{subsystem}', call {number} ({method}): {error}; {applied} calls before it were made"
    )]
    Call {
        /// The part.
        subsystem: String,
        /// Which call of the part, from 1.
        number: usize,
        /// Its method.
        method: String,
        /// Calls made before, over all parts.
        applied: usize,
        /// Why it failed.
        error: E,
    },
}

/// Why a configuration file could not be read or applied.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// It could not be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It could not be applied.
    #[error("{}: {source}", path.display())]
    Apply {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: Box<ConfigError<RpcError>>,
    },
}

/// Reads a configuration's text; `-` means standard input.
///
/// # Errors
/// The system refused; the text is longer than [`MAX_CONFIG_BYTES`]; it is not UTF-8.
pub fn read(path: &Path) -> std::io::Result<String> {
    let reader: Box<dyn Read> = if path.as_os_str() == "-" {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(path)?)
    };
    let mut text = String::new();
    let count = reader.take(MAX_CONFIG_BYTES + 1).read_to_string(&mut text)?;
    if count as u64 > MAX_CONFIG_BYTES {
        let reason = format!("it is longer than {MAX_CONFIG_BYTES} bytes");
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, reason));
    }
    Ok(text)
}

/// Applies a configuration file to an appliance in this process; returns how many calls were made.
/// It must not run on the reactor's own thread, because it waits for the reactor.
///
/// # Errors
/// [`ConfigFileError`].
pub fn apply_file(path: &Path, dispatch: &dyn Dispatch) -> Result<usize, ConfigFileError> {
    let text = read(path).map_err(|source| ConfigFileError::Read { path: path.to_owned(), source })?;
    apply(&text, |method, params| dispatch.dispatch(method, params))
        .map_err(|source| ConfigFileError::Apply { path: path.to_owned(), source: Box::new(source) })
}

/// Applies the text of a configuration file; `call` makes one call. Returns how many calls were
/// made.
///
/// # Errors
/// [`ConfigError`]; nothing was changed unless it is [`ConfigError::Call`].
pub fn apply<E: fmt::Display + fmt::Debug>(
    text: &str,
    mut call: impl FnMut(&str, Map<String, Value>) -> Result<Value, E>,
) -> Result<usize, ConfigError<E>> {
    let file: ConfigFile = serde_json::from_str(text).map_err(ConfigError::Syntax)?;
    let listed = call("rpc_get_methods", Map::new()).map_err(ConfigError::Methods)?;
    let known: HashSet<&str> = listed.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let parts: Vec<(String, Vec<ConfigCall>)> =
        file.subsystems.into_iter().map(SubsystemConfig::into_calls).collect();
    for (subsystem, calls) in &parts {
        if let Some(unknown) = calls.iter().find(|call| !known.contains(call.method.as_str())) {
            let (subsystem, method) = (subsystem.clone(), unknown.method.clone());
            return Err(ConfigError::UnknownMethod { subsystem, method });
        }
    }
    let mut applied = 0_usize;
    for (subsystem, calls) in parts {
        for (number, ConfigCall { method, params }) in (1..).zip(calls) {
            if let Err(error) = call(&method, params) {
                return Err(ConfigError::Call { subsystem, number, method, applied, error });
            }
            applied = applied.saturating_add(1);
        }
    }
    Ok(applied)
}

/// Makes the configuration of a running appliance with `call`, as SPDK's `save_config` does.
///
/// # Errors
/// The error of a call.
pub fn save<E>(mut call: impl FnMut(&str, Map<String, Value>) -> Result<Value, E>) -> Result<Value, E> {
    let listed = call("framework_get_subsystems", Map::new())?;
    let mut parts = Vec::new();
    for name in listed.as_array().into_iter().flatten().filter_map(|part| part.get("subsystem")) {
        let mut params = Map::new();
        params.insert("name".to_owned(), name.clone());
        let calls = call("framework_get_config", params)?;
        parts.push(serde_json::json!({"subsystem": name, "config": calls}));
    }
    Ok(serde_json::json!({"subsystems": parts}))
}

impl SubsystemConfig {
    fn into_calls(self) -> (String, Vec<ConfigCall>) {
        let calls = self
            .config
            .unwrap_or_default()
            .into_iter()
            .flat_map(|element| match element {
                ConfigElement::One(call) => vec![call],
                ConfigElement::Batch(calls) => calls,
            })
            .collect();
        (self.subsystem, calls)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Applies `text` to an appliance with methods `a` and `b`, of which `b` fails for
    /// `{"fail": true}`.
    fn apply_to_fake(text: &str) -> (Result<usize, ConfigError<String>>, Vec<String>) {
        let mut calls = Vec::new();
        let result = apply(text, |method, params| {
            if method == "rpc_get_methods" {
                return Ok(json!(["a", "b", "rpc_get_methods"]));
            }
            calls.push(format!("{method}{}", Value::Object(params.clone())));
            if params.contains_key("fail") { Err("it broke".to_owned()) } else { Ok(json!(true)) }
        });
        (result, calls)
    }

    #[test]
    fn calls_are_made_in_order() {
        let (result, calls) = apply_to_fake(
            r#"{"subsystems":[
                {"subsystem":"x","config":[{"method":"b","params":{"n":1}},[{"method":"a"},{"method":"b"}]]},
                {"subsystem":"y","config":null},
                {"subsystem":"z","config":[{"method":"a"}]}]}"#,
        );
        assert_eq!(result.expect("applied"), 4);
        assert_eq!(calls, [r#"b{"n":1}"#, "a{}", "b{}", "a{}"]);
    }

    #[test]
    fn an_unknown_method_refuses_the_whole_file() {
        let (result, calls) =
            apply_to_fake(r#"{"subsystems":[{"subsystem":"x","config":[{"method":"a"},{"method":"c"}]}]}"#);
        let text = result.expect_err("c is unknown").to_string();
        assert!(
            text.contains("'c'") && text.contains("'x'") && text.contains("nothing was changed"),
            "{text}"
        );
        assert!(calls.is_empty());
    }

    #[test]
    fn a_failed_call_is_named_and_ends_the_work() {
        let (result, calls) = apply_to_fake(
            r#"{"subsystems":[{"subsystem":"x","config":[{"method":"a"},{"method":"b","params":{"fail":true}},{"method":"a"}]}]}"#,
        );
        let text = result.expect_err("b fails").to_string();
        assert!(
            text.contains("call 2 (b)") && text.contains("it broke") && text.contains("1 calls before"),
            "{text}"
        );
        assert_eq!(calls.len(), 2);
    }

    #[test]
    fn other_shapes_are_refused() {
        for text in [
            "",
            "[]",
            "{}",
            r#"{"subsystems":[{"subsystem":"x","calls":[]}]}"#,
            r#"{"subsystems":[],"more":1}"#,
        ] {
            assert!(matches!(apply_to_fake(text).0, Err(ConfigError::Syntax(_))), "{text}");
        }
    }
}
