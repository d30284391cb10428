//! Keyward as it is deployed, on a real cluster with a real KMS: the operator, one agent on each node, and
//! observers.
//!
//! In scope: starting Keyward's own programs on the harness, load, and evidence from etcd, from the API and
//! from its audit log. Never in scope: decisions that the operator makes, a fake of anything.

mod disk;
mod encryption;
mod evidence;
mod gap;
mod in_use;
mod install;
mod load;
mod narrator;
mod phase;
mod plan;
mod reader;
mod rights;
mod said;
mod secrecy;
mod status;
mod transcript;
mod writer;

pub use disk::{empty, files_of, fill, manifest_of, pod_in, wipe};
pub use encryption::Encryption;
pub use evidence::{Evidence, evidence};
pub use gap::{Gap, Watched};
pub use in_use::InUse;
pub use install::{
    CREDENTIALS, IMAGE, Install, Keyward, RIGHTS, SHORT_HISTORY, shipped, shipped_documents, vault_spec,
};
pub use load::{Content, Contents, Load};
pub use narrator::Narrator;
pub use phase::Phase;
pub use plan::{Answer, plan};
pub use reader::{Away, Reader, Report};
pub use rights::{Audit, On, Request, Requests, give, person};
pub use said::Said;
pub use secrecy::Search;
pub use status::Status;
pub use transcript::Transcript;
pub use writer::{Writer, Written};
