//! Keyward's operator on plain Kubernetes: reads objects, evaluates configurations, asks core for a decision, writes
//! it, and re-encrypts stored objects.
//!
//! This crate does all I/O of the operator, one file for each concern. It receives a [`kube::Client`] and an
//! [`Evaluator`](keyward_core::provider::Evaluator). It never contains a decision (core), a provider module or wasmtime
//! (the engine), the name of a KMS product, or a secret byte in a log, an Event, a status or an error.
//!
//! ```text
//! trigger ─► fetch ─► results ─► core::platform ─► core::reconcile ─► writer ─► status, events
//!              ▲                                                        │
//!              └────────────────────────── again ◄──────────────────────┘
//! lease: one leader · migrator: EncryptionMigration objects, metadata only · http: metrics and probes
//! ```
//!
//! [`run`] composes an operator. [`live`] reads the same objects and writes nothing, for `keyward plan` and `status`.

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
