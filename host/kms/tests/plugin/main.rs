//! Client and probe against a test plugin on a real Unix socket. Each test chooses how the plugin misbehaves.
// Clippy recognizes only functions with #[test] as tests. Their helpers are test code too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod calls;
mod misbehaving;
mod probes;
mod waiting;
