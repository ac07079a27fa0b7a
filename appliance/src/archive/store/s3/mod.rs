//! The S3 store: each object is an object of a bucket, over HTTP. It is named after the protocol,
//! because a directory stores objects too.
//!
//! ```text
//! KEY = PREFIX/NAME
//! put      PUT with If-None-Match: * (put.rs); above the buffer's size a multipart upload,
//!          completed with the same condition
//! get      HEAD, then ranges of 8 MiB with If-Match, and the digest of the whole, if there is one
//! list     ListObjectsV2 with start-after, pages of at most 1000 keys
//! delete   HEAD, because S3 does not say whether there was an object, then DELETE
//! ```
//!
//! Opening reads the bucket's settings (`bucket.rs`). With object lock each put has a SHA-256 in a
//! separate header; such a bucket refuses puts without it.
//!
//! **Trust.** A service may ignore the condition, answer 200, and overwrite. The probe detects this
//! and reports it with [`Store::distrust`]. From then on every put checks first whether the name
//! exists, which prevents overwriting by this store, but not by two stores in a race.
//! `conditional_put` is then no longer declared. One prefix has one owner: opening it aborts the
//! uploads that are under way below it.
//!
//! **Bounds.** A call waits at most `(retries_max + 1) * request_timeout_ms` and the pauses between
//! tries (at most 2 s each) for each of its requests. A commit makes at most two more requests
//! after one that failed. An open put holds `buffer_bytes`. The store has one thread, for
//! connections. Calls run on the caller's thread, and must not be made from within an asynchronous
//! runtime.
//!
//! **Costs.** A put is one request, a range is one request, a stat is one. Bytes are hashed twice
//! (SHA-256 for the signature, BLAKE3 for `get`) and copied once.

mod bucket;
mod client;
mod config;
mod credentials;
mod fault;
mod protocol;
mod put;
mod signer;
mod transport;
mod uploads;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use object_store::aws::AmazonS3;
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;
use object_store::{Attribute, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt};
use tokio::runtime::{Handle, Runtime};

pub use config::{S3Config, Secret};
use credentials::Credentials;
use fault::{ACCESS_DENIED, ANSWER, DELETE_DENIED, DELETE_NOT_TAKEN, NOT_TAKEN, Subject, kind_of, says_more};
use protocol::{DIGEST, PARTS_MAX, PUT_ID};
use signer::Signer;
use transport::Connector;

use super::{
    Capabilities, Check, Name, ObjectStat, PAGE_OBJECTS_MAX, Page, Put, Sink, Space, Store, StoreError,
    StoreErrorKind,
};

/// The most keys of one answer.
const KEYS_MAX: usize = 1000;
/// The most pages in a row without an object.
const BARREN_PAGES_MAX: usize = 100;
/// Bytes that `get` requests at a time.
const GET_BYTES: usize = 8 << 20;
/// The largest object that the protocol allows, in bytes.
const OBJECT_BYTES_MAX: u64 = 5 << 40;

/// A store in an S3 bucket.
pub struct S3Store {
    label: String,
    key_prefix: String,
    buffer_bytes: usize,
    capacity_bytes: Option<u64>,
    // `handle` uses it until the drop.
    runtime: Option<Runtime>,
    handle: Handle,
    s3: AmazonS3,
    signer: Signer,
    settings: bucket::Settings,
    conditional: Arc<AtomicBool>,
    // Bytes of objects and of open puts; unknown until first requested.
    used_bytes: Mutex<Option<u64>>,
}

impl std::fmt::Debug for S3Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the client: it holds the credentials.
        f.debug_struct("S3Store").field("label", &self.label).finish_non_exhaustive()
    }
}

/// The answer to a HEAD.
struct Head {
    len_bytes: u64,
    etag: Option<String>,
    put_id: Option<String>,
    digest: Option<String>,
}

impl S3Store {
    /// Opens a bucket: a request checks that it exists, and the uploads that an earlier owner left
    /// are aborted.
    ///
    /// # Errors
    /// `Refused` with what to change: settings, credentials, bucket; `Unavailable` when the service
    /// cannot be reached or does not answer.
    pub fn open(config: S3Config) -> Result<Self, StoreError> {
        S3Store::open_in(config, &|variable| std::env::var(variable).ok())
    }

    /// The same, with the environment's variables from a function.
    fn open_in(config: S3Config, environment: &dyn Fn(&str) -> Option<String>) -> Result<Self, StoreError> {
        config.check()?;
        let label = config.label();
        let credentials = Arc::new(Credentials::find(&config, environment)?);
        let conditional = Arc::new(AtomicBool::new(true));
        let connector = Connector::new(&config, Arc::clone(&conditional))?;
        let signer = Signer {
            client: connector.client().clone(),
            credentials: Arc::clone(&credentials),
            region: config.region.clone(),
            bucket_url: config.bucket_url(),
        };
        let builder = client::Builder { config, credentials, connector };
        let s3 = builder.build(false)?;
        let config = &builder.config;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("varve-s3")
            .enable_io()
            .enable_time()
            .build()
            .map_err(|error| StoreError::io(&label, "open", &error))?;
        let key_prefix = if config.prefix.is_empty() { String::new() } else { format!("{}/", config.prefix) };
        let mut store = S3Store {
            label,
            key_prefix,
            buffer_bytes: config.buffer_bytes,
            capacity_bytes: config.capacity_bytes,
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
            s3,
            signer,
            settings: bucket::Settings::default(),
            conditional,
            used_bytes: Mutex::new(None),
        };
        store.list("", None, 1).map_err(|error| StoreError { operation: "open", ..error })?;
        store.settings = store.handle.block_on(store.signer.settings());
        if store.settings.has_lock() {
            store.s3 = builder.build(true)?;
        }
        let aborted = store.abort_leftovers();
        if aborted > 0 {
            tracing::info!(store = %store.label, aborted, "uploads that were left behind are aborted");
        }
        if config.capacity_bytes.is_some() {
            store.used_counted()?;
        }
        Ok(store)
    }

    /// What the operator must know about the bucket, as of the open. Empty for a service that does
    /// not report the bucket's settings.
    pub fn notes(&self) -> Vec<String> {
        self.settings.notes(&self.label)
    }

    /// Waits for a request; a failure is translated into its kind.
    fn run<T>(
        &self,
        subject: Subject,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, StoreErrorKind> {
        self.handle.block_on(ANSWER.scope(RefCell::new(None), async {
            request
                .await
                .map_err(|error| ANSWER.with(|answer| kind_of(&error, answer.borrow().as_ref(), subject)))
        }))
    }

    fn error(&self, operation: &'static str, kind: StoreErrorKind, name: &Name) -> StoreError {
        StoreError::new(&self.label, operation, kind).of(name)
    }

    fn path(&self, name: &Name) -> Path {
        // Names and prefixes have no bytes that a path would escape.
        Path::from(format!("{}{name}", self.key_prefix))
    }

    fn is_conditional(&self) -> bool {
        self.conditional.load(Ordering::Relaxed)
    }

    fn trust_conditions(&self, trust: bool) {
        self.conditional.store(trust, Ordering::Relaxed);
    }

    fn head(&self, name: &Name) -> Result<Head, StoreErrorKind> {
        let path = self.path(name);
        let options = GetOptions { head: true, ..Default::default() };
        let found = self.run(Subject::Object, self.s3.get_opts(&path, options));
        let found = found.map_err(|kind| self.explained(kind))?;
        let metadata = |key: &'static str| {
            found.attributes.get(&Attribute::Metadata(key.into())).map(|value| value.to_string())
        };
        Ok(Head {
            len_bytes: found.meta.size,
            put_id: metadata(PUT_ID),
            digest: metadata(DIGEST),
            etag: found.meta.e_tag,
        })
    }

    /// An answer to a HEAD has no body: the answer to a list may explain a refusal better.
    fn explained(&self, kind: StoreErrorKind) -> StoreErrorKind {
        if ![ACCESS_DENIED, NOT_TAKEN].contains(&kind) {
            return kind;
        }
        let options = PaginatedListOptions { max_keys: Some(1), ..Default::default() };
        let listed = self.run(Subject::Bucket, self.s3.list_paginated(Some(&self.key_prefix), options));
        listed.err().unwrap_or(kind)
    }

    /// Fills a buffer, which must not be empty, from an object. If `etag` is given, the object must
    /// still have it.
    fn read(
        &self,
        name: &Name,
        offset: u64,
        buffer: &mut [u8],
        etag: Option<&str>,
    ) -> Result<(), StoreErrorKind> {
        let end = offset.checked_add(buffer.len() as u64).ok_or(StoreErrorKind::OutOfRange)?;
        let path = self.path(name);
        let options = GetOptions {
            range: Some(GetRange::Bounded(offset..end)),
            if_match: etag.map(str::to_owned),
            ..Default::default()
        };
        let bytes = self.run(Subject::Object, async {
            let found = self.s3.get_opts(&path, options).await?;
            // The service cuts a range at the object's end.
            if found.range.end < end { Ok(None) } else { found.bytes().await.map(Some) }
        });
        match bytes {
            Ok(None) => Err(StoreErrorKind::OutOfRange),
            Ok(Some(bytes)) if bytes.len() == buffer.len() => {
                buffer.copy_from_slice(&bytes);
                Ok(())
            }
            Ok(Some(_)) => Err(StoreErrorKind::Corrupt("the service gives another length than it says")),
            // The failed condition is that of the read, not that of a put.
            Err(StoreErrorKind::Exists) => Err(StoreErrorKind::Corrupt("it was changed while it was read")),
            Err(kind) => Err(kind),
        }
    }

    /// The object of a key, if the key is a valid name below the prefix.
    fn stat_of(&self, found: &ObjectMeta) -> Option<ObjectStat> {
        let name = found.location.as_ref().strip_prefix(&self.key_prefix)?;
        Some(ObjectStat { name: Name::new(name).ok()?, len_bytes: found.size })
    }

    fn used(&self) -> MutexGuard<'_, Option<u64>> {
        self.used_bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes in use: counted by a list of all objects the first time, and maintained from then on.
    fn used_counted(&self) -> Result<u64, StoreError> {
        if let Some(used_bytes) = *self.used() {
            return Ok(used_bytes);
        }
        let mut used_bytes = 0;
        let mut after = None;
        loop {
            let page = self.list("", after.as_ref(), KEYS_MAX)?;
            used_bytes = page.objects.iter().map(|stat| stat.len_bytes).fold(used_bytes, u64::saturating_add);
            after = page.objects.last().map(|stat| stat.name.clone());
            if !page.more {
                break;
            }
        }
        Ok(*self.used().get_or_insert(used_bytes))
    }

    /// Reserves space for bytes of a put.
    fn reserve(&self, len_bytes: u64) -> Result<(), StoreErrorKind> {
        let mut used = self.used();
        let Some(used_bytes) = &mut *used else { return Ok(()) };
        if self.capacity_bytes.is_some_and(|capacity| used_bytes.saturating_add(len_bytes) > capacity) {
            return Err(StoreErrorKind::NoSpace);
        }
        *used_bytes = used_bytes.saturating_add(len_bytes);
        Ok(())
    }

    fn release(&self, len_bytes: u64) {
        if let Some(used_bytes) = &mut *self.used() {
            *used_bytes = used_bytes.saturating_sub(len_bytes);
        }
    }
}

impl Drop for S3Store {
    fn drop(&mut self) {
        // Without waiting: a host name lookup in progress must not delay the owner.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Store for S3Store {
    fn label(&self) -> &str {
        &self.label
    }

    fn capabilities(&self) -> Capabilities {
        let largest = OBJECT_BYTES_MAX.min(self.buffer_bytes.saturating_mul(PARTS_MAX) as u64);
        Capabilities {
            kind: "s3",
            random_access: true,
            conditional_put: self.is_conditional(),
            rename: false,
            sequential_only: false,
            reclaims_space: true,
            object_bytes_max: Some(self.capacity_bytes.map_or(largest, |capacity| capacity.min(largest))),
        }
    }

    fn put_start<'a>(&'a self, name: &Name, max_bytes: u64) -> Result<Box<dyn Put + 'a>, StoreError> {
        // The commit checks whether the name is taken, in the same request.
        Ok(Box::new(self.begin_put(name.clone(), max_bytes)))
    }

    fn stat(&self, name: &Name) -> Result<ObjectStat, StoreError> {
        let found = self.head(name).map_err(|kind| self.error("stat", kind, name))?;
        Ok(ObjectStat { name: name.clone(), len_bytes: found.len_bytes })
    }

    fn get_range(&self, name: &Name, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError> {
        if buffer.is_empty() {
            // HTTP has no empty ranges.
            return super::check_range(&self.stat(name)?, &self.label, offset, 0);
        }
        self.read(name, offset, buffer, None).map_err(|kind| self.error("get", kind, name))
    }

    fn get(&self, name: &Name, sink: &mut dyn Sink) -> Result<u64, StoreError> {
        let failed = |kind| self.error("get", kind, name);
        let head = self.head(name).map_err(failed)?;
        let mut hasher = blake3::Hasher::new();
        super::in_pieces(head.len_bytes, GET_BYTES, |offset, piece| {
            self.read(name, offset, piece, head.etag.as_deref()).map_err(failed)?;
            hasher.update(piece);
            sink.write(piece)
        })?;
        match head.digest {
            Some(digest) if digest != hasher.finalize().to_hex().as_str() => {
                Err(failed(StoreErrorKind::Corrupt("its bytes are not those that were put")))
            }
            _ => Ok(head.len_bytes),
        }
    }

    fn list(&self, prefix: &str, after: Option<&Name>, limit: usize) -> Result<Page, StoreError> {
        let limit = limit.min(PAGE_OBJECTS_MAX);
        let failed = |kind| StoreError::new(&self.label, "list", kind);
        let mut objects: Vec<ObjectStat> = Vec::new();
        if after.is_some_and(|after| !after.as_str().starts_with(prefix) && after.as_str() > prefix) {
            return Ok(Page { objects, more: false });
        }
        let key_prefix = format!("{}{prefix}", self.key_prefix);
        let offset =
            after.map(|after| format!("{}{after}", self.key_prefix)).filter(|key| *key >= key_prefix);
        let mut token: Option<String> = None;
        let mut barren_pages = 0_usize;
        loop {
            let options = PaginatedListOptions {
                offset: offset.clone(),
                max_keys: Some(limit.saturating_add(1).saturating_sub(objects.len()).min(KEYS_MAX)),
                page_token: token.clone(),
                ..Default::default()
            };
            let listed = self.run(Subject::Bucket, async {
                let page = self.s3.list_paginated(Some(&key_prefix), options).await?;
                Ok((page, says_more()))
            });
            let (page, more) = listed.map_err(failed)?;
            let found = page.result.objects.iter().filter_map(|found| self.stat_of(found));
            let wanted =
                |name: &Name| name.as_str().starts_with(prefix) && after.is_none_or(|after| name > after);
            let mut found: Vec<ObjectStat> = found.filter(|stat| wanted(&stat.name)).take(KEYS_MAX).collect();
            found.sort_unstable_by(|one, other| one.name.cmp(&other.name));
            barren_pages = if found.is_empty() { barren_pages.saturating_add(1) } else { 0 };
            if let (Some(last), Some(first)) = (objects.last(), found.first())
                && last.name >= first.name
            {
                return Err(failed(StoreErrorKind::Corrupt("its pages are not in the order of the names")));
            }
            objects.append(&mut found);
            let next = page.page_token;
            if objects.len() > limit || (next.is_none() && !more) {
                return Ok(super::page(objects.into_iter(), limit));
            }
            if next.is_none() {
                return Err(failed(StoreErrorKind::Corrupt(
                    "a page of its list says that more follow, and not where they begin",
                )));
            }
            if next == token {
                return Err(failed(StoreErrorKind::Corrupt(
                    "a page of its list leads to itself: its list has no end",
                )));
            }
            token = next;
            if barren_pages == BARREN_PAGES_MAX {
                return Err(failed(StoreErrorKind::Corrupt("its list has no end")));
            }
        }
    }

    fn delete(&self, name: &Name) -> Result<(), StoreError> {
        let failed = |kind| self.error("delete", kind, name);
        let len_bytes = self.head(name).map_err(failed)?.len_bytes;
        let path = self.path(name);
        match self.run(Subject::Object, self.s3.delete(&path)) {
            // The object existed: an earlier try of this request has deleted it.
            Ok(()) | Err(StoreErrorKind::NotFound) => {}
            Err(kind @ (ACCESS_DENIED | NOT_TAKEN)) => {
                let lock = self.handle.block_on(self.signer.lock_end(path.as_ref()));
                let other = if kind == ACCESS_DENIED { DELETE_DENIED } else { DELETE_NOT_TAKEN };
                return Err(failed(lock.map_or(other, StoreErrorKind::Locked)));
            }
            Err(kind) => return Err(failed(kind)),
        }
        self.release(len_bytes);
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        // The service answers only after its work is stable.
        Ok(())
    }

    fn distrust(&self, check: Check) {
        if check == Check::RefusesOverwrite {
            self.trust_conditions(false);
        }
    }

    fn space(&self) -> Result<Space, StoreError> {
        Ok(Space { total_bytes: self.capacity_bytes, used_bytes: self.used_counted()? })
    }
}
