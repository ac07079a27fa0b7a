//! The calls of `varve group`: method, parameters, and how the result is shown.

use serde_json::{Value, json};

use super::group_args::{GroupCommand, VolumesArgs};
use super::render::View;

/// A method, its parameters, and the view of its result.
pub(super) type Call = (&'static str, Value, View);

fn of_volumes(method: &'static str, VolumesArgs { name, volumes }: &VolumesArgs) -> Call {
    (method, json!({"name": name, "volumes": volumes}), View::Group)
}

pub(super) fn group(command: &GroupCommand) -> Call {
    match command {
        GroupCommand::Create(args) => of_volumes("group_create", args),
        GroupCommand::Add(args) => of_volumes("group_add", args),
        GroupCommand::Remove(args) => of_volumes("group_remove", args),
        GroupCommand::List => ("group_list", Value::Null, View::Groups),
        GroupCommand::Show { name } => ("group_list", json!({"name": name}), View::GroupVolumes),
        GroupCommand::Rename { name, to } => ("group_rename", json!({"name": name, "to": to}), View::Group),
        GroupCommand::Delete { name } => {
            let done = format!("group {name} is deleted; its volumes stay");
            ("group_delete", json!({"name": name}), View::Done(done))
        }
        GroupCommand::Clone { group, at, name, read_only } => {
            let read_only = read_only.then_some(true);
            let params = json!({"group": group, "at": at, "name": name, "read_only": read_only});
            ("group_clone", params, View::GroupClone)
        }
    }
}
