//! What is lost, overwritten or mistaken heals or stops safely, on a cluster that is in use: no read and no write fails,
//! what the status said is here, and what heals ends with everything under the key that it should be under.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test stops at its first surprise

use std::time::Duration;

mod forget;
mod keys;
mod kms;
mod pause;
mod revisions;

/// A candidate that ended is started again after a minute.
const PATIENCE: Duration = Duration::from_mins(3);
/// Slow enough to be interrupted.
const SLOW_MIGRATION: [&str; 2] = ["--migration-concurrency", "1"];
