//! How the results of rolling back and of clones are shown.

use super::cells::{blocks, size};
use crate::text::table::{Table, pairs};
use crate::volume::{CloneSpace, RollBackInfo, VolumeState};

/// The clones.
pub(super) fn clones(clones: &[CloneSpace]) -> String {
    let mut table = Table::new(["NAME", "ORIGIN", "FROM", "STATE", "ACCESS", ">OWN", ">SHARED"]);
    for clone in clones {
        let state = match clone.state {
            VolumeState::Loading => match clone.loading_percent {
                Some(percent) => format!("loading, {percent} %"),
                None => "loading".to_owned(),
            },
            VolumeState::Degraded => "degraded".to_owned(),
            VolumeState::Online if clone.hydrating => "hydrating".to_owned(),
            VolumeState::Online => "online".to_owned(),
        };
        table.row([
            clone.name.clone(),
            clone.origin.clone().unwrap_or_else(|| "(deleted)".to_owned()),
            format!("lsn:{}", clone.parent.lsn),
            state,
            if clone.read_only { "read-only" } else { "read-write" }.to_owned(),
            blocks(clone.own_blocks),
            blocks(clone.shared_blocks),
        ]);
    }
    table.render("no clones; varve restore clone VOLUME --at POINT --name NAME makes one")
}

/// What was read of an anchor, as a part of a sentence.
pub(super) fn anchor(lsn: Option<u64>, bytes: u64) -> String {
    lsn.map_or_else(String::new, |lsn| format!(" and {} of the anchor at lsn:{lsn}", size(bytes)))
}

/// A roll-back.
pub(super) fn roll_back(done: &RollBackInfo) -> String {
    let undo = format!("varve restore roll-back {} --at snapshot:{}", done.volume.name, done.before.name);
    let rest = match done.inherited_blocks {
        0 => "all of it is in the working set".to_owned(),
        rest => format!("{} are copied in the background", blocks(rest)),
    };
    let scan = format!(
        "{} entries in at most {} segments (bound {}){}, {:.1} ms",
        done.entries_scanned,
        done.segments_touched,
        done.segments_bound,
        anchor(done.anchor_lsn, done.anchor_bytes),
        done.elapsed_us as f64 / 1000.0
    );
    pairs([
        ("Volume", done.volume.name.clone()),
        ("Is now", format!("as at {} (lsn:{})", done.point.point, done.point.lsn)),
        ("Before", format!("snapshot '{}' (lsn:{})", done.before.name, done.before.lsn)),
        ("To undo it", undo),
        ("In place", blocks(done.resident_blocks)),
        ("The rest", rest),
        ("Scanned", scan),
    ])
}
