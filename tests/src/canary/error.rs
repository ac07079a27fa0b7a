//! What can go wrong with the bed itself; what the innocent suffer is a verdict, not an error.

use varve::cli::ClientError;
use varve::nvmf::host::HostError;

use crate::appliance::ApplianceError;
use crate::faults::FaultsError;
use crate::soak::error::SoakError;

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum CanaryError {
    /// The appliance does not start, or does not do what prepares the scene.
    #[error("{0}")]
    Appliance(#[from] ApplianceError),
    /// A command that prepares the scene failed.
    #[error("preparing {doing}")]
    Prepare {
        /// What was being made.
        doing: &'static str,
        /// Why it could not be.
        #[source]
        source: HostError,
    },
    /// A call that prepares the scene failed.
    #[error("{0}")]
    Call(#[from] ClientError),
    /// The system refused something to this process.
    #[error("{doing}: {source}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The archive cannot be made slow here.
    #[error("{0}")]
    Faults(#[from] FaultsError),
    /// The load that is verified lost something, or its connection.
    #[error("the load")]
    Load(#[source] Box<SoakError>),
    /// A name that no adversary has.
    #[error("no adversary is called {name}; there are {known}")]
    NoSuchAdversary {
        /// What was asked for.
        name: String,
        /// All there are.
        known: String,
    },
    /// The adversary could not do any of what it is there for, so nothing was tested.
    #[error("{name} could do nothing: {told}")]
    Harmless {
        /// The adversary.
        name: &'static str,
        /// What it came to.
        told: String,
    },
}

impl CanaryError {
    /// An adapter for `map_err`: the system's error with what was being done.
    pub(super) fn system<E: Into<std::io::Error>>(doing: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System { doing, source: source.into() }
    }

    /// An adapter for `map_err`: a host's error with what was being prepared.
    pub(super) fn prepare(doing: &'static str) -> impl FnOnce(HostError) -> Self {
        move |source| Self::Prepare { doing, source }
    }
}
