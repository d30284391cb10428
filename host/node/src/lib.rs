//! The agent of one control-plane node (DESIGN.md, "Node agent"): looks at disk, API server and plugins, has
//! `keyward_core::node` decide, does what it says, and reports.
//!
//! What lives here: files and how they get to disk ([`disk`](Disk)), the API server's metrics, probing of plugins on a
//! schedule, what a plugin that does not start had to say, and the loop around them ([`Agent`]); what kubeadm makes and
//! `prepare` changes ([`kubeadm`]); what is done once by hand, beside the agent or without one ([`recover`], [`join`],
//! [`republish`], [`restore`]); and the [`Reporter`], for API servers whose nodes others run. What may come in: I/O on this node. What never
//! does: a decision (core's), a provider module, the name of a KMS product, a secret byte in a log line or a status.

mod agent;
mod api;
mod by_hand;
mod key_check;
mod diagnosis;
mod disk;
mod edits;
mod error;
pub mod kubeadm;
mod logs;
mod metrics;
mod observe;
mod paths;
mod prober;
mod report;
mod reporter;
mod settings;
mod troubles;
mod watch;

pub use agent::{Agent, Counters};
pub use api::Connection;
pub use by_hand::{ByHand, Joined, Kept, Recovery, Republished, join, recover, republish, restore};
pub use diagnosis::failure;
pub use disk::Disk;
pub use error::{AgentError, Category};
pub use paths::Paths;
pub use reporter::{KmsSocket, NotASocket, Reporter, ReporterSettings};
pub use settings::{Owner, Settings};
