//! The appliance is killed under load: hosts reconnect by themselves, their I/O continues, and no
//! acknowledged write is lost.

use super::bed::{Bed, LONG, SHORT, TestResult, nqn, wait_until};
use std::time::Duration;

/// How often the appliance is killed.
const KILLS: u32 = 3;

/// The number of bytes that are written between two kills.
const BETWEEN_KILLS_BYTES: u64 = 16 << 20;

/// The messages of a host's kernel when its target is killed and comes back.
pub(crate) const PROVOKED: [&str; 13] = [
    "starting error recovery",
    "Reconnecting in",
    "Failed reconnect attempt",
    "Successfully reconnected",
    "failed to connect socket",
    "failed to send request",
    "receive failed",
    "queue_size",
    "failed nvme_keep_alive_end_io",
    "failing over",
    "no usable path - requeuing I/O",
    "queue 0 connect failed",
    "callbacks suppressed",
];

#[test]
fn guest_comes_back_after_kills_and_has_lost_nothing() -> TestResult {
    let mut bed = Bed::start(&["--volume-size", "256MiB", "--pool-size", "4GiB"], 2)?;
    let device = bed.connect("vol0", &[])?;
    // Every block is written once, in random order and sizes; what was acknowledged before a kill
    // is read after it.
    let job = format!(
        "fio --name=job --filename={device} --direct=1 --ioengine=libaio --iodepth=16 --rw=randwrite --bsrange=4k-64k --blockalign=4k \
         --size=96M --verify=crc32c --verify_fatal=1"
    );
    let writer = bed.guest.spawn(&format!("{job} --do_verify=1 --output-format=terse"))?;
    for kill in 1..=KILLS {
        let written = || bed.volume_number("vol0", "/stats/written_bytes");
        let waited = wait_until("the writer goes on", LONG, || {
            Ok::<_, Box<dyn std::error::Error>>(written()? >= BETWEEN_KILLS_BYTES)
        })?;
        assert_eq!(writer.status()?, None, "the writer ended before kill {kill}");
        bed.appliance.kill_9();
        // Long enough for the host to notice and to fail to connect.
        std::thread::sleep(Duration::from_millis(1500));
        let restart = bed.appliance.restart()?;
        bed.note(&format!("kill {kill} after {waited:?} of writing, restarted in {restart:?}"));
    }
    let output = writer.wait(LONG)?;
    assert_eq!(output.status, 0, "{}", output.text());
    bed.note("the writer ended and has verified");

    // Once more without any cached data: after an ordinary stop and another connect.
    assert_eq!(bed.guest.nvme_disconnect(&nqn("vol0"))?, 1);
    bed.appliance.stop()?;
    bed.appliance.restart()?;
    assert_eq!(bed.connect("vol0", &[])?, device);
    bed.run(&format!("{job} --verify_only --output-format=terse"))?;
    bed.note("verified again after a stop");

    // As a database does: each line is synced before it is reported, so every reported line exists
    // after the kill.
    bed.run(&format!("mkfs.ext4 -q {device} && mount {device} /mnt"))?;
    let teller = bed.guest.spawn(
        "n=0; while [ ! -e /tmp/stop ]; do n=$((n + 1)); echo $n >>/mnt/log; sync /mnt/log || exit 1; echo $n; done",
    )?;
    let told = || last_number(&teller.output_so_far());
    wait_until("twenty lines are told", SHORT, || Ok::<_, std::io::Error>(told() >= 20))?;
    bed.appliance.kill_9();
    let at_kill = told();
    bed.appliance.restart()?;
    wait_until("the teller goes on", SHORT, || Ok::<_, std::io::Error>(told() >= at_kill + 20))?;
    bed.run("touch /tmp/stop")?;
    let output = teller.wait(SHORT)?;
    assert_eq!(output.status, 0, "{}", output.text());
    bed.run(&format!("umount /mnt && e2fsck -fn {device} && mount -o ro {device} /mnt"))?;
    let lines = bed.run("cat /mnt/log")?;
    let found: Vec<u64> = lines.lines().map(str::parse).collect::<Result<_, _>>()?;
    assert_eq!(found, (1..=last_number(&output.stdout)).collect::<Vec<_>>());
    bed.run("umount /mnt")?;
    bed.note(&format!("synced lines survive a kill: {} of them", lines.lines().count()));

    assert_eq!(bed.guest.nvme_disconnect(&nqn("vol0"))?, 1);
    bed.finish(&PROVOKED)
}

/// The last complete line as a number; 0 when there is none.
fn last_number(output: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(output);
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().next_back().and_then(|line| line.parse().ok()).unwrap_or(0)
}
