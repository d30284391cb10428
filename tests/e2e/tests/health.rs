//! The health of plugins: each kind of failure is distinguished, found in time, and cleared after the repair.
//! A plugin that no agent reports does not count as healthy.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use keyward_core::api::{ConditionStatus, EncryptionNode, PluginSummary};
use keyward_core::names::ANNOTATION_EXPIRES;
use keyward_test_cluster::{AGENT_IMAGE, Binary, Image, Seen, State, wait_until};
use keyward_test_e2e::{CREDENTIALS, IMAGE, Install, Keyward, Status, vault_spec};
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

const PATIENCE: Duration = Duration::from_mins(2);
const INTERVAL: Duration = Duration::from_secs(4);
/// The delay from a probe to the status and to this test, on a busy machine.
const DELAY: Duration = Duration::from_secs(4);
const CONDITION: &str = "KMSPluginsDegraded";

/// Starts Keyward with key 1 in use.
async fn in_use() -> Result<Keyward> {
    let keyward = Keyward::start(Install { probe_interval: INTERVAL, ..Install::default() }).await?;
    keyward.apply(&vault_spec(&keyward, "a", &IMAGE(1))).await?;
    keyward.wait_settled(1, PATIENCE).await?;
    Ok(keyward)
}

/// Whether the condition has this reason, and its message contains all of these parts.
fn shows(status: &Status, reason: &str, parts: &[&str]) -> bool {
    status.condition(CONDITION).is_some_and(|condition| {
        condition.reason == reason && parts.iter().all(|part| condition.message.contains(part))
    })
}

fn plugins(status: &Status) -> &[PluginSummary] {
    status.0.status.as_ref().map(|status| status.plugins.as_slice()).unwrap_or_default()
}

/// Waits until the status reports every plugin as healthy.
async fn wait_healthy(keyward: &Keyward) -> Result<()> {
    let is_healthy = |status: &Status| {
        let healthy = |plugin: &PluginSummary| {
            plugin.status == "Healthy" && plugin.detail.is_empty() && plugin.since.is_some()
        };
        shows(status, "AsExpected", &[]) && plugins(status).iter().all(healthy) && !plugins(status).is_empty()
    };
    keyward.wait("the plugin to be healthy", PATIENCE, is_healthy).await.map(drop)
}

/// Waits until the condition shows it. Returns the time since `since`.
async fn found(keyward: &Keyward, reason: &str, parts: &[&str], since: Instant) -> Result<Duration> {
    let what = format!("{CONDITION} with {reason} {parts:?}");
    let status = keyward.wait(&what, PATIENCE, |status| shows(status, reason, parts)).await?;
    let took = since.elapsed();
    let message = status.condition(CONDITION).map(|condition| condition.message.clone());
    println!("{reason} after {:.1} s: {}", took.as_secs_f64(), message.unwrap_or_default());
    Ok(took)
}

/// Sends the signal to the plugin's process. Returns false if none runs.
async fn signal(keyward: &Keyward, signal: &str) -> Result<bool> {
    let pods = keyward.plugins()?;
    let state = pods.first().and_then(|pod| pod.container("kms-plugin")).map(|container| &container.state);
    let Some(State::Running { pid, .. }) = state else { return Ok(false) };
    let sent = keyward.cluster.node(0)?.exec(&["kill", signal, &pid.to_string()]).await?;
    Ok(sent.status.success())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_failure_is_distinguished_and_found_in_time() -> Result<()> {
    let keyward = in_use().await?;
    wait_healthy(&keyward).await?;

    // The plugin hangs: it accepts connections, and never answers.
    ensure!(signal(&keyward, "-STOP").await?, "no plugin runs");
    let since = Instant::now();
    let took =
        found(&keyward, "PluginUnhealthy", &["node-1 is Error", "no answer from the KMS plugin"], since)
            .await?;
    ensure!(took <= 2 * INTERVAL + DELAY, "a hanging plugin was found after {took:?}");
    ensure!(signal(&keyward, "-CONT").await?, "no plugin runs");
    wait_healthy(&keyward).await?;

    // The plugin exits repeatedly: its last exit is reported, also while it starts again.
    let since = Instant::now();
    ensure!(signal(&keyward, "-KILL").await?, "no plugin runs");
    let mut first = None;
    wait_until("its last exit to be reported", PATIENCE, async || {
        signal(&keyward, "-KILL").await?;
        let status = keyward.status().await?;
        if shows(&status, "PluginUnhealthy", &["node-1 is Error", "start"]) {
            first.get_or_insert(since.elapsed());
        }
        let exit = shows(&status, "PluginUnhealthy", &["node-1 is Error", "ended with exit code 137"]);
        Ok(Seen::when(exit, status.summary()))
    })
    .await?;
    let took = first.context("it was never reported that the plugin does not answer")?;
    println!(
        "killed: reported after {:.1} s, its exit after {:.1} s",
        took.as_secs_f64(),
        since.elapsed().as_secs_f64()
    );
    ensure!(took <= 2 * INTERVAL + DELAY, "a dead plugin was found after {took:?}");
    wait_healthy(&keyward).await?;

    // The plugin runs and reports that it is unhealthy: the status has the provider module's diagnosis.
    let since = Instant::now();
    keyward.bao.seal().await?;
    let took = found(&keyward, "PluginUnhealthy", &["node-1 is Unhealthy", "nseal"], since).await?;
    ensure!(took <= 2 * INTERVAL + DELAY, "a sealed KMS was found after {took:?}");
    let status = keyward.status().await?;
    let [plugin] = plugins(&status) else { anyhow::bail!("{:?}", plugins(&status)) };
    ensure!(plugin.remedy.contains("nseal") && !plugin.detail.is_empty(), "{plugin:?}");
    let answer = keyward.command(&["status"]).await?;
    ensure!(
        answer.stdout.contains("Unhealthy") && answer.stdout.contains(&plugin.remedy),
        "{}",
        answer.stdout
    );
    keyward.bao.unseal().await?;
    wait_healthy(&keyward).await?;

    // A warning is given before a credential expires.
    let credentials = keyward.secrets();
    let soon = json!({"metadata": {"annotations": {ANNOTATION_EXPIRES: "2020-01-31T00:00:00Z"}}});
    credentials.patch(CREDENTIALS, &PatchParams::default(), &Patch::Merge(&soon)).await?;
    keyward
        .wait("the expiry to be reported", PATIENCE, |status| {
            status.condition("KMSCredentialsExpiring").is_some_and(|condition| {
                condition.status == ConditionStatus::True
                    && condition.reason == "CredentialExpired"
                    && condition.message.contains("2020-01-31T00:00:00Z")
            })
        })
        .await?;

    // The same for the agent's own certificate; the agent uses a renewed one as soon as it is written.
    const WHOSE: &str = "the client certificate of the agent on node node-1 expires at";
    let is_reported = |status: &Status| {
        status.condition("KMSCredentialsExpiring").is_some_and(|condition| condition.message.contains(WHOSE))
    };
    ensure!(!is_reported(&keyward.status().await?), "it is valid for centuries");
    const DAY: Duration = Duration::from_hours(24);
    keyward.cluster.renew_agent(0, 10 * DAY)?;
    keyward.wait("the expiry of the agent's certificate", PATIENCE, is_reported).await?;
    keyward.cluster.renew_agent(0, 40 * DAY)?;
    keyward.wait("the agent's certificate to be renewed", PATIENCE, |status| !is_reported(status)).await?;
    Ok(())
}

/// The time of the last check that the node's agent reported.
async fn last_checked(keyward: &Keyward) -> Result<String> {
    let node = Api::<EncryptionNode>::all(keyward.client.clone()).get("node-1").await?;
    let status = node.status.context("the agent has not reported")?;
    Ok(status.plugins.first().context("no plugin")?.health.last_checked_time.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_node_has_unknown_health_and_a_wrong_clock_changes_nothing() -> Result<()> {
    let mut keyward = in_use().await?;
    wait_healthy(&keyward).await?;

    let before = Instant::now();
    keyward.stop_agents().await?;
    let stopped = Instant::now();
    let last = last_checked(&keyward).await?;
    let parts = ["node-1 is Unknown", "its last report is older than 16 s", "node agent"];
    let took = found(&keyward, "PluginHealthUnknown", &parts, stopped).await?;
    ensure!(took <= 4 * INTERVAL + DELAY, "silence was reported after {took:?}");
    // A node is silent after four intervals. The last report may be one interval and its jitter older than
    // the stop.
    let soonest = INTERVAL * 5 / 2;
    ensure!(before.elapsed() >= soonest, "silence was reported after {:?}", before.elapsed());
    let status = keyward.status().await?;
    ensure!(plugins(&status).iter().all(|plugin| plugin.status == "Unknown"), "{:?}", plugins(&status));
    let since = status.0.status.as_ref().map(|status| status.since.as_slice()).unwrap_or_default();
    ensure!(since.iter().any(|fact| fact.value.contains(&last)), "a dump contains it: {since:?}");

    // The agent runs again, with a clock that is an hour ahead.
    let tools = keyward.cluster.tools().clone();
    let (library, program) = tokio::task::spawn_blocking(move || -> Result<_> {
        Ok((tools.faketime()?, tools.binary(Binary::Keyward)?))
    })
    .await??;
    let image = Image::repository(AGENT_IMAGE, program)
        .env("LD_PRELOAD", library.display().to_string())
        .env("FAKETIME", "+3600s")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1");
    keyward.cluster.map_images([image])?;
    keyward.start_agents()?;
    wait_healthy(&keyward).await?;
    let (mut seen, begun) = (std::collections::BTreeSet::new(), Instant::now());
    wait_until("reports for longer than a node may be silent", PATIENCE, async || {
        let status = keyward.status().await?;
        ensure!(shows(&status, "AsExpected", &[]), "{}", status.summary());
        seen.insert(last_checked(&keyward).await?);
        let enough = begun.elapsed() > 5 * INTERVAL && seen.len() > 3;
        Ok(Seen::when(enough, format!("{} reports", seen.len())))
    })
    .await?;
    let reported: jiff::Timestamp = seen.last().context("no report")?.parse()?;
    let ahead = reported.duration_since(jiff::Timestamp::now()).as_mins();
    ensure!((58..=60).contains(&ahead), "the agent's clock is {ahead} min ahead, not an hour");
    Ok(())
}
