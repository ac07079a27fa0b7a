//! A real host that writes a volume in rounds, where the block's and the round's number determine
//! the content of each block, and helpers that several tests of the archive use.

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use varve::nvmf::host::{ConnectOptions, Controller, HostError, Namespace, Queue};
use varve::nvmf::nqn;

use super::Appliance;

/// Size of a block.
pub const BLOCK_BYTES: usize = 4096;
/// Blocks of one write.
const WRITE_BLOCKS: u64 = 32;
/// How long the appliance may take for its background work.
const PATIENCE: Duration = Duration::from_mins(2);

/// A host's connection to a volume.
pub struct Host {
    queue: Queue,
    len_blocks: u64,
    _controller: Controller,
}

/// Connects to a volume: returns a controller, one of its I/O queues, and the volume's length in
/// blocks.
pub fn connect(appliance: &Appliance, volume: &str) -> (Controller, Queue, u64) {
    let address: SocketAddr = ([127, 0, 0, 1], appliance.port()).into();
    // This host sends no keep-alives; a connection lasts seconds.
    let options = ConnectOptions { keep_alive_timeout_ms: 0, ..ConnectOptions::default() };
    let mut controller =
        Controller::connect(address, &nqn::of_volume(volume), options).expect("a host connects");
    let geometry = controller.namespaces().expect("it identifies").first().map(Namespace::geometry);
    let mut queue = controller.take_queues().pop().expect("an I/O queue");
    let geometry = geometry.expect("a namespace");
    queue.set_geometry(geometry);
    (controller, queue, geometry.size_blocks)
}

impl Host {
    /// Connects to a volume.
    pub fn connect(appliance: &Appliance, volume: &str) -> Self {
        let (controller, queue, len_blocks) = connect(appliance, volume);
        Host { queue, len_blocks, _controller: controller }
    }

    /// Writes the whole volume; the block's and the round's number determine the content of each
    /// block.
    pub fn write_round(&mut self, round: u64) {
        self.try_write_round(round).expect("written");
    }

    /// The same, up to the first write that fails.
    ///
    /// # Errors
    /// The error of the write.
    pub fn try_write_round(&mut self, round: u64) -> Result<(), HostError> {
        for first in (0..self.len_blocks).step_by(WRITE_BLOCKS as usize) {
            let data: Vec<u8> =
                (first..first + WRITE_BLOCKS).flat_map(|block| content(block, round)).collect();
            self.queue.write(first, &data)?;
        }
        Ok(())
    }

    /// The SHA-256 of the whole volume.
    ///
    /// # Panics
    /// When it cannot be read, or no `sha256sum` is installed.
    pub fn digest(&mut self) -> String {
        let mut program = Command::new("sha256sum")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sha256sum starts");
        let mut input = program.stdin.take().expect("its input");
        let mut data = vec![0; WRITE_BLOCKS as usize * BLOCK_BYTES];
        for first in (0..self.len_blocks).step_by(WRITE_BLOCKS as usize) {
            self.queue.read(first, &mut data).expect("read");
            input.write_all(&data).expect("it reads");
        }
        drop(input);
        let said = program.wait_with_output().expect("it ends").stdout;
        String::from_utf8(said).expect("text").split_whitespace().next().expect("a digest").to_owned()
    }

    /// Checks that every block has the content of a round.
    pub fn check_round(&mut self, round: u64) {
        let mut data = vec![0; WRITE_BLOCKS as usize * BLOCK_BYTES];
        for first in (0..self.len_blocks).step_by(WRITE_BLOCKS as usize) {
            self.queue.read(first, &mut data).expect("read");
            for (block, bytes) in (first..).zip(data.chunks(BLOCK_BYTES)) {
                assert!(bytes == content(block, round), "block {block} is not that of round {round}");
            }
        }
    }

    /// How many blocks have the content of a round, and how many fail, read one by one.
    ///
    /// # Panics
    /// When a block has any other content.
    pub fn count_round(&mut self, round: u64) -> (u64, u64) {
        let (mut right, mut errors) = (0, 0);
        let mut data = vec![0; BLOCK_BYTES];
        for block in 0..self.len_blocks {
            match self.queue.read(block, &mut data) {
                Ok(()) => {
                    assert!(data == content(block, round), "block {block} is not that of round {round}");
                    right += 1;
                }
                Err(_) => errors += 1,
            }
        }
        (right, errors)
    }
}

/// The content of a block after a round: pseudorandom numbers of 31 bits in words of 8 bytes,
/// seeded with the block's and the round's number, so that compression leaves about half of it.
fn content(block: u64, round: u64) -> Vec<u8> {
    let mut state = block << 32 | round | 1 << 63;
    let words = (0..BLOCK_BYTES / 8).map(|_| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 33).to_le_bytes()
    });
    words.flatten().collect()
}

/// The archive's status.
pub fn archive_status(appliance: &Appliance) -> Value {
    appliance.rpc("archive_get_status", Value::Null).expect("it answers")
}

/// Waits until a condition holds that the appliance reaches by itself.
pub fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The labels of all synchs.
pub fn labels(appliance: &Appliance) -> Vec<String> {
    let synchs = appliance.rpc("synch_list", Value::Null).expect("it answers");
    let synchs = synchs.as_array().expect("a list").iter();
    synchs.map(|synch| synch["label"].as_str().expect("a label").to_owned()).collect()
}
