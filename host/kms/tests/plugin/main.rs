//! Client and probe against a plugin of our own on a real unix socket, which misbehaves as each test wants.
// Clippy takes only functions with #[test] for tests; what they call is test code as well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod calls;
mod misbehaving;
mod probes;
mod waiting;
