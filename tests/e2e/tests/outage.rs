//! The information of an admin on call: `Ready` is never True too early (invariant: ready-is-true), and an
//! outage of the KMS, with the shipped probe interval, is reported from its first message to its end. `cargo
//! test -p keyward-test-e2e --test outage -- --nocapture` prints one page with everything that operator,
//! agent, status and Events report.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test fails at the first error

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::events::v1::Event;
use keyward_core::api::{ClusterEncryption, ConditionStatus};
use keyward_core::names;
use keyward_test_cluster::{Seen, wait_until};
use keyward_test_e2e::{IMAGE, Install, Keyward, SHORT_HISTORY, Said, Status, vault_spec};
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_mins(4);
/// The agent's default.
const PROBE_INTERVAL: Duration = Duration::from_secs(30);
const OUTAGE: Duration = Duration::from_secs(76);
/// The API's limit of an Event's note.
const LONGEST_NOTE: usize = 1024;

/// The result of `kubectl wait --for=condition=Ready` for this object: a condition about an older generation
/// does not count (k8s.io/kubectl, `checkCondition`).
fn kubectl_wait(object: &ClusterEncryption) -> bool {
    let conditions = object.status.iter().flat_map(|status| &status.conditions);
    let mut ready = conditions.filter(|condition| condition.type_ == "Ready");
    ready.next().is_some_and(|ready| {
        let observed = ready
            .observed_generation
            .or_else(|| object.status.as_ref().map(|status| status.observed_generation));
        observed >= object.metadata.generation && ready.status == ConditionStatus::True
    })
}

/// Waits as `kubectl wait` does, and checks that the cluster was ready then: everything is stored under key
/// `id`, and only this key is left.
async fn wait_ready(keyward: &Keyward, id: u64) -> Result<()> {
    let api = Api::<ClusterEncryption>::all(keyward.client.clone());
    let began = Instant::now();
    let (mut was, mut waits) = (String::new(), Vec::new());
    let object = wait_until("kubectl wait --for=condition=Ready", PATIENCE, async || {
        let object = api.get(names::CLUSTER).await?;
        if kubectl_wait(&object) {
            return Ok(Seen::Yes(object));
        }
        let status = Status(object);
        let ready = status.condition("Ready").map(|ready| (ready.reason.clone(), ready.message.clone()));
        let (reason, message) = ready.unwrap_or_default();
        if reason != was {
            waits.push(format!("{:>6.1} s  {reason}: {message}", began.elapsed().as_secs_f64()));
            was = reason;
        }
        Ok(Seen::NotYet(status.summary()))
    })
    .await
    .with_context(|| keyward.operator_log_tail())?;
    println!("key {id}: Ready after {:.1} s\n{}", began.elapsed().as_secs_f64(), waits.join("\n"));
    let status = Status(object);
    let key = status.key(id).with_context(|| status.summary())?;
    ensure!(key.role == "write" && key.migrated.len() == 2, "Ready too early: {}", status.summary());
    ensure!(status.has_converged() && status.is_idle(), "Ready too early: {}", status.summary());
    let only = format!("kms:{id}");
    for list in status.newest_lists() {
        let kms: Vec<&String> = list.iter().filter(|provider| provider.starts_with("kms:")).collect();
        ensure!(list.first() == Some(&only) && kms.len() == 1, "Ready with an old provider: {list:?}");
    }
    ensure!(status.problems().is_empty(), "{}", status.summary());
    Ok(())
}

/// The column Ready of `kubectl get clusterencryption`.
async fn ready_column(keyward: &Keyward) -> Result<Value> {
    let path = "/apis/encryption.keyward.dev/v1alpha1/clusterencryptions";
    let request = http::Request::get(path).header("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
    let table: Value = keyward.client.request(request.body(Vec::new())?).await?;
    let columns = table["columnDefinitions"].as_array().context("no columns")?;
    let at = columns.iter().position(|column| column["name"] == "Ready").context("no column Ready")?;
    Ok(table["rows"][0]["cells"][at].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_is_about_the_current_generation_and_an_outage_is_reported_from_beginning_to_end() -> Result<()>
{
    let mut keyward = Keyward::start(Install {
        probe_interval: PROBE_INTERVAL,
        durable_kms: true,
        apiserver_args: vec![SHORT_HISTORY.to_owned()],
        ..Install::default()
    })
    .await?;
    keyward.apply(&vault_spec(&keyward, "a", &IMAGE(1))).await?;
    wait_ready(&keyward, 1).await?;
    ensure!(ready_column(&keyward).await? == "True");

    // Another KEK, while no operator runs: the status is about the previous generation.
    drop(keyward.operator.take());
    keyward.apply(&vault_spec(&keyward, "b", &IMAGE(1))).await?;
    let status = keyward.status().await?;
    let ready = status.condition("Ready").context("no condition Ready")?;
    ensure!(ready.status == ConditionStatus::True && !kubectl_wait(&status.0), "{ready:?}");
    let shown = keyward.command(&["status"]).await?;
    ensure!(
        shown.stdout.starts_with("ready: unknown; the operator has not processed generation"),
        "{}",
        shown.stdout
    );
    keyward.start_operator()?;
    wait_ready(&keyward, 2).await?;

    outage(&mut keyward).await
}

/// The lines of a log after `from` bytes.
fn after(log: &str, from: usize) -> Vec<&str> {
    log.get(from..).unwrap_or_default().lines().collect()
}

fn agent_log(keyward: &Keyward) -> Result<String> {
    keyward.cluster.node(0)?.logs("keyward-agent", "agent")
}

async fn events(keyward: &Keyward) -> Result<Vec<Event>> {
    let api = Api::<Event>::namespaced(keyward.client.clone(), "default");
    let mut events = api.list(&ListParams::default()).await?.items;
    events.retain(|event| {
        event.regarding.as_ref().and_then(|about| about.kind.as_deref()) == Some("ClusterEncryption")
    });
    events.sort_by(|a, b| a.event_time.cmp(&b.event_time));
    Ok(events)
}

async fn outage(keyward: &mut Keyward) -> Result<()> {
    let known = events(keyward).await?.len();
    let (operator, agent) = (keyward.operator_log()?.len(), agent_log(keyward)?.len());
    let said = Said::listen(keyward.client.clone());
    wait_until("the first read of the status", PATIENCE, async || {
        Ok(Seen::when(said.so_far() > 0, "nothing yet".to_owned()))
    })
    .await?;
    let before = said.so_far();

    let began = Instant::now();
    let wall = jiff::Timestamp::now();
    keyward.bao.stop();
    let first = keyward
        .wait("the outage to be reported", OUTAGE, |status| {
            status.condition("KMSPluginsDegraded").is_some_and(|c| c.status == ConditionStatus::True)
        })
        .await?;
    let found = began.elapsed();
    let first = first.condition("KMSPluginsDegraded").map(|c| c.message.clone()).unwrap_or_default();
    let middle = keyward.command(&["status"]).await?;
    // A write succeeds now, as the first message reports.
    let written = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "written"}});
    Api::<ConfigMap>::namespaced(keyward.client.clone(), "default")
        .patch("written", &PatchParams::apply("admin"), &Patch::Apply(&written))
        .await
        .context("a write while the plugin answers")?;
    tokio::time::sleep(OUTAGE.saturating_sub(began.elapsed())).await;
    keyward.bao.start_again().await?;
    wait_ready(keyward, 2).await?;
    let recovered = wait_until("the recovery to be announced", PATIENCE, async || {
        let all = events(keyward).await?;
        let over = |event: &&Event| event.reason.as_deref() == Some("PluginUnhealthyResolved");
        Ok(match all.iter().skip(known).find(over) {
            Some(event) => Seen::Yes(event.note.clone().unwrap_or_default()),
            None => Seen::NotYet(format!("{} Events", all.len())),
        })
    })
    .await?;

    let (operator_log, agent_log) = (keyward.operator_log()?, agent_log(keyward)?);
    let (operator, agent) = (after(&operator_log, operator), after(&agent_log, agent));
    let events = events(keyward).await?;
    let events = events.get(known..).unwrap_or_default();
    let mut page = format!(
        "== an outage of the KMS of {} s, from {wall}; found after {:.1} s\n-- status, as it changed",
        OUTAGE.as_secs(),
        found.as_secs_f64()
    );
    page.push_str(&said.since(before));
    page.push_str("\n-- Events\n");
    for event in events {
        let at = event.event_time.as_ref().map(|at| at.0.to_string()).unwrap_or_default();
        let (type_, reason) = (event.type_.as_deref(), event.reason.as_deref());
        let note = event.note.as_deref().unwrap_or_default();
        let _ = writeln!(page, "  {at} {} {}: {note}", type_.unwrap_or_default(), reason.unwrap_or_default());
    }
    let _ = writeln!(page, "-- the operator's log\n  {}", operator.join("\n  "));
    let _ = writeln!(page, "-- the agent's log\n  {}", agent.join("\n  "));
    let _ = writeln!(page, "-- keyward status, in the middle of it\n{}", middle.stdout);
    println!("{page}");

    // The first message: what it means, why, what to do. One line, and no log in it.
    let warnings: Vec<&str> = events
        .iter()
        .filter(|event| event.type_.as_deref() == Some("Warning"))
        .map(|event| event.note.as_deref().unwrap_or_default())
        .collect();
    let announced = warnings.first().context("no Warning Event")?;
    let logged =
        operator.iter().find(|line| line.contains("WARN")).context("the operator logged no warning")?;
    for message in [first.as_str(), announced, logged] {
        for part in [
            // The plugin answers Status during the whole outage, and reports that it is unhealthy.
            "Writes of configmaps, secrets continue while the plugin answers Status with the same key id",
            "they fail when it stops answering or the API server restarts",
            "Until it restarts, each API server can read what it has decrypted before",
            "Do not restart API servers",
            "Cause: the plugin of key 2 on node node-1 is Unhealthy: ",
            " Next: ",
            "keyward status",
        ] {
            ensure!(message.contains(part), "{part:?} is missing: {message}");
        }
        ensure!(
            !message.contains('\n') && !message.contains("The end of its log"),
            "not one line: {message}"
        );
    }
    ensure!(
        announced.len() <= LONGEST_NOTE && announced.ends_with("Then run keyward status."),
        "{announced}"
    );
    ensure!(found <= PROBE_INTERVAL * 11 / 10 + Duration::from_secs(6), "found after {found:?}");
    // One outage does not cause many messages.
    ensure!(warnings.len() <= 3, "{warnings:#?}");

    // The end is reported.
    ensure!(recovered.starts_with("KMSPluginsDegraded ended after "), "{recovered}");
    let logs_begin_and_end = |log: &[&str], over: &str, who: &str| {
        let warned = log.iter().filter(|line| line.contains("WARN")).count();
        let ended = log.iter().any(|line| line.contains("INFO") && line.contains(over));
        ensure!((1..=3).contains(&warned), "{who}: {warned} warnings");
        ensure!(ended, "{who}: its end is not logged");
        Ok(())
    };
    logs_begin_and_end(&operator, "KMSPluginsDegraded ended after", "the operator")?;
    logs_begin_and_end(&agent, "the plugin of key 2 is healthy again after", "the agent")?;
    ensure!(
        middle.stdout.contains("writes under key 2 continue on node-1 while the plugin answers"),
        "{}",
        middle.stdout
    );
    let impact = "writes continue while the plugin answers Status with the same key id";
    let warned = agent.iter().find(|line| line.contains("WARN")).context("the agent logged no warning")?;
    ensure!(warned.contains(impact), "{warned}");
    ensure!(middle.stdout.starts_with("ready: False PluginUnhealthy (since "), "{}", middle.stdout);
    Ok(())
}
