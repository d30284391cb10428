//! Errors of the operator.

use keyward_core::formats::FormatError;

use crate::cluster::{CallError, Category};

/// Why a reconcile pass, or the operator, failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call to the API server failed.
    #[error("{0}")]
    Call(#[from] CallError),
    /// The API server does not serve Keyward's kinds.
    #[error(
        "the API server does not serve {0}; install the CRDs: keyward crds | kubectl apply --server-side -f -"
    )]
    CrdsMissing(String),
    /// An action could not be carried out; the next reconcile pass decides about the actions after it.
    #[error("{action}: {source}")]
    Action {
        /// [`Action::kind`](keyward_core::outcome::Action::kind).
        action: &'static str,
        /// Why.
        source: ActionError,
    },
    /// Another operator may be the leader by now, or this one was asked to stop.
    #[error("this operator is no longer the leader; it stops writing")]
    NotWriter,
    /// Core requests more evaluations in every round: a bug of Keyward.
    #[error("internal error: no decision after {0} rounds of evaluations; please report this bug")]
    Unsettled(usize),
    /// The operating system returned no random bytes.
    #[error("no random bytes: {0}")]
    Randomness(String),
    /// A task that never ends did end: a bug of Keyward. The process exits, and is restarted.
    #[error("internal error: {0} ended unexpectedly; please report this bug")]
    Ended(&'static str),
    /// The HTTP server cannot start.
    #[error("cannot listen on {address}: {source}; choose another address with --listen")]
    Listen {
        /// As configured.
        address: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// Why one action failed.
#[derive(Debug, thiserror::Error)]
pub enum ActionError {
    /// The API server refused, or did not answer.
    #[error("{0}")]
    Call(#[from] CallError),
    /// The object cannot be written in its format.
    #[error("{0}")]
    Format(#[from] FormatError),
    /// The action names an object that is not among those that were read.
    #[error("{0} is not among the objects that were read")]
    Unknown(String),
    /// The action belongs to another platform.
    #[error("{0} is not written on this platform")]
    Platform(&'static str),
}

impl Error {
    /// The bounded label of metrics, Events and condition reasons.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Call(error) | Self::Action { source: ActionError::Call(error), .. } => {
                error.category().as_str()
            }
            Self::CrdsMissing(_) => Category::NotServed.as_str(),
            Self::Action { source: ActionError::Format(_), .. } => "format",
            Self::Action { source: ActionError::Unknown(_) | ActionError::Platform(_), .. }
            | Self::Unsettled(_)
            | Self::Ended(_) => "bug",
            Self::NotWriter => "not_writer",
            Self::Randomness(_) => "randomness",
            Self::Listen { .. } => "listen",
        }
    }

    /// Whether another writer was first: not a failure, but a reason to decide again.
    pub fn is_conflict(&self) -> bool {
        self.category() == Category::Conflict.as_str()
    }
}
