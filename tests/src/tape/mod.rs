//! Tape drives for guests: SIMH cartridge files of this machine, which a guest's own kernel drives
//! with `st`.
//!
//! ```text
//! guest:         program -> st -> virtio_scsi
//! this process:  vhost-user rings -> SCSI stream commands -> TapDrive -> .tap file
//! ```
//!
//! QEMU hands the guest's rings and memory over to this process (`vhost_user`), which executes each
//! command on the emulated drive (`stream`). This tests both sides at once: our use of `st` against
//! the kernel's, and our drive against what the kernel expects of one. It needs nothing but QEMU.

mod stream;
mod vhost_user;

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use crate::guest::GuestConfig;
use stream::StreamUnit;
use varve::archive::store::tape::TapDrive;

/// The store that the program `tape_drive` makes on the first drive; the number is its UUID.
pub const CONFORMANCE_STORE: u128 = 0x7a9e;

/// The size of a cartridge in a drive.
#[derive(Debug, Clone, Copy)]
pub struct CartridgeSize {
    /// The maximum size of its file, in bytes.
    pub capacity_bytes: u64,
    /// The early warning comes this many bytes before the end.
    pub early_warning_bytes: u64,
}

/// Drives that guests use one after another: `/dev/nst0` and so on, one for each cartridge. They
/// end with this.
#[derive(Debug)]
pub struct TapeDrives {
    socket: PathBuf,
    /// Dropping it closes the other end, which ends the thread.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl TapeDrives {
    /// Starts drives. Their cartridges are the files `0.tap`, `1.tap` and so on in `folder`;
    /// missing ones are made blank.
    ///
    /// # Errors
    /// The operating system's error.
    pub fn start(folder: &Path, sizes: &[CartridgeSize]) -> io::Result<Self> {
        let mut units = Vec::new();
        for (number, size) in sizes.iter().enumerate() {
            let path = folder.join(format!("{number}.tap"));
            if !path.exists() {
                File::create_new(&path)?;
            }
            let drive = TapDrive::load(&path, size.capacity_bytes, size.early_warning_bytes)?;
            units.push(StreamUnit::new(drive, number));
        }
        let socket = folder.join("drives.socket");
        let listener = UnixListener::bind(&socket)?;
        let (stop, stopped) = UnixStream::pair()?;
        let thread = std::thread::Builder::new().name("tape-drives".to_owned()).spawn(move || {
            // For the guest's test an error here is a drive that does not answer. This prints the
            // reason.
            if let Err(error) = vhost_user::serve(&listener, &stopped, &mut units) {
                eprintln!("the tape drives ended: {error}");
            }
        })?;
        Ok(TapeDrives { socket, stop: Some(stop), thread: Some(thread) })
    }

    /// Adds the drives to a guest.
    pub fn add_to(&self, config: GuestConfig) -> GuestConfig {
        let socket = self.socket.to_string_lossy().replace(',', ",,");
        // The guest's memory is shared with this process.
        let memory = format!("memory-backend-memfd,id=memory,size={}M,share=on", config.memory_mib);
        let words = [
            "-object",
            &memory,
            "-chardev",
            &format!("socket,id=drives,path={socket}"),
            "-device",
            "vhost-user-scsi-pci,id=tapes,chardev=drives,num_queues=1",
        ];
        let mut qemu_arguments = config.qemu_arguments;
        qemu_arguments.extend(words.iter().map(OsString::from));
        GuestConfig { machine: format!("{},memory-backend=memory", config.machine), qemu_arguments, ..config }
    }
}

impl Drop for TapeDrives {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // The thread prints its own errors.
            let _ = thread.join();
        }
    }
}
