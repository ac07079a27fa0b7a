//! The calls of rolling back and of clones.

use serde_json::{Value, json};

use super::clone_args::{CloneCommand, RollBackOptions};
use super::render::View;
use super::request::Request;

/// `restore roll-back`.
pub(super) fn roll_back(options: &RollBackOptions) -> Request {
    let RollBackOptions { volume, at, force } = options;
    Request::new(
        "restore_roll_back",
        json!({"volume": volume, "at": at, "force": set(*force)}),
        View::RollBack,
    )
}

/// `clone`.
pub(super) fn clone(command: &CloneCommand) -> Request {
    match command {
        CloneCommand::List => Request::new("clone_list", Value::Null, View::Clones),
        CloneCommand::Reset { name, at, force } => {
            Request::new("clone_reset", json!({"name": name, "at": at, "force": set(*force)}), View::Volume)
        }
        CloneCommand::Promote { name, stand_alone, force } => {
            let params = json!({"name": name, "stand_alone": set(*stand_alone), "force": set(*force)});
            Request::new("clone_promote", params, View::Volumes)
        }
    }
}

/// `volume rename`.
pub(super) fn rename(name: &str, to: &str, force: bool) -> Request {
    Request::new("volume_rename", json!({"name": name, "to": to, "force": set(force)}), View::Volume)
}

/// A switch: it is left out unless it is set.
fn set(is_set: bool) -> Option<bool> {
    is_set.then_some(true)
}
