//! `varve restore bisect`: one step of a search, or with `--check` the whole search.
//!
//! **A search** repeats: move to the middle, bring the image files to the clones' contents, run the
//! check, record the verdict. It ends when the command is found, when everything between is
//! skipped, when a check says neither good nor bad nor skip, or by a signal; the session and its
//! verdicts stay, so the same command goes on where it stopped.

mod check;

use std::io::Write;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use self::check::{Check, Checked};
use super::client::Client;
use super::output::print;
use super::render_session;
use super::session_args::BisectOptions;
use super::session_request::step_flags;
use super::transfer::{Images, wait_until_free};
use crate::nvmf::nqn;
use crate::options::CommandError;
use crate::text::units::format_time;
use crate::volume::{BisectInfo, SessionInfo, Verdict};

/// Searches.
pub(super) fn bisect(
    client: &mut Client,
    options: &BisectOptions,
    json: bool,
    output: &mut dyn Write,
) -> Result<(), CommandError> {
    let given = [("good", &options.good), ("bad", &options.bad)];
    for (verdict, point) in given.into_iter().filter_map(|(verdict, point)| Some((verdict, point.as_ref()?)))
    {
        let params = json!({"name": options.name, "verdict": verdict, "at": point});
        call(client, "restore_judge", params)?;
    }
    if let Some(command) = &options.check {
        return search(client, options, command, json, output);
    }
    let mut params = json!({"name": options.name});
    step_flags(&mut params, &options.how);
    let result = call(client, "restore_bisect", params)?;
    let text = if json { format!("{result:#}\n") } else { render_session::bisect(&bisected(&result)?) };
    print(output, &text)
}

fn call(client: &mut Client, method: &str, params: Value) -> Result<Value, CommandError> {
    let params = match params {
        Value::Object(members) => members.into_iter().filter(|(_, value)| !value.is_null()).collect(),
        _ => Map::new(),
    };
    Ok(client.call(method, params)?)
}

fn bisected(result: &Value) -> Result<BisectInfo, CommandError> {
    BisectInfo::deserialize(result).map_err(|error| {
        format!("restore_bisect: the appliance is of another version than this command: {error}").into()
    })
}

/// Runs the check at one position after the other.
fn search(
    client: &mut Client,
    options: &BisectOptions,
    command: &str,
    json: bool,
    output: &mut dyn Write,
) -> Result<(), CommandError> {
    let name = &options.name;
    let mut images: Option<Images> = None;
    let mut checks: Vec<Value> = Vec::new();
    loop {
        let mut params = json!({"name": name});
        step_flags(&mut params, &options.how);
        // What a check wrote to the clone is worth nothing at the next position.
        params["discard_writes"] = Value::Bool(true);
        let result = call(client, "restore_bisect", params)?;
        let info = bisected(&result)?;
        let Some(step) = &info.step else {
            return finish(&info, result, &checks, json, output);
        };
        let session = &step.session;
        if checks.is_empty() && !json {
            let start = format!(
                "{} commands between lsn:{} (good) and lsn:{} (bad): about {} checks\n",
                info.commands, info.last_good.lsn, info.first_bad.lsn, info.looks_left
            );
            print(output, &start)?;
        }
        if !options.no_image {
            let images = match &mut images {
                Some(images) => images,
                none => none.insert(Images::new(options.image.clone(), session)?),
            };
            images.follow(client, step)?;
        }
        let checked = check_at(client, session, images.as_ref(), command, checks.is_empty())?;
        for member in &session.members {
            wait_until_free(client, &member.clone);
        }
        let judge =
            json!({"name": name, "verdict": checked.verdict, "at": format!("lsn:{}", session.at.lsn)});
        call(client, "restore_judge", judge)?;
        if !json {
            print(output, &line(session, &checked))?;
        }
        checks.push(json!({
            "lsn": session.at.lsn, "time_ns": session.at.time_ns, "verdict": checked.verdict,
            "exit_code": checked.exit_code, "seconds": checked.seconds,
        }));
    }
}

/// One check, as a line.
fn line(session: &SessionInfo, checked: &Checked) -> String {
    format!(
        "lsn:{}  {}  {:<4}  exit code {}, {:.1} s\n",
        session.at.lsn,
        format_time(session.at.time_ns),
        render_session::verdict_text(checked.verdict),
        checked.exit_code,
        checked.seconds
    )
}

/// Runs the check where the session stands.
fn check_at(
    client: &mut Client,
    session: &SessionInfo,
    images: Option<&Images>,
    command: &str,
    is_first: bool,
) -> Result<Checked, CommandError> {
    let nqns: Vec<String> = session.members.iter().map(|member| nqn::of_volume(&member.clone)).collect();
    let address = super::transfer::address_of(client, nqns.first().map_or("", String::as_str))?;
    let volumes = session.members.iter().map(|member| member.volume.clone());
    let check = Check {
        command,
        address: address.to_string(),
        nqns,
        group: session.group.as_ref().map(|_| volumes.collect()),
        point: format!("lsn:{}", session.at.lsn),
        image: images.and_then(Images::path),
        is_first,
    };
    check.run().map_err(|error| {
        format!(
            "{error}; session '{}' stands at lsn:{}, and the verdicts so far are kept: run this again to go on",
            session.name, session.at.lsn
        )
        .into()
    })
}

/// Shows what the search found.
fn finish(
    info: &BisectInfo,
    mut result: Value,
    checks: &[Value],
    json: bool,
    output: &mut dyn Write,
) -> Result<(), CommandError> {
    if json {
        result["checks"] = Value::Array(checks.to_vec());
        return print(output, &format!("{result:#}\n"));
    }
    let skips = checks.iter().filter(|check| check["verdict"] == json!(Verdict::Skip)).count();
    let skipped = if skips > 0 { format!(", {skips} of them skipped") } else { String::new() };
    print(output, &format!("\n{}{} checks{skipped}\n", render_session::bisect(info), checks.len()))
}
