//! Keyward as it is deployed, on a real cluster with a real KMS: operator, one agent a node, and what watches them.
//!
//! What may come in: starting Keyward's own programs on the harness, load, evidence read from etcd and through the API.
//! What never does: decisions that the operator makes, a fake of anything.

mod evidence;
mod gap;
mod install;
mod load;
mod narrator;
mod plan;
mod reader;
mod secrecy;
mod transcript;

pub use evidence::{Evidence, evidence};
pub use gap::{Gap, Watched};
pub use install::{IMAGE, Install, Keyward, vault_spec};
pub use load::{Contents, Load};
pub use narrator::Narrator;
pub use plan::plan;
pub use reader::{Reader, Report};
pub use secrecy::Search;
pub use transcript::Transcript;
