//! Real clusters for tests: etcd, kube-apiservers on nodes of their own, OpenBao, and whatever runs beside them.
//!
//! What may come in: starting real programs, looking at what they store and report, and ending them for certain. What
//! never does: a fake of any of them, knowledge of what Keyward should do, a sleep in place of a condition.
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
//! The first start builds what is missing and may take minutes; [`keyward_test_tools`] says so. Nothing outlives the
//! test, be it dropped, panicking or killed (see `guarded`).

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

/// Chooses aws-lc-rs for the whole process, as Keyward does; a test may have linked another one in.
pub fn use_one_tls_provider() {
    // The second call fails, which is fine.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
