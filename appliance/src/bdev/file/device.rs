//! An opened file or block device, and the choice of an engine for its handles.

use std::path::Path;
use std::sync::{Arc, Once};

use super::open;
use super::opened::OpenFile;
use super::options::{ENGINE_VARIABLE, Engine, FileOptions, OpenError};
use crate::bdev::Bdev;
use crate::bdev::threads::ThreadsBdev;
use crate::bdev::uring::UringBdev;

/// An opened file or block device that threads share. Each thread takes its own handle. Cheap to
/// clone.
///
/// The path stays locked until the last clone and the last handle are dropped.
#[derive(Debug, Clone)]
pub struct FileDevice {
    file: Arc<OpenFile>,
    engine: Engine,
    register_buffers: bool,
    worker_count: usize,
}

impl FileDevice {
    /// Opens and locks a path.
    ///
    /// # Errors
    /// Every [`OpenError`] except `Engine`.
    pub fn open(path: impl AsRef<Path>, options: &FileOptions) -> Result<Self, OpenError> {
        Ok(FileDevice {
            file: Arc::new(open::open(path.as_ref(), options)?),
            engine: options.engine,
            register_buffers: options.register_buffers,
            worker_count: options.worker_count.clamp(1, 64),
        })
    }

    /// Size in blocks.
    pub fn len_blocks(&self) -> u64 {
        self.file.len_blocks()
    }

    /// Whether direct I/O bypasses the page cache.
    pub fn is_direct(&self) -> bool {
        self.file.is_direct()
    }

    /// A handle for the calling thread, with its own queue.
    ///
    /// # Errors
    /// [`OpenError::Engine`].
    pub fn handle(&self) -> Result<Box<dyn Bdev>, OpenError> {
        match choose(self.engine, std::env::var(ENGINE_VARIABLE).ok().as_deref()) {
            Engine::Threads => self.threads(),
            Engine::Uring => self.uring().map_err(|source| self.engine_error(source, "set VARVE_IO_ENGINE=threads or ask for the engine `threads`, or allow io_uring (sysctl kernel.io_uring_disabled, seccomp)")),
            Engine::Auto => self.uring().or_else(|error| {
                warn_of_fallback(&error);
                self.threads()
            }),
        }
    }

    fn uring(&self) -> std::io::Result<Box<dyn Bdev>> {
        Ok(Box::new(UringBdev::new(Arc::clone(&self.file), self.register_buffers)?))
    }

    fn threads(&self) -> Result<Box<dyn Bdev>, OpenError> {
        match ThreadsBdev::new(Arc::clone(&self.file), self.worker_count) {
            Ok(device) => Ok(Box::new(device)),
            Err(source) => Err(self.engine_error(source, "raise the limits on threads and open files")),
        }
    }

    fn engine_error(&self, source: std::io::Error, advice: &'static str) -> OpenError {
        OpenError::Engine { path: self.file.path().to_owned(), source, advice }
    }
}

/// Opens and locks a path and returns one handle to it, for the calling thread.
///
/// # Errors
/// [`OpenError`].
pub fn open_file(path: impl AsRef<Path>, options: &FileOptions) -> Result<Box<dyn Bdev>, OpenError> {
    FileDevice::open(path, options)?.handle()
}

/// Combines the explicit choice and the environment variable.
pub(super) fn choose(asked: Engine, variable: Option<&str>) -> Engine {
    match (asked, variable) {
        (Engine::Auto, Some("uring")) => Engine::Uring,
        (Engine::Auto, Some("threads")) => Engine::Threads,
        (Engine::Auto, Some(value)) if !value.is_empty() && value != "auto" => {
            static ONCE: Once = Once::new();
            ONCE.call_once(|| {
                tracing::warn!(value, "VARVE_IO_ENGINE is ignored: it may be uring, threads or auto");
            });
            Engine::Auto
        }
        _ => asked,
    }
}

fn warn_of_fallback(error: &std::io::Error) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing::warn!(
            %error,
            "the kernel refuses io_uring; files are served by worker threads, which costs latency and processor time \
             (see sysctl kernel.io_uring_disabled and the seccomp profile; VARVE_IO_ENGINE=threads silences this)"
        );
    });
}
