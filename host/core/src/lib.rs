//! The decisions of Keyward: formats, the state machine, and one pure function per controller.
//!
//! Allowed dependencies: types of Kubernetes objects, serde, hashing. Never: I/O, a clock, randomness, async, a
//! Kubernetes client, wasmtime, or the name of a KMS product.

pub mod api;
mod bytes;
pub mod controllers;
pub mod duration;
pub mod effect;
pub mod field;
pub mod formats;
pub mod ids;
pub mod machine;
pub mod names;
pub mod node;
pub mod outcome;
pub mod platform;
pub mod provider;
pub mod quantity;
pub mod snapshot;
pub mod spelling;

pub use bytes::SecretBytes;
pub use controllers::reconcile;
