//! Real clusters for tests: etcd, nodes with kube-apiservers, OpenBao, and the programs beside them.
//!
//! In scope: starting real programs, reading what they store and report, and ending them reliably. Never in
//! scope: a fake of any of them, knowledge of what Keyward should do, a sleep in place of a condition.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use keyward_test_cluster::Cluster;
//!
//! let cluster = Cluster::builder().nodes(2).start().await?;
//! let client = cluster.client(0).await?;
//! println!("{:?}", cluster.etcd().count_by_prefix("secrets").await?);
//! # Ok(())
//! # }
//! ```
//!
//! The first start builds missing programs and may take minutes; [`keyward_test_tools`] prints what it
//! builds. No process outlives the test, also when the test panics or is killed (see `guarded`).

mod apiserver;
mod bao;
mod cluster;
mod etcd;
mod files;
mod guarded;
mod hidden;
mod http;
mod isolation;
mod kubeconfig;
mod node;
pub mod pki;
mod ports;
mod process;
mod state;
#[doc(hidden)]
pub mod supervisor;
mod wait;
mod webhook;

pub use apiserver::{ENCRYPTION_CONFIG, REVISION_0};
pub use bao::{AppRole, Bao, Policy};
pub use cluster::{Builder, Cluster};
pub use etcd::{Etcd, Stored, StoredValues, storage_prefix};
pub use hidden::Hidden;
pub use keyward_test_tools::{Binary, Tools};
pub use kubeconfig::User;
pub use node::{AGENT_IMAGE, Node};
pub use process::Process;
pub use supervisor::{ContainerState, Image, PodState, State, Terminated};
pub use wait::{Seen, wait_until};
pub use webhook::Webhook;

/// Selects aws-lc-rs as the TLS provider of the process, as Keyward does; the process may have another one
/// linked too.
pub fn use_one_tls_provider() {
    // Every call after the first fails, which is fine.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
