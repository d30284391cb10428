//! The agent of one control-plane node (DESIGN.md, "Node agent"): looks at disk, API server and plugins, has
//! `keyward_core::node` decide, does what it says, and reports.
//!
//! What lives here: files and how they get to disk ([`disk`](Disk)), the API server's metrics, probing of plugins on a
//! schedule, what a plugin that does not start had to say, and the loop around them ([`Agent`]). What may come in: I/O
//! on this node. What never does: a decision (core's), a provider module, the name of a KMS product, a secret byte in a
//! log line or a status.

mod agent;
mod api;
mod canary;
mod diagnosis;
mod disk;
mod edits;
mod error;
mod logs;
mod metrics;
mod observe;
mod paths;
mod prober;
mod report;
mod settings;
mod watch;

pub use agent::{Agent, Counters};
pub use api::Connection;
pub use diagnosis::failure;
pub use disk::Disk;
pub use error::{AgentError, Category};
pub use paths::Paths;
pub use settings::{Owner, Settings};
