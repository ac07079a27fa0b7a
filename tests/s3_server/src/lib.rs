//! A complete S3 server for tests, in the test's process: s3s with its file system back end, which
//! checks signatures and conditions.
//!
//! A [`Proxy`] in front of it loses answers, makes them up, and changes lists as some services do.
//!
//! The server has one bucket, [`BUCKET`], and one key pair. It listens on a free port of the
//! loopback; its drop ends it and removes everything that it holds.

mod proxy;

use std::path::Path;

pub use proxy::{Fault, Header, Proxy, error, truncated_page};

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tokio::runtime::Runtime;

/// The bucket that exists.
pub const BUCKET: &str = "archive";
/// The access key that is accepted.
pub const ACCESS_KEY: &str = "AccessKeyOfTests";
/// Its secret.
pub const SECRET_KEY: &str = "SecretKeyOfTests";

/// A running server. Its drop ends it: the runtime first, then the files.
#[derive(Debug)]
pub struct S3Server {
    runtime: Option<Runtime>,
    url: String,
    root: tempfile::TempDir,
}

impl S3Server {
    /// Starts a server with an empty bucket.
    ///
    /// # Panics
    /// When it has no space or no port.
    pub fn start() -> Self {
        let root = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(root.path().join(BUCKET)).expect("a bucket");
        let files = s3s_fs::FileSystem::new(root.path()).expect("a file system");
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = builder.build();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Without this, an answer in two parts waits for a delayed acknowledgement: 40 ms.
                let _ = stream.set_nodelay(true);
                let service = service.clone();
                tokio::spawn(async move {
                    let builder = auto::Builder::new(TokioExecutor::new());
                    // A client that disconnects is not the server's failure.
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        S3Server { runtime: Some(runtime), url, root }
    }

    /// The address that it listens on: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The folder that it stores its data in: one folder for the bucket, and files of its own next
    /// to it.
    pub fn root(&self) -> &Path {
        self.root.path()
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
