//! A model of the world around Keyward's decisions, and its exploration in every order of events.
//!
//! The decisions are the real ones: [`keyward_core::reconcile`] with all its controllers, and
//! [`keyward_core::node::next`]. Everything else (stored objects, API servers, disks, plugins, KMS, etcd, an
//! admin) is a model in memory. After each step the invariants of docs/invariants.md are checked
//! ([`invariants`]), and from the reached states it is checked that everything ends well once the faults are
//! repaired ([`liveness`]).
//!
//! This crate contains the model, and ways through it. It never contains a rule of Keyward's own (that would
//! be checked against itself), a clock, or a thread that decides anything.
//!
//! docs/simulator.md describes what is modelled, what is not, and how to read and replay a failure.

// An inconsistency in its own books must stop a simulator at once: it runs nothing that must survive.
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
