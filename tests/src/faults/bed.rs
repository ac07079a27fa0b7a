//! An appliance under faults, with an exact record of what hosts wrote. Tests check the data that
//! hosts read, the problems that the operator sees, and that no more is refused than a fault may
//! cost.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use varve::bdev::ENGINE_VARIABLE;
use varve::log::geometry::{FIRST_SLOT_BLOCK, SEGMENT_BLOCKS_MIN};
use varve::nvmf::host::{ConnectOptions, Controller, HostError, Namespace, Queue, Timeouts};
use varve::nvmf::nqn;
use varve::nvmf::wire::status::Status;

use super::Faults;
use crate::appliance::{Appliance, ApplianceConfig, ApplianceError};

/// Size of a block.
pub const BLOCK_BYTES: usize = 4096;
/// The blocks of the volume that tests write.
pub const BLOCKS: u64 = 400;
/// The pool's file, for rules about the pool.
pub const POOL_FILE: &str = "pool.varve";
/// The volume that hosts use.
pub const VOLUME: &str = "vol0";
/// Blocks of a segment of the small pools that these tests use.
pub const SEGMENT_BLOCKS: u64 = SEGMENT_BLOCKS_MIN;

/// How long the appliance may take for its background work.
const PATIENCE: Duration = Duration::from_secs(45);

/// The content of a block after a write: the stamp of the write and the block's number, repeated.
/// Stamp 0 means never written.
pub fn content(block: u64, stamp: u64) -> Vec<u8> {
    if stamp == 0 {
        return vec![0; BLOCK_BYTES];
    }
    [stamp.to_le_bytes(), block.to_le_bytes()].concat().repeat(BLOCK_BYTES / 16)
}

/// What each block of the volume must hold, as stamps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected(pub Vec<u64>);

impl Expected {
    /// Before the first write.
    pub fn nothing() -> Self {
        Expected(vec![0; BLOCKS as usize])
    }
}

/// What a host read, compared with what it must be.
#[derive(Debug, Default)]
pub struct Tally {
    /// How many blocks are right.
    pub right: u64,
    /// Blocks that hold something else, and their stamps.
    pub wrong: Vec<(u64, u64)>,
    /// Blocks whose reads failed, with the status.
    pub refused: Vec<(u64, Status)>,
}

impl Tally {
    /// Checks that all blocks are right except those that may be refused, and that these fail as
    /// unrecovered read errors.
    ///
    /// # Panics
    /// When they are not.
    pub fn check(&self, what: &str, may_be_refused: &[u64]) {
        assert!(self.wrong.is_empty(), "{what}: wrong bytes (block, stamp that is there): {:?}", self.wrong);
        for (block, status) in &self.refused {
            assert!(may_be_refused.contains(block), "{what}: block {block} is refused: {status}; {self:?}");
            let lost = status.code_only() == Status::UNRECOVERED_READ_ERROR;
            assert!(lost, "{what}: block {block} is refused with {status}");
        }
    }
}

/// A host's connection to a volume.
pub struct Host {
    queue: Queue,
    controller: Controller,
}

impl Host {
    /// Connects; each command may take up to `command_limit`.
    ///
    /// # Panics
    /// When it cannot connect.
    pub fn connect(port: u16, volume: &str, command_limit: Duration) -> Self {
        let address: SocketAddr = ([127, 0, 0, 1], port).into();
        let timeouts = Timeouts { io: command_limit, ..Timeouts::default() };
        // This host sends no keep-alives.
        let options = ConnectOptions { keep_alive_timeout_ms: 0, timeouts, ..ConnectOptions::default() };
        let mut controller =
            Controller::connect(address, &nqn::of_volume(volume), options).expect("a host connects");
        let geometry = controller.namespaces().expect("it identifies").first().map(Namespace::geometry);
        let mut queue = controller.take_queues().pop().expect("an I/O queue");
        queue.set_geometry(geometry.expect("a namespace"));
        Host { queue, controller }
    }

    /// Writes one block.
    ///
    /// # Errors
    /// The appliance's error.
    pub fn write(&mut self, block: u64, stamp: u64) -> Result<(), HostError> {
        self.queue.write(block, &content(block, stamp))
    }

    /// Reads blocks.
    ///
    /// # Errors
    /// The appliance's error.
    pub fn read(&mut self, block: u64, count: u64) -> Result<Vec<u8>, HostError> {
        let mut data = vec![0; count as usize * BLOCK_BYTES];
        self.queue.read(block, &mut data)?;
        Ok(data)
    }

    /// Flushes.
    ///
    /// # Errors
    /// The appliance's error.
    pub fn flush(&mut self) -> Result<(), HostError> {
        self.queue.flush()
    }

    /// The connection itself.
    pub fn queue(&mut self) -> &mut Queue {
        &mut self.queue
    }

    /// The association.
    pub fn controller(&mut self) -> &mut Controller {
        &mut self.controller
    }

    /// Reads every block, one by one, and compares it with what it must be.
    ///
    /// # Panics
    /// When the connection is lost.
    pub fn tally(&mut self, expected: &Expected) -> Tally {
        let mut tally = Tally::default();
        for (block, &stamp) in (0..).zip(&expected.0) {
            match self.read(block, 1) {
                Ok(data) if data == content(block, stamp) => tally.right += 1,
                Ok(data) => tally.wrong.push((block, stamp_of(&data))),
                Err(HostError::Status { status, .. }) => tally.refused.push((block, status)),
                Err(error) => panic!("reading block {block}: {error:?}"),
            }
        }
        tally
    }
}

fn stamp_of(data: &[u8]) -> u64 {
    data[..8].try_into().map_or(0, u64::from_le_bytes)
}

/// The status that a command ended with; `None` for success.
///
/// # Panics
/// When it got no answer.
pub fn status_of<T>(result: Result<T, HostError>) -> Option<Status> {
    match result {
        Ok(_) => None,
        Err(HostError::Status { status, .. }) => Some(status),
        Err(error) => panic!("no answer: {error:?}"),
    }
}

/// A segment that has a slot, as `pool segments` shows it.
#[derive(Debug, Clone)]
pub struct Segment {
    /// Its sequence.
    pub sequence: u64,
    /// Its slot.
    pub slot: u64,
    /// `current`, `active` or `inactive`.
    pub state: String,
    /// Whether its object is in the archive.
    pub archived: bool,
}

impl Segment {
    /// The range of bytes of these blocks in the pool's file.
    pub fn bytes(&self, blocks: Range<u64>) -> Range<u64> {
        let first = FIRST_SLOT_BLOCK + self.slot * SEGMENT_BLOCKS;
        (first + blocks.start) * BLOCK_BYTES as u64..(first + blocks.end) * BLOCK_BYTES as u64
    }

    /// The first block of its trailer, relative to the segment.
    pub fn trailer(&self) -> u64 {
        SEGMENT_BLOCKS - 2
    }
}

/// An appliance with a small pool, and what its volume must hold.
pub struct Bed {
    /// The appliance.
    pub appliance: Appliance,
    /// Its faults; not in use if it was started without faults.
    pub faults: Faults,
    /// What the volume must hold.
    pub expected: Expected,
    next_stamp: u64,
}

impl Bed {
    /// Starts an appliance under faults, with no rules yet: a pool of 16 MiB with segments of 1
    /// MiB, a volume of 2 MiB, an archive that takes only whole segments unless `more` says
    /// otherwise, and the arguments in `more`.
    ///
    /// # Panics
    /// When it does not start, or nothing can be injected here.
    pub fn start(more: &[&str]) -> Self {
        Self::start_as(more, true)
    }

    /// The same without supervision, so with the I/O engine that the environment names: for damage
    /// between runs.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_without_faults(more: &[&str]) -> Self {
        Self::start_as(more, false)
    }

    fn start_as(more: &[&str], under_faults: bool) -> Self {
        let faults = Faults::new().expect("faults can be injected");
        let usual = ["--pool-size", "16MiB", "--volume-size", "2MiB"];
        let sealing = if more.contains(&"--seal-seconds") { &[][..] } else { &["--seal-seconds", "0"] };
        let arguments = [&usual, sealing].concat();
        // It has no other engine under faults; naming the engine avoids a message at each start.
        let engine = under_faults.then(|| (ENGINE_VARIABLE.to_owned(), "threads".to_owned()));
        let config = ApplianceConfig {
            faults: under_faults.then(|| faults.clone()),
            environment: engine.into_iter().collect(),
            ..ApplianceConfig::with_arguments(&[&arguments, more].concat())
        };
        let appliance = Appliance::start(&config).expect("it starts");
        Bed { appliance, faults, expected: Expected::nothing(), next_stamp: 1 }
    }

    /// Connects a host to the volume.
    pub fn host(&self) -> Host {
        Host::connect(self.appliance.port(), VOLUME, Duration::from_secs(30))
    }

    /// Writes a block with a new stamp, which must succeed.
    ///
    /// # Panics
    /// When it does not.
    pub fn write(&mut self, host: &mut Host, block: u64) {
        let result = self.try_write(host, block);
        result.unwrap_or_else(|error| panic!("writing block {block}: {error:?}; {:?}", self.problems()));
    }

    /// Writes a block with a new stamp. If the write is refused, the block holds the old or the new
    /// content: [`Bed::check_either`].
    ///
    /// # Errors
    /// The appliance's error.
    pub fn try_write(&mut self, host: &mut Host, block: u64) -> Result<(), HostError> {
        let stamp = self.next_stamp;
        self.next_stamp += 1;
        host.write(block, stamp)?;
        self.expected.0[block as usize] = stamp;
        Ok(())
    }

    /// Writes `count` blocks, in order from block 0, and starts again at block 0 after the last
    /// one.
    pub fn write_many(&mut self, host: &mut Host, count: u64) {
        for index in 0..count {
            self.write(host, index % BLOCKS);
        }
    }

    /// The same, with its own connection; everything is in the archive when this returns.
    ///
    /// # Panics
    /// When a part of it fails.
    pub fn write_archived(&mut self, count: u64) {
        let mut host = self.host();
        self.write_many(&mut host, count);
        host.flush().expect("flushed");
        self.appliance.command(&["archive", "seal"]).expect("all is archived");
    }

    /// The stamp of the newest write that was attempted.
    pub fn newest_stamp(&self) -> u64 {
        self.next_stamp - 1
    }

    /// Checks that every block is as expected.
    pub fn check(&self, what: &str) {
        self.check_but(what, &[]);
    }

    /// Checks that every block is as expected, except those that may be refused.
    pub fn check_but(&self, what: &str, may_be_refused: &[u64]) {
        self.host().tally(&self.expected).check(&format!("{what}; {:?}", self.problems()), may_be_refused);
    }

    /// Checks that every block is as expected, or has the content of the refused write.
    pub fn check_either(&self, what: &str, refused: (u64, u64)) {
        let mut tally = self.host().tally(&self.expected);
        tally.wrong.retain(|&found| found != refused);
        tally.check(what, &[]);
    }

    /// The pool, as `pool list` shows it.
    ///
    /// # Panics
    /// When the appliance does not answer.
    pub fn pool(&self) -> Value {
        let pools = self.appliance.rpc("pool_list", Value::Null).expect("it answers");
        pools.get(0).cloned().unwrap_or(pools)
    }

    /// The pool's problems that the operator sees.
    pub fn problems(&self) -> Vec<String> {
        let pool = self.pool();
        let problems = pool["problems"].as_array().cloned().unwrap_or_default();
        problems.iter().filter_map(|problem| problem.as_str().map(str::to_owned)).collect()
    }

    /// Checks that one of the pool's problems contains all these words.
    ///
    /// # Panics
    /// When none does.
    pub fn check_told(&self, words: &[&str]) {
        let problems = self.problems();
        let told = problems.iter().any(|problem| {
            let problem = problem.to_lowercase();
            words.iter().all(|word| problem.contains(&word.to_lowercase()))
        });
        assert!(told, "the operator is not told of {words:?}: {problems:?}");
    }

    /// The segments that have a slot, oldest first.
    ///
    /// # Panics
    /// When the appliance does not answer.
    pub fn segments(&self) -> Vec<Segment> {
        let slots = self.appliance.rpc("pool_segments", Value::Null).expect("it answers");
        let slots = slots.as_array().cloned().unwrap_or_default();
        let mut segments: Vec<Segment> = slots
            .iter()
            .filter_map(|slot| {
                Some(Segment {
                    sequence: slot["sequence"].as_u64()?,
                    slot: slot["slot"].as_u64()?,
                    state: slot["state"].as_str()?.to_owned(),
                    archived: slot["archived"].as_bool()?,
                })
            })
            .collect();
        segments.sort_by_key(|segment| segment.sequence);
        segments
    }

    /// The segment with this sequence, while it has a slot.
    ///
    /// # Panics
    /// When it has none.
    pub fn segment(&self, sequence: u64) -> Segment {
        let segment = self.segments().into_iter().find(|segment| segment.sequence == sequence);
        segment.unwrap_or_else(|| panic!("segment {sequence} has no slot"))
    }

    /// The archive's status.
    ///
    /// # Panics
    /// When the appliance does not answer.
    pub fn archive_status(&self) -> Value {
        self.appliance.rpc("archive_get_status", Value::Null).expect("it answers")
    }

    /// Waits until every sealed segment is archived.
    pub fn wait_until_archived(&self) {
        wait_for("the archive catches up", || {
            let status = self.archive_status();
            (status["backlog_segments"] == 0 && status["state"] == "idle", status.to_string())
        });
    }

    /// Makes a point and returns its name.
    ///
    /// # Panics
    /// When the appliance refuses.
    pub fn mark(&self, label: &str) -> String {
        self.appliance.rpc("synch_create", json!({"label": label})).expect("a point is made");
        format!("synch:{label}")
    }

    /// Compares the volume at a point with what it held then, in a clone that is deleted
    /// afterwards.
    ///
    /// # Errors
    /// The appliance's reason why it cannot open the point.
    ///
    /// # Panics
    /// When the clone cannot be deleted.
    pub fn tally_at(&self, point: &str, expected: &Expected) -> Result<Tally, ApplianceError> {
        self.appliance.command(&["restore", "clone", VOLUME, "--at", point, "--name", "then"])?;
        let tally = Host::connect(self.appliance.port(), "then", Duration::from_secs(30)).tally(expected);
        // On a busy machine the appliance's kernel may notice late that the host has disconnected.
        wait_for("the clone is deleted", || match self.appliance.command(&["volume", "delete", "then"]) {
            Err(error) if error.to_string().contains("is in use") => (false, error.to_string()),
            deleted => (true, deleted.expect("it is deleted")),
        });
        Ok(tally)
    }

    /// A copy of the archive's objects, for [`put_archive_back`](Self::put_archive_back).
    pub fn archive_image(&self) -> TempDir {
        let image = TempDir::new().expect("a folder");
        copy_folder(&self.archive().join("objects"), image.path());
        image
    }

    /// Restores the archive's objects from the copy. A copy of the pool's file cannot be restored
    /// in this way: the pool was started since, so the older file would be refused.
    pub fn put_archive_back(&self, image: &TempDir) {
        std::fs::remove_dir_all(self.archive().join("objects")).expect("removed");
        copy_folder(&image.path().join("objects"), &self.archive());
    }

    /// The pool's file.
    pub fn pool_file(&self) -> PathBuf {
        self.appliance.pool_folder().join(POOL_FILE)
    }

    /// The archive's directory.
    pub fn archive(&self) -> PathBuf {
        self.appliance.pool_folder().join("archive")
    }

    /// The bytes of the pool's file where a write's block is stored; the last place if there are
    /// several.
    ///
    /// # Panics
    /// When it is stored nowhere.
    pub fn place_of(&self, block: u64, stamp: u64) -> Range<u64> {
        let (file, wanted) =
            (std::fs::read(self.pool_file()).expect("the pool's file"), content(block, stamp));
        let found = file.chunks(BLOCK_BYTES).rposition(|data| data == wanted);
        let found = found.unwrap_or_else(|| panic!("write {stamp} of block {block} is nowhere")) as u64;
        found * BLOCK_BYTES as u64..(found + 1) * BLOCK_BYTES as u64
    }

    /// How much processor time the appliance uses while this test only waits, as a share of one
    /// core.
    ///
    /// # Panics
    /// When it does not run.
    pub fn idle_load(&self, time: Duration) -> f64 {
        let id = self.appliance.process_id().expect("it runs");
        let ticks = || {
            let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).expect("its times");
            let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
            fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum::<u64>()
        };
        let before = ticks();
        std::thread::sleep(time);
        let per_second = rustix::param::clock_ticks_per_second() as f64;
        (ticks() - before) as f64 / per_second / time.as_secs_f64()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let events = self.faults.events();
        eprintln!("{} faults were injected; the newest:", events.len());
        for event in events.iter().rev().take(20).rev() {
            eprintln!("{event:?}");
        }
    }
}

/// Waits for a condition that the appliance reaches by itself; `look` returns whether it holds, and
/// the state for the message.
///
/// # Panics
/// When it does not hold within 45 seconds.
pub fn wait_for(what: &str, mut look: impl FnMut() -> (bool, String)) {
    let begin = Instant::now();
    loop {
        let (is_so, text) = look();
        if is_so {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}: {text}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Copies a folder with everything in it.
///
/// # Panics
/// When that fails.
pub fn copy_folder(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp").arg("-a").arg("--sparse=always").arg(from).arg(to).status();
    assert!(status.expect("cp runs").success(), "{} to {}", from.display(), to.display());
}
