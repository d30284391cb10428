//! Calls KMS v2 plugins: a gRPC client that checks every answer against the API's rules, and the probe built
//! on it.
//!
//! In this crate: the wire types ([`v2`], generated from `proto/kms.proto`), [`Client`] (one connection to
//! one plugin on its Unix socket), [`probe()`] and [`wait_ready`] (can this plugin be used, and does it reach
//! the KEK that a [`KeyCheck`] was made under?), and the one error type, [`KmsError`].
//!
//! The crate uses the wire and randomness. It never uses another crate of Keyward or Kubernetes objects,
//! decides nothing about keys, and knows no KMS product. No plaintext, ciphertext or credential is in an
//! error, a log line or `Debug`. A plugin's answer is untrusted input: its size is limited and its text is
//! cleaned before anything else uses it.

mod client;
mod error;
mod probe;
mod rules;
mod text;
pub mod v2;
mod wait;

pub use client::{Client, Encrypted, StatusAnswer, Timeouts};
pub use error::{KmsError, Phase};
pub use probe::{KeyCheck, Latencies, ProbeReport, ProbeSpec, probe};
pub use rules::{MAX_ANNOTATION_BYTES, MAX_CIPHERTEXT_BYTES, MAX_KEY_ID_BYTES};
pub use wait::wait_ready;
