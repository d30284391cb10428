//! What can go wrong in the operator.

use keyward_core::formats::FormatError;

use crate::cluster::{CallError, Category};

/// Why a reconcile, or the operator, did not get through.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call to the API server failed.
    #[error("{0}")]
    Call(#[from] CallError),
    /// The API server does not serve our kinds.
    #[error(
        "the API server does not serve {0}; install the CRDs: keyward crds | kubectl apply --server-side -f -"
    )]
    CrdsMissing(String),
    /// An action could not be carried out; those after it were left for the next reconcile.
    #[error("{action}: {source}")]
    Action {
        /// [`Action::kind`](keyward_core::outcome::Action::kind).
        action: &'static str,
        /// What happened.
        source: ActionError,
    },
    /// Another operator may be the writer by now, or this one was asked to stop.
    #[error("this operator is not the writer any more: writing stops")]
    NotWriter,
    /// Core goes on wanting: a bug of ours.
    #[error("no decision after {0} rounds of evaluations: a bug, please report it")]
    Unsettled(usize),
    /// The operating system has no randomness to give.
    #[error("no random bytes: {0}")]
    Randomness(String),
    /// A task that should never end did: a bug of ours. The process ends, and is started anew.
    #[error("{0} ended by itself: a bug, please report it")]
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
    /// The API server refused or did not answer.
    #[error("{0}")]
    Call(#[from] CallError),
    /// The object cannot be written in its format.
    #[error("{0}")]
    Format(#[from] FormatError),
    /// The action speaks of an object that was not among those read.
    #[error("{0} is not among the objects that were read")]
    Unknown(String),
    /// The action is one of another platform's.
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

    /// Whether somebody else wrote first: no failure, but a reason to decide again.
    pub fn is_conflict(&self) -> bool {
        self.category() == Category::Conflict.as_str()
    }
}
