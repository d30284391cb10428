//! Three control-plane nodes, on a cluster that is in use through each of its API servers: a change is rolled
//! out to one node after another, and no read and no write fails.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test fails at the first error

use std::time::Duration;

use keyward_test_e2e::Install;

mod cold;
mod faults;
mod late;
mod life;
mod members;
mod preflight;
mod retired;

const AGENT_KUBECONFIG: &str = "/etc/kubernetes/keyward/agent.kubeconfig";
/// A candidate whose plugin exited is started again after a minute.
const PATIENCE: Duration = Duration::from_mins(4);

fn three() -> Install {
    let keys = ["a", "b", "c"].map(str::to_owned).to_vec();
    Install { nodes: 3, keys, ..Install::default() }
}
