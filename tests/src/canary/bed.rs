//! The scene of a canary run: a running appliance with its volumes, and the time until which it
//! runs.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;
use varve::nvmf::host::{ConnectOptions, Controller, Namespace, Queue, Wait};
use varve::nvmf::nqn;

use super::error::CanaryError;
use crate::appliance::Appliance;
use crate::faults::Faults;

/// Size of a block.
pub(super) const BLOCK_BYTES: u64 = 4096;
/// The volume of the innocent host.
pub(super) const INNOCENT_VOLUME: &str = "vol0";
/// The interval at which adversaries check the connections that they hold.
const BEAT: Duration = Duration::from_millis(250);

/// A running appliance.
#[derive(Debug)]
pub(super) struct Bed {
    pub(super) appliance: Appliance,
    pub(super) faults: Option<Faults>,
    /// Scales all counts; 1.0 means the normal counts.
    pub(super) scale: f64,
}

impl Bed {
    /// The address that hosts connect to.
    pub(super) fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.appliance.port()).into()
    }

    /// The socket that the operator connects to.
    pub(super) fn rpc_socket(&self) -> PathBuf {
        self.appliance.rpc_socket()
    }

    /// A count at this scale; at least 1.
    pub(super) fn scaled(&self, usual: u64) -> u64 {
        ((usual as f64 * self.scale).round() as u64).max(1)
    }

    /// Makes a thin volume.
    pub(super) fn make_volume(&self, name: &str, size: &str) -> Result<(), CanaryError> {
        self.appliance.rpc("volume_create", json!({"name": name, "size": size, "thin": true}))?;
        Ok(())
    }

    /// Connects a host with `io_queues` I/O queues, which can move `transfer_bytes_max` bytes with
    /// one command.
    pub(super) fn connect(
        &self,
        volume: &str,
        io_queues: u16,
        transfer_bytes_max: u32,
    ) -> Result<(Controller, Vec<Queue>), CanaryError> {
        let options = ConnectOptions {
            io_queues,
            queue_depth: 127,
            transfer_bytes_max,
            // These connections last a minute at most and send no keep-alives.
            keep_alive_timeout_ms: 0,
            ..ConnectOptions::default()
        };
        let failed = || CanaryError::prepare("a connection");
        let mut controller =
            Controller::connect(self.address(), &nqn::of_volume(volume), options).map_err(failed())?;
        let namespaces = controller.namespaces().map_err(failed())?;
        let mut queues = controller.take_queues();
        if let Some(geometry) = namespaces.first().map(Namespace::geometry) {
            for queue in &mut queues {
                queue.set_geometry(geometry);
            }
        }
        Ok((controller, queues))
    }

    /// Writes `pieces` pieces of a volume, at equal distances. Each is filled with its number.
    pub(super) fn fill(
        &self,
        volume: &str,
        pieces: u64,
        piece_blocks: u64,
        distance_blocks: u64,
    ) -> Result<(), CanaryError> {
        let piece_bytes = (piece_blocks * BLOCK_BYTES) as u32;
        let (_controller, mut queues) = self.connect(volume, 1, piece_bytes)?;
        let Some(queue) = queues.first_mut() else { return Ok(()) };
        let failed = || CanaryError::prepare("what a volume holds");
        let mut next = 0;
        while next < pieces || queue.outstanding_count() > 0 {
            while next < pieces && queue.free_slots() > 0 {
                let data = (next + 1).to_le_bytes().repeat(piece_bytes as usize / 8);
                queue.submit_write(next * distance_blocks, &data, false, next).map_err(failed())?;
                next += 1;
            }
            queue.poll(Wait::Block(Duration::from_secs(30)), |_| {}).map_err(failed())?;
        }
        Ok(())
    }
}

/// The time when an adversary has to stop.
#[derive(Debug, Clone, Copy)]
pub(super) struct Until(pub(super) Instant);

impl Until {
    /// Whether that time has come.
    pub(super) fn is_over(self) -> bool {
        Instant::now() >= self.0
    }

    /// Sleeps for `time`, at most until the end.
    pub(super) fn sleep(self, time: Duration) {
        std::thread::sleep(time.min(self.0.saturating_duration_since(Instant::now())));
    }
}

/// The history of the things that an adversary holds open.
#[derive(Debug, Default)]
pub(super) struct Siege {
    /// The maximum number that were held at once.
    pub(super) held_max: usize,
    /// How often one was opened.
    pub(super) opened: u64,
    /// How often that failed.
    pub(super) refused: u64,
    /// How often the appliance ended one.
    pub(super) ended: u64,
    /// The reason of the last failure.
    last: Option<String>,
}

impl Siege {
    /// The numbers as text.
    pub(super) fn told(&self, what: &str) -> String {
        let Siege { held_max, opened, refused, ended, last } = self;
        let last = last.as_ref().map(|last| format!(", last: {last}")).unwrap_or_default();
        format!("{held_max} {what} at once ({opened} opened, {refused} refused, {ended} ended{last})")
    }
}

/// Holds `count` things open until the end, and opens new ones for those that the appliance has
/// ended, which `tend` reports by an error.
pub(super) fn besiege<T>(
    until: Until,
    count: u64,
    mut open: impl FnMut() -> io::Result<T>,
    mut tend: impl FnMut(&mut T) -> io::Result<()>,
) -> Siege {
    let mut siege = Siege::default();
    let mut held: Vec<T> = Vec::new();
    while !until.is_over() {
        let before = held.len();
        held.retain_mut(|one| {
            let result = tend(one);
            if let Err(error) = &result {
                siege.last = Some(error.to_string());
            }
            result.is_ok()
        });
        siege.ended += (before - held.len()) as u64;
        // What was refused is tried again after the next beat.
        for _ in held.len() as u64..count {
            if until.is_over() {
                break;
            }
            match open() {
                Ok(one) => {
                    held.push(one);
                    siege.opened += 1;
                }
                Err(error) => {
                    siege.refused += 1;
                    siege.last = Some(error.to_string());
                    break;
                }
            }
        }
        siege.held_max = siege.held_max.max(held.len());
        until.sleep(BEAT);
    }
    siege
}
