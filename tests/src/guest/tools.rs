//! The programs inside a guest: lists them, and packs each with its shared libraries.

use super::GuestError;
use super::host::{command, copy_file, find_program, make_folder, make_link, run_step};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Programs that every guest has, besides busybox and dash. The full GNU and util-linux versions
/// are used in two cases. One is where busybox lacks options that storage tests use
/// (`dd oflag=direct`, `fsfreeze`, `lsblk`). The other is where a program starts another one,
/// because Debian's busybox would start its own applet instead of the program of that name.
const PROGRAMS: [&str; 41] = [
    "blkdiscard",
    "blkid",
    "blockdev",
    "chroot",
    "cmp",
    "dd",
    "debugfs",
    "dmsetup",
    "dumpe2fs",
    "e2fsck",
    "env",
    "find",
    "fio",
    "flock",
    "fsck.ext4",
    "fsfreeze",
    "fstrim",
    "ionice",
    "kmod",
    "losetup",
    "lsblk",
    "mkfs.ext4",
    "mkfs.xfs",
    "mount",
    "nice",
    "nohup",
    "nvme",
    "resize2fs",
    "setsid",
    "sha256sum",
    "stat",
    "sync",
    "tar",
    "taskset",
    "timeout",
    "tune2fs",
    "umount",
    "xargs",
    "xfs_growfs",
    "xfs_io",
    "xfs_repair",
];

/// The names under which `kmod` acts as one of its programs.
const KMOD_NAMES: [&str; 5] = ["modprobe", "insmod", "rmmod", "lsmod", "modinfo"];

/// Files that programs read or open at run time and `ldd` does not list; each is packed if it
/// exists. (The C library opens `libgcc_s` when a thread is cancelled.)
const RUN_TIME_FILES: [&str; 3] =
    ["/etc/mke2fs.conf", "/usr/lib/x86_64-linux-gnu/libgcc_s.so.1", "/etc/services"];

/// The programs' files on this machine.
///
/// # Errors
/// [`GuestError::MissingProgram`] for the first that is not installed.
pub(super) fn program_files() -> Result<Vec<PathBuf>, GuestError> {
    ["busybox", "dash"].into_iter().chain(PROGRAMS).map(find_program).collect()
}

/// Packs the programs and their libraries into the tree below `root`, whose top level must have the
/// merged-`/usr` links.
///
/// # Errors
/// A program is missing, or the file system reports an error.
pub(super) fn pack_programs(root: &Path) -> Result<(), GuestError> {
    let programs = program_files()?;
    let mut files: BTreeSet<PathBuf> =
        RUN_TIME_FILES.iter().map(PathBuf::from).filter(|path| path.exists()).collect();
    for program in &programs {
        files.extend(shared_libraries(program)?);
        let name = program.file_name().unwrap_or_default();
        let folder =
            if program.parent().is_some_and(|folder| folder.ends_with("sbin")) { "sbin" } else { "bin" };
        copy_file(program, &root.join("usr").join(folder).join(name))?;
    }
    for file in &files {
        copy_file(file, &below_merged_root(root, file))?;
    }
    make_folder(&root.join("usr/sbin"))?;
    for name in KMOD_NAMES {
        make_link("/usr/bin/kmod", &root.join("usr/sbin").join(name))?;
    }
    // Not busybox's own shell: it runs its applets whatever the path is.
    make_link("dash", &root.join("usr/bin/sh"))?;
    for applet in run_step(command("busybox")?.arg("--list"))?.lines() {
        // A full program takes precedence over busybox's applet of the same name.
        if ["usr/sbin", "usr/bin"].iter().all(|folder| !root.join(folder).join(applet).exists())
            && !KMOD_NAMES.contains(&applet)
            && applet != "busybox"
        {
            make_link("busybox", &root.join("usr/bin").join(applet))?;
        }
    }
    Ok(())
}

/// The files that the dynamic linker would load for a program, with the linker itself; empty for a
/// static program.
fn shared_libraries(program: &Path) -> Result<Vec<PathBuf>, GuestError> {
    let mut ldd = command("ldd")?;
    let output = ldd.arg(program).output().map_err(GuestError::host("starting ldd for", program))?;
    if !output.status.success() {
        // `ldd` fails for a static program.
        return Ok(Vec::new());
    }
    // Lines: "libx.so.1 => /lib/.../libx.so.1 (0x...)" and "/lib64/ld-linux-x86-64.so.2 (0x...)".
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from))
        .collect())
}

/// The place of a file of this machine below `root`, where `/lib` and `/lib64` are links into
/// `/usr`.
fn below_merged_root(root: &Path, file: &Path) -> PathBuf {
    let inside = file.strip_prefix("/").unwrap_or(file);
    if inside.starts_with("lib") || inside.starts_with("lib64") {
        root.join("usr").join(inside)
    } else {
        root.join(inside)
    }
}
