//! Agents that die after each step.

use std::time::Duration;

use anyhow::{Result, ensure};
use keyward_test_cluster::Binary;
use keyward_test_e2e::{Encryption, InUse, Install};

use crate::{PATIENCE, three};

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_die_after_each_of_their_steps_get_there_all_the_same() -> Result<()> {
    let wait = Duration::from_millis(50);
    let install = Install { agent: Binary::MortalAgent, restart_backoff: (wait, wait), ..three() };
    let cluster = InUse::start(install, 100, 20).await?;
    cluster.change(Encryption::Transit("a"), 1, PATIENCE * 2).await?;
    cluster.change(Encryption::Transit("b"), 2, PATIENCE * 2).await?;
    for node in cluster.keyward.cluster.nodes() {
        let log = node.logs("keyward-agent", "agent")?;
        let steps = log.lines().filter(|line| line.contains(" done step=")).count();
        let deaths = node.pod("keyward-agent")?.map_or(0, |pod| pod.containers[0].restarts);
        println!("{}: {steps} steps, the agent died {deaths} times", node.name());
        ensure!(
            steps > 20 && deaths as usize >= steps - 1,
            "{}: {steps} steps, {deaths} deaths",
            node.name()
        );
    }
    cluster.finish().await.map(drop)
}
