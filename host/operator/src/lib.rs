//! Keyward's operator on plain Kubernetes: fetches objects, has configurations evaluated, lets core decide, writes what
//! was decided, and re-encrypts what is stored.
//!
//! What lives here: all I/O of the operator, in one file a concern. What may come in: a [`kube::Client`] and an
//! [`Evaluator`](keyward_core::provider::Evaluator). What never does: a decision (core's), a provider module or
//! wasmtime (the engine's), the name of a KMS product, a secret byte in a log, an Event, a status or an error.
//!
//! ```text
//! trigger ─► fetch ─► results ─► core::platform ─► core::reconcile ─► writer ─► status, events
//!              ▲                                                        │
//!              └────────────────────────── again ◄──────────────────────┘
//! lease: one writer · migrator: EncryptionMigration objects, metadata only · http: metrics and probes
//! ```
//!
//! The composition is in [`run`]; the same fetching without any writing, for `keyward plan` and `status`, in [`live`].

pub mod ages;
mod backoff;
pub mod cluster;
mod error;
mod events;
pub mod expiry;
pub mod fetch;
mod health;
mod http;
pub mod lease;
pub mod live;
mod metrics;
pub mod migrator;
mod reconcile;
pub mod results;
mod rights;
pub mod roles;
pub mod run;
pub mod settings;
mod status;
mod trigger;
mod troubles;
mod writer;

pub use cluster::{Cluster, ConnectError, Connection, Mounted, connect};
pub use error::{ActionError, Error};
pub use metrics::Metrics;
pub use run::Operator;
pub use settings::Settings;
