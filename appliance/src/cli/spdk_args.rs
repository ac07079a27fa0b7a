//! The grammar of the commands that are named after SPDK's methods.

use std::net::SocketAddr;

use clap::{Args, Subcommand};

/// Which subsystem.
#[derive(Debug, Args)]
pub(super) struct SubsystemArgs {
    /// The NQN of the subsystem (nqn.2026-11.dev.varve:VOLUME), or `discovery`.
    pub(super) nqn: String,
}

/// Which listener.
#[derive(Debug, Args)]
pub(super) struct ListenerArgs {
    /// The NQN of any subsystem; a listener is for all of them.
    #[arg(long, default_value = "discovery")]
    pub(super) nqn: String,
    /// The address and port; with port 0 the system chooses one.
    #[arg(
        value_name = "ADDRESS:PORT",
        help = "The address and port, like 10.1.0.5:4420 or [::1]:4420; with port 0 the system chooses one"
    )]
    pub(super) address: SocketAddr,
}

#[derive(Debug, Subcommand)]
pub(super) enum NvmfCommand {
    /// List the subsystems.
    GetSubsystems {
        /// Only the subsystem with this NQN.
        nqn: Option<String>,
    },
    /// Show the transports and their limits.
    GetTransports,
    /// Show connections, and commands since start.
    GetStats,
    /// Show where hosts connect to a subsystem.
    ///
    /// Example: varve nvmf subsystem-get-listeners discovery
    #[command(verbatim_doc_comment)]
    SubsystemGetListeners(SubsystemArgs),
    /// Show the hosts that are connected to a subsystem.
    ///
    /// Example: varve nvmf subsystem-get-controllers nqn.2026-11.dev.varve:vol0
    #[command(verbatim_doc_comment)]
    SubsystemGetControllers(SubsystemArgs),
    /// Show the connections of a subsystem.
    ///
    /// Example: varve nvmf subsystem-get-qpairs nqn.2026-11.dev.varve:vol0
    #[command(verbatim_doc_comment)]
    SubsystemGetQpairs(SubsystemArgs),
    /// Start listening on an address, for every subsystem.
    ///
    /// Example: varve nvmf subsystem-add-listener 10.1.0.5:4420
    #[command(verbatim_doc_comment)]
    SubsystemAddListener(ListenerArgs),
    /// Stop listening on an address, for every subsystem. Connected hosts stay connected.
    ///
    /// Example: varve nvmf subsystem-remove-listener 10.1.0.5:4420
    #[command(verbatim_doc_comment)]
    SubsystemRemoveListener(ListenerArgs),
}

#[derive(Debug, Subcommand)]
pub(super) enum BdevCommand {
    /// List the volumes.
    GetBdevs {
        /// Only the volume of this name.
        name: Option<String>,
    },
    /// Turn the measurement of a volume's requests on or off.
    ///
    /// Example: varve bdev enable-histogram vol0 true
    #[command(verbatim_doc_comment)]
    EnableHistogram {
        /// The volume.
        name: String,
        /// true or false.
        #[arg(action = clap::ArgAction::Set)]
        enable: bool,
        /// Measure only this kind of request: read, write, unmap, `write_zeroes`, flush.
        #[arg(long)]
        opc: Option<String>,
    },
    /// Show how long a volume's requests took.
    ///
    /// Example: varve bdev get-histogram vol0
    #[command(verbatim_doc_comment)]
    GetHistogram {
        /// The volume.
        name: String,
    },
    /// Show activity since start.
    GetIostat {
        /// Only these volumes.
        names: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum FrameworkCommand {
    /// Show the reactors and how busy they were since start.
    GetReactors,
    /// List the parts that have a configuration.
    GetSubsystems,
    /// Show the calls that would configure a part as it is now.
    ///
    /// Example: varve framework get-config nvmf
    #[command(verbatim_doc_comment)]
    GetConfig {
        /// The part, as get-subsystems lists it.
        name: String,
    },
    /// Wait until the pool is open.
    WaitInit,
}

#[derive(Debug, Subcommand)]
pub(super) enum ThreadCommand {
    /// Show how busy the threads were since start.
    GetStats,
}

#[derive(Debug, Subcommand)]
pub(super) enum SpdkCommand {
    /// Show the version of the running appliance.
    GetVersion,
    /// Send the appliance a signal.
    ///
    /// Example: varve spdk kill-instance SIGTERM
    #[command(verbatim_doc_comment)]
    KillInstance {
        /// SIGTERM or SIGINT, which stop it cleanly; SIGQUIT or SIGKILL, which end it at once.
        sig_name: String,
    },
}
