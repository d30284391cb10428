//! The CRDs of OBJECTS.md: group `encryption.keyward.dev`, cluster-scoped, never encrypted. Types only.

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
