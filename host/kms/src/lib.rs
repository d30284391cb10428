//! Talks to KMS v2 plugins: a gRPC client that holds every answer against the API's rules, and the probe built on it.
//!
//! What lives here: the wire types ([`v2`], generated from `proto/kms.proto`), [`Client`] (one connection to one plugin
//! on its unix socket), [`probe()`] and [`wait_ready`] (is this plugin fit to be used, and does it reach the KEK that a
//! [`KeyCheck`] was made under?), and the one error type, [`KmsError`].
//!
//! What may come in: the wire and randomness. What never does: another crate of ours, Kubernetes objects, a decision
//! about keys, the name of a KMS product, and a plaintext, ciphertext or credential in an error, a log line or `Debug`.
//! A plugin's answer is untrusted input: its size is limited and its text is cleaned before it goes anywhere.

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
