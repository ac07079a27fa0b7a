//! How the results of rolling back and of clones are shown.

use super::cells::{blocks, size};
use crate::text::table::{Table, pairs};
use crate::volume::{CloneSpace, RollBackInfo, ScanCost, VolumeState};

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

/// What was read to build an index, and how long the whole took.
pub(super) fn scan(cost: &ScanCost, elapsed_us: u64) -> String {
    let anchor = |lsn: u64| format!(" and {} of the anchor at lsn:{lsn}", size(cost.anchor_bytes));
    format!(
        "{} entries in at most {} segments (bound {}){}, {:.1} ms",
        cost.entries_scanned,
        cost.segments_touched,
        cost.segments_bound,
        cost.anchor_lsn.map_or_else(String::new, anchor),
        elapsed_us as f64 / 1000.0
    )
}

/// A roll-back.
pub(super) fn roll_back(info: &RollBackInfo) -> String {
    let RollBackInfo { done, point, before, elapsed_us } = info;
    let undo = format!("varve restore roll-back {} --at snapshot:{}", done.volume.name, before.name);
    let rest = match done.inherited_blocks {
        0 => "all of it is in the working set".to_owned(),
        rest => format!("{} are copied in the background", blocks(rest)),
    };
    pairs([
        ("Volume", done.volume.name.clone()),
        ("Is now", format!("as at {} (lsn:{})", point.point, point.lsn)),
        ("Before", format!("snapshot '{}' (lsn:{})", before.name, before.lsn)),
        ("To undo it", undo),
        ("In place", blocks(done.resident_blocks)),
        ("The rest", rest),
        ("Scanned", scan(&done.scan, *elapsed_us)),
    ])
}
