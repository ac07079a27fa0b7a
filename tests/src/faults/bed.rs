//! An appliance under faults, beside an exact memory of what hosts wrote: what they are told, what
//! the operator is told, and whether anything above what a fault may cost is refused.

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
/// The file that rules about the pool are about.
pub const POOL_FILE: &str = "pool.varve";
/// The volume that hosts use.
pub const VOLUME: &str = "vol0";
/// Blocks of a segment of the small pools here.
pub const SEGMENT_BLOCKS: u64 = SEGMENT_BLOCKS_MIN;

/// How long the appliance may take for what it does by itself.
const PATIENCE: Duration = Duration::from_secs(45);

/// What a block holds after a write: the number of the write and its own, again and again. Stamp 0
/// stands for never written.
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
    /// Nothing was written yet.
    pub fn nothing() -> Self {
        Expected(vec![0; BLOCKS as usize])
    }
}

/// What a host read, set against what it must be.
#[derive(Debug, Default)]
pub struct Tally {
    /// How many blocks are right.
    pub right: u64,
    /// Blocks that hold something else, and the stamps that are there.
    pub wrong: Vec<(u64, u64)>,
    /// Blocks that were refused, and how.
    pub refused: Vec<(u64, Status)>,
}

impl Tally {
    /// That all blocks are right but those that may be refused, and that these are refused as what
    /// the medium lost.
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
    /// Connects; each command may take so long.
    ///
    /// # Panics
    /// When it cannot.
    pub fn connect(port: u16, volume: &str, command_limit: Duration) -> Self {
        let address: SocketAddr = ([127, 0, 0, 1], port).into();
        let timeouts = Timeouts { io: command_limit, ..Timeouts::default() };
        // Nobody sends keep-alives here.
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
    /// What the appliance answers.
    pub fn write(&mut self, block: u64, stamp: u64) -> Result<(), HostError> {
        self.queue.write(block, &content(block, stamp))
    }

    /// Reads blocks.
    ///
    /// # Errors
    /// What the appliance answers.
    pub fn read(&mut self, block: u64, count: u64) -> Result<Vec<u8>, HostError> {
        let mut data = vec![0; count as usize * BLOCK_BYTES];
        self.queue.read(block, &mut data)?;
        Ok(data)
    }

    /// Flushes.
    ///
    /// # Errors
    /// What the appliance answers.
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

    /// Reads every block, one by one, and sets it against what it must be.
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
/// When it was not answered.
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
    /// The bytes of the pool's file that blocks of it are at.
    pub fn bytes(&self, blocks: Range<u64>) -> Range<u64> {
        let first = FIRST_SLOT_BLOCK + self.slot * SEGMENT_BLOCKS;
        (first + blocks.start) * BLOCK_BYTES as u64..(first + blocks.end) * BLOCK_BYTES as u64
    }

    /// The first block of its trailer, within it.
    pub fn trailer(&self) -> u64 {
        SEGMENT_BLOCKS - 2
    }
}

/// An appliance with a small pool, and what its volume must hold.
pub struct Bed {
    /// The appliance.
    pub appliance: Appliance,
    /// The faults that it runs under, unless it was started without.
    pub faults: Faults,
    /// What the volume must hold.
    pub expected: Expected,
    next_stamp: u64,
}

impl Bed {
    /// Starts an appliance under faults, of which there are none yet: a pool of 16 MiB with
    /// segments of 1 MiB, a volume of 2 MiB, an archive that takes whole segments unless `more`
    /// says otherwise, and more arguments.
    ///
    /// # Panics
    /// When it does not start, or nothing can be injected here.
    pub fn start(more: &[&str]) -> Self {
        Self::start_as(more, true)
    }

    /// The same without supervision, so on the I/O engine that the environment names: for damage
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
        // It has no other engine under faults; named, it need not say so at each start.
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

    /// Writes a block with a stamp of its own, which must succeed.
    ///
    /// # Panics
    /// When it does not.
    pub fn write(&mut self, host: &mut Host, block: u64) {
        let result = self.try_write(host, block);
        result.unwrap_or_else(|error| panic!("writing block {block}: {error:?}; {:?}", self.problems()));
    }

    /// Writes a block with a stamp of its own. One that is refused leaves what was there, or what
    /// was written: [`Bed::check_either`].
    ///
    /// # Errors
    /// What the appliance answers.
    pub fn try_write(&mut self, host: &mut Host, block: u64) -> Result<(), HostError> {
        let stamp = self.next_stamp;
        self.next_stamp += 1;
        host.write(block, stamp)?;
        self.expected.0[block as usize] = stamp;
        Ok(())
    }

    /// Writes so many blocks in turns over all of them, from block 0 on.
    pub fn write_many(&mut self, host: &mut Host, count: u64) {
        for index in 0..count {
            self.write(host, index % BLOCKS);
        }
    }

    /// The same, with a connection of its own; all of it is in the archive when this returns.
    ///
    /// # Panics
    /// When something of that fails.
    pub fn write_archived(&mut self, count: u64) {
        let mut host = self.host();
        self.write_many(&mut host, count);
        host.flush().expect("flushed");
        self.appliance.command(&["archive", "seal"]).expect("all is archived");
    }

    /// The stamp of the newest write that was tried.
    pub fn newest_stamp(&self) -> u64 {
        self.next_stamp - 1
    }

    /// Every block is as expected.
    pub fn check(&self, what: &str) {
        self.check_but(what, &[]);
    }

    /// Every block is as expected, but these may be refused.
    pub fn check_but(&self, what: &str, may_be_refused: &[u64]) {
        self.host().tally(&self.expected).check(&format!("{what}; {:?}", self.problems()), may_be_refused);
    }

    /// Every block is as expected, or, where a write was refused, as that write made it.
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

    /// What the operator is told of the pool.
    pub fn problems(&self) -> Vec<String> {
        let pool = self.pool();
        let problems = pool["problems"].as_array().cloned().unwrap_or_default();
        problems.iter().filter_map(|problem| problem.as_str().map(str::to_owned)).collect()
    }

    /// The operator is told of something with all these words in it.
    ///
    /// # Panics
    /// When it is not.
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

    /// Makes a point and gives its name.
    ///
    /// # Panics
    /// When the appliance refuses.
    pub fn mark(&self, label: &str) -> String {
        self.appliance.rpc("synch_create", json!({"label": label})).expect("a point is made");
        format!("synch:{label}")
    }

    /// What the volume held at a point, set against what it must have been: in a clone that is
    /// deleted again.
    ///
    /// # Errors
    /// The appliance's reason why it cannot be had.
    ///
    /// # Panics
    /// When the clone cannot be deleted.
    pub fn tally_at(&self, point: &str, expected: &Expected) -> Result<Tally, ApplianceError> {
        self.appliance.command(&["restore", "clone", VOLUME, "--at", point, "--name", "then"])?;
        let tally = Host::connect(self.appliance.port(), "then", Duration::from_secs(30)).tally(expected);
        // On a busy machine it takes a moment until the appliance's kernel hears of the host's end.
        wait_for("the clone is deleted", || match self.appliance.command(&["volume", "delete", "then"]) {
            Err(error) if error.to_string().contains("is in use") => (false, error.to_string()),
            deleted => (true, deleted.expect("it is deleted")),
        });
        Ok(tally)
    }

    /// A copy of what the archive holds, for [`put_archive_back`](Self::put_archive_back).
    pub fn archive_image(&self) -> TempDir {
        let image = TempDir::new().expect("a folder");
        copy_folder(&self.archive().join("objects"), image.path());
        image
    }

    /// The archive as it was when the copy was made. A pool's file of that time is older than what
    /// it was started into since, and would be refused.
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

    /// Where in the pool's file what a write stored is, as the bytes of its block; the newest place
    /// if there are several.
    ///
    /// # Panics
    /// When it is nowhere.
    pub fn place_of(&self, block: u64, stamp: u64) -> Range<u64> {
        let (file, wanted) =
            (std::fs::read(self.pool_file()).expect("the pool's file"), content(block, stamp));
        let found = file.chunks(BLOCK_BYTES).rposition(|data| data == wanted);
        let found = found.unwrap_or_else(|| panic!("write {stamp} of block {block} is nowhere")) as u64;
        found * BLOCK_BYTES as u64..(found + 1) * BLOCK_BYTES as u64
    }

    /// How much processor time the appliance takes while this test only waits, as a share of one
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

/// Waits for what the appliance does by itself; `look` says whether it is so, and what there is
/// instead.
///
/// # Panics
/// When it does not come within 45 seconds.
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
/// When it cannot.
pub fn copy_folder(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp").arg("-a").arg("--sparse=always").arg(from).arg(to).status();
    assert!(status.expect("cp runs").success(), "{} to {}", from.display(), to.display());
}
