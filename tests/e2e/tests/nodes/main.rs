//! Three control-plane nodes, on a cluster that is in use through each of its API servers: what changes is carried to all
//! of them one after the other, and no read and no write fails.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test stops at its first surprise

use std::time::Duration;

use keyward_test_e2e::Install;

mod cold;
mod faults;
mod late;
mod life;
mod members;
mod preflight;
mod retired;

const AGENT_S_KUBECONFIG: &str = "/etc/kubernetes/keyward/agent.kubeconfig";
/// A candidate that ended is started again after a minute.
const PATIENCE: Duration = Duration::from_mins(4);

fn three() -> Install {
    let keys = ["a", "b", "c"].map(str::to_owned).to_vec();
    Install { nodes: 3, keys, ..Install::default() }
}
