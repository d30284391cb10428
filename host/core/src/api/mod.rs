//! The types of the CRDs (objects: objects): group `encryption.keyward.dev`, cluster-scoped, never encrypted.
//!
//! Doc comments of the types and fields become the descriptions that `kubectl explain` shows: they cite nothing.

mod cluster_encryption;
mod condition;
mod encryption_migration;
mod encryption_node;
pub mod fields;
pub mod validation;

pub use cluster_encryption::*;
pub use condition::*;
pub use encryption_migration::*;
pub use encryption_node::*;
