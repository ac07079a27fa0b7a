//! Whether a volume stands where an increment begins: as the first point was, in the middle of the
//! increment, or behind it already. Synchs that an apply has made say so.

use serde_json::{Value, json};

use super::super::call;
use super::{Checked, hex};
use crate::cli::blocks::page;
use crate::cli::{Client, CommandError};
use crate::increment::Member;
use crate::volume::{DiffPage, PoolInfo, SynchInfo, VolumeInfo};

/// The label of the synch behind an increment that was applied.
pub(super) const APPLIED: &str = "increment";
/// The label of the synch before an increment is applied.
pub(super) const BEGUN: &str = "increment-begin";

/// The newest synch of a volume that names a digest, and whether it marks the end of an apply.
pub(super) fn find_mark(
    client: &mut Client,
    target: &VolumeInfo,
    digest: &[u8; 32],
) -> Result<Option<(SynchInfo, bool)>, CommandError> {
    let (volume, digest) = (target.uuid.to_string(), hex(digest));
    let (mut from, mut found) = (0, None);
    loop {
        let synchs: Vec<SynchInfo> = call(client, "synch_list", json!({"from": from}))?;
        let Some(last) = synchs.last() else { return Ok(found) };
        from = last.lsn + 1;
        for synch in synchs {
            let is_mark = synch.label == APPLIED || synch.label == BEGUN;
            if is_mark
                && synch.details["volume"] == volume.as_str()
                && synch.details["digest"] == digest.as_str()
            {
                let is_end = synch.label == APPLIED;
                found = Some((synch, is_end));
            }
        }
    }
}

/// What changed in a volume since a synch.
pub(super) fn changes_since(
    client: &mut Client,
    target: &VolumeInfo,
    synch: &SynchInfo,
) -> Result<DiffPage, CommandError> {
    page(client, (&target.uuid.to_string(), &format!("lsn:{}", synch.lsn), None), 0)
}

/// Checks that a volume got nothing but this increment since its apply began.
pub(super) fn check_resumed(
    client: &mut Client,
    target: &VolumeInfo,
    begun: &SynchInfo,
    checked: &Checked,
) -> Result<(), CommandError> {
    let mut since = changes_since(client, target, begun)?;
    let (volume, from, to) =
        (target.uuid.to_string(), format!("lsn:{}", begun.lsn), format!("lsn:{}", since.to.lsn));
    loop {
        for range in &since.ranges {
            if !checked.blocks.covers(range.block, range.block + range.blocks) {
                return Err(format!(
                    "volume '{}' was written since this increment was begun at synch:{}: block {} is not of the increment; go back to that synch first, or go on with --force",
                    target.name, begun.id, range.block
                )
                .into());
            }
        }
        let Some(block) = since.next_block else { return Ok(()) };
        since = page(client, (&volume, &from, Some(&to)), block)?;
    }
}

/// Checks that a volume is as the first point of an increment was.
pub(super) fn check_from(
    client: &mut Client,
    target: &VolumeInfo,
    member: &Member,
    checked: &Checked,
) -> Result<(), CommandError> {
    let (name, header) = (&target.name, &checked.header);
    let from_point = &checked.description.from.point;
    let differs = |what: String| -> CommandError {
        format!("volume '{name}' is not as {from_point} was, where this increment begins: {what}; apply what is missing first, or apply it anyway with --force").into()
    };
    if header.from_lsn.0 == 0 {
        return match target.mapped_blocks {
            0 => Ok(()),
            blocks => Err(differs(format!("it is not empty, it holds {blocks} blocks"))),
        };
    }
    if let Some((synch, true)) = find_mark(client, target, &header.previous_digest)? {
        let since = changes_since(client, target, &synch)?;
        return match since.written_blocks + since.unmapped_blocks {
            0 => Ok(()),
            blocks => Err(differs(format!(
                "it got the increment before at synch:{}, and {blocks} blocks were written since",
                synch.id
            ))),
        };
    }
    let pools: Vec<PoolInfo> = call(client, "pool_list", Value::Null)?;
    if !pools.iter().any(|pool| pool.uuid == header.pool) {
        return Err(differs(format!(
            "it has not got the increment before it, {} of series {}",
            hex(&header.previous_digest),
            header.series
        )));
    }
    // In the pool that it comes from, the two states are compared.
    let params = json!({
        "volume": member.uuid, "from": format!("lsn:{}", header.from_lsn), "to_volume": target.uuid,
    });
    let since: DiffPage = call(client, "volume_diff", params)?;
    if since.history.unwrap_or_default() != header.history {
        return Err(differs("the pool's history is another one".to_owned()));
    }
    match since.written_blocks + since.unmapped_blocks {
        0 => Ok(()),
        blocks => Err(differs(format!("{blocks} blocks differ"))),
    }
}
