//! Volumes that change under a host: grown, deleted, read-only.

use super::bed::{Bed, LONG, SHORT, TestResult, nqn, wait_until};

const MIB: u64 = 1 << 20;

#[test]
fn guest_sees_volumes_grow_go_and_refuse_writes() -> TestResult {
    let bed = Bed::start(&["--volume-size", "128MiB", "--pool-size", "2GiB"], 2)?;
    for volume in ["other", "doomed"] {
        bed.appliance.command(&["volume", "create", volume, "64MiB"])?;
    }
    let device = bed.connect("vol0", &[])?;
    let other = bed.connect("other", &[])?;
    let doomed = bed.connect("doomed", &[])?;
    bed.show("nvme list")?;

    // Two volumes at once; both are verified.
    let job = "--direct=1 --ioengine=libaio --rw=randwrite --bs=16k --iodepth=8 --size=8M --verify=crc32c --verify_fatal=1";
    bed.run(&format!(
        "fio --output-format=terse --name=a --filename={other} {job} --name=b --filename={doomed} {job}"
    ))?;
    bed.note("two volumes written and verified at once");

    // A read-only clone.
    bed.run(&format!("mkfs.ext4 -q {device} && mount {device} /mnt && echo kept >/mnt/file && umount /mnt"))?;
    bed.appliance.command(&["synch", "create", "--label", "small"])?;
    let clone = ["restore", "clone", "vol0", "--at", "synch:small", "--name", "frozen", "--read-only"];
    bed.appliance.command(&clone)?;
    let frozen = bed.connect("frozen", &[])?;
    assert_eq!(bed.run(&format!("blockdev --getro {frozen}"))?.trim(), "1");
    assert_ne!(
        bed.guest.run(&format!("dd if=/dev/zero of={frozen} bs=4k count=1 oflag=direct"), SHORT)?.status,
        0
    );
    // Bypasses the kernel's own check: the appliance refuses, with the message of a write-protected
    // namespace.
    let forced = format!("head -c 4096 /dev/zero | nvme write {frozen} -s 0 -c 0 -z 4096");
    let refused = bed.guest.run(&forced, SHORT)?;
    println!("# {forced}\n{}", refused.text().trim_end());
    assert!(
        refused.status != 0 && refused.text().to_lowercase().contains("write protected"),
        "{}",
        refused.text()
    );
    bed.run(&format!("mount -o ro {frozen} /mnt && grep -q kept /mnt/file && umount /mnt"))?;
    bed.note("a read-only clone refuses writes");

    // A mounted volume grows; nobody requests a rescan.
    bed.run(&format!("mount {device} /mnt"))?;
    let busy =
        bed.guest.spawn(&format!("fio --output-format=terse --name=a --filename={other} {job} --loops=3"))?;
    bed.appliance.command(&["volume", "resize", "vol0", "256MiB"])?;
    let seen = wait_until("the guest sees the new size", SHORT, || {
        let size = bed.run(&format!("blockdev --getsize64 {device}"))?;
        Ok::<_, Box<dyn std::error::Error>>(size.trim().parse::<u64>()? == 256 * MIB)
    })?;
    bed.note(&format!("the guest saw the new size after {seen:?}"));
    bed.show(&format!("resize2fs {device} 2>&1; df -m /mnt"))?;
    let free_mib: u64 = bed.run("df -m /mnt | awk 'END { print $4 }'")?.trim().parse()?;
    assert!(free_mib > 180, "{free_mib}");
    bed.run("dd if=/dev/urandom of=/mnt/large bs=1M count=140 conv=fsync; sync")?;
    bed.run(&format!(
        "umount /mnt && e2fsck -fn {device} && mount {device} /mnt && cmp -n 4 /mnt/file /mnt/file"
    ))?;

    // A volume is deleted while a host uses it: it disappears, and the others are not affected.
    let victim = bed.guest.spawn(&format!("dd if=/dev/zero of={doomed} bs=64k oflag=direct"))?;
    std::thread::sleep(std::time::Duration::from_millis(500));
    println!("{}", bed.appliance.command(&["volume", "delete", "--force", "doomed"])?.trim_end());
    let took = wait_until("the device of the deleted volume is gone", SHORT, || {
        Ok::<_, Box<dyn std::error::Error>>(bed.guest.nvme_devices(&nqn("doomed"))?.is_empty())
    })?;
    let output = victim.wait(SHORT)?;
    assert_ne!(output.status, 0, "{}", output.text());
    println!("the device is gone after {took:?}, its writer says: {}", output.text().trim_end());
    let output = busy.wait(LONG)?;
    assert_eq!(output.status, 0, "{}", output.text());
    bed.run("echo more >>/mnt/file && sync && umount /mnt")?;
    bed.run(&format!("e2fsck -fn {device}"))?;
    let found = bed.guest.nvme_discover(bed.appliance.port())?;
    assert!(!found.iter().any(|record| record.subnqn == nqn("doomed")), "{found:?}");
    bed.note("a deleted volume is gone, and did no harm to others");

    // A new volume of that name is a different one: the host, which still retries, finds it by
    // itself.
    bed.appliance.command(&["volume", "create", "doomed", "32MiB"])?;
    let took = wait_until("the new volume is there", LONG, || {
        Ok::<_, Box<dyn std::error::Error>>(match bed.guest.nvme_devices(&nqn("doomed"))?.first() {
            Some(device) => bed.run(&format!("blockdev --getsize64 {device}"))?.trim() == "33554432",
            None => false,
        })
    })?;
    let device = bed.guest.nvme_devices(&nqn("doomed"))?.remove(0);
    bed.run(&format!("fio --output-format=terse --name=a --filename={device} {job}"))?;
    bed.note(&format!("a new volume of the same name was found after {took:?}"));

    bed.show("nvme list-subsys; nvme list")?;
    for volume in ["frozen", "other", "vol0", "doomed"] {
        assert_eq!(bed.guest.nvme_disconnect(&nqn(volume))?, 1);
    }
    // Only the messages of the deleted volume's device and controller.
    bed.finish(&["nvme2c2n1", "nvme nvme2: "])
}
