//! Writes an object: in one request up to the buffer's size, in parts above it.
//!
//! ```text
//! buffering -> PUT with If-None-Match: *                                            -> committed
//! buffering -> buffer full: create upload -> parts of the buffer's size -> complete -> committed
//!                           any failure or drop: abort                    -> nothing is left
//! ```
//!
//! **Whose object is it?** A request that was retried, or got no answer, may have succeeded the
//! first time; then the service reports that the object exists. So each put has an id in the
//! object's metadata, and after such a failure the object is looked up. If it has this put's id,
//! the put counts as committed.
//!
//! An object of one request also has the BLAKE3 of its bytes in its metadata, which `get` checks.
//! The metadata of a multipart upload is sent before its bytes are known, so it has no digest.

use object_store::multipart::{MultipartStore, PartId};
use object_store::{
    Attribute, Attributes, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload,
};
use uuid::Uuid;

use super::S3Store;
use super::fault::{Subject, UNREACHABLE};
use super::protocol::{DIGEST, PUT_ID};
use crate::archive::store::{Name, ObjectStat, Put, Reason, Sink, StoreError, StoreErrorKind};

struct Upload {
    id: String,
    parts: Vec<PartId>,
}

pub(super) struct S3Put<'a> {
    store: &'a S3Store,
    name: Name,
    max_bytes: u64,
    len_bytes: u64,
    // At most the store's `buffer_bytes`; grows as bytes arrive.
    buffer: Vec<u8>,
    upload: Option<Upload>,
    id: String,
    // Sending a part failed: the put cannot be committed any more.
    broken: Option<StoreErrorKind>,
    committed: bool,
}

impl S3Store {
    /// Begins a put; sends nothing yet.
    pub(super) fn begin_put(&self, name: Name, max_bytes: u64) -> S3Put<'_> {
        S3Put {
            store: self,
            name,
            max_bytes,
            len_bytes: 0,
            buffer: Vec::new(),
            upload: None,
            id: Uuid::new_v4().to_string(),
            broken: None,
            committed: false,
        }
    }
}

impl S3Put<'_> {
    fn attributes(&self) -> Attributes {
        [(Attribute::Metadata(PUT_ID.into()), self.id.clone())].into_iter().collect()
    }

    /// Sends the buffer as the next part.
    fn send_part(&mut self) -> Result<(), StoreErrorKind> {
        let store = self.store;
        let path = store.path(&self.name);
        if self.upload.is_none() {
            let options = PutMultipartOptions { attributes: self.attributes(), ..Default::default() };
            let id = store.run(Subject::Bucket, store.s3.create_multipart_opts(&path, options))?;
            self.upload = Some(Upload { id, parts: Vec::new() });
        }
        let Some(upload) = &mut self.upload else { return Ok(()) };
        let payload = PutPayload::from(std::mem::take(&mut self.buffer));
        let index = upload.parts.len();
        let part = store.run(Subject::Bucket, store.s3.put_part(&path, &upload.id, index, payload))?;
        upload.parts.push(part);
        Ok(())
    }

    /// Sends everything in one request.
    fn put_whole(&mut self) -> Result<(), StoreErrorKind> {
        let store = self.store;
        let path = store.path(&self.name);
        let digest = blake3::hash(&self.buffer).to_hex().to_string();
        let payload = PutPayload::from(std::mem::take(&mut self.buffer));
        loop {
            let conditional = store.is_conditional();
            if !conditional {
                self.refuse_existing()?;
            }
            let mut attributes = self.attributes();
            attributes.insert(Attribute::Metadata(DIGEST.into()), digest.clone().into());
            let mode = if conditional { PutMode::Create } else { PutMode::Overwrite };
            let options = PutOptions { mode, attributes, ..Default::default() };
            match store.run(Subject::Bucket, store.s3.put_opts(&path, payload.clone(), options)) {
                // A service that reports that it has no conditional put is better than one that
                // ignores the condition silently.
                Err(StoreErrorKind::Unsupported(_)) if conditional => store.trust_conditions(false),
                result => return result.map(|_| ()),
            }
        }
    }

    /// If the service does not refuse to overwrite, this store checks first; a race remains.
    fn refuse_existing(&self) -> Result<(), StoreErrorKind> {
        match self.store.head(&self.name) {
            Ok(_) => Err(StoreErrorKind::Exists),
            Err(StoreErrorKind::NotFound) => Ok(()),
            Err(kind) => Err(kind),
        }
    }

    /// Sends the last part and completes the upload to an object.
    fn complete(&mut self) -> Result<(), StoreErrorKind> {
        if !self.buffer.is_empty() {
            self.send_part()?;
        }
        // Some services support the condition on a put but not here: check first, whatever the
        // probe found.
        self.refuse_existing()?;
        let Some(upload) = &mut self.upload else { return Ok(()) };
        let parts = std::mem::take(&mut upload.parts);
        let path = self.store.path(&self.name);
        let completed = self.store.s3.complete_multipart(&path, &upload.id, parts);
        self.store.run(Subject::Bucket, completed)?;
        let found = self.store.head(&self.name)?;
        if found.len_bytes != self.len_bytes {
            return Err(StoreErrorKind::Corrupt("it has another length than was put"));
        }
        Ok(())
    }

    /// After a failure: checks whether the object exists nevertheless, and whether it is this
    /// put's.
    fn settle(&self, kind: StoreErrorKind) -> Result<(), StoreErrorKind> {
        let doubtful = match kind {
            UNREACHABLE => false,
            StoreErrorKind::Exists | StoreErrorKind::Corrupt(_) | StoreErrorKind::Unavailable(_) => true,
            // Services refuse a completed upload with different errors.
            _ => self.upload.is_some(),
        };
        if !doubtful {
            return Err(kind);
        }
        match self.store.head(&self.name) {
            Ok(found) if found.put_id.as_deref() == Some(&self.id) && found.len_bytes == self.len_bytes => {
                Ok(())
            }
            Ok(_) => Err(StoreErrorKind::Exists),
            Err(StoreErrorKind::NotFound) if kind == StoreErrorKind::Exists => {
                let text = "the service reports a conflict, but there is no object: put it again";
                Err(StoreErrorKind::Unavailable(Reason::Remote(text)))
            }
            // It may be this put's own object, whose first answer was lost.
            Err(unknown) if kind == StoreErrorKind::Exists => Err(unknown),
            Err(_) => Err(kind),
        }
    }

    fn error(&self, kind: StoreErrorKind) -> StoreError {
        self.store.error("put", kind, &self.name)
    }
}

impl Sink for S3Put<'_> {
    fn write(&mut self, mut bytes: &[u8]) -> Result<(), StoreError> {
        if let Some(kind) = self.broken {
            return Err(self.error(kind));
        }
        let len_bytes = super::super::longer(self.len_bytes, bytes.len());
        if len_bytes > self.max_bytes {
            return Err(self.error(StoreErrorKind::OutOfRange));
        }
        self.store.reserve(bytes.len() as u64).map_err(|kind| self.error(kind))?;
        self.len_bytes = len_bytes;
        while !bytes.is_empty() {
            if self.buffer.len() == self.store.buffer_bytes {
                self.send_part().map_err(|kind| {
                    self.broken = Some(kind);
                    self.error(kind)
                })?;
            }
            let (now, later) = super::super::split_for(bytes, self.store.buffer_bytes, self.buffer.len());
            self.buffer.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }
}

impl Put for S3Put<'_> {
    fn commit(mut self: Box<Self>) -> Result<ObjectStat, StoreError> {
        if let Some(kind) = self.broken {
            return Err(self.error(kind));
        }
        let result = if self.upload.is_some() { self.complete() } else { self.put_whole() };
        result.or_else(|kind| self.settle(kind)).map_err(|kind| self.error(kind))?;
        self.committed = true;
        Ok(ObjectStat { name: self.name.clone(), len_bytes: self.len_bytes })
    }
}

impl Drop for S3Put<'_> {
    fn drop(&mut self) {
        if self.committed {
            return;
        }
        self.store.release(self.len_bytes);
        if let Some(upload) = &self.upload {
            // The next open aborts an upload that cannot be aborted now.
            let path = self.store.path(&self.name);
            let _ = self.store.run(Subject::Bucket, self.store.s3.abort_multipart(&path, &upload.id));
        }
    }
}
