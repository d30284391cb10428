//! Lost, overwritten and wrong objects on a cluster that is in use: Keyward recovers or stops safely, no read
//! and no write fails, the status shows why, and after a recovery everything is stored under the expected
//! key.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test fails at the first error

use std::time::Duration;

mod forget;
mod keys;
mod kms;
mod pause;
mod revisions;

/// A candidate whose plugin exited is started again after a minute.
const PATIENCE: Duration = Duration::from_mins(3);
/// Slow enough to be interrupted.
const SLOW_MIGRATION: [&str; 2] = ["--migration-concurrency", "1"];
