//! The agent of one control-plane node (decision 0041): it observes disk, API server and plugins, lets
//! `keyward_core::node` decide, carries out the steps, and reports.
//!
//! In this crate: the files of the node ([`disk`](Disk)), the API server's metrics, scheduled probes of
//! plugins, the diagnosis of a plugin that does not start, and the loop around them ([`Agent`]); the files
//! that kubeadm writes and `prepare` changes ([`kubeadm`]); the commands that an admin runs once, with or
//! without an agent ([`recover`], [`join`], [`republish`], [`restore`]); and the [`Reporter`], for API
//! servers on nodes that Keyward does not manage. The crate does I/O on this node. It never contains a
//! decision (core decides), a provider module, the name of a KMS product, or a secret byte in a log line or a
//! status.

mod agent;
mod api;
mod by_hand;
mod diagnosis;
mod disk;
mod edits;
mod error;
mod key_check;
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
pub use by_hand::{CommandSettings, Joined, Kept, Recovery, Republished, join, recover, republish, restore};
pub use diagnosis::failure;
pub use disk::Disk;
pub use error::{AgentError, Category};
pub use paths::Paths;
pub use reporter::{KmsSocket, NotASocket, Reporter, ReporterSettings};
pub use settings::{Owner, Settings};
