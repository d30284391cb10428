//! `plan -f`: the change against the live cluster. The verdict is the same as offline; beside it stands what the operator
//! would decide of it there, how much is stored, and what happens to the plugins.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use keyward_core::api::{ClusterEncryption, ConditionStatus};
use keyward_core::effect::{InForce, between};
use keyward_core::ids::{GroupResource, KeyId};
use keyward_core::names;
use keyward_core::outcome::{Action, Outcome};
use keyward_core::provider::{Evaluator, Origin, Plugin, Violation};
use keyward_core::snapshot::Snapshot;
use keyward_operator::Cluster;
use keyward_operator::live::{count, look};
use kube::Api;
use kube::api::ListParams;
use serde::Serialize;

use crate::connection::Connection;
use crate::input::{self, Wish};
use crate::plan::{Output, Plan, verdict, violation};
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
    /// Objects stored of each resource that is to be encrypted or decrypted; null where it is not served or cannot be listed.
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
    let wish = input::read_wish(file)?;
    anyhow::ensure!(
        wish.kind == "ClusterEncryption",
        "{file}: a {} cannot be compared with this cluster's ClusterEncryption",
        wish.kind
    );
    let client = connection.client().await?;
    let current = current(&client).await?;
    let engine = providers.load()?;
    let before = Wish::of(current.map(|cluster| cluster.spec).unwrap_or_default());
    let mut plan = verdict(&before, &wish, engine.as_ref())?;
    if plan.violations.is_empty() {
        let cluster = Cluster::new(client, CALL_TIMEOUT);
        let evaluator: Arc<dyn Evaluator> = engine;
        let seen = look(&cluster, &evaluator, Some(wish.spec)).await.context("reading the cluster")?;
        let now = jiff::Timestamp::now();
        if let Some(snapshot) = seen.snapshot(now)? {
            let violations = violations(&snapshot);
            if !violations.is_empty() {
                let refused = Plan { violations, ..Plan::default() };
                refused.print(output)?;
                return Ok(refused.exit_code());
            }
            // What is deployed counts, whatever the stored spec says: it may be misspelled, or gone.
            let evaluation =
                snapshot.wanted.kms.as_ref().and_then(|kms| snapshot.evaluation(Origin::Desired, kms).ok());
            if let Some(change) = between(&InForce::deployed(&snapshot), &snapshot.wanted, evaluation) {
                plan.set(&change, &snapshot.wanted);
            }
            let mut live = decided(&snapshot, &keyward_core::reconcile(&snapshot), plan.makes_key);
            live.objects_per_second = seen
                .objects
                .migrations
                .iter()
                .filter_map(|migration| migration.status.as_ref().map(|status| status.rate))
                .max()
                .filter(|rate| *rate > 0);
            let decrypts = plan.decrypts.iter().map(|name| GroupResource::parse(name));
            let resources: BTreeSet<GroupResource> =
                snapshot.wanted.resources.iter().cloned().chain(decrypts).collect();
            for resource in &resources {
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

/// What only the cluster shows to be a mistake: resources that cannot be encrypted in it, Secrets and ConfigMaps that a
/// plugin cannot be started with.
fn violations(snapshot: &Snapshot) -> Vec<Violation> {
    let spec = snapshot.wanted.mistakes.iter().map(|mistake| violation(mistake));
    spec.chain(keyward_core::controllers::violations(snapshot)).collect()
}

fn decided(snapshot: &Snapshot, outcome: &Outcome, makes_key: bool) -> Live {
    // A pause keeps nothing from being planned.
    let made = outcome.actions.iter().chain(&outcome.withheld).find_map(|action| match action {
        Action::CreateKey { key } => Some(key.id),
        Action::RequirePreflight { candidate, .. } => Some(candidate.key_id),
        _ => None,
    });
    let newest = snapshot.revisions.values().next_back().and_then(|stored| stored.content.as_ref().ok());
    let deployed = newest.map(|content| content.kms_keys().into_iter().collect()).unwrap_or_default();
    Live {
        key_id: made.or_else(|| snapshot.next_key()).filter(|_| makes_key),
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
