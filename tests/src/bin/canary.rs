//! `canary`: runs one bad host after the other, and measures what an innocent host and the operator
//! notice of each.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use varve_tests::canary::{
    ADVERSARIES, Adversary, CanaryConfig, CanaryError, RotationConfig, RotationReport, Verdict, chain, find,
    rotate, run, table,
};

/// Set one bad host after the other beside an innocent one and an operator, and judge what these
/// two notice of it. The exit code is 1 when a bar is missed.
#[derive(Debug, Parser)]
#[command(name = "canary", after_help = names())]
struct Options {
    /// Only this adversary; may be given more than once.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// How long each adversary works, and how long the figures without it are taken.
    #[arg(long, default_value_t = 20.0, value_name = "S", value_parser = seconds)]
    seconds: f64,
    /// How many connections, blocks and synchs, as a part of what is usual; `--only listers --scale
    /// 20` lists 100,000 synchs.
    #[arg(long, default_value_t = 1.0, value_name = "F", value_parser = scale)]
    scale: f64,
    /// Instead: all of them in rotation against one appliance for so many minutes, beside a load
    /// that is verified, with a kill -9 at the end of each third turn about.
    #[arg(long, value_name = "MINUTES", value_parser = minutes)]
    rotation: Option<f64>,
    /// Of the random numbers of a rotation.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print all figures as JSON.
    #[arg(long)]
    json: bool,
}

fn names() -> String {
    let lines = ADVERSARIES.map(|one| format!("  {:<16}{}\n", one.name, one.about));
    format!("Adversaries:\n{}", lines.concat())
}

fn seconds(text: &str) -> Result<f64, String> {
    between(text, 0.1, 3600.0)
}

fn minutes(text: &str) -> Result<f64, String> {
    between(text, 0.1, 10_000.0)
}

fn scale(text: &str) -> Result<f64, String> {
    between(text, 0.001, 100.0)
}

fn between(text: &str, least: f64, most: f64) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(format!("a number from {least} to {most} is needed")),
    }
}

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(std::io::stderr).init();
    let options = Options::parse();
    if let Some(minutes) = options.rotation {
        return in_rotation(&options, minutes);
    }
    let adversaries = match chosen(&options) {
        Ok(adversaries) => adversaries,
        Err(error) => {
            eprintln!("canary: {error}");
            return ExitCode::FAILURE;
        }
    };
    let (verdicts, failed) = all(&options, &adversaries);
    if options.json {
        println!("{}", serde_json::to_string_pretty(&verdicts).unwrap_or_default());
    } else {
        print!("{}", table(&verdicts));
    }
    let missed: Vec<&str> =
        verdicts.iter().filter(|verdict| !verdict.missed().is_empty()).map(|verdict| verdict.name).collect();
    for (name, error) in &failed {
        eprintln!("canary: no verdict on {name}: {}", chain(error));
    }
    if !missed.is_empty() {
        eprintln!("canary: bars are missed beside {}", missed.join(", "));
    }
    if missed.is_empty() && failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs all adversaries in rotation. Errors go to standard error.
fn in_rotation(options: &Options, minutes: f64) -> ExitCode {
    let config = RotationConfig {
        span: Duration::from_secs_f64(minutes * 60.0),
        turn: Duration::from_secs_f64(options.seconds),
        scale: options.scale,
        kill_odds: 3,
        seed: options.seed,
    };
    let progress = |report: &RotationReport, told: &str| {
        eprintln!("{:.0} s, turn {}, {} kills, {told}", report.seconds, report.turns, report.kills);
    };
    match rotate(config, progress) {
        Ok(report) => {
            println!("{}", serde_json::to_string_pretty(&report).unwrap_or_default());
            report.wrong.iter().for_each(|wrong| eprintln!("canary: {wrong}"));
            if report.wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("canary: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn chosen(options: &Options) -> Result<Vec<Adversary>, CanaryError> {
    if options.only.is_empty() {
        return Ok(ADVERSARIES.to_vec());
    }
    options.only.iter().map(|name| find(name)).collect()
}

/// The adversaries with a verdict, and those without one.
type Outcome = (Vec<Verdict>, Vec<(&'static str, CanaryError)>);

/// Runs one after the other: two at once would disturb each other's figures.
fn all(options: &Options, adversaries: &[Adversary]) -> Outcome {
    let time = Duration::from_secs_f64(options.seconds);
    let config = CanaryConfig { before: time, beside: time, scale: options.scale };
    let (mut verdicts, mut failed) = Outcome::default();
    for adversary in adversaries {
        eprintln!("{}: {}", adversary.name, adversary.about);
        match run(adversary, config) {
            Ok(verdict) => verdicts.push(verdict),
            Err(error) => failed.push((adversary.name, error)),
        }
    }
    (verdicts, failed)
}
