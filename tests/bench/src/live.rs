//! Benchmarks that need a cluster, and the size of the shipped binary.

use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use keyward_core::api::{ClusterEncryption, EncryptionNode, PreflightResult};
use keyward_core::names;
use keyward_test_cluster::{Binary, Tools};
use keyward_test_e2e::{IMAGE, Install, Keyward, vault_spec};
use kube::api::PostParams;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event};
use kube::{Api, ResourceExt as _};
use tokio::task::JoinHandle;

use crate::table::Table;

const PATIENCE: Duration = Duration::from_mins(2);
const KEY: &str = "encryption-key-kube-apiserver-1";

/// The stages between spec and key secret, in order: the source of the log line, a part of the line, and the
/// stage.
const STAGES: [(Source, &str, &str); 9] = [
    (Source::Operator, "reconcile started", "the operator starts a reconcile pass"),
    (Source::Operator, "action=\"RequirePreflight\"", "the candidate is stored"),
    (Source::Operator, "action=\"SetTarget\"", "the node gets the request"),
    (Source::Agent, "the candidate needs", "the agent has read the request"),
    (Source::Agent, "step=WritePod", "files and pod are written"),
    (Source::Agent, "for key 1 passed", "the plugin has started and passed"),
    (Source::Agent, "step=KeepPreflight", "the agent has stored the result on disk"),
    (
        Source::Operator,
        "action=\"RecordHighWater\"",
        "the operator has read the result and raised the key number",
    ),
    (Source::Operator, "action=\"CreateKey\"", "the key secret is stored"),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Operator,
    Agent,
}

/// Goal: under 40 MB, stripped.
pub(crate) fn binary(tools: &Tools, table: &mut Table) -> Result<()> {
    let size = std::fs::metadata(tools.binary(Binary::Keyward)?)?.len();
    #[allow(clippy::cast_precision_loss)] // megabytes
    table.add("the stripped binary", size as f64 / 1e6, "MB", Some(40.0));
    Ok(())
}

/// Goals: under 200 ms from spec change to key secret, without the time of plugin and KMS in preflight; under
/// 40 MiB RSS of the operator at rest.
pub(crate) async fn live(table: &mut Table) -> Result<()> {
    let install =
        Install { operator_log: Some("info,keyward_operator=debug".to_owned()), ..Install::default() };
    let keyward = Keyward::start(install).await?;
    let (stored, answered) = (key_stored(&keyward), answer_stored(&keyward));
    // The work of the start is not part of the measurement.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let clusters = Api::<ClusterEncryption>::all(keyward.client.clone());
    let mut desired = clusters.get(names::CLUSTER).await?;
    let spec = keyward.object(&vault_spec(&keyward, "a", &IMAGE(1)));
    desired.spec = serde_json::from_value::<ClusterEncryption>(spec)?.spec;
    let start = Timestamp::now();
    clusters.replace(names::CLUSTER, &PostParams::default(), &desired).await?;
    let end = tokio::time::timeout(PATIENCE, stored)
        .await
        .with_context(|| format!("no key secret: {}", keyward.operator_log_tail()))??;
    let plugin = tokio::time::timeout(PATIENCE, answered).await.context("no result of the preflight")??;
    let total = millis(start, end);
    table.add("from spec change to key secret, in total", total, "ms", None);
    table.add("… of which the plugin's start and the KMS", plugin, "ms", None);
    table.add("… of which Keyward", total - plugin, "ms", Some(200.0));
    stages(&keyward, start, end, table)?;
    keyward.wait_settled(1, PATIENCE).await?;
    // Migrations and their Events have ended.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let pid = keyward
        .operator
        .as_ref()
        .and_then(keyward_test_cluster::Process::pid)
        .context("the operator's pid")?;
    table.add("the operator's RSS at rest", resident(pid, "VmRSS:")?, "MiB", Some(40.0));
    table.add("… of which anonymous memory", resident(pid, "RssAnon:")?, "MiB", None);
    table.add("… of which pages of its file", resident(pid, "RssFile:")?, "MiB", None);
    Ok(())
}

/// The time when the key secret exists. It uses a watch, because polling would load the API server that is
/// measured.
fn key_stored(keyward: &Keyward) -> JoinHandle<Timestamp> {
    let secrets = Api::<PartialObjectMeta<Secret>>::namespaced(keyward.client.clone(), names::NAMESPACE);
    tokio::spawn(async move {
        first(watcher::watcher(secrets, watcher::Config::default()), |secret| {
            (secret.name_any() == KEY).then(Timestamp::now)
        })
        .await
    })
}

/// The time of plugin and KMS in milliseconds, as the agent reports it.
fn answer_stored(keyward: &Keyward) -> JoinHandle<f64> {
    let nodes = Api::<EncryptionNode>::all(keyward.client.clone());
    tokio::spawn(async move {
        first(watcher::watcher(nodes, watcher::Config::default()), |node: &EncryptionNode| {
            let answer = node.status.as_ref()?.preflight.as_ref()?;
            let millis = answer.started_in_millis.filter(|_| answer.result == PreflightResult::Succeeded)?;
            Some(Duration::from_millis(millis).as_secs_f64() * 1e3)
        })
        .await
    })
}

/// The first value that `give` returns for an object.
async fn first<K, T>(
    events: impl futures::Stream<Item = watcher::Result<Event<K>>>,
    mut give: impl FnMut(&K) -> Option<T>,
) -> T {
    let mut events = std::pin::pin!(events);
    loop {
        if let Some(Ok(Event::Apply(object) | Event::InitApply(object))) = events.next().await
            && let Some(found) = give(&object)
        {
            return found;
        }
    }
}

/// The time of each stage, from the logs of operator and agent.
fn stages(keyward: &Keyward, start: Timestamp, end: Timestamp, table: &mut Table) -> Result<()> {
    let operator = keyward.operator_log()?;
    let agent = keyward.cluster.node(0)?.logs("keyward-agent", "agent")?;
    let mut before = start;
    for (source, words, what) in STAGES {
        let log = if source == Source::Operator { &operator } else { &agent };
        let Some(at) = logged(log, words, start) else { continue };
        table.add(format!("  until {what}"), millis(before, at), "ms", None);
        before = at;
    }
    table.add("  until a watch shows it", millis(before, end), "ms", None);
    Ok(())
}

/// The time of the first line with these words, from `start` on. Each line begins with its time.
fn logged(log: &str, words: &str, start: Timestamp) -> Option<Timestamp> {
    log.lines()
        .filter(|line| line.contains(words))
        .filter_map(|line| line.split_whitespace().next()?.parse::<Timestamp>().ok())
        .find(|at| *at >= start)
}

fn millis(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64() * 1e3
}

/// A figure of `/proc/PID/status`, in MiB.
pub(crate) fn resident(pid: u32, what: &str) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with(what)).with_context(|| format!("no {what}"))?;
    let kib: f64 = line.split_whitespace().nth(1).context("no figure")?.parse()?;
    Ok(kib / 1024.0)
}
