//! The plugin with a real OpenBao (or the Vault that `BAO_BIN` names), over TLS, tested through Keyward's own
//! probe. `cargo xtask test kms` does all setup; the first run without it installs OpenBao below target/.
// For Clippy, only functions with #[test] are tests; their helpers are test code too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bao;
mod plugin;

mod credentials;
mod diagnoses;
mod keys;
mod process;
mod seen;
mod servers;
mod spellings;
mod tls;
