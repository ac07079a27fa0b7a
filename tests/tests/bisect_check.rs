//! `varve restore bisect --check` with the real program: it finds the write that damaged an
//! `SQLite` database among 20,000, in at most 15 checks, on the file of the clone's contents, where
//! `SQLite` replays its write-ahead log.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use serde_json::{Value, json};
use varve::nvmf::host::{Controller, Queue};
use varve_tests::appliance::rounds::{BLOCK_BYTES, connect};
use varve_tests::appliance::{Appliance, ApplianceConfig};

/// Where the write-ahead log begins in the volume; the database is before it.
const LOG_BLOCK: u64 = 2048;
/// The blocks of the volume.
const VOLUME_BLOCKS: u64 = 8192;
/// How many writes the history has at least.
const WRITES: u64 = 20_000;
/// After how many commits the log is copied into the database.
const COMMITS_PER_CHECKPOINT: u64 = 40;

/// A database that is used with the program `sqlite3`, and copied to a volume as it is written:
/// every block that changes is a write of its own, in the order in which `SQLite` makes them
/// durable.
struct Database {
    child: Child,
    input: ChildStdin,
    answers: BufReader<std::process::ChildStdout>,
    path: PathBuf,
    queue: Queue,
    _controller: Controller,
    /// What the volume has of the database and of the log.
    written: [Vec<u8>; 2],
    writes: u64,
}

impl Database {
    fn open(folder: &Path, appliance: &Appliance) -> Option<Self> {
        let path = folder.join("db");
        let child = Command::new("sqlite3").arg(&path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.ok()?;
        let (input, output) = (child.stdin.take()?, child.stdout.take()?);
        let (controller, queue, _) = connect(appliance, "data");
        let answers = BufReader::new(output);
        let written = [Vec::new(), Vec::new()];
        Some(Database { child, input, answers, path, queue, _controller: controller, written, writes: 0 })
    }

    /// Runs statements and waits for their end.
    fn run(&mut self, sql: &str) {
        writeln!(self.input, "{sql}\n.print done").expect("sqlite3 reads");
        self.input.flush().expect("sqlite3 reads");
        let mut line = String::new();
        while line.trim() != "done" {
            line.clear();
            assert!(self.answers.read_line(&mut line).expect("sqlite3 answers") > 0, "sqlite3 has ended");
        }
    }

    fn write(&mut self, block: u64, bytes: &[u8]) {
        self.queue.write(block, bytes).expect("written");
        self.writes += 1;
    }

    /// Copies what has changed in the database (0) or its log (1) to the volume.
    fn copy(&mut self, which: usize) {
        let (name, first) = [("db", 0), ("db-wal", LOG_BLOCK)][which];
        let mut now = std::fs::read(self.path.with_file_name(name)).unwrap_or_default();
        now.resize(now.len().next_multiple_of(BLOCK_BYTES), 0);
        let before = std::mem::take(&mut self.written[which]);
        for (at, bytes) in now.chunks_exact(BLOCK_BYTES).enumerate() {
            if before.get(at * BLOCK_BYTES..(at + 1) * BLOCK_BYTES) != Some(bytes) {
                self.write(first + at as u64, bytes);
            }
        }
        self.written[which] = now;
    }

    /// Commits some changes, and now and then copies the log into the database.
    fn commit(&mut self, number: u64) {
        let sql = format!(
            "INSERT INTO hot VALUES ({number}, hex(randomblob(300))); UPDATE hot SET text = hex(randomblob(200)) WHERE id = {};",
            number / 2
        );
        self.run(&format!("BEGIN; {sql} COMMIT;"));
        self.copy(1);
        if number.is_multiple_of(COMMITS_PER_CHECKPOINT) {
            // The log stays whole until the database is; then its first block ends it.
            self.run("PRAGMA wal_checkpoint(TRUNCATE);");
            self.copy(0);
            self.write(LOG_BLOCK, &[0; BLOCK_BYTES]);
            self.written[1] = Vec::new();
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn newest_lsn(appliance: &Appliance) -> u64 {
    let stats = appliance.rpc("pool_stats", Value::Null).expect("it answers");
    stats["newest_point_lsn"].as_u64().expect("a position")
}

/// A page of the table that nothing touches any more.
fn cold_page(database: &Database) -> u64 {
    let text = Command::new("sqlite3")
        .arg(&database.path)
        .arg("SELECT pageno FROM dbstat WHERE name = 'cold' AND pagetype = 'leaf' LIMIT 1 OFFSET 3;")
        .output()
        .expect("sqlite3 runs");
    String::from_utf8_lossy(&text.stdout).trim().parse().unwrap_or(5)
}

#[test]
fn the_write_that_damaged_a_database_is_found_in_fifteen_checks() {
    let folder = tempfile::tempdir().expect("a folder");
    let size = format!("{}", VOLUME_BLOCKS * BLOCK_BYTES as u64);
    let archive = folder.path().join("archive");
    let archive = archive.to_str().expect("a path of text");
    let config = ApplianceConfig::with_arguments(&[
        "--pool-size",
        "96MiB",
        "--volume-size",
        "1MiB",
        "--archive",
        archive,
    ]);
    let appliance = Appliance::start(&config).expect("it starts");
    appliance.rpc("volume_create", json!({"name": "data", "size": size, "thin": true})).expect("made");
    let Some(mut database) = Database::open(folder.path(), &appliance) else {
        varve::missing::say("bisect_check", "the program sqlite3 is not installed");
        return;
    };
    database.run("PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; PRAGMA page_size=4096;");
    database.run("CREATE TABLE hot (id INTEGER PRIMARY KEY, text TEXT); CREATE TABLE cold (text TEXT);");
    database.run("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200) INSERT INTO cold SELECT hex(randomblob(400)) FROM n;");
    database.commit(0);
    let good = newest_lsn(&appliance);
    let (mut number, mut culprit) = (1, None);
    while database.writes < WRITES {
        database.commit(number);
        if culprit.is_none() && database.writes > WRITES * 2 / 3 && number % COMMITS_PER_CHECKPOINT == 7 {
            let page = cold_page(&database) - 1;
            database.write(page, &[0x5a; BLOCK_BYTES]);
            culprit = Some((newest_lsn(&appliance), page));
        }
        number += 1;
    }
    let (culprit, page) = culprit.expect("it was written");
    let bad = newest_lsn(&appliance);
    let check = folder.path().join("check.sh");
    let script = format!(
        "#!/bin/sh\nset -e\ncd {}\nrm -f copy copy-wal copy-shm\ndd if=\"$VARVE_IMAGE\" of=copy bs=4096 count={LOG_BLOCK} status=none\ndd if=\"$VARVE_IMAGE\" of=copy-wal bs=4096 skip={LOG_BLOCK} status=none\nsqlite3 copy 'PRAGMA integrity_check' | head -1 | grep -qx ok\n",
        folder.path().display()
    );
    std::fs::write(&check, script).expect("written");
    let at = format!("lsn:{bad}");
    let run = |arguments: &[&str]| {
        appliance.command(arguments).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
    };
    run(&["restore", "open", "data", "--at", &at, "--name", "search"]);
    let (good, check) = (format!("lsn:{good}"), format!("sh {}", check.display()));
    let said =
        run(&["restore", "bisect", "search", "--good", &good, "--bad", &at, "--check", &check, "--json"]);
    let answer: Value = serde_json::from_str(&said).expect("JSON");
    let checks = answer["checks"].as_array().expect("a list");
    assert_eq!(answer["found"]["at"]["lsn"], culprit, "{answer:#}");
    assert_eq!(answer["found"]["blocks"], json!([[page, 1]]));
    assert!(checks.len() <= 15, "{} checks", checks.len());
    let verdicts: Vec<&str> = checks.iter().filter_map(|check| check["verdict"].as_str()).collect();
    assert!(verdicts.contains(&"good") && verdicts.contains(&"bad"), "{verdicts:?}");
    // The volume goes back to just before it, and the database is whole again.
    let last_good = format!("lsn:{}", answer["last_good"]["lsn"]);
    run(&["restore", "step", "search", "--to", &last_good, "--discard-writes"]);
    drop(database);
    run(&["restore", "commit", "search", "--roll-back", "--force"]);
    assert!(run(&["restore", "status"]).contains("no sessions"));
}
