//! The past next to the present: a file system with a real tree of files is frozen and marked, then
//! changed, and the mark is opened as a clone.

use super::bed::{Bed, SHORT, TestResult, wait_until};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The minimum size of the tree, from the requirement.
const TREE_FILES: usize = 5_000;
const TREE_BYTES: u64 = 200 << 20;

/// Files up to this size provide the number of files, larger ones up to [`LARGE_BYTES_MAX`] provide
/// the bytes.
const SMALL_BYTES_MAX: u64 = 16 << 10;
const LARGE_BYTES_MAX: u64 = 4 << 20;

/// The folders of this machine that provide the files, in this order.
const SOURCES: [&str; 3] = ["/usr/share", "/usr/lib", "/usr/include"];

#[test]
fn guest_opens_the_past_beside_the_present() -> TestResult {
    let mut bed = Bed::start(&["--volume-size", "1GiB", "--pool-size", "4GiB"], 2)?;
    let files = prepare(bed.guest.share())?;
    bed.note("the tree is packed on the host");

    let found = bed.guest.nvme_discover(bed.appliance.port())?;
    assert!(found.iter().any(|record| record.subnqn == super::bed::nqn("vol0")), "{found:?}");
    let device = bed.connect("vol0", &[])?;
    bed.run(&format!("mkfs.ext4 -q {device} && mount {device} /mnt && mkdir /mnt/tree"))?;
    bed.run("tar -xf /share/tree.tar -C /mnt/tree && sync")?;
    bed.note("unpacked and synced");

    bed.run("fsfreeze -f /mnt")?;
    println!("{}", bed.appliance.command(&["synch", "create", "--label", "before"])?.trim_end());
    bed.run("fsfreeze -u /mnt")?;
    bed.run("cd /mnt/tree && xargs -0 rm </share/deleted && tar --overwrite -xf /share/changed.tar && sync")?;
    bed.note("a quarter deleted, a quarter overwritten");

    let clone = ["restore", "clone", "vol0", "--at", "synch:before", "--name", "then"];
    println!("{}", bed.appliance.command(&clone)?.trim_end());
    let past = bed.connect("then", &[])?;
    bed.note("the clone is connected");
    bed.show(&format!("e2fsck -fn {past}"))?;
    bed.run(&format!("mkdir /past && mount -o ro {past} /past"))?;
    check(&bed, "/past/tree", "before", files.before)?;
    bed.note("the past is whole: every file is as it was");

    // The live volume has the later state, read from the appliance and not from the guest's memory.
    bed.run("umount /mnt")?;
    bed.show(&format!("e2fsck -fn {device}"))?;
    bed.run(&format!("mount {device} /mnt"))?;
    check(&bed, "/mnt/tree", "after", files.after)?;
    bed.note("the present is whole");

    // After a crash both exist again, and the guest reconnects by itself. The clone accepts writes.
    bed.run("umount /mnt && umount /past")?;
    let live_blocks = bed.volume_number("vol0", "/mapped_blocks")?;
    bed.appliance.kill_9();
    let restart = bed.appliance.restart()?;
    bed.note(&format!("killed and restarted in {restart:?}"));
    for device in [&device, &past] {
        bed.run(&format!("e2fsck -fn {device}"))?;
    }
    assert_eq!(bed.volume_number("vol0", "/mapped_blocks")?, live_blocks);
    bed.run(&format!("mount {past} /past && rm -r /past/tree && umount /past && e2fsck -fn {past}"))?;
    bed.run(&format!("mount -o ro {device} /mnt"))?;
    assert_eq!(count(&bed, "/mnt/tree")?, files.after);
    bed.run("umount /mnt")?;
    bed.note("both survived a crash, and the clone takes writes of its own");

    for volume in ["then", "vol0"] {
        assert_eq!(bed.guest.nvme_disconnect(&super::bed::nqn(volume))?, 1);
    }
    wait_until("controllers end", SHORT, || -> Result<bool, varve_tests::appliance::ApplianceError> {
        let answer = bed.appliance.rpc("nvmf_get_stats", serde_json::Value::Null)?.to_string();
        Ok(answer.contains("\"current_io_qpairs\":0"))
    })?;
    bed.finish(&super::crash::PROVOKED)
}

/// The number of files before and after the change.
struct Files {
    before: usize,
    after: usize,
}

/// Compares a tree in the guest with a list of digests from the host; no file may be missing or
/// additional.
fn check(bed: &Bed, folder: &str, list: &str, files: usize) -> TestResult {
    bed.run(&format!("cd {folder} && sha256sum --check --strict --quiet /share/{list}.sha256"))?;
    assert_eq!(count(bed, folder)?, files);
    Ok(())
}

fn count(bed: &Bed, folder: &str) -> Result<usize, Box<dyn std::error::Error>> {
    Ok(bed.run(&format!("find {folder} -type f | wc -l"))?.trim().parse()?)
}

/// Puts these into the guest's share: the tree as a tar archive, the names to delete, the files to
/// overwrite as a tar archive, and both lists of digests.
fn prepare(share: &Path) -> Result<Files, Box<dyn std::error::Error>> {
    let stage = tempfile::tempdir()?;
    let (tree, changed) = (stage.path().join("tree"), stage.path().join("changed"));
    let chosen = choose();
    let total_bytes: u64 = chosen.iter().map(|(_, len_bytes)| len_bytes).sum();
    println!("{} files, {} MiB", chosen.len(), total_bytes >> 20);
    assert!(chosen.len() >= TREE_FILES && total_bytes >= TREE_BYTES, "this machine has too few files");
    for (source, _) in &chosen {
        let copy = tree.join(source.strip_prefix("/usr")?);
        fs::create_dir_all(copy.parent().ok_or("no folder")?)?;
        // The owners and modes of this machine's files do not matter here; some files cannot be
        // written by their owner.
        fs::write(&copy, fs::read(source)?)?;
    }
    shell(&tree, "tar -cf \"$1\" .", &share.join("tree.tar"))?;
    let digests = "find . -type f -print0 | sort -z | xargs -0 sha256sum >\"$1\"";
    shell(&tree, digests, &share.join("before.sha256"))?;

    let mut deleted = Vec::new();
    for (number, (source, _)) in chosen.iter().enumerate() {
        let name = source.strip_prefix("/usr")?;
        if number % 4 == 0 {
            fs::remove_file(tree.join(name))?;
            deleted.extend_from_slice(name.as_os_str().as_encoded_bytes());
            deleted.push(0);
        } else if number % 4 == 2 {
            let content: Vec<u8> = fs::read(source)?.iter().map(|byte| byte ^ 0x5a).collect();
            fs::create_dir_all(changed.join(name).parent().ok_or("no folder")?)?;
            fs::write(tree.join(name), &content)?;
            fs::write(changed.join(name), &content)?;
        }
    }
    fs::write(share.join("deleted"), deleted)?;
    shell(&changed, "tar -cf \"$1\" .", &share.join("changed.tar"))?;
    shell(&tree, digests, &share.join("after.sha256"))?;
    Ok(Files { before: chosen.len(), after: chosen.len() - chosen.len().div_ceil(4) })
}

/// Enough regular files of this machine: small ones for their number, larger ones for their bytes.
fn choose() -> Vec<(PathBuf, u64)> {
    let (mut chosen, mut small, mut total_bytes) = (Vec::new(), 0, 0);
    let mut folders: Vec<PathBuf> = SOURCES.iter().rev().map(PathBuf::from).collect();
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let (Ok(kind), path) = (entry.file_type(), entry.path()) else { continue };
            // Leaves out names that sha256sum would have to escape.
            if path.to_str().is_none_or(|name| name.contains(['\\', '\n', '\r'])) {
                continue;
            }
            if kind.is_dir() {
                folders.push(path);
                continue;
            }
            let Ok(metadata) = entry.metadata() else { continue };
            let len_bytes = metadata.len();
            let is_small = len_bytes <= SMALL_BYTES_MAX;
            let wanted = if is_small {
                small < TREE_FILES
            } else {
                len_bytes <= LARGE_BYTES_MAX && total_bytes < TREE_BYTES
            };
            if kind.is_file() && wanted && fs::File::open(&path).is_ok() {
                small += usize::from(is_small);
                total_bytes += len_bytes;
                chosen.push((path, len_bytes));
            }
        }
        if small >= TREE_FILES && total_bytes >= TREE_BYTES {
            break;
        }
    }
    chosen
}

/// Runs a shell command on this machine, in a folder, with one argument.
fn shell(folder: &Path, command: &str, argument: &Path) -> TestResult {
    let status = Command::new("sh")
        .args(["-ec", command, "sh"])
        .arg(argument)
        .current_dir(folder)
        .stdin(Stdio::null())
        .status()?;
    if status.success() { Ok(()) } else { Err(format!("`{command}` failed with {status}").into()) }
}
