//! Turns the commands of sessions that are one call each into that call.

use serde_json::{Value, json};

use super::render::View;
use super::session_args::{CommitArgs, JudgeArgs, SessionCommand, StepArgs};

/// A method, its parameters, and the view of its result.
pub(super) type Call = (&'static str, Value, View);

/// Adds a flag that is set.
fn flag(params: &mut Value, name: &str, is_set: bool) {
    if is_set {
        params[name] = Value::Bool(true);
    }
}

pub(super) fn step_flags(params: &mut Value, how: &StepArgs) {
    flag(params, "discard_writes", how.discard_writes);
    flag(params, "force", how.force);
}

fn judge(verdict: &str, JudgeArgs { name, at }: JudgeArgs) -> Call {
    ("restore_judge", json!({"name": name, "verdict": verdict, "at": at}), View::Session)
}

fn commit(args: CommitArgs) -> Call {
    let CommitArgs { name, roll_back, keep, discard_writes, force } = args;
    let mut params = json!({"name": name, "keep": keep});
    flag(&mut params, "roll_back", roll_back);
    flag(&mut params, "discard_writes", discard_writes);
    flag(&mut params, "force", force);
    ("restore_commit", params, View::Committed)
}

pub(super) fn session(command: SessionCommand) -> Call {
    match command {
        SessionCommand::Open { volume, at, name, read_only } => {
            let mut params = json!({"volume": volume, "at": at, "name": name});
            flag(&mut params, "read_only", read_only);
            ("restore_open", params, View::Session)
        }
        SessionCommand::Step { name, count, to, how } => {
            let mut params = json!({"name": name, "count": count, "to": to});
            step_flags(&mut params, &how);
            ("restore_step", params, View::Step)
        }
        SessionCommand::Good(args) => judge("good", args),
        SessionCommand::Bad(args) => judge("bad", args),
        SessionCommand::Skip(args) => judge("skip", args),
        SessionCommand::Status { name } => ("restore_status", json!({"name": name}), View::Sessions),
        SessionCommand::Bisect(_) => unreachable!("it may be more than one call; see `session`"),
        SessionCommand::Commit(args) => commit(args),
        SessionCommand::Abort { name, force } => {
            let done = format!("session {name} is ended, and its clones are deleted");
            let mut params = json!({"name": name});
            flag(&mut params, "force", force);
            ("restore_abort", params, View::Done(done))
        }
    }
}
