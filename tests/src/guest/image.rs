//! Makes a kernel and an initramfs for guests, once per machine, and keeps them in cargo's target
//! folder.

use super::GuestError;
use super::host::{command, make_folder, make_link, remove_folder, run_step, write_file};
use super::{kernel, tools};
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

/// Names the folder for images, instead of cargo's target folder. Several checkouts may share one.
const CACHE_VARIABLE: &str = "VARVE_GUEST_CACHE";

/// Increase this when the way an image is made changes but its input files do not.
const RECIPE_VERSION: u32 = 2;

/// The first program of the guest.
const INIT: &str = include_str!("init.sh");

/// An image of another recipe is removed when it is older than this: a test that uses it has booted
/// long ago.
const KEEP_OLD_IMAGES: Duration = Duration::from_hours(24);

/// What a guest boots: Debian's kernel, and an initramfs with all programs and modules that tests
/// use.
#[derive(Debug, Clone)]
pub struct GuestImage {
    kernel: PathBuf,
    initramfs: PathBuf,
    release: String,
}

impl GuestImage {
    /// Returns the image, and makes it first if no earlier test on this machine did. This takes
    /// about 10 seconds and needs access to Debian's archive, unless the variable
    /// `VARVE_GUEST_KERNEL_PACKAGE` names a kernel package. Neither needs root. If several tests
    /// call this at the same time, in any process, one makes the image and the others wait for it.
    ///
    /// The image is made again when the list of programs, a program on this machine, the list of
    /// modules or the init script changes. The kernel package stays the same until the cache is
    /// removed.
    ///
    /// # Errors
    /// A program is not installed ([`GuestError::MissingProgram`]), a build step fails, or the file
    /// system reports an error.
    pub fn build_or_cached() -> Result<Self, GuestError> {
        let cache = cache_folder();
        make_folder(&cache)?;
        let lock_path = cache.join("lock");
        let lock = File::create(&lock_path).map_err(GuestError::host("making", &lock_path))?;
        // Released when `lock` is closed; the end of the process closes it too.
        lock.lock().map_err(GuestError::host("locking", &lock_path))?;

        let name = format!("image-{:016x}", recipe_digest()?);
        let folder = cache.join(&name);
        if !folder.join("release").exists() {
            build(&cache, &folder)?;
        }
        remove_old_images(&cache, &name);
        let release_path = folder.join("release");
        let release =
            std::fs::read_to_string(&release_path).map_err(GuestError::host("reading", &release_path))?;
        Ok(Self { kernel: folder.join("kernel"), initramfs: folder.join("initramfs"), release })
    }

    /// The kernel's file: an ELF file with a PVH entry, or a bzImage.
    pub fn kernel(&self) -> &Path {
        &self.kernel
    }

    /// The initramfs's file, a `newc` cpio archive.
    pub fn initramfs(&self) -> &Path {
        &self.initramfs
    }

    /// The kernel's release, as `uname -r` prints it.
    pub fn release(&self) -> &str {
        &self.release
    }
}

/// The folder of the images: the one that [`CACHE_VARIABLE`] names, or `guest-cache` in the target
/// folder that this program was built into.
fn cache_folder() -> PathBuf {
    if let Some(folder) = std::env::var_os(CACHE_VARIABLE) {
        return PathBuf::from(folder);
    }
    // Cargo marks its target folder with this file; a test program runs from a folder deep inside
    // it.
    let target = std::env::current_exe().ok().and_then(|program| {
        program.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists()).map(Path::to_path_buf)
    });
    target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target")).join("guest-cache")
}

/// A digest of everything that determines the content of an image. It is cheap enough to compute
/// before each boot.
fn recipe_digest() -> Result<u64, GuestError> {
    let mut hasher = DefaultHasher::new();
    RECIPE_VERSION.hash(&mut hasher);
    INIT.hash(&mut hasher);
    kernel::MODULES.hash(&mut hasher);
    std::env::var_os(kernel::PACKAGE_VARIABLE).hash(&mut hasher);
    for program in tools::program_files()? {
        let metadata = std::fs::metadata(&program).map_err(GuestError::host("looking at", &program))?;
        (program, metadata.len(), metadata.mtime()).hash(&mut hasher);
    }
    Ok(hasher.finish())
}

/// Makes an image in a scratch folder of `cache` and renames it to `folder`, so that an image is
/// complete or absent.
fn build(cache: &Path, folder: &Path) -> Result<(), GuestError> {
    let package = kernel::kernel_package(cache)?;
    let scratch = cache.join("building");
    remove_folder(&scratch)?;
    let root = scratch.join("root");
    let image = scratch.join("image");
    make_folder(&image)?;
    make_root(&root)?;
    tools::pack_programs(&root)?;
    let release = kernel::pack_kernel(&package, &scratch.join("package"), &image.join("kernel"), &root)?;
    pack_initramfs(&root, &image.join("initramfs"))?;
    write_file(&image.join("release"), &release)?;
    remove_folder(folder)?;
    std::fs::rename(&image, folder).map_err(GuestError::host("renaming", &image))?;
    remove_folder(&scratch)
}

/// Makes the folders, links and small files of a root file system, with a merged `/usr` as in
/// Debian.
fn make_root(root: &Path) -> Result<(), GuestError> {
    for folder in [
        "usr/bin",
        "usr/sbin",
        "usr/lib",
        "usr/lib64",
        "etc",
        "dev",
        "proc",
        "sys",
        "run",
        "tmp",
        "root",
        "var",
    ] {
        make_folder(&root.join(folder))?;
    }
    for link in ["bin", "sbin", "lib", "lib64"] {
        make_link(&format!("usr/{link}"), &root.join(link))?;
    }
    make_link("/run", &root.join("var/run"))?;
    make_link("/proc/self/mounts", &root.join("etc/mtab"))?;
    write_file(&root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    write_file(&root.join("etc/group"), "root:x:0:\ndisk:x:6:\n")?;
    write_file(&root.join("etc/hosts"), "127.0.0.1 localhost guest\n10.0.2.2 host\n")?;
    let init = root.join("init");
    write_file(&init, INIT)?;
    std::fs::set_permissions(&init, std::fs::Permissions::from_mode(0o755))
        .map_err(GuestError::host("making executable", &init))
}

/// Archives the tree below `root`. All files in the archive belong to root, whichever user runs
/// this. The archive is not compressed: the guest would have to decompress it on every boot.
fn pack_initramfs(root: &Path, archive: &Path) -> Result<(), GuestError> {
    let list = run_step(command("find")?.arg(".").current_dir(root))?;
    let list_path = root.with_extension("list");
    write_file(&list_path, list)?;
    let input = File::open(&list_path).map_err(GuestError::host("opening", &list_path))?;
    run_step(
        command("cpio")?
            .args(["--create", "--format=newc", "--owner=+0:+0", "--quiet", "--file"])
            .arg(archive)
            .current_dir(root)
            .stdin(Stdio::from(input)),
    )?;
    Ok(())
}

/// Removes images of other recipes that no test boots from any more. What cannot be removed now
/// stays until the next time.
fn remove_old_images(cache: &Path, current: &str) {
    let now = SystemTime::now();
    for entry in std::fs::read_dir(cache).into_iter().flatten().filter_map(Result::ok) {
        let name = entry.file_name();
        let is_other = name.to_str().is_some_and(|name| name.starts_with("image-") && name != current);
        let age =
            entry.metadata().and_then(|metadata| metadata.modified()).map(|time| now.duration_since(time));
        if is_other && matches!(age, Ok(Ok(age)) if age > KEEP_OLD_IMAGES) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
