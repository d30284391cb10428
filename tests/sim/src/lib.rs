//! The world around Keyward's decisions, to be explored: what they do in every order of events.
//!
//! The decisions are the real ones: [`keyward_core::reconcile`] with all its controllers, and
//! [`keyward_core::node::next`]. Everything else (stored objects, API servers, disks, plugins, KMS, etcd, an admin) is
//! a model in memory. After each step what DESIGN.md promises is checked ([`invariants`]), and from the states reached
//! it is tried whether all ends well once the faults are healed ([`liveness`]).
//!
//! What may come in: the model, and ways through it. What never does: a rule of Keyward's own (that would be checked
//! against itself), a clock, a thread that decides anything.
//!
//! docs/simulator.md tells what is modelled, what is not, and how a failure is read and replayed.

// Books of its own that do not add up are to stop a simulator at once: there is nobody to save.
#![allow(clippy::indexing_slicing, clippy::expect_used, clippy::missing_panics_doc)]
#![allow(clippy::ref_option)] // a trail's end is shared

pub mod explore;
mod hash;
pub mod invariants;
pub mod liveness;
pub mod mutants;
pub mod pairs;
mod rng;
pub mod scenario;
pub mod world;

pub use explore::replay;
