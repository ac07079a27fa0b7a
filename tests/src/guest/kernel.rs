//! The guests' kernel: Debian's stock kernel, downloaded as a package and unpacked, never
//! installed.

use super::GuestError;
use super::host::{command, copy_file, make_folder, remove_folder, run_step, write_file};
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// The modules of a guest; the modules that these depend on are added. `modprobe` in the guest
/// loads them.
pub(super) const MODULES: [&str; 33] = [
    // The test bed.
    "virtio_pci",
    "virtio_console",
    "virtio_net",
    "virtio_blk",
    "virtio_rng",
    "9p",
    "9pnet_virtio",
    // NVMe hosts, and the kernel's own target for comparison.
    "nvme",
    "nvme-fabrics",
    "nvme-tcp",
    "nvmet",
    "nvmet-tcp",
    // File systems, and the modules that they load by name.
    "ext4",
    "xfs",
    "crc32c_generic",
    "crc32c-intel",
    "crc32-pclmul",
    "crct10dif-pclmul",
    // Block devices that inject faults or replace real ones.
    "dm-mod",
    "dm-flakey",
    "dm-log-writes",
    "dm-snapshot",
    "dm-crypt",
    "loop",
    "null_blk",
    "brd",
    // Tape drives.
    "st",
    "virtio_scsi",
    // A controller for the user-space driver.
    "vfio-pci",
    "vfio_iommu_type1",
    // A network with faults.
    "sch_netem",
    "sch_tbf",
    "tcp_diag",
];

/// Names a kernel package to use instead of a downloaded one, for machines without access to
/// Debian's archive.
pub(super) const PACKAGE_VARIABLE: &str = "VARVE_GUEST_KERNEL_PACKAGE";

/// Returns the kernel's package: the one that [`PACKAGE_VARIABLE`] names, the one of an earlier
/// run, or one that it downloads into `cache`.
///
/// # Errors
/// The output of `apt-cache` or `apt-get` when they fail.
pub(super) fn kernel_package(cache: &Path) -> Result<PathBuf, GuestError> {
    if let Some(package) = std::env::var_os(PACKAGE_VARIABLE) {
        return Ok(PathBuf::from(package));
    }
    let folder = cache.join("kernel");
    if let Some(package) = package_in(&folder) {
        return Ok(package);
    }
    let depends = run_step(command("apt-cache")?.args(["depends", "--important", "linux-image-amd64"]))?;
    let name = depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .ok_or_else(|| GuestError::UnexpectedAnswer {
            program: "apt-cache depends linux-image-amd64",
            detail: format!("no kernel package in {depends:?}; has `apt-get update` been run?"),
        })?;
    // A partial download must not leave a file that a later run could use as a package.
    let partial = cache.join("kernel.partial");
    remove_folder(&partial)?;
    make_folder(&partial)?;
    run_step(command("apt-get")?.args(["--quiet", "download", name]).current_dir(&partial))?;
    remove_folder(&folder)?;
    std::fs::rename(&partial, &folder).map_err(GuestError::host("renaming", &partial))?;
    package_in(&folder).ok_or_else(|| GuestError::UnexpectedAnswer {
        program: "apt-get download",
        detail: format!("it succeeded, but left no package of {name}"),
    })
}

/// The package file in a folder, if there is one.
fn package_in(folder: &Path) -> Option<PathBuf> {
    std::fs::read_dir(folder)
        .ok()?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
}

/// Unpacks `package` into `scratch`, copies its kernel to `kernel`, and copies the [`MODULES`] with
/// all their dependencies into the tree below `root`. Returns the kernel's release, as `uname -r`
/// will print it.
///
/// # Errors
/// This kernel does not have one of the modules, or a program fails.
pub(super) fn pack_kernel(
    package: &Path,
    scratch: &Path,
    kernel: &Path,
    root: &Path,
) -> Result<String, GuestError> {
    run_step(command("dpkg")?.arg("-x").arg(package).arg(scratch))?;
    let boot = scratch.join("boot");
    let release = std::fs::read_dir(&boot)
        .map_err(GuestError::host("listing", &boot))?
        .filter_map(Result::ok)
        .find_map(|entry| entry.file_name().to_str()?.strip_prefix("vmlinuz-").map(str::to_owned))
        .ok_or_else(|| GuestError::UnexpectedAnswer {
            program: "dpkg -x",
            detail: format!("no kernel in {}", package.display()),
        })?;
    unpack_kernel_file(&boot.join(format!("vmlinuz-{release}")), kernel)?;
    run_step(command("depmod")?.arg("-b").arg(scratch).arg(&release))?;

    let modules_folder = Path::new("lib/modules").join(&release);
    let mut files: BTreeSet<PathBuf> =
        ["modules.builtin", "modules.builtin.modinfo", "modules.order"].iter().map(PathBuf::from).collect();
    for module in MODULES {
        let plan = run_step(command("modprobe")?.arg("-d").arg(scratch).args([
            "-S",
            &release,
            "--show-depends",
            module,
        ]))?;
        // Lines: "insmod /.../kernel/fs/ext4/ext4.ko [options]" and "builtin NAME".
        for path in plan.lines().filter_map(|line| line.strip_prefix("insmod ")?.split(' ').next()) {
            if let Some((_, inside)) = path.split_once(&format!("/{release}/")) {
                files.insert(PathBuf::from(inside));
            }
        }
    }
    for file in files {
        copy_file(
            &scratch.join(&modules_folder).join(&file),
            &root.join("usr").join(&modules_folder).join(&file),
        )?;
    }
    run_step(command("depmod")?.arg("-b").arg(root).arg(&release))?;
    Ok(release)
}

/// Extracts the kernel proper from a `vmlinuz`: an ELF file that QEMU starts by its PVH entry. An
/// interpreted guest would need 3 seconds to decompress it on each boot. Debian 12's kernel is
/// packed with xz; a kernel that is not packed with xz is copied unchanged.
///
/// The setup header ("The Linux/x86 Boot Protocol") gives its position: `setup_sects` (u8 at
/// 0x1f1), and `payload_offset` and `payload_length` (u32 at 0x248 and 0x24c). The offset counts
/// from the end of the setup sectors. These have 512 bytes each, and there is one more of them than
/// `setup_sects` counts.
fn unpack_kernel_file(packed: &Path, unpacked: &Path) -> Result<(), GuestError> {
    const XZ_MAGIC: &[u8] = b"\xfd7zXZ\0";
    let content = std::fs::read(packed).map_err(GuestError::host("reading", packed))?;
    let Some(payload) = kernel_payload(&content).filter(|payload| payload.starts_with(XZ_MAGIC)) else {
        return copy_file(packed, unpacked);
    };
    let stream_path = unpacked.with_extension("xz");
    write_file(&stream_path, payload)?;
    let output = File::create(unpacked).map_err(GuestError::host("making", unpacked))?;
    // The kernel build appends the unpacked length to the stream, hence "single".
    let mut unpack = command("xz")?;
    unpack
        .args(["--decompress", "--stdout", "--single-stream"])
        .arg(&stream_path)
        .stdout(Stdio::from(output));
    run_step(&mut unpack)?;
    std::fs::remove_file(&stream_path).map_err(GuestError::host("removing", &stream_path))
}

/// The compressed part of a `vmlinuz`; none if the file is not a `vmlinuz`.
fn kernel_payload(content: &[u8]) -> Option<&[u8]> {
    let field = |offset: usize| -> Option<usize> {
        let bytes = content.get(offset..offset + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    if content.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let setup_bytes = (usize::from(*content.get(0x1f1)?) + 1) * 512;
    let start = setup_bytes.checked_add(field(0x248)?)?;
    content.get(start..start.checked_add(field(0x24c)?)?)
}
