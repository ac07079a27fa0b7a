//! NVMe-oF from inside a guest: discovers, connects, finds the block devices, disconnects.

use super::{Guest, GuestError, HOST_ADDRESS};
use serde::Deserialize;
use std::time::{Duration, Instant};

/// How long `nvme` itself may take: a connect waits for the target's answers, and the kernel bounds
/// each wait.
const COMMAND_LIMIT: Duration = Duration::from_mins(1);

/// How long block devices may take to appear after a controller is connected.
const DEVICE_LIMIT: Duration = Duration::from_secs(30);

/// How long it may take to read a whole device.
const DIGEST_LIMIT: Duration = Duration::from_mins(4);

/// One entry of a discovery log, as nvme-cli names its fields.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct DiscoveryRecord {
    /// Transport type: `tcp`.
    pub trtype: String,
    /// Address family: `ipv4`.
    pub adrfam: String,
    /// The kind of entry: `nvme subsystem`, `discovery subsystem referral`,
    /// `current discovery subsystem`.
    pub subtype: String,
    /// The subsystem's NQN.
    pub subnqn: String,
    /// The address to connect to.
    pub traddr: String,
    /// The port to connect to.
    pub trsvcid: String,
}

/// A discovery log, as nvme-cli prints it.
#[derive(Deserialize)]
struct DiscoveryLog {
    records: Vec<DiscoveryRecord>,
}

impl Guest {
    /// Connects to a subsystem at `port` of this machine's loopback and returns the path of its
    /// first block device (`/dev/nvme0n1`). `options` are more arguments of `nvme connect`
    /// (`--hdr-digest`, `--nr-io-queues=1`, `--ctrl-loss-tmo=5`).
    ///
    /// # Errors
    /// As [`Guest::nvme_connect_at`].
    pub fn nvme_connect(&self, nqn: &str, port: u16, options: &[&str]) -> Result<String, GuestError> {
        self.nvme_connect_at(HOST_ADDRESS, nqn, port, options)
    }

    /// Connects to a subsystem at any address that the guest can reach.
    ///
    /// # Errors
    /// [`GuestError::CommandFailed`] with the messages of nvme-cli and the kernel when the connect
    /// fails; [`GuestError::NoBlockDevice`] when no namespace appears within 30 seconds; the errors
    /// of [`Guest::run`].
    pub fn nvme_connect_at(
        &self,
        address: &str,
        nqn: &str,
        port: u16,
        options: &[&str],
    ) -> Result<String, GuestError> {
        self.nvme_connect_only(address, nqn, port, options)?;
        let begin = Instant::now();
        loop {
            if let Some(device) = self.nvme_devices(nqn)?.into_iter().next() {
                return Ok(device);
            }
            if begin.elapsed() > DEVICE_LIMIT {
                let detail = self.run("nvme list-subsys; nvme list; dmesg | tail -n 40", COMMAND_LIMIT)?;
                return Err(GuestError::NoBlockDevice {
                    nqn: nqn.to_owned(),
                    after: DEVICE_LIMIT,
                    detail: detail.text().into_owned(),
                });
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Connects to a subsystem that may have no namespaces, and does not wait for any.
    ///
    /// # Errors
    /// [`GuestError::CommandFailed`] with the messages of nvme-cli and the kernel; the errors of
    /// [`Guest::run`].
    pub fn nvme_connect_only(
        &self,
        address: &str,
        nqn: &str,
        port: u16,
        options: &[&str],
    ) -> Result<(), GuestError> {
        let options: Vec<String> = options.iter().map(|option| shell_quote(option)).collect();
        let command = format!(
            "modprobe nvme-tcp && nvme connect --transport=tcp --traddr={} --trsvcid={port} --nqn={} {} || \
             {{ dmesg | grep -i nvme | tail -n 20; exit 1; }}",
            shell_quote(address),
            shell_quote(nqn),
            options.join(" ")
        );
        self.run_ok(&command, COMMAND_LIMIT).map(|_| ())
    }

    /// The block devices of a connected subsystem, sorted by name; empty when it is not connected
    /// or has no namespaces.
    ///
    /// With the kernel's multipath, a namespace has one device below its subsystem, named after the
    /// subsystem, and a hidden one below each controller. Without multipath (or when the subsystem
    /// reports that it has only one controller), there is one device below the controller. This
    /// searches both places and leaves out the hidden devices.
    ///
    /// # Errors
    /// Those of [`Guest::run`].
    pub fn nvme_devices(&self, nqn: &str) -> Result<Vec<String>, GuestError> {
        let command = format!(
            r#"for subsystem in /sys/class/nvme-subsystem/*; do
                [ "$(cat "$subsystem/subsysnqn" 2>/dev/null)" = {nqn} ] || continue
                for block in "$subsystem"/nvme*n* "$subsystem"/nvme*/nvme*n*; do
                    [ -e "$block/size" ] || continue
                    [ "$(cat "$block/hidden" 2>/dev/null)" = 1 ] && continue
                    device=/dev/${{block##*/}}
                    [ -b "$device" ] && echo "$device"
                done
            done | sort -V -u"#,
            nqn = shell_quote(nqn)
        );
        Ok(self.run_ok(&command, COMMAND_LIMIT)?.lines().map(str::to_owned).collect())
    }

    /// The SHA-256 of the whole content of a block device, read without the guest's caches. If the
    /// device cannot be read to its end, the digest is a different one.
    ///
    /// # Errors
    /// Those of [`Guest::run`].
    pub fn device_digest(&self, device: &str) -> Result<String, GuestError> {
        let device = shell_quote(device);
        let command =
            format!("{{ dd if={device} bs=1M iflag=direct 2>/dev/null || echo unreadable; }} | sha256sum");
        let said = self.run_ok(&command, DIGEST_LIMIT)?;
        Ok(said.split_whitespace().next().unwrap_or_default().to_owned())
    }

    /// Disconnects all controllers of a subsystem and returns how many there were.
    ///
    /// # Errors
    /// [`GuestError::CommandFailed`] with nvme-cli's message; the errors of [`Guest::run`].
    pub fn nvme_disconnect(&self, nqn: &str) -> Result<u32, GuestError> {
        let answer = self.run_ok(&format!("nvme disconnect --nqn={}", shell_quote(nqn)), COMMAND_LIMIT)?;
        // "NQN:nqn.example disconnected 1 controller(s)"
        answer
            .rsplit_once("disconnected ")
            .and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok())
            .ok_or(GuestError::UnexpectedAnswer { program: "nvme disconnect", detail: answer })
    }

    /// Reads the discovery log of the discovery service at `port` of this machine's loopback.
    ///
    /// # Errors
    /// As [`Guest::nvme_discover_at`].
    pub fn nvme_discover(&self, port: u16) -> Result<Vec<DiscoveryRecord>, GuestError> {
        self.nvme_discover_at(HOST_ADDRESS, port)
    }

    /// Reads the discovery log of a discovery service at any address that the guest can reach.
    ///
    /// # Errors
    /// [`GuestError::CommandFailed`] with nvme-cli's message; [`GuestError::UnexpectedAnswer`] when
    /// its output is not the JSON of a log; the errors of [`Guest::run`].
    pub fn nvme_discover_at(&self, address: &str, port: u16) -> Result<Vec<DiscoveryRecord>, GuestError> {
        let command = format!(
            "modprobe nvme-tcp && nvme discover --transport=tcp --traddr={} --trsvcid={port} --output-format=json",
            shell_quote(address)
        );
        let answer = self.run_ok(&command, COMMAND_LIMIT)?;
        serde_json::from_str::<DiscoveryLog>(&answer).map(|log| log.records).map_err(|error| {
            GuestError::UnexpectedAnswer {
                program: "nvme discover",
                detail: format!("{error} in {answer:?}"),
            }
        })
    }
}

/// Quotes a word for the shell.
pub(super) fn shell_quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
