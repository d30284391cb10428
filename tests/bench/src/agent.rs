//! The node agent at rest, with four plugins beside it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use keyward_test_cluster::{Seen, wait_until};
use keyward_test_e2e::{IMAGE, Install, Keyward, vault_spec};
use tokio::time::Instant;

use crate::live::resident;
use crate::table::Table;

const PATIENCE: Duration = Duration::from_mins(2);
const KEYS: [&str; 4] = ["a", "b", "c", "d"];
/// The agent's default probe interval, and the number of intervals that are measured.
const INTERVAL: Duration = Duration::from_secs(30);
const INTERVALS: u32 = 4;
/// Ticks per second in `/proc/PID/stat`: USER_HZ is 100 on every Linux.
const TICKS: f64 = 100.0;

/// Goals: under 25 MiB RSS, under 0.5 % of a core, at most one write for each node and interval.
pub(crate) async fn agent(table: &mut Table) -> Result<()> {
    let install = Install {
        keys: KEYS.map(str::to_owned).to_vec(),
        probe_interval: INTERVAL,
        // Without compaction no KMS provider leaves, so all four plugins stay (decision 0007).
        apiserver_args: vec!["--etcd-compaction-interval=0".to_owned()],
        ..Install::default()
    };
    let keyward = Keyward::start(install).await?;
    for (id, key) in (1..).zip(KEYS) {
        keyward.apply(&vault_spec(&keyward, key, &IMAGE(1))).await?;
        keyward.wait_settled(id, PATIENCE).await?;
    }
    let plugins = keyward.plugins()?.len();
    anyhow::ensure!(plugins == KEYS.len(), "{plugins} plugins run");
    let pid = pid(keyward.cluster.node(0)?.name())?;
    // After one interval the work of the last change has ended.
    rest(INTERVAL).await?;
    let (before, writes) = (busy(pid)?, writes(&keyward).await?);
    let began = Instant::now();
    rest(INTERVAL * INTERVALS).await?;
    let spent = began.elapsed().as_secs_f64();
    let of_a_core = (busy(pid)? - before) / TICKS / spent * 100.0;
    let per_interval = (self::writes(&keyward).await? - writes) / (spent / INTERVAL.as_secs_f64());
    table.add("the agent's RSS with four plugins", resident(pid, "VmRSS:")?, "MiB", Some(25.0));
    table.add("… of which anonymous memory", resident(pid, "RssAnon:")?, "MiB", None);
    table.add("… of which pages of its file", resident(pid, "RssFile:")?, "MiB", None);
    table.add("the agent's processor time at rest", of_a_core, "% of a core", Some(0.5));
    table.add("its writes in an interval of 30 s, without Leases", per_interval, "", Some(1.0));
    Ok(())
}

/// Waits: the measurement covers a fixed time.
async fn rest(time: Duration) -> Result<()> {
    let began = Instant::now();
    wait_until("the time to pass", time * 2, async || {
        Ok(Seen::when(began.elapsed() >= time, format!("{:?}", began.elapsed())))
    })
    .await
}

/// The agent's process ID on the host.
fn pid(node: &str) -> Result<u32> {
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let command =
            std::fs::read(Path::new("/proc").join(format!("{pid}")).join("cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = command.split(|byte| *byte == 0).collect();
        if words.get(1) == Some(&b"node-agent".as_slice()) && words.contains(&node.as_bytes()) {
            return Ok(pid);
        }
    }
    anyhow::bail!("no agent of {node} runs")
}

/// The processor time of the process so far, user and system, in ticks.
fn busy(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(')').context("stat contains no name")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks =
        |at: usize| -> Result<f64> { Ok(fields.get(at).context("stat has too few fields")?.parse()?) };
    Ok(ticks(11)? + ticks(12)?)
}

/// Writes of EncryptionNodes, as counted by the API server. At rest, only agents write them.
async fn writes(keyward: &Keyward) -> Result<f64> {
    let request = http::Request::get("/metrics").body(Vec::new())?;
    let metrics = keyward.client.request_text(request).await?;
    let counted = metrics.lines().filter(|line| {
        line.starts_with("apiserver_request_total{")
            && line.contains("resource=\"encryptionnodes\"")
            && ["APPLY", "PATCH", "PUT", "POST"].iter().any(|verb| line.contains(&format!("verb=\"{verb}\"")))
    });
    let mut sum = 0.0;
    for line in counted {
        sum += line.rsplit(' ').next().context("no figure")?.parse::<f64>()?;
    }
    Ok(sum)
}
