//! The thread that runs expiry on a schedule.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::json;

use super::error::ManageError;
use super::expire::{EXPIRE_OBJECTS_DEFAULT, ExpiryPool, ExpiryRequest};
use super::manager::ArchiveManager;
use crate::archive::service::StopFlag;
use crate::audit::{self, Caller};

/// Runs expiry at a fixed interval while it lives and while retention rules exist. A failure is
/// logged once and retried at the next interval.
pub struct Expirer {
    /// Dropped to wake the thread.
    wake: Option<Sender<()>>,
    stop: StopFlag,
    thread: Option<JoinHandle<()>>,
}

impl Expirer {
    /// Starts the thread. The first expiry runs after `grace` at the earliest, so that an operator
    /// who starts an appliance with a wrong clock, or after a long time, can check it first.
    ///
    /// # Errors
    /// The operating system cannot start a thread.
    pub fn start(
        manager: Arc<ArchiveManager>,
        pool: impl ExpiryPool + Send + 'static,
        interval: Duration,
        grace: Duration,
    ) -> std::io::Result<Self> {
        let (wake, woken) = channel();
        let stop = StopFlag::default();
        let flag = stop.clone();
        let thread = std::thread::Builder::new().name("archive-expire".to_owned()).spawn(move || {
            let mut failing = false;
            let mut wait = interval.max(grace);
            while woken.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                wait = interval;
                if !manager.keep().keep_everything() {
                    failing = expire_all(&manager, &pool, &flag, failing);
                }
            }
        })?;
        Ok(Expirer { wake: Some(wake), stop, thread: Some(thread) })
    }
}

impl Drop for Expirer {
    fn drop(&mut self) {
        self.stop.set();
        self.wake = None;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has ended too.
            let _ = thread.join();
        }
    }
}

/// Returns whether it failed.
fn expire_all(manager: &ArchiveManager, pool: &dyn ExpiryPool, stop: &StopFlag, failing: bool) -> bool {
    let request = ExpiryRequest { objects_max: EXPIRE_OBJECTS_DEFAULT, ..ExpiryRequest::default() };
    loop {
        match manager.expire_carefully(pool, request, stop) {
            Ok(report) => {
                let (objects, bytes) = (report.deleted_objects, report.deleted_bytes);
                if objects > 0 {
                    tracing::info!(objects, bytes, "what has expired was deleted from the archive");
                    let (synchs, rules) = (report.expired_synchs, manager.keep());
                    let what = json!({"objects": objects, "bytes": bytes, "synchs": synchs, "rules": rules});
                    audit::note(
                        &Caller::Appliance,
                        "archive_expire",
                        &what.to_string(),
                        Ok::<_, ManageError>(()),
                    );
                }
                if let Some(failure) = &report.failure
                    && !failing
                {
                    let failed = report.failed_objects;
                    tracing::warn!(
                        failed,
                        failure,
                        "objects that have expired could not be deleted from the archive"
                    );
                }
                if objects == 0 || objects >= report.expirable_objects || stop.is_set() {
                    return report.failure.is_some();
                }
            }
            Err(error) => {
                if !failing && !stop.is_set() {
                    tracing::warn!(%error, "what has expired could not be deleted from the archive; it is tried again");
                }
                return true;
            }
        }
    }
}
