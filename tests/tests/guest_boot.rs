//! Tests the guest harness alone, without varve: boot, commands, shares, modules, time limits,
//! panics, and NVMe/TCP against the kernel's own target inside the guest.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use varve_tests::guest::{GUEST_ADDRESS, Guest, GuestConfig, GuestError, GuestImage};

const SHORT: Duration = Duration::from_secs(30);

type TestResult = Result<(), Box<dyn std::error::Error>>;

#[test]
fn one_guest_runs_all_kinds_of_commands() -> TestResult {
    let guest = Guest::boot(&GuestConfig::default())?;
    println!("booted in {:?}", guest.boot_time());

    // The kernel is the image's; standard error and standard output arrive together, in order;
    // every status is returned.
    assert_eq!(guest.run_ok("uname -r", SHORT)?.trim(), GuestImage::build_or_cached()?.release());
    let output = guest.run("echo out; echo err >&2; echo 'quoted \"$HOME\"'; exit 7", SHORT)?;
    assert_eq!((output.status, &*output.text()), (7, "out\nerr\nquoted \"$HOME\"\n"));
    assert_eq!(guest.run("kill -TERM $$", SHORT)?.status, 128 + 15);
    assert_eq!(guest.run("no-such-program", SHORT)?.status, 127);
    assert!(matches!(guest.run_ok("exit 3", SHORT), Err(GuestError::CommandFailed { status: 3, .. })));
    assert_eq!(guest.run("true", SHORT)?.stdout, b"");

    // 5 MiB of random bytes arrive unchanged, in the output and in the share.
    let command = "head -c 5242880 /dev/urandom >/tmp/big; cp /tmp/big /share/big; cat /tmp/big";
    let big = guest.run(command, SHORT)?.stdout;
    assert_eq!(big.len(), 5 << 20);
    assert!(big == std::fs::read(guest.share().join("big"))?);

    // A file from this side of the share.
    std::fs::write(guest.share().join("hello"), "from the host")?;
    assert_eq!(guest.run_ok("cat /share/hello", SHORT)?, "from the host");

    // Modules and file systems that the kernel loads by itself.
    guest.run_ok("modprobe nvme-tcp && grep -q nvme_tcp /proc/modules", SHORT)?;
    guest.run_ok("truncate -s 400M /tmp/disk && mkfs.xfs -q /tmp/disk && mount /tmp/disk /mnt", SHORT)?;
    guest.run_ok("umount /mnt && mkfs.ext4 -q -F /tmp/disk && mount /tmp/disk /mnt && umount /mnt", SHORT)?;
    guest.run_ok("fio --version && nvme version && dmsetup version && lsblk --version", SHORT)?;

    // Background work continues next to other commands.
    let job = guest.spawn("echo begun; while [ ! -e /tmp/go ]; do sleep 0.1; done; echo over; exit 5")?;
    guest.run_ok("touch /tmp/go", SHORT)?;
    let output = job.wait(SHORT)?;
    assert_eq!((output.status, &*output.text()), (5, "begun\nover\n"));
    let job = guest.spawn("sleep 1000")?;
    assert_eq!(job.status()?, None);
    job.kill()?;
    assert_eq!(job.wait(SHORT)?.status, 128 + 9);

    // As many jobs as the guest tracks, and not one more; orphans are reaped.
    let jobs = (0..64).map(|_| guest.spawn("(sleep 0.1 &)")).collect::<Result<Vec<_>, _>>()?;
    assert!(matches!(guest.spawn("true"), Err(GuestError::TooManyJobs { limit: 64 })));
    for job in jobs {
        assert_eq!(job.wait(SHORT)?.status, 0);
    }
    // All of them are reaped, but on a busy machine not at once; the shell that serves commands
    // reaps its own with the next command.
    let count = "sleep 0.5; grep -l '^State:.Z' /proc/[0-9]*/status | wc -l";
    let mut dead = guest.run_ok(count, SHORT)?;
    for _ in 0..20 {
        if dead.trim() == "0" {
            break;
        }
        dead = guest.run_ok(count, SHORT)?;
    }
    assert_eq!(dead.trim(), "0");

    // A command that hangs returns an error with its output and is killed with its children, and
    // the guest goes on.
    let begin = Instant::now();
    let error =
        guest.run("echo before; sleep 1000; echo after", Duration::from_secs(2)).expect_err("it fails");
    assert!(begin.elapsed() < Duration::from_mins(1), "it does not wait for the command");
    assert!(matches!(&error, GuestError::TimedOut { output, .. } if output == "before\n"), "{error}");
    assert_eq!(guest.run("pidof sleep", SHORT)?.status, 1);

    // There is no route to any other network.
    assert_eq!(guest.run_ok("ip route", SHORT)?.lines().count(), 1);
    guest.shut_down(SHORT)?;
    Ok(())
}

#[test]
fn two_guests_run_at_once_and_reach_this_machine() -> TestResult {
    let [first, second] = [GuestConfig::default(), GuestConfig::default()]
        .map(|config| std::thread::spawn(move || Guest::boot(&config)))
        .map(|thread| thread.join().expect("the thread does not panic"));
    // The threads that booted the guests have ended, and the guests still run.
    let (first, second) = (first?, second?);
    println!("booted side by side in {:?} and {:?}", first.boot_time(), second.boot_time());
    assert_ne!(first.host_nqn(), second.host_nqn());
    for guest in [&first, &second] {
        assert_eq!(guest.run_ok("cat /etc/nvme/hostnqn", SHORT)?.trim(), guest.host_nqn());
    }

    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let answering = std::thread::spawn(move || -> std::io::Result<()> {
        for _ in 0..2 {
            std::io::Write::write_all(&mut listener.accept()?.0, b"hello guest")?;
        }
        Ok(())
    });
    for guest in [&first, &second] {
        assert_eq!(guest.run_ok(&format!("nc host {port}"), SHORT)?, "hello guest");
    }
    answering.join().expect("the thread does not panic")?;

    let process = format!("/proc/{}", second.process_id());
    assert!(std::fs::exists(&process)?);
    second.power_cut();
    assert!(!std::fs::exists(&process)?);

    // A panic is reported as a panic, and then the guest has ended.
    let error = first.run("echo c >/proc/sysrq-trigger", SHORT).expect_err("it fails");
    assert!(matches!(&error, GuestError::Panicked { console } if console.contains("sysrq")), "{error}");
    assert!(matches!(first.run("true", SHORT), Err(GuestError::Panicked { .. })));
    Ok(())
}

/// Set for the child process of the test below.
const CHILD_VARIABLE: &str = "VARVE_GUEST_BOOT_CHILD";

#[test]
fn a_guest_dies_with_its_test() -> TestResult {
    if std::env::var_os(CHILD_VARIABLE).is_some() {
        let guest = Guest::boot(&GuestConfig::default())?;
        println!("\nqemu {}", guest.process_id());
        // It is killed here.
        std::thread::sleep(Duration::from_mins(10));
        return Ok(());
    }
    let temporary = tempfile::tempdir()?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--exact", "a_guest_dies_with_its_test", "--nocapture"])
        .env(CHILD_VARIABLE, "1")
        .env("TMPDIR", temporary.path())
        .stdout(Stdio::piped())
        .spawn()?;
    let output = BufReader::new(child.stdout.take().ok_or("no output")?);
    let number =
        output.lines().map_while(Result::ok).find_map(|line| Some(line.strip_prefix("qemu ")?.to_owned()));
    child.kill()?;
    child.wait()?;
    // The process that inherits it may reap it late: a zombie counts as dead.
    let status_path = format!("/proc/{}/status", number.ok_or("the child did not boot a guest")?);
    let begin = Instant::now();
    while std::fs::read_to_string(&status_path).is_ok_and(|status| !status.contains("State:\tZ")) {
        assert!(begin.elapsed() < SHORT, "QEMU lives on");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[test]
fn a_guest_that_cannot_boot_says_why() {
    let refused = GuestConfig { qemu_arguments: vec!["-no-such-option".into()], ..GuestConfig::default() };
    let error = Guest::boot(&refused).expect_err("it fails");
    assert!(matches!(&error, GuestError::Ended { qemu, .. } if qemu.contains("no-such-option")), "{error}");

    let never = GuestConfig { boot_limit: Duration::from_millis(300), ..GuestConfig::default() };
    assert!(matches!(Guest::boot(&never).expect_err("it fails"), GuestError::BootTimedOut { .. }));
}

#[test]
fn nvme_helpers_work_against_the_kernels_own_target() -> TestResult {
    let guest = Guest::boot(&GuestConfig::default())?;
    let nqn = "nqn.2026-01.example:disk";
    guest.run_ok(
        &format!(
            "set -e
            modprobe nvmet-tcp
            modprobe null_blk nr_devices=1 memory_backed=1 gb=1
            mount -t configfs none /sys/kernel/config
            cd /sys/kernel/config/nvmet
            mkdir -p subsystems/{nqn}/namespaces/1 ports/1
            echo 1 >subsystems/{nqn}/attr_allow_any_host
            echo -n /dev/nullb0 >subsystems/{nqn}/namespaces/1/device_path
            echo 1 >subsystems/{nqn}/namespaces/1/enable
            cd ports/1
            echo tcp >addr_trtype; echo ipv4 >addr_adrfam
            echo {GUEST_ADDRESS} >addr_traddr; echo 4420 >addr_trsvcid
            ln -s /sys/kernel/config/nvmet/subsystems/{nqn} subsystems/"
        ),
        SHORT,
    )?;
    let records = guest.nvme_discover_at(GUEST_ADDRESS, 4420)?;
    assert!(records.iter().any(|record| record.subnqn == nqn && record.trsvcid == "4420"), "{records:?}");

    assert_eq!(guest.nvme_devices(nqn)?, [""; 0]);
    let device = guest.nvme_connect_at(GUEST_ADDRESS, nqn, 4420, &["--nr-io-queues=1", "--hdr-digest"])?;
    assert_eq!(device, "/dev/nvme0n1");
    assert_eq!(guest.nvme_devices(nqn)?, [device.as_str()]);
    guest.run_ok(&format!("dd if={device} of=/dev/null bs=4k count=16 iflag=direct"), SHORT)?;
    for engine in ["libaio", "io_uring"] {
        let job = "--direct=1 --rw=randwrite --bs=4k --iodepth=8 --size=4M --verify=crc32c";
        guest.run_ok(&format!("fio --name=check --filename={device} --ioengine={engine} {job}"), SHORT)?;
    }
    assert_eq!(guest.nvme_disconnect(nqn)?, 1);
    assert_eq!(guest.nvme_devices(nqn)?, [""; 0]);

    let error =
        guest.nvme_connect_at(GUEST_ADDRESS, "nqn.2026-01.example:none", 4420, &[]).expect_err("it fails");
    assert!(matches!(error, GuestError::CommandFailed { .. }), "{error}");
    Ok(())
}

#[test]
fn an_emulated_controller_behind_an_iommu_is_handed_to_user_space() -> TestResult {
    let disk = tempfile::NamedTempFile::new()?;
    disk.as_file().set_len(64 << 20)?;
    let drive = format!("if=none,id=disk,format=raw,file={}", disk.path().display());
    let iommu = "intel-iommu,intremap=on,caching-mode=on";
    let arguments = ["-device", iommu, "-drive", &drive, "-device", "nvme,serial=varve,drive=disk"];
    let guest = Guest::boot(&GuestConfig {
        machine: "q35,kernel-irqchip=split".to_owned(),
        kernel_arguments: "intel_iommu=on".to_owned(),
        qemu_arguments: arguments.iter().map(Into::into).collect(),
        ..GuestConfig::default()
    })?;
    let script = "set -e
        modprobe -a vfio-pci vfio_iommu_type1
        for device in /sys/bus/pci/devices/*; do
            [ $(cat $device/class) = 0x010802 ] || continue
            echo vfio-pci >$device/driver_override
            echo ${device##*/} >/sys/bus/pci/drivers_probe
            ls -d /dev/vfio/$(basename $(readlink $device/iommu_group))
        done";
    assert_eq!(guest.run_ok(script, SHORT)?.lines().count(), 1);
    Ok(())
}
