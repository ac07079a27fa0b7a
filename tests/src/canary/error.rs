//! What can go wrong with the scene itself; what the innocent host suffers is a verdict, not an
//! error.

use varve::cli::ClientError;
use varve::nvmf::host::HostError;

use crate::appliance::ApplianceError;
use crate::faults::FaultsError;
use crate::soak::error::SoakError;

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum CanaryError {
    /// The appliance does not start, or fails to prepare the scene.
    #[error("{0}")]
    Appliance(#[from] ApplianceError),
    /// A command that prepares the scene failed.
    #[error("preparing {doing}")]
    Prepare {
        /// The operation.
        doing: &'static str,
        /// The reason.
        #[source]
        source: HostError,
    },
    /// A call that prepares the scene failed.
    #[error("{0}")]
    Call(#[from] ClientError),
    /// The system refused an operation of this process.
    #[error("{doing}: {source}")]
    System {
        /// The operation.
        doing: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The archive cannot be made slow here.
    #[error("{0}")]
    Faults(#[from] FaultsError),
    /// The verified load lost data, or its connection.
    #[error("the load")]
    Load(#[source] Box<SoakError>),
    /// No adversary has this name.
    #[error("no adversary is called {name}; there are {known}")]
    NoSuchAdversary {
        /// The requested name.
        name: String,
        /// The names of all adversaries.
        known: String,
    },
    /// The adversary could do nothing of its attack, so nothing was tested.
    #[error("{name} could do nothing: {told}")]
    Harmless {
        /// The adversary.
        name: &'static str,
        /// Its results.
        told: String,
    },
}

impl CanaryError {
    /// An adapter for `map_err`: adds the operation to the system's error.
    pub(super) fn system<E: Into<std::io::Error>>(doing: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System { doing, source: source.into() }
    }

    /// An adapter for `map_err`: adds what was being prepared to a host's error.
    pub(super) fn prepare(doing: &'static str) -> impl FnOnce(HostError) -> Self {
        move |source| Self::Prepare { doing, source }
    }
}
