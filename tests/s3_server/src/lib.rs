//! A whole S3 server for tests, in the process of the test: s3s with its file system back end, which checks signatures and conditions.
//!
//! A [`Proxy`] before it loses answers, makes them up, and does to lists what some services do.
//!
//! It has one bucket, [`BUCKET`], and one key pair; it listens on a free port of the loopback and ends with its drop, with all that it holds.

mod proxy;

use std::path::Path;

pub use proxy::{Fault, Header, Proxy, error, truncated_page};

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tokio::runtime::Runtime;

/// The bucket that is there.
pub const BUCKET: &str = "archive";
/// The access key that is let in.
pub const ACCESS_KEY: &str = "AccessKeyOfTests";
/// Its secret.
pub const SECRET_KEY: &str = "SecretKeyOfTests";

/// A server that runs. Ends with its drop: the runtime first, then the files.
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
    /// When there is no room for it, or no port.
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
                let service = service.clone();
                tokio::spawn(async move {
                    let builder = auto::Builder::new(TokioExecutor::new());
                    // A client that goes away is not the server's failure.
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        S3Server { runtime: Some(runtime), url, root }
    }

    /// Where it listens: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What it keeps: a folder for the bucket, and files of its own beside it.
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
