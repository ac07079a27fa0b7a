//! Creates a log on a blank device, and finds it again after a stop of any kind.
//!
//! **What is read:** every copy of the superblock (there are three; pools of format version 1 have
//! two); the header and the trailer's head of every slot; then, record by record, the segments
//! without a complete trailer. After a crash these are at most three: two that were being sealed,
//! and the current one. The builders of indexes read the entries later, newest first.
//!
//! **Where the log ends.** Segments are walked in order of their sequence. A segment belongs to the
//! log if its header continues where the previous one ended and its epoch is not older. The log
//! ends at the first record or segment that is missing, unless something proves that it had been
//! stable. In that case it is damage, which is reported as a lost range, and the walk continues. So
//! a torn tail is cut off, and a damaged middle is not.
//!
//! **What is stored twice.** A segment's first record repeats the data of its header, and a
//! segment's entries are both in its records and in its trailer. Superblocks store where the log
//! ended at the last start: everything before it is stable, and no record of an earlier session
//! after it belongs to the log.
//!
//! **What a recovery writes:** the segment headers that were damaged, and a flush; a superblock
//! with the next epoch, and a flush, before anything is appended. A crash in between leaves an
//! older superblock intact; running recovery again finds the same log.
//!
//! | file | what it does |
//! |---|---|
//! | `create` | a log on a blank device |
//! | `survey` | finds the log, by reads only: `slots` finds segments, `walk` puts them in order |
//! | `session` | what a start writes |
//! | `superblocks`, `tail_search` | the copies of the superblock |
//! | `close` | a clean stop |

mod close;
mod create;
mod gone;
mod session;
mod slots;
mod superblocks;
mod survey;
mod tail_search;
mod walk;

use smallvec::smallvec;

use session::Session;

use crate::bdev::{BdevErrorKind, SharedBdev};
use crate::dma::BLOCK_BYTES;
use crate::log::environment::Environment;
use crate::log::error::LogError;
use crate::log::reader::LsnRange;
use crate::log::writer::{Beginning, FirstWrites, Log, LogStart};

pub use close::{close, stable};
pub use create::{ContinueLog, CreateLog, begin_continuing, create, finish_continuing};
pub use superblocks::{is_blank, read_superblock, read_superblocks, write_shape};
pub use survey::{Survey, survey};

/// A recovered log.
pub struct Recovered {
    /// The log, ready to append.
    pub log: Log,
    /// The problems that were found, as text for the operator.
    pub problems: Vec<String>,
    /// Ranges that had been stable and whose entries are lost.
    pub lost: Vec<LsnRange>,
    /// Whether the last stop was clean.
    pub clean: bool,
}

/// Finds the log on a device and makes it ready to append.
///
/// # Errors
/// See [`LogError`]. Damage to segments is not an error: it is in [`Recovered::problems`].
pub async fn recover(device: SharedBdev, environment: Environment) -> Result<Recovered, LogError> {
    let info = device.info();
    let (superblock, _) = read_superblock(&device, &environment).await?;
    if superblock.device_blocks > info.len_blocks {
        return Err(LogError::Shrunk {
            device: info.name,
            len_blocks: info.len_blocks,
            pool_blocks: superblock.device_blocks,
        });
    }
    let survey = survey(&device, &environment).await?;
    let unrepaired = repair_headers(&device, &environment, &survey).await?;
    let (epoch, beginning, unwritten) = begin_session(&device, &environment, &survey).await;
    let has_current = survey.current().is_some();
    let Survey { superblock, geometry, table, mut pending, end_lsn, last_time_ns, lost, clean, .. } = survey;
    let log = Log::start(LogStart {
        device,
        environment,
        version: superblock.version,
        pool: superblock.pool,
        created_ns: superblock.created_ns,
        geometry,
        epoch,
        table,
        current: if has_current { pending.pop() } else { None },
        unsealed: pending,
        end_lsn,
        last_time_ns,
        beginning,
    });
    let problems = [survey.problems, unrepaired, unwritten, survey.notes].concat();
    Ok(Recovered { log, problems, lost, clean })
}

/// Rewrites the segment headers that were damaged. Returns what could not be written.
async fn repair_headers(
    device: &SharedBdev,
    environment: &Environment,
    survey: &Survey,
) -> Result<Vec<String>, LogError> {
    let mut problems = Vec::new();
    for (slot, header) in &survey.repairs {
        let mut block = environment.wait_for_memory(BLOCK_BYTES).await?;
        header.encode(survey.superblock.pool, block.as_mut_slice());
        let device_block = survey.geometry.slot_block(*slot);
        if let Err(error) = device.write(device_block, smallvec![block.freeze()]).await {
            let sequence = header.sequence;
            problems.push(format!("segment {sequence}: its header cannot be written again: {error}"));
        }
    }
    Ok(problems)
}

/// Starts a session on the device. Returns its epoch, how far its writes came, and what could not
/// be written although the rest was. Whatever the result is, the existing data can be read.
async fn begin_session(
    device: &SharedBdev,
    environment: &Environment,
    survey: &Survey,
) -> (u32, Beginning, Vec<String>) {
    let failed = |error: LogError| Beginning::Failed(format!("the device takes no writes at start: {error}"));
    let session = match Session::plan(device, environment, survey).await {
        Ok(session) => session,
        Err(error) => return (survey.superblock.epoch, failed(error), Vec::new()),
    };
    let (epoch, again) = (session.epoch(), session.clone());
    match session.write().await {
        Ok(problems) => (epoch, Beginning::Begun, problems),
        Err(LogError::Device(error)) if error.kind == BdevErrorKind::NoRoom => {
            let first = FirstWrites::new(move || again.clone().write());
            (epoch, Beginning::NoRoom(error, first), Vec::new())
        }
        Err(error) => (epoch, failed(error), Vec::new()),
    }
}
