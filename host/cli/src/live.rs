//! `plan -f`: the change against the live cluster. The verdict is the same as offline; beside it stands what the operator
//! would decide of it there, how much is stored, and what happens to the plugins.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use keyward_core::api::{ClusterEncryption, ConditionStatus};
use keyward_core::ids::KeyId;
use keyward_core::names;
use keyward_core::outcome::{Action, Outcome};
use keyward_core::provider::{Effect, Evaluator, Origin, Plugin};
use keyward_core::snapshot::Snapshot;
use keyward_operator::Cluster;
use keyward_operator::live::{count, look};
use kube::Api;
use kube::api::ListParams;
use serde::Serialize;

use crate::connection::Connection;
use crate::input;
use crate::plan::{Output, verdict};
use crate::providers::Providers;

/// One call to the API server may take so long.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// What the live cluster adds to a verdict.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Live {
    /// The key that would be made.
    #[serde(rename = "keyID")]
    pub(crate) key_id: Option<KeyId>,
    /// Keys in the newest revision that have plugins.
    #[serde(rename = "pluginKeyIDs")]
    pub(crate) plugins: Vec<KeyId>,
    /// Whether the new key has a plugin that Keyward runs.
    pub(crate) plugin_starts: bool,
    /// Objects stored of each resource that is to be encrypted; null where it is not served or cannot be listed.
    pub(crate) objects: BTreeMap<String, Option<u64>>,
    /// Objects a second that the last migration came to.
    pub(crate) objects_per_second: Option<u64>,
    /// Control-plane nodes with an agent.
    pub(crate) nodes: Vec<String>,
    /// What stands in the way: the conditions that would be degraded.
    pub(crate) troubles: Vec<String>,
    /// What would be waited for first.
    pub(crate) waiting: Option<String>,
}

/// Plans a file against the object in the cluster.
pub(crate) async fn plan(
    file: &str,
    output: Output,
    providers: &Providers,
    connection: &Connection,
) -> Result<ExitCode> {
    let wish = input::wish(file)?;
    anyhow::ensure!(
        wish.kind == "ClusterEncryption",
        "{file}: a {} cannot be compared with this cluster's ClusterEncryption",
        wish.kind
    );
    let client = connection.client().await?;
    let current = current(&client).await?;
    let engine = providers.load()?;
    let before = current.map(|cluster| cluster.spec).unwrap_or_default();
    let mut plan = verdict(&before, &wish.spec, engine.as_ref())?;
    if plan.violations.is_empty() {
        let cluster = Cluster::new(client, CALL_TIMEOUT);
        let evaluator: Arc<dyn Evaluator> = engine;
        let seen = look(&cluster, &evaluator, Some(wish.spec)).await.context("reading the cluster")?;
        let now = jiff::Timestamp::now();
        if let Some(snapshot) = seen.snapshot(now)? {
            let mut live = decided(&snapshot, &keyward_core::reconcile(&snapshot), plan.effect);
            live.objects_per_second = seen
                .objects
                .migrations
                .iter()
                .filter_map(|migration| migration.status.as_ref().map(|status| status.rate))
                .max()
                .filter(|rate| *rate > 0);
            for resource in &snapshot.wanted.resources {
                // Whoever may not list them gets the rest of the plan all the same.
                let counted = count(&cluster, resource).await.unwrap_or_else(|error| {
                    tracing::warn!(%error, "{resource} cannot be counted");
                    None
                });
                live.objects.insert(resource.to_string(), counted);
            }
            plan.live = Some(live);
        }
    }
    plan.print(output)?;
    Ok(plan.exit_code())
}

/// The object in the cluster; `None` where there is none. That its kind is not served at all is another thing, and an
/// error: a list tells the two apart, where a get says "not found" to both.
pub(crate) async fn current(client: &kube::Client) -> Result<Option<ClusterEncryption>> {
    let found = Api::<ClusterEncryption>::all(client.clone()).list(&ListParams::default()).await;
    let list = found.map_err(|error| match error {
        kube::Error::Api(status) if status.code == 404 => anyhow::anyhow!(
            "the API server does not serve ClusterEncryption; install the CRDs: keyward crds | kubectl apply --server-side -f -"
        ),
        other => anyhow::Error::new(other).context("reading ClusterEncryption/cluster"),
    })?;
    Ok(list.items.into_iter().find(|found| found.metadata.name.as_deref() == Some(names::CLUSTER)))
}

fn decided(snapshot: &Snapshot, outcome: &Outcome, effect: Option<Effect>) -> Live {
    let made = outcome.actions.iter().find_map(|action| match action {
        Action::CreateKey { key } => Some(key.id),
        Action::RequirePreflight { candidate, .. } => Some(candidate.key_id),
        _ => None,
    });
    let newest = snapshot.revisions.values().next_back().and_then(|stored| stored.content.as_ref().ok());
    let deployed = newest.map(|content| content.kms_keys().into_iter().collect()).unwrap_or_default();
    let next = KeyId(snapshot.highest_key.0.saturating_add(1));
    Live {
        key_id: (effect == Some(Effect::NewKey)).then(|| made.unwrap_or(next)),
        plugins: deployed,
        // One that somebody else runs is there already.
        plugin_starts: snapshot.wanted.kms.as_ref().is_some_and(|kms| {
            let evaluation = snapshot.evaluation(Origin::Desired, kms);
            evaluation.is_ok_and(|evaluation| matches!(evaluation.rendered, Plugin::Managed(_)))
        }),
        nodes: snapshot.servers.values().filter(|s| s.agent.is_some()).map(|s| s.name.clone()).collect(),
        troubles: outcome
            .conditions
            .iter()
            .filter(|condition| condition.type_.ends_with("Degraded"))
            .filter(|condition| condition.status == ConditionStatus::True)
            .map(|condition| condition.message.clone())
            .collect(),
        // Where there is something to do, that comes first.
        waiting: outcome
            .waiting
            .as_ref()
            .filter(|_| outcome.actions.is_empty())
            .map(|waiting| waiting.message.clone()),
        ..Live::default()
    }
}
