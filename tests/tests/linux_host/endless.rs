//! The log is endless and the primary is not, as a real host sees it: 20 times the primary's size
//! is written and verified, and the past can be opened.

use serde_json::{Value, json};

use super::bed::{Bed, TestResult, nqn};
use super::verification::fio;

const PRIMARY_BYTES: u64 = 64 << 20;
const VOLUME_BYTES: u64 = 16 << 20;
/// How often fio is started, and how often it writes and verifies the whole volume each time.
const PASSES: u64 = 20;
const LOOPS: u64 = PRIMARY_BYTES / VOLUME_BYTES;

#[test]
fn guest_writes_twenty_primaries_and_reads_all_of_them_back() -> TestResult {
    let bed = Bed::start(&["--pool-size", "64MiB", "--volume-size", "16MiB", "--seal-seconds", "1"], 2)?;
    let device = bed.connect("vol0", &[])?;
    let mut digests = Vec::new();
    for pass in 1..=PASSES {
        let job = format!(
            "--rw=randwrite --bsrange=4k-128k --blockalign=4k --iodepth=16 --size={VOLUME_BYTES} --loops={LOOPS} --randseed={pass}"
        );
        bed.run(&fio(&device, &job))?;
        check_primary(&bed)?;
        digests.push(bed.guest.device_digest(&device)?);
        bed.appliance.rpc("synch_create", json!({"label": format!("pass-{pass}")}))?;
        bed.note(&format!("pass {pass}: {LOOPS} times {VOLUME_BYTES} bytes written and verified"));
    }
    let stats = bed.appliance.rpc("pool_stats", Value::Null)?;
    let written_bytes = number(&stats, "host_written_blocks") * 4096;
    println!(
        "{written_bytes} bytes written to a primary of {PRIMARY_BYTES}; {} segments released, {} blocks copied forward, write amplification {}",
        stats["released_segments"], stats["copied_blocks"], stats["write_amplification"]
    );
    assert!(written_bytes >= 20 * PRIMARY_BYTES, "{stats}");
    bed.appliance.command(&["archive", "seal"])?;
    let status = bed.appliance.rpc("archive_get_status", Value::Null)?;
    assert_eq!((&status["gaps"], &status["problem"]), (&json!([]), &Value::Null), "{status}");

    // The past, most of which is only in the archive.
    let oldest = number(&bed.appliance.rpc("pool_segments", Value::Null)?[0], "first_lsn");
    for pass in [1, 5, 10, 15, PASSES] {
        let (point, name) = (format!("synch:pass-{pass}"), format!("pass-{pass}"));
        let resolved = bed.appliance.rpc("restore_resolve", json!({"point": point}))?;
        assert_eq!(
            number(&resolved, "lsn") < oldest,
            pass < PASSES,
            "{resolved}, the primary begins at {oldest}"
        );
        bed.appliance.command(&[
            "restore",
            "clone",
            "vol0",
            "--at",
            &point,
            "--name",
            &name,
            "--read-only",
        ])?;
        let then = bed.connect(&name, &[])?;
        assert_eq!(bed.guest.device_digest(&then)?, digests[pass as usize - 1], "{point}");
        assert_eq!(bed.guest.nvme_disconnect(&nqn(&name))?, 1);
        bed.note(&format!("{point} is as it was"));
    }
    assert_eq!(bed.guest.device_digest(&device)?, digests[PASSES as usize - 1], "the present is untouched");
    check_primary(&bed)?;
    assert_eq!(bed.guest.nvme_disconnect(&nqn("vol0"))?, 1);
    bed.finish(&[])
}

/// Checks that the primary's file has its original size, and its W + r slots and no more.
fn check_primary(bed: &Bed) -> TestResult {
    let file_bytes = std::fs::metadata(bed.appliance.pool_folder().join("pool.varve"))?.len();
    // The additional block is the superblock at the tail.
    assert_eq!(file_bytes, PRIMARY_BYTES + 4096);
    let info = bed.appliance.rpc("pool_list", Value::Null)?[0].clone();
    let (slots, working_set) = (number(&info, "slots"), number(&info, "working_set_segments"));
    assert!(working_set + 4 <= slots && slots * number(&info, "segment_bytes") < PRIMARY_BYTES, "{info}");
    let segments = bed.appliance.rpc("pool_segments", Value::Null)?;
    let mut used: Vec<u64> = segments
        .as_array()
        .ok_or("a list of segments")?
        .iter()
        .filter(|segment| !segment["sequence"].is_null())
        .map(|segment| number(segment, "slot"))
        .filter(|&slot| slot != u64::MAX)
        .collect();
    used.sort_unstable();
    used.dedup();
    assert!(used.len() as u64 <= slots && used.iter().all(|&slot| slot < slots), "{slots} slots: {used:?}");
    let stats = bed.appliance.rpc("pool_stats", Value::Null)?;
    assert!(number(&stats, "segments_in_use") <= working_set + 1, "{stats}");
    Ok(())
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_else(|| panic!("no number {name} in {value}"))
}
