//! Reads return what was written, as fio checks it: at several queue depths, in mixed sizes, with
//! trims between writes, with and without digests.

use super::bed::{Bed, TestResult, nqn};
use std::fmt::Write as _;

/// Blocks of a MiB.
const MIB_BLOCKS: u64 = 256;

#[test]
fn guest_reads_what_it_wrote_and_zeroes_where_it_trimmed() -> TestResult {
    let bed = Bed::start(&["--volume-size", "256MiB", "--pool-size", "4GiB"], 2)?;
    for (pass, digests) in [&[][..], &["--hdr-digest", "--data-digest"][..]].into_iter().enumerate() {
        let device = bed.connect("vol0", digests)?;
        for (depth, size_mib) in [(1, 4), (8, 16), (32, 32)] {
            let job = format!("--rw=randwrite --bsrange=4k-128k --blockalign=4k --iodepth={depth}");
            bed.run(&fio(&device, &format!("{job} --size={size_mib}M --randseed={pass}{depth}")))?;
            bed.note(&format!("random writes of mixed sizes, depth {depth}, digests {}", pass == 1));
        }
        // Each block is trimmed directly before it is written.
        bed.run(&fio(&device, "--rw=trimwrite --bs=64k --iodepth=8 --offset=64M --size=8M"))?;
        bed.run(&fio(&device, "--rw=randtrimwrite --bs=16k --iodepth=8 --offset=80M --size=4M"))?;
        bed.note("trimmed and written again");
        trimmed_blocks_read_as_zeroes(&bed, &device)?;
        assert_eq!(bed.guest.nvme_disconnect(&nqn("vol0"))?, 1);
    }
    let stats = bed.appliance.rpc("pool_stats", serde_json::Value::Null)?;
    println!("pool: {stats}");

    let device = bed.connect("vol0", &[])?;
    discards_reach_the_log(&bed, &device)?;
    assert_eq!(bed.guest.nvme_disconnect(&nqn("vol0"))?, 1);
    bed.finish(&[])
}

/// fio's command line for one job with verification.
pub(crate) fn fio(device: &str, job: &str) -> String {
    let mut command = format!("fio --name=job --filename={device} --direct=1 --ioengine=libaio {job}");
    let _ = write!(command, " --verify=crc32c --verify_fatal=1 --do_verify=1 --output-format=terse");
    command
}

/// Trims every second 16 KiB of written data; the rest must stay unchanged.
fn trimmed_blocks_read_as_zeroes(bed: &Bed, device: &str) -> TestResult {
    bed.run(&format!(
        "set -e
        dd if=/dev/urandom of=/tmp/expected bs=1M count=1
        dd if=/tmp/expected of={device} bs=64k seek=1536 oflag=direct
        for piece in $(seq 0 2 63); do
            blkdiscard -o $((96 * 1048576 + piece * 16384)) -l 16384 {device}
            dd if=/dev/zero of=/tmp/expected bs=16k seek=$piece count=1 conv=notrunc
        done
        dd if={device} bs=64k skip=1536 count=16 iflag=direct | cmp - /tmp/expected"
    ))?;
    bed.note("trimmed blocks read as zeroes, those beside them as they were");
    Ok(())
}

/// blkdiscard, write zeroes and fstrim reduce the volume's mapped blocks, and the blocks read as
/// zeroes.
fn discards_reach_the_log(bed: &Bed, device: &str) -> TestResult {
    let mapped = || bed.volume_number("vol0", "/mapped_blocks");
    let before = mapped()?;
    assert!(before > 32 * MIB_BLOCKS, "{before}");
    bed.run(&format!("blkdiscard {device}"))?;
    assert_eq!(mapped()?, 0);
    bed.run(&format!("cmp -n 67108864 {device} /dev/zero"))?;

    bed.run(&format!("dd if=/dev/urandom of={device} bs=1M count=8 oflag=direct"))?;
    assert_eq!(mapped()?, 8 * MIB_BLOCKS);
    bed.run(&format!("blkdiscard -z -o 1M -l 4M {device} && echo 1 >/proc/sys/vm/drop_caches"))?;
    bed.run(&format!("cmp -i 1048576:0 -n 4194304 {device} /dev/zero"))?;
    assert_eq!(mapped()?, 4 * MIB_BLOCKS, "zeroes are not stored");
    bed.run(&format!("blkdiscard -o 5M -l 1M {device}"))?;
    assert_eq!(mapped()?, 3 * MIB_BLOCKS);

    bed.run(&format!("mkfs.ext4 -q {device} && mount {device} /mnt"))?;
    bed.run("dd if=/dev/urandom of=/mnt/file bs=1M count=24 conv=fsync")?;
    let full = mapped()?;
    bed.run("rm /mnt/file && sync")?;
    bed.show("fstrim -v /mnt")?;
    let trimmed = mapped()?;
    // The file system wrote a few blocks of its own in the meantime.
    assert!(trimmed + 23 * MIB_BLOCKS <= full, "{full} blocks before, {trimmed} after");
    bed.run(&format!("umount /mnt && e2fsck -fn {device}"))?;
    bed.note(&format!("discards reach the log: {before} blocks, {full} with a file, {trimmed} trimmed"));
    Ok(())
}
