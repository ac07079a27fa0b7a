//! SPDK's stock JSON-RPC client from `PyPI`, which `scripts/install-spdk-client` installs.
//!
//! Where it cannot be installed (no network, and no earlier installation), [`StockClient::install`]
//! reports that on standard error; where `CI` is set it fails (`varve::missing`).

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

/// Two tests must not install at the same time.
static INSTALLING: Mutex<()> = Mutex::new(());

/// The client, installed.
#[derive(Debug)]
pub struct StockClient {
    python_path: PathBuf,
}

impl StockClient {
    /// Installs the client, unless it is installed. `None` where that is impossible; `test` is the
    /// test named in the report.
    ///
    /// # Panics
    /// The client cannot be installed, and `CI` is set.
    pub fn install(test: &str) -> Option<Self> {
        let _installing = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
        let installed = Command::new(scripts().join("install-spdk-client")).output().expect("a shell");
        if !installed.status.success() {
            let why = String::from_utf8_lossy(&installed.stderr);
            varve::missing::say(test, &format!("SPDK's client cannot be installed: {}", why.trim()));
            return None;
        }
        let path = String::from_utf8(installed.stdout).expect("a path");
        Some(StockClient { python_path: PathBuf::from(path.trim()) })
    }

    /// Runs Python with these arguments; it finds the client and our plugin for it.
    pub fn python(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("python3");
        let paths = std::env::join_paths([self.python_path.as_path(), &scripts()]).expect("no colons");
        command.env("PYTHONPATH", paths).env("PYTHONDONTWRITEBYTECODE", "1");
        command.args(arguments).output().expect("python3 runs")
    }

    /// Runs `spdk-rpc` with these arguments against a socket.
    pub fn run(&self, socket: &Path, arguments: &[&str]) -> Output {
        let socket = socket.to_str().expect("UTF-8");
        let mut all = vec!["-c", "from spdk.spdk_rpc import main; main()", "-t", "20", "-s", socket];
        all.extend(arguments);
        self.python(&all)
    }

    /// The same, and returns its standard output.
    ///
    /// # Panics
    /// It does not succeed.
    pub fn rpc(&self, socket: &Path, arguments: &[&str]) -> String {
        let output = self.run(socket, arguments);
        assert!(
            output.status.success(),
            "{arguments:?}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("UTF-8")
    }
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts")
}
