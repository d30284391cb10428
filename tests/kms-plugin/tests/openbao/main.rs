//! The plugin against a real OpenBao (or Vault, by `BAO_BIN`), over TLS, looked at through Keyward's own probe.
//! `cargo xtask test kms` does all set-up; the first run without it installs OpenBao below target/.
// Clippy takes only functions with #[test] for tests; what they call is test code as well.
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
