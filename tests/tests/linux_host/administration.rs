//! The commands of an administrator: nvme-cli's queries of a controller, and resets under I/O.

use super::bed::{Bed, LONG, TestResult, nqn};

/// The host's I/O queues, as many as it has processors.
const QUEUES: u32 = 4;

#[test]
fn guest_administers_its_controller() -> TestResult {
    let bed = Bed::start(&["--volume-size", "128MiB", "--pool-size", "2GiB"], QUEUES)?;
    let device = bed.connect("vol0", &[&format!("--nr-io-queues={QUEUES}")])?;
    let pairs = bed.appliance.rpc("nvmf_subsystem_get_qpairs", serde_json::json!({"nqn": nqn("vol0")}))?;
    assert_eq!(pairs.as_array().map(Vec::len), Some(QUEUES as usize + 1), "{pairs}");
    bed.note("four I/O queues");

    let controller = "/dev/nvme0";
    let identity = bed.show(&format!("nvme id-ctrl {controller}"))?;
    assert!(identity.contains(&nqn("vol0")), "{identity}");
    let namespace = bed.show(&format!("nvme id-ns {device}"))?;
    assert!(namespace.contains("nsze    : 0x8000\n") && namespace.contains("lbads:12"), "{namespace}");
    for command in [
        format!("nvme ns-descs {device}"),
        format!("nvme list-ns {controller}"),
        format!("nvme id-iocs {controller}"),
        format!("nvme nvm-id-ctrl {controller}"),
        format!("nvme cmdset-ind-id-ns {controller} -n 1"),
        format!("nvme list-ctrl {controller}"),
        format!("nvme smart-log {controller}"),
        format!("nvme fw-log {controller}"),
        format!("nvme effects-log {controller} --csi=0 -H"),
        format!("nvme get-log {controller} --log-id=2 --log-len=512 >/dev/null"),
        format!("nvme changed-ns-list-log {controller}"),
        format!("nvme error-log {controller} | head -n 8"),
        "nvme list-subsys".to_owned(),
        "nvme list -v".to_owned(),
        format!("nvme get-property {controller} -o 0 -H"),
        format!("nvme get-property {controller} -o 0x1c -H"),
        format!("nvme get-feature {controller} -f 7 -H"),
        format!("nvme get-feature {controller} -f 0xb -H"),
        format!("nvme get-feature {controller} -f 0xf -H"),
        format!("nvme flush {device}"),
        format!("nvme ns-rescan {controller}"),
        format!("nvme write-zeroes {device} -s 0 -c 7"),
        format!("nvme dsm {device} --ad --slbs=0 --blocks=8"),
        format!("nvme verify {device} -s 0 -c 7"),
        format!("head -c 4096 /dev/zero | nvme compare {device} -s 0 -c 0 -z 4096"),
        format!("nvme read {device} -s 0 -c 0 -z 4096 | cmp -n 4096 - /dev/zero"),
    ] {
        bed.show(&command)?;
    }
    bed.note("nvme-cli is content");

    // Resets under I/O: nothing fails and nothing is lost. The writer runs until the resets are
    // done, however fast the machine is.
    let writer = bed.guest.spawn(&format!(
        "until [ -e /run/resets-done ]; do fio --name=job --filename={device} --direct=1 --ioengine=libaio --iodepth=16 \
         --rw=randwrite --bsrange=4k-64k --blockalign=4k --size=48M --verify=crc32c --verify_fatal=1 --output-format=terse || exit 1; done"
    ))?;
    let resets = 5;
    for _ in 0..resets {
        std::thread::sleep(std::time::Duration::from_millis(700));
        assert_eq!(writer.status()?, None, "{}", String::from_utf8_lossy(&writer.output_so_far()));
        bed.run(&format!("nvme reset {controller}"))?;
    }
    bed.run("touch /run/resets-done")?;
    let output = writer.wait(LONG)?;
    assert_eq!(output.status, 0, "{}", output.text());
    bed.note(&format!("{resets} resets under I/O"));

    assert_eq!(bed.guest.nvme_disconnect(&nqn("vol0"))?, 1);
    assert_eq!(bed.guest.nvme_devices(&nqn("vol0"))?, [""; 0]);
    bed.show("dmesg | grep -i nvme")?;
    // After a reset every request waits until the path is back; a request that was being sent when
    // the reset closed its connection (EPIPE) is sent again.
    bed.finish(&[
        "resetting controller",
        "no usable path - requeuing I/O",
        "callbacks suppressed",
        "failed to send request -32",
    ])
}
