//! The appliance as a separate process: started, killed as by a crash, and restarted on the same
//! directory and port.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use super::error::SoakError;

/// The environment variable that names the program.
pub const BINARY_VARIABLE: &str = "VARVE_BINARY";
/// How much of the error output is quoted, in bytes.
const SAID_BYTES: u64 = 2000;
/// How long an orderly stop may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// An appliance on a directory.
#[derive(Debug)]
pub struct Appliance {
    binary: PathBuf,
    directory: PathBuf,
    volume_bytes: u64,
    pool_bytes: u64,
    address: SocketAddr,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    /// Kept open, because a program fails when it prints and its output is closed.
    output: BufReader<ChildStdout>,
}

/// The program: the one that `VARVE_BINARY` names, or the newest of the release and debug builds
/// next to this executable.
///
/// # Errors
/// When it does not exist.
pub fn find_binary() -> Result<PathBuf, SoakError> {
    if let Some(path) = std::env::var_os(BINARY_VARIABLE) {
        return Ok(path.into());
    }
    let here = std::env::current_exe().map_err(SoakError::io("ask for this program's path"))?;
    let looked: Vec<PathBuf> = here
        .ancestors()
        .skip(1)
        .take(3)
        .flat_map(|directory| {
            [directory.join("varve"), directory.join("release/varve"), directory.join("debug/varve")]
        })
        .collect();
    let newest = looked
        .iter()
        .filter(|path| path.is_file())
        .max_by_key(|path| path.metadata().and_then(|metadata| metadata.modified()).ok());
    newest.cloned().ok_or(SoakError::NoBinary { looked })
}

impl Appliance {
    /// Starts an appliance on a new pool in `directory`, on a port that the system chooses; the
    /// appliance keeps the port from then on.
    ///
    /// # Errors
    /// When it does not start.
    pub fn create(
        binary: &Path,
        directory: &Path,
        volume_bytes: u64,
        pool_bytes: u64,
    ) -> Result<Self, SoakError> {
        let mut appliance = Appliance {
            binary: binary.to_owned(),
            directory: directory.to_owned(),
            volume_bytes,
            pool_bytes,
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            running: None,
        };
        appliance.start()?;
        appliance.address = appliance.read_address()?;
        Ok(appliance)
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts it again on the same directory and port; returns at once.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn start(&mut self) -> Result<(), SoakError> {
        let errors = File::create(self.errors()).map_err(SoakError::io("make a file for error output"))?;
        let mut child = Command::new(&self.binary)
            .arg("serve")
            .arg("--dir")
            .arg(&self.directory)
            .arg("--listen")
            .arg(self.address.to_string())
            .arg("--volume-size")
            .arg(self.volume_bytes.to_string())
            .arg("--pool-size")
            .arg(self.pool_bytes.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .map_err(SoakError::io("run the varve program"))?;
        let output = child.stdout.take().ok_or(SoakError::NoAddress { said: String::new() })?;
        self.running = Some(Running { child, output: BufReader::new(output) });
        Ok(())
    }

    /// The port is in the line that shows how a Linux host connects: `-s PORT`.
    fn read_address(&mut self) -> Result<SocketAddr, SoakError> {
        let mut line = String::new();
        while let Some(running) = &mut self.running {
            line.clear();
            let read = running.output.read_line(&mut line).map_err(SoakError::io("read the output"))?;
            let mut words = line.split_whitespace().skip_while(|&word| word != "-s").skip(1);
            if let Some(port) = words.next().and_then(|port| port.parse().ok()) {
                return Ok((Ipv4Addr::LOCALHOST, port).into());
            }
            if read == 0 {
                break;
            }
        }
        Err(SoakError::NoAddress { said: self.said() })
    }

    /// Sends SIGKILL. Data that it sent before can still be received.
    ///
    /// # Errors
    /// When it had ended by itself.
    pub fn kill(&mut self) -> Result<(), SoakError> {
        self.check_running()?;
        if let Some(mut running) = self.running.take() {
            running.child.kill().map_err(SoakError::io("kill the appliance"))?;
            running.child.wait().map_err(SoakError::io("wait for the appliance's end"))?;
        }
        Ok(())
    }

    /// Sends SIGTERM and waits for its orderly end.
    ///
    /// # Errors
    /// When it does not end well, or not in time.
    pub fn stop(&mut self) -> Result<(), SoakError> {
        self.check_running()?;
        let Some(running) = &mut self.running else { return Ok(()) };
        let failed = SoakError::io("send SIGTERM to the appliance");
        let pid = rustix::process::Pid::from_child(&running.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)
            .map_err(|errno| failed(errno.into()))?;
        let started = Instant::now();
        loop {
            let status = running.child.try_wait().map_err(SoakError::io("wait for the appliance's end"))?;
            match status {
                Some(status) if status.success() => break,
                Some(status) => {
                    return Err(SoakError::Ended { status: status.to_string(), said: self.said() });
                }
                None if started.elapsed() > STOP_TIMEOUT => {
                    return Err(SoakError::Stuck { waited_ms: STOP_TIMEOUT.as_millis() as u64 });
                }
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        }
        self.running = None;
        Ok(())
    }

    /// Checks that it still runs.
    ///
    /// # Errors
    /// When it has ended by itself.
    pub fn check_running(&mut self) -> Result<(), SoakError> {
        let Some(running) = &mut self.running else { return Ok(()) };
        match running.child.try_wait().map_err(SoakError::io("look after the appliance"))? {
            None => Ok(()),
            Some(status) => Err(SoakError::Ended { status: status.to_string(), said: self.said() }),
        }
    }

    fn errors(&self) -> PathBuf {
        self.directory.join("errors.log")
    }

    /// The end of its error output since its last start.
    pub fn said(&self) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = File::open(self.errors())?;
            let len_bytes = file.metadata()?.len();
            file.seek(SeekFrom::Start(len_bytes.saturating_sub(SAID_BYTES)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
        };
        read().unwrap_or_default()
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        if let Some(mut running) = self.running.take() {
            // It may have ended by itself; errors cannot be handled here.
            let _ = running.child.kill();
            let _ = running.child.wait();
        }
    }
}
