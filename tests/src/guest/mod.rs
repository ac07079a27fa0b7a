//! Guests: virtual machines with a stock Debian kernel, used as hosts that a test controls command
//! by command.
//!
//! ```no_run
//! use std::time::Duration;
//! use varve_tests::guest::{Guest, GuestConfig};
//! # fn main() -> Result<(), varve_tests::guest::GuestError> {
//! let guest = Guest::boot(&GuestConfig::default())?;
//! let output = guest.run("uname -r", Duration::from_secs(10))?;
//! assert_eq!(output.status, 0);
//! let device = guest.nvme_connect("nqn.2026-01.example:volume", 4420, &["--nr-io-queues=2"])?;
//! guest.run_ok(&format!("mkfs.xfs {device}"), Duration::from_mins(1))?;
//! # Ok(())
//! # }
//! ```
//!
//! # How it works
//!
//! [`GuestImage`] makes a kernel and an initramfs once per machine, as an ordinary user, from
//! Debian's packages. It downloads and unpacks the kernel's package and never installs it. It
//! copies the programs from this machine, with their libraries. [`Guest::boot`] starts QEMU with
//! them, by default with QEMU's interpreter (TCG), which works on every machine. There is no disk
//! and no state: each boot is the same, and to end a guest is to kill a process.
//!
//! Commands use two channels. A virtio-serial port, which on this side is QEMU's standard input and
//! output, carries short lines: run this job; that job ended with this status. Reads of the port
//! block (a folder would have to be polled), and its lines arrive whole. The command itself and its
//! output are files in a folder shared through 9p (`/ctl` in the guest). So output of any size and
//! content arrives exactly, the partial output of a hanging command can be read, and any number of
//! commands run side by side. Nothing has to be quoted, framed or separated from kernel messages.
//! The serial console carries only the kernel's messages, into a file that [`Guest::console`]
//! reads.
//!
//! Each command runs in its own session, so that a command that takes too long can be killed with
//! its children while the guest goes on. A command that hangs in the kernel (on an `NVMe` device
//! whose target is gone) cannot be killed. It is abandoned, and the next command still runs.
//!
//! A second 9p share, `/share` in the guest, belongs to the test: it exchanges files through
//! [`Guest::share`]. Neither side caches it, so each side reads at once what the other writes. For
//! the same reason a program in the guest cannot map its files for writing.
//!
//! The network is QEMU's user network. [`HOST_ADDRESS`] in the guest is this machine's loopback, so
//! the guest reaches what a test listens on at 127.0.0.1. The guest has no route to anything else.
//!
//! A guest ends with its [`Guest`] and never outlives the test: the kernel kills QEMU when the
//! test's process ends for any reason. A panic of the guest's kernel (an oops counts as one) ends
//! QEMU, and the command that was waited for returns [`GuestError::Panicked`] with the end of the
//! console.
//!
//! On a machine that gives its users access to KVM, `VARVE_GUEST_ACCELERATOR=kvm` makes guests
//! fast; nothing needs it.

mod error;
mod host;
mod image;
mod job;
mod kernel;
mod machine;
mod nvme;
mod tools;

pub use error::GuestError;
pub use image::GuestImage;
pub use job::{Job, Output};
pub use nvme::DiscoveryRecord;

use host::{make_folder, write_file};
use machine::Machine;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The address of this machine's loopback inside a guest.
pub const HOST_ADDRESS: &str = "10.0.2.2";

/// The guest's own address.
pub const GUEST_ADDRESS: &str = "10.0.2.15";

/// Overrides [`GuestConfig::accelerator`] for all guests of a test run.
const ACCELERATOR_VARIABLE: &str = "VARVE_GUEST_ACCELERATOR";

/// How a guest is made. The default is right for most tests.
#[derive(Debug, Clone)]
pub struct GuestConfig {
    /// QEMU's `-accel`.
    pub accelerator: String,
    /// QEMU's `-machine`; an emulated IOMMU needs `q35,kernel-irqchip=split`.
    pub machine: String,
    /// Processors of the guest.
    pub processors: u32,
    /// Memory of the guest in MiB; at least 512. The root file system takes about 130, and a boot
    /// briefly needs twice that.
    pub memory_mib: u32,
    /// Appended to the kernel's command line (`intel_iommu=on`).
    pub kernel_arguments: String,
    /// More arguments for QEMU, before those of the test bed (`-device nvme,...`, `-drive ...`).
    pub qemu_arguments: Vec<OsString>,
    /// The folder that is `/share` in the guest. None means a new folder that is removed with the
    /// guest.
    pub share: Option<PathBuf>,
    /// The `NVMe` host identifier, a UUID. None means a new one. The host NQN is made from it.
    pub host_id: Option<String>,
    /// How long one attempt to boot may take. A busy machine can be ten times slower than an idle
    /// one.
    pub boot_limit: Duration,
    /// How many times a boot is tried when it takes too long. QEMU's interpreter sometimes loses an
    /// early interrupt (one boot in 30), and such a kernel waits forever. Varve is not involved at
    /// that point.
    pub boot_attempts: u32,
}

impl Default for GuestConfig {
    fn default() -> Self {
        Self {
            accelerator: std::env::var(ACCELERATOR_VARIABLE)
                .unwrap_or_else(|_| "tcg,thread=multi,tb-size=256".to_owned()),
            machine: "q35".to_owned(),
            processors: 2,
            memory_mib: 2048,
            kernel_arguments: String::new(),
            qemu_arguments: Vec::new(),
            share: None,
            host_id: None,
            boot_limit: Duration::from_mins(1),
            boot_attempts: 3,
        }
    }
}

/// A running guest. It ends when this is dropped.
#[derive(Debug)]
pub struct Guest {
    machine: Arc<Machine>,
    /// Holds the console, the control share, and the test's share unless the test has its own;
    /// removed with the guest.
    _folder: TempDir,
    control_share: PathBuf,
    share: PathBuf,
    host_id: String,
    boot_time: Duration,
}

impl Guest {
    /// Boots a guest from [`GuestImage::build_or_cached`] and waits until it accepts commands.
    ///
    /// # Errors
    /// The image cannot be made, QEMU is not installed or refuses its arguments, the kernel panics,
    /// or every allowed attempt to boot takes longer than the limit. The error holds the end of the
    /// console.
    pub fn boot(config: &GuestConfig) -> Result<Self, GuestError> {
        let image = GuestImage::build_or_cached()?;
        for attempt in 1..config.boot_attempts {
            match Self::boot_image(&image, config) {
                Err(error @ GuestError::BootTimedOut { .. }) => eprintln!("boot attempt {attempt}: {error}"),
                other => return other,
            }
        }
        Self::boot_image(&image, config)
    }

    /// Boots a guest from an existing image, with one attempt.
    ///
    /// # Errors
    /// As [`Guest::boot`].
    pub fn boot_image(image: &GuestImage, config: &GuestConfig) -> Result<Self, GuestError> {
        let begin = Instant::now();
        let folder = tempfile::Builder::new()
            .prefix("varve-guest-")
            .tempdir()
            .map_err(GuestError::host("making a folder in", std::env::temp_dir()))?;
        let control_share = folder.path().join("control");
        make_folder(&control_share)?;
        let share = config.share.clone().unwrap_or_else(|| folder.path().join("share"));
        make_folder(&share)?;
        let host_id = match config.host_id.clone() {
            Some(host_id) => host_id,
            None => new_uuid()?,
        };
        write_file(&control_share.join("hostid"), format!("{host_id}\n"))?;

        let console_path = folder.path().join("console");
        let arguments = qemu_arguments(image, config, &control_share, &share, &console_path);
        let machine = Machine::start(arguments, console_path, folder.path().join("qemu.errors"))?;
        // From here on a failure drops the guest, which ends QEMU.
        let mut guest =
            Self { machine, _folder: folder, control_share, share, host_id, boot_time: Duration::ZERO };
        guest.machine.wait_ready(config.boot_limit)?;
        guest.boot_time = begin.elapsed();
        Ok(guest)
    }

    /// Runs a shell command to its end. `/bin/sh` is dash; the command may have many lines.
    ///
    /// # Errors
    /// [`GuestError::TimedOut`] after `limit`: the command is then killed, and the guest goes on.
    /// [`GuestError::Panicked`] or [`GuestError::Ended`] when the guest has ended. A status other
    /// than 0 is not an error.
    pub fn run(&self, command: &str, limit: Duration) -> Result<Output, GuestError> {
        self.spawn(command)?.wait(limit)
    }

    /// Runs a shell command that must succeed, and returns its output as text.
    ///
    /// # Errors
    /// As [`Guest::run`], and [`GuestError::CommandFailed`] for a status other than 0.
    pub fn run_ok(&self, command: &str, limit: Duration) -> Result<String, GuestError> {
        self.run(command, limit)?.into_text(command)
    }

    /// Starts a shell command in the background.
    ///
    /// # Errors
    /// [`GuestError::TooManyJobs`] when 64 are started and not waited for, or the guest has ended.
    pub fn spawn(&self, command: &str) -> Result<Job, GuestError> {
        Job::start(&self.machine, &self.control_share, command)
    }

    /// What the guest's kernel has written to its console so far: messages of level "warning" and
    /// above, and all of a panic. `run("dmesg")` returns the whole log.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&self.machine.console()).into_owned()
    }

    /// The folder of this machine that is `/share` in the guest.
    pub fn share(&self) -> &Path {
        &self.share
    }

    /// The `NVMe` host NQN that this guest connects with.
    pub fn host_nqn(&self) -> String {
        format!("nqn.2014-08.org.nvmexpress:uuid:{}", self.host_id)
    }

    /// How long the boot took, from the start of QEMU until the guest accepted commands.
    pub fn boot_time(&self) -> Duration {
        self.boot_time
    }

    /// QEMU's process ID.
    pub fn process_id(&self) -> u32 {
        self.machine.process_id()
    }

    /// Cuts the power: QEMU is killed at once, and the guest gets no notice. Dropping a guest does
    /// the same.
    pub fn power_cut(self) {
        drop(self);
    }

    /// Shuts the guest down in order: syncs its file systems, then powers off.
    ///
    /// # Errors
    /// [`GuestError::TimedOut`] when it takes longer than `limit`; the guest is then killed.
    /// [`GuestError::Panicked`] or [`GuestError::Ended`] when it had ended before.
    pub fn shut_down(self, limit: Duration) -> Result<(), GuestError> {
        self.machine.say("stop")?;
        if self.machine.wait_ended(limit) {
            return Ok(());
        }
        Err(GuestError::TimedOut { command: "stop".to_owned(), after: limit, output: self.console() })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.machine.kill();
    }
}

/// A random UUID from the kernel.
fn new_uuid() -> Result<String, GuestError> {
    let source = "/proc/sys/kernel/random/uuid";
    let uuid = std::fs::read_to_string(source).map_err(GuestError::host("reading", source))?;
    Ok(uuid.trim().to_owned())
}

/// QEMU's command line.
fn qemu_arguments(
    image: &GuestImage,
    config: &GuestConfig,
    control_share: &Path,
    share: &Path,
    console_path: &Path,
) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = Vec::new();
    let mut add = |words: &[&str]| arguments.extend(words.iter().map(OsString::from));
    add(&["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    add(&["-machine", &config.machine, "-accel", &config.accelerator, "-cpu", "max"]);
    add(&["-smp", &config.processors.to_string(), "-m", &config.memory_mib.to_string()]);
    // An oops is a panic, a panic is a reboot, and a reboot ends QEMU, so no guest runs on half
    // broken.
    let kernel_arguments = format!(
        "console=ttyS0 loglevel=5 panic=-1 oops=panic mitigations=off nokaslr no_timer_check tsc=reliable \
         random.trust_cpu=on audit=0 {}",
        config.kernel_arguments
    );
    add(&["-append", &kernel_arguments]);
    arguments.extend(["-kernel".into(), image.kernel().into(), "-initrd".into(), image.initramfs().into()]);
    arguments.extend(config.qemu_arguments.iter().cloned());
    arguments.extend(["-serial".into(), joined("file:", console_path, "")]);
    for (name, folder) in [("ctl", control_share), ("share", share)] {
        // Owners of files are set only as far as this user may; no test needs more.
        let options = format!(",id={name},security_model=none,multidevs=remap");
        arguments.extend(["-fsdev".into(), joined("local,path=", folder, &options)]);
        arguments.extend(["-device".into(), format!("virtio-9p-pci,fsdev={name},mount_tag={name}").into()]);
    }
    let mut add = |words: &[&str]| arguments.extend(words.iter().map(OsString::from));
    add(&["-netdev", "user,id=network,ipv6=off", "-device", "virtio-net-pci,netdev=network,romfile="]);
    add(&["-chardev", "stdio,id=control,signal=off", "-device", "virtio-serial-pci"]);
    add(&["-device", "virtserialport,chardev=control,name=varve.control"]);
    add(&["-object", "rng-random,id=random,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=random"]);
    arguments
}

/// A path inside a QEMU option; QEMU requires a comma in it to be doubled.
fn joined(before: &str, path: &Path, after: &str) -> OsString {
    let path = path.to_string_lossy().replace(',', ",,");
    format!("{before}{path}{after}").into()
}
