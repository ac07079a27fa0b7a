//! Tests of `varve top`: samples from canned answers, rates of two of them, and the picture on
//! ratatui's test terminal.

use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use serde_json::{Map, Value, json};

use super::super::client::ClientError;
use super::draw::Picture;
use super::figures::Figures;
use super::history::History;
use super::sample::{Sample, SampleError};
use crate::histogram::{Histogram, Summary};
use crate::rpc::{ErrorObject, HistogramReport};

/// An appliance with canned answers, in which a few values can be set.
#[derive(Clone)]
struct Canned {
    writes: u64,
    busy_ns: u64,
    elapsed_ns: u64,
    copied_blocks: u64,
    archived_bytes: u64,
    latencies_ns: Vec<u64>,
    volumes: usize,
    archive: bool,
    connected: bool,
}

impl Default for Canned {
    fn default() -> Self {
        Canned {
            writes: 100,
            busy_ns: 1_000_000_000,
            elapsed_ns: 10_000_000_000,
            copied_blocks: 0,
            archived_bytes: 0,
            latencies_ns: vec![1_000_000],
            volumes: 1,
            archive: true,
            connected: true,
        }
    }
}

impl Canned {
    fn refused(method: &str, code: i64) -> ClientError {
        let error = ErrorObject { code, message: "not now".to_owned(), data: None };
        ClientError::Refused { method: method.to_owned(), error: Box::new(error) }
    }

    fn answer(&self, method: &str, params: &Map<String, Value>) -> Result<Value, ClientError> {
        let blocks = self.writes * 2;
        Ok(match method {
            "spdk_get_version" => json!({"version": "varve v1.2.3", "fields": {}}),
            "framework_get_reactors" => json!({"reactors": [{
                "lcore": 2, "pinned": true, "busy": self.busy_ns, "idle": 1, "turns": 1000, "busy_turns": 1, "sleeps": 7,
                "long_turns": 1, "tasks": 0, "turn_ns": Summary { mean: 1500.0, p99: 9000, ..Summary::default() },
                "turn_times": [], "lw_threads": [{"name": "reactor0", "elapsed": self.elapsed_ns}],
            }]}),
            "volume_list" => (0..self.volumes)
                .map(|number| json!({
                    "name": format!("vol{number}"), "uuid": uuid::Uuid::from_u128(number as u128), "size_bytes": 1_u64 << 30,
                    "read_only": false, "state": "online", "image": 1, "parent": null, "created_ns": 0,
                    "mapped_blocks": 256, "histogram": number == 0,
                    "stats": {"reads": 0, "read_bytes": 0, "writes": self.writes, "written_bytes": blocks * 4096,
                              "trims": 0, "trimmed_bytes": 0, "flushes": 0, "errors": 0},
                }))
                .collect(),
            "pool_list" => json!([{
                "uuid": uuid::Uuid::nil(), "device": "pool.varve", "device_kind": "threads", "device_bytes": 1 << 30,
                "segment_bytes": 1 << 20, "slots": 64, "working_set_segments": 31, "created_ns": 0, "volumes": 1,
                "state": "online", "problems": ["segment 3 is torn"],
            }]),
            "pool_stats" => json!({
                "head_lsn": 1, "written_lsn": 1, "stable_lsn": 1, "log_used_blocks": 64, "log_capacity_blocks": 256,
                "host_written_blocks": blocks, "host_read_blocks": 0, "device_written_blocks": blocks + self.copied_blocks,
                "copied_blocks": self.copied_blocks, "write_amplification": 1.25, "capacity_blocks": 1024,
                "thin_blocks": 256, "records": 1, "flushes": 1, "checksum_errors": 0, "index_bytes": 1,
                "dma_in_use_bytes": 1, "dma_budget_bytes": 1, "mapped_blocks": 1,
            }),
            "bdev_get_histogram" => {
                assert_eq!(params["name"], "vol0", "only what is on is asked for");
                let mut histogram = Histogram::default();
                for latency_ns in &self.latencies_ns {
                    histogram.record(*latency_ns);
                }
                serde_json::to_value(HistogramReport::new(&histogram)).expect("plain data")
            }
            "nvmf_get_stats" => json!({"tick_rate": 1, "poll_groups": [{
                "name": "reactor0", "admin_qpairs": 1, "io_qpairs": 2, "current_admin_qpairs": u64::from(self.connected),
                "current_io_qpairs": 2, "pending_bdev_io": 5, "completed_nvme_io": self.writes,
                "host_memory_bytes": 3 << 20, "host_memory_bytes_max": 96 << 20, "waiting_for_memory": 7,
            }]}),
            "nvmf_get_subsystems" => json!([
                {"nqn": "d", "subtype": "Discovery"},
                {"nqn": "n", "subtype": "NVMe", "namespaces": [{"nsid": 1, "bdev_name": "vol0"}]},
            ]),
            "nvmf_subsystem_get_qpairs" if params["nqn"] == "n" => (0..3)
                .map(|qid| json!({"cntlid": 9, "qid": qid, "state": "active", "hostnqn": "nqn.host",
                                  "peer_address": {"trtype": "TCP", "traddr": "192.0.2.7", "trsvcid": "1"}}))
                .collect(),
            "nvmf_subsystem_get_qpairs" => json!([]),
            "archive_get_status" if self.archive => json!({
                "store": "directory a", "state": "working", "problem": null, "back_pressure": "throttle",
                "verify": "digest", "throttled_ms_per_s": 40.0,
                "seal_interval_s": 20.0, "archived_to_lsn": 1, "head_lsn": 4, "backlog_segments": 3,
                "backlog_bytes": 3 << 20, "recovery_point_age_s": 4.5, "segments": 1, "oldest_segment": 0,
                "objects_written": 1, "content_bytes": self.archived_bytes, "object_bytes": 1, "compression_ratio": 2.5,
                "throughput_bytes_per_s": 1_048_576.0, "failures": 0, "gaps": [], "store_used_bytes": 1,
                "store_total_bytes": null,
            }),
            _ => return Err(Canned::refused(method, -1)),
        })
    }

    fn sample(&self) -> Sample {
        Sample::take(&mut |method, params| self.answer(method, &params)).expect("it answers")
    }

    /// The figures of two samples that are this many seconds apart.
    fn figures(&self, later: &Canned, seconds: u64) -> Figures {
        let before = self.sample();
        let mut now = later.sample();
        now.at = before.at + Duration::from_secs(seconds);
        Figures::new(Some(&before), &now)
    }
}

fn near(actual: Option<f64>, wanted: f64) -> bool {
    actual.is_some_and(|actual| (actual - wanted).abs() < wanted / 50.0)
}

#[test]
fn rates_are_differences_over_time() {
    let before = Canned::default();
    let later = Canned {
        writes: 300,
        busy_ns: 1_500_000_000,
        elapsed_ns: 12_000_000_000,
        copied_blocks: 100,
        archived_bytes: 1 << 20,
        latencies_ns: vec![1_000_000, 20_000, 40_000],
        ..before.clone()
    };
    let figures = before.figures(&later, 2);
    let (reactor, pool, volume) = (&figures.reactors[0], &figures.pools[0], &figures.volumes[0]);
    assert!(near(reactor.busy_percent, 25.0), "{reactor:?}");
    assert_eq!((reactor.core.as_str(), reactor.turns_per_s), ("2", Some(0.0)));
    assert_eq!((volume.writes_per_s, volume.reads_per_s), (Some(100.0), Some(0.0)));
    assert_eq!(volume.written_bytes_per_s, Some(200.0 * 4096.0));
    let latency = volume.latency.expect("some ended");
    assert!(
        near(Some(latency.mean_ns), 30_000.0) && near(Some(latency.p99_ns as f64), 40_000.0),
        "{latency:?}"
    );
    assert_eq!(pool.write_amplification_now, Some(1.25));
    assert_eq!(pool.written_bytes_per_s, Some(200.0 * 4096.0));
    assert_eq!(pool.device_bytes_per_s, Some(250.0 * 4096.0));
    assert_eq!(figures.target.commands_per_s, Some(100.0));
    let archive = figures.archive.expect("there is one");
    assert_eq!(archive.archived_bytes_per_s, Some(524_288.0));
}

#[test]
fn what_was_started_anew_has_no_rates() {
    let before = Canned { writes: 5000, elapsed_ns: 99_000_000_000, ..Canned::default() };
    let figures = before.figures(&Canned::default(), 1);
    assert_eq!((figures.volumes[0].writes_per_s, figures.reactors[0].busy_percent), (None, None));
    assert_eq!(figures.target.commands_per_s, None);
    let once = Figures::new(None, &Canned::default().sample());
    assert_eq!((once.volumes[0].writes_per_s, once.pools[0].written_bytes_per_s), (None, None));
    assert!(once.volumes[0].latency.is_some(), "what was measured so far is known");
}

#[test]
fn histograms_that_began_anew_count_whole_and_idle_ones_show_nothing() {
    let before = Canned { latencies_ns: vec![5_000; 10], ..Canned::default() };
    let anew = Canned { latencies_ns: vec![70_000], ..Canned::default() };
    let latency = before.figures(&anew, 1).volumes[0].latency.expect("one ended");
    assert!(near(Some(latency.mean_ns), 70_000.0), "{latency:?}");
    assert_eq!(before.figures(&before, 1).volumes[0].latency, None);
}

#[test]
fn connections_are_asked_for_while_there_are_any() {
    let figures = Canned::default().figures(&Canned::default(), 1);
    let connection = &figures.connections[0];
    assert_eq!((connection.volume.as_str(), connection.io_queues, connection.controller_id), ("vol0", 2, 9));
    assert_eq!((connection.host.as_str(), connection.address.as_str()), ("nqn.host", "192.0.2.7"));
    let alone = Canned { connected: false, ..Canned::default() };
    assert_eq!(alone.sample().connections, []);
}

#[test]
fn an_appliance_of_another_version_is_told_apart_from_one_that_refuses() {
    let error = Sample::take(&mut |_, _| Ok(json!({}))).expect_err("no version");
    assert!(matches!(error, SampleError::Shape { method: "spdk_get_version", .. }), "{error}");
    let starting = |method: &str, params: Map<String, Value>| match method {
        "volume_list" => Err(Canned::refused(method, -1)),
        _ => Canned::default().answer(method, &params),
    };
    let error = Sample::take(&mut { starting }).expect_err("it is starting");
    assert!(error.to_string().contains("not now"), "{error}");
}

fn drawn(figures: &Figures, skipped_volumes: usize, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("in memory");
    let history = History::default();
    let footer = "q ends".to_owned();
    let picture = Picture { figures, history: &history, help: false, skipped_volumes, footer };
    terminal.draw(|frame| picture.paint(frame.area(), frame.buffer_mut())).expect("in memory");
    let buffer = terminal.backend().buffer();
    let lines = buffer.content.chunks(usize::from(width));
    lines
        .map(|line| line.iter().map(ratatui::buffer::Cell::symbol).collect::<String>().trim_end().to_owned())
        .collect()
}

#[test]
fn the_picture_has_everything() {
    let later = Canned {
        writes: 300,
        busy_ns: 1_500_000_000,
        elapsed_ns: 11_000_000_000,
        latencies_ns: vec![1_000_000, 20_000],
        ..Canned::default()
    };
    let figures = Canned::default().figures(&later, 1);
    let lines = drawn(&figures, 0, 140, 30);
    let line = |text: &str| {
        lines.iter().find(|line| line.contains(text)).unwrap_or_else(|| panic!("{text}: {lines:#?}"))
    };
    assert_eq!(lines[0], "varve v1.2.3  rates over 1.0 s");
    assert!(line("reactor0").contains("50.0 %  #####....."), "{lines:#?}");
    assert!(line("online  1 MiB of 4 MiB (25 %)").contains(" 31 "), "{lines:#?}");
    assert!(line("problem: segment 3 is torn").starts_with("problem"), "{lines:#?}");
    assert!(line("directory a").contains("3 MiB         3   4.5 s        4 %"), "{lines:#?}");
    assert!(line("vol0  1 GiB").contains("200") && line("vol0  1 GiB").contains("us"), "{lines:#?}");
    assert!(line("nqn.host").contains("192.0.2.7"), "{lines:#?}");
    assert!(line("commands/s").contains("5 commands under way, 200 commands/s"), "{lines:#?}");
    assert!(line("commands/s").contains("data 3 MiB of 96 MiB (7 wait)"), "{lines:#?}");
    assert_eq!(lines[29], "q ends");
}

#[test]
fn a_small_terminal_shows_a_part_of_the_volumes() {
    let many = Canned { volumes: 40, ..Canned::default() };
    let figures = many.figures(&many, 1);
    let lines = drawn(&figures, 0, 120, 30);
    let shown = |lines: &[String]| {
        lines.iter().filter(|line| line.starts_with("vol") && line.contains("online")).count()
    };
    assert!((5..40).contains(&shown(&lines)), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("Volumes 1 to")), "{lines:#?}");
    assert!(
        lines.iter().any(|line| line.contains("nqn.host")),
        "the connections keep their place: {lines:#?}"
    );
    let scrolled = drawn(&figures, 39, 120, 30);
    assert!(scrolled.iter().any(|line| line.starts_with("vol39")), "{scrolled:#?}");
    assert_eq!(shown(&scrolled), shown(&lines), "{scrolled:#?}");
    // It draws at any size, however small.
    for (width, height) in [(1, 1), (10, 3), (200, 2), (20, 8)] {
        drawn(&figures, 7, width, height);
    }
}

#[test]
fn a_printed_picture_has_room_for_all() {
    let many = Canned { volumes: 100, archive: false, ..Canned::default() };
    let figures = many.figures(&many, 1);
    let text = text_of(&figures, &History::default(), 160);
    assert!(text.contains("vol0 ") && text.contains("vol99 ") && text.contains("nqn.host"), "{text}");
    assert!(text.contains("Archive: none"), "{text}");
    assert!(text.lines().all(|line| line == line.trim_end()), "{text}");
    let off = text.lines().find(|line| line.starts_with("vol99")).expect("it is there");
    assert_eq!(off.matches("off").count(), 2, "{off}");
}

/// The whole picture as text, as `varve top --once` prints it in this width.
fn text_of(figures: &Figures, history: &History, columns: u16) -> String {
    Picture { figures, history, help: false, skipped_volumes: 0, footer: String::new() }.text(columns)
}

/// Figures with many digits everywhere.
fn long_figures() -> Figures {
    let before = Canned { writes: 1000, ..Canned::default() };
    let later = Canned {
        writes: 9_876_543,
        busy_ns: 1_900_000_000,
        elapsed_ns: 11_000_000_000,
        copied_blocks: 1_234_567,
        archived_bytes: 123 << 30,
        latencies_ns: vec![1_000_000, 987_654_321],
        volumes: 3,
        ..before.clone()
    };
    before.figures(&later, 1)
}

#[test]
fn no_width_cuts_a_figure() {
    let figures = long_figures();
    let history = History::default();
    let of = |columns| text_of(&figures, &history, columns);
    // Every word of a narrow picture is a word of the wide one, so none has lost a digit.
    let wide = of(400);
    let known: std::collections::HashSet<&str> = wide.split_whitespace().collect();
    for columns in 40..200 {
        let text = of(columns);
        for word in text.split_whitespace().filter(|word| word.contains(|c: char| c.is_ascii_digit())) {
            let word = word.trim_end_matches([',', ')']);
            let is_whole = known.iter().any(|other| other.trim_end_matches([',', ')']) == word);
            assert!(is_whole, "{columns} columns: {word}: {text}");
        }
    }
    // At 80 columns the most important figures are there.
    let text = of(80);
    assert!(text.contains("1 MiB of 4 MiB (25 %)") && text.contains("9875543"), "{text}");
    assert!(text.contains("READS/S") && text.contains("WRITES/S") && text.contains("BEHIND"), "{text}");
    assert!(!text.contains("pool.varve") && !text.contains("directory a"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

#[test]
fn charts_appear_where_there_is_room() {
    let figures = long_figures();
    let mut history = History::default();
    for _ in 0..40 {
        history.add(&figures);
    }
    let of = |columns| text_of(&figures, &history, columns);
    assert!(of(170).contains(&"█".repeat(30)), "{}", of(170));
    assert!(!of(80).contains('█'), "{}", of(80));
}

#[test]
fn the_help_explains_keys_and_columns() {
    let figures = Canned::default().figures(&Canned::default(), 1);
    let history = History::default();
    let picture = Picture {
        figures: &figures,
        history: &history,
        help: true,
        skipped_volumes: 0,
        footer: "q ends".to_owned(),
    };
    let mut terminal = Terminal::new(TestBackend::new(90, 30)).expect("in memory");
    terminal.draw(|frame| picture.paint(frame.area(), frame.buffer_mut())).expect("in memory");
    let text: String =
        terminal.backend().buffer().content.iter().map(ratatui::buffer::Cell::symbol).collect();
    assert!(
        text.contains("HELD BACK") && text.contains("scroll the volumes") && !text.contains("nqn.host"),
        "{text}"
    );
}
