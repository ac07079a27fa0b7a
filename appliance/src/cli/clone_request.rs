//! The calls of rolling back and of clones: method, parameters, and how the result is shown.

use serde_json::{Value, json};

use super::clone_args::{CloneCommand, RollBackOptions};
use super::render::View;

/// A method, its parameters, and the view of its result.
pub(super) type Call = (&'static str, Value, View);

/// `restore roll-back`.
pub(super) fn roll_back(options: &RollBackOptions) -> Call {
    let RollBackOptions { volume, at, force } = options;
    let params = json!({"volume": volume, "at": at, "force": set(*force)});
    ("restore_roll_back", params, View::RollBack)
}

/// `clone`.
pub(super) fn clone(command: &CloneCommand) -> Call {
    match command {
        CloneCommand::List => ("clone_list", Value::Null, View::Clones),
        CloneCommand::Reset { name, at, force } => {
            ("clone_reset", json!({"name": name, "at": at, "force": set(*force)}), View::Volume)
        }
        CloneCommand::Promote { name, stand_alone, force } => {
            let params = json!({"name": name, "stand_alone": set(*stand_alone), "force": set(*force)});
            ("clone_promote", params, View::Volumes)
        }
    }
}

/// `volume rename`.
pub(super) fn rename(name: &str, to: &str, force: bool) -> Call {
    ("volume_rename", json!({"name": name, "to": to, "force": set(force)}), View::Volume)
}

/// A switch: it is left out unless it is set.
fn set(is_set: bool) -> Option<bool> {
    is_set.then_some(true)
}
