//! `plan -f`: compares a file with the live cluster. The verdict is the same as offline. In addition it shows
//! what the operator would decide, how much is stored, and what happens to the plugins.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use keyward_core::api::{ClusterEncryption, ConditionStatus, Pause};
use keyward_core::effect::{InForce, between};
use keyward_core::ids::{GroupResource, KeyId};
use keyward_core::names;
use keyward_core::outcome::{Action, Outcome};
use keyward_core::provider::{Evaluator, Origin, Plugin, Violation};
use keyward_core::snapshot::{Snapshot, Wanted};
use keyward_operator::Cluster;
use keyward_operator::live::{count, look};
use kube::Api;
use kube::api::ListParams;
use serde::Serialize;

use crate::connection::Connection;
use crate::input::{self, ObjectSpec};
use crate::plan::{Current, Output, Plan, Unknown, verdict, violation};
use crate::providers::Providers;

/// Timeout of one call to the API server.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// What the live cluster adds to a verdict.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Live {
    /// The key that would be created.
    #[serde(rename = "keyID")]
    pub(crate) key_id: Option<KeyId>,
    /// Keys in the newest revision that have plugins.
    #[serde(rename = "pluginKeyIDs")]
    pub(crate) plugins: Vec<KeyId>,
    /// Whether the new key has a plugin that Keyward runs.
    pub(crate) plugin_starts: bool,
    /// Stored objects of each resource that is to be encrypted or decrypted; null if it is not served or
    /// cannot be listed.
    pub(crate) objects: BTreeMap<String, Option<u64>>,
    /// Objects per second of the last migration.
    pub(crate) objects_per_second: Option<u64>,
    /// Control-plane nodes with an agent.
    pub(crate) nodes: Vec<String>,
    /// Messages of the Degraded conditions that the operator would set.
    pub(crate) troubles: Vec<String>,
    /// What the operator would wait for first.
    pub(crate) waiting: Option<String>,
    /// Writes that a pause withholds: a pause that begins, stays or ends.
    pub(crate) withheld: Vec<String>,
}

/// Compares a file with the object in the cluster.
pub(crate) async fn plan(
    file: &str,
    output: Output,
    providers: &Providers,
    connection: &Connection,
) -> Result<ExitCode> {
    let desired = input::read_spec(file)?;
    anyhow::ensure!(
        desired.kind == "ClusterEncryption",
        "{file}: {} cannot be compared with a cluster's ClusterEncryption; compare two files with --current and --desired",
        desired.kind
    );
    let client = connection.client().await?;
    let current = current(&client).await?;
    let engine = providers.load()?;
    let before = ObjectSpec::of(current.map(|cluster| cluster.spec).unwrap_or_default());
    let mut plan = verdict(&before, &desired, engine.as_ref(), Current::Stored)?;
    if plan.violations.is_empty() {
        let cluster = Cluster::new(client, CALL_TIMEOUT);
        let evaluator: Arc<dyn Evaluator> = engine;
        let seen = look(&cluster, &evaluator, Some(desired.spec)).await.context("reading the cluster")?;
        let now = jiff::Timestamp::now();
        if let Some(snapshot) = seen.snapshot(now)?
            && on_deployed(&mut plan, &snapshot, &before.wanted())?
        {
            let mut live = decided(&snapshot, &keyward_core::reconcile(&snapshot), plan.makes_key);
            live.withheld = withheld(&snapshot, before.spec.paused.as_ref());
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
                // A user who is not allowed to list them still gets the rest of the plan.
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

/// Replaces the effect on the stored object, which may have a mistake or be gone, by the effect on what is
/// deployed. Returns whether the plan can show more of the cluster. It cannot if it is not known what is
/// deployed (then the plan compares with the stored object alone), or if the change is refused.
fn on_deployed(plan: &mut Plan, snapshot: &Snapshot, stored: &Wanted) -> Result<bool> {
    let before = match InForce::deployed(snapshot, stored) {
        Ok(before) => before,
        Err(unknown) => {
            let unknown = unknown.into_iter();
            plan.unknown = unknown.map(|one| Unknown { what: one.what, why: one.why }).collect();
            return Ok(false);
        }
    };
    let violations = violations(snapshot);
    if !violations.is_empty() {
        *plan = Plan { violations, ..Plan::default() };
        return Ok(false);
    }
    let kms = snapshot.wanted.kms.as_ref();
    let evaluation = kms.map(|kms| snapshot.evaluation(Origin::Desired, kms)).transpose()?;
    let change = between(&before, &snapshot.wanted, evaluation)
        .context("the object has no valid spec.encryption.type")?;
    plan.set(&change, &snapshot.wanted);
    Ok(true)
}

/// Writes that a pause withholds: the pause of the desired object, or the stored one that it ends.
fn withheld(snapshot: &Snapshot, stored: Option<&Pause>) -> Vec<String> {
    let Some(pause) = snapshot.wanted.paused.as_ref().or(stored) else { return Vec::new() };
    let mut paused = snapshot.clone();
    paused.wanted.paused = Some(pause.clone());
    keyward_core::reconcile(&paused).view.paused.map(|paused| paused.withheld).unwrap_or_default()
}

/// `ClusterEncryption/cluster` in a cluster.
pub(crate) enum Found {
    /// It exists.
    Object(Box<ClusterEncryption>),
    /// There is none.
    Absent,
    /// The API server does not serve the kind.
    NotServed,
}

/// The remedy if the API server does not serve Keyward's kinds.
pub(crate) const INSTALL_CRDS: &str = "install the CRDs: keyward crds | kubectl apply --server-side -f -";

/// Looks for the object. It lists, because a get returns 404 both for an absent object and for a kind that is
/// not served.
pub(crate) async fn find(client: &kube::Client) -> Result<Found> {
    let found = Api::<ClusterEncryption>::all(client.clone()).list(&ListParams::default()).await;
    let list = match found {
        Ok(list) => list,
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Found::NotServed),
        Err(other) => return Err(anyhow::Error::new(other).context("reading ClusterEncryption/cluster")),
    };
    let is_it = |found: &ClusterEncryption| found.metadata.name.as_deref() == Some(names::CLUSTER);
    Ok(list.items.into_iter().find(is_it).map_or(Found::Absent, |found| Found::Object(Box::new(found))))
}

/// The object in the cluster, or `None`. A kind that is not served is an error.
pub(crate) async fn current(client: &kube::Client) -> Result<Option<ClusterEncryption>> {
    match find(client).await? {
        Found::Object(object) => Ok(Some(*object)),
        Found::Absent => Ok(None),
        Found::NotServed => anyhow::bail!("the API server does not serve ClusterEncryption; {INSTALL_CRDS}"),
    }
}

/// Mistakes that only the cluster shows: resources that it cannot encrypt, and Secrets and ConfigMaps that do
/// not fit the plugin.
fn violations(snapshot: &Snapshot) -> Vec<Violation> {
    let spec = snapshot.wanted.mistakes.iter().map(|mistake| violation(mistake));
    spec.chain(keyward_core::controllers::violations(snapshot)).collect()
}

fn decided(snapshot: &Snapshot, outcome: &Outcome, makes_key: bool) -> Live {
    // The plan includes the writes that a pause withholds.
    let created = outcome.actions.iter().chain(&outcome.withheld).find_map(|action| match action {
        Action::CreateKey { key } => Some(key.id),
        Action::RequirePreflight { candidate, .. } => Some(candidate.key_id),
        _ => None,
    });
    let newest = snapshot.revisions.values().next_back().and_then(|stored| stored.content.as_ref().ok());
    let deployed = newest.map(|content| content.kms_keys().into_iter().collect()).unwrap_or_default();
    Live {
        key_id: created.or_else(|| snapshot.next_key()).filter(|_| makes_key),
        plugins: deployed,
        // An external plugin runs already.
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
        // Actions come before a wait.
        waiting: outcome
            .waiting
            .as_ref()
            .filter(|_| outcome.actions.is_empty())
            .map(|waiting| waiting.message.clone()),
        ..Live::default()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Node;
    use keyward_core::SecretBytes;
    use keyward_core::api::ClusterEncryptionSpec;
    use keyward_core::platform::{FreshBytes, Given, Objects, Results, Unreadable, kubernetes};
    use keyward_core::provider::Effect;

    use super::*;

    fn spec(mode: &str) -> ClusterEncryptionSpec {
        let mut spec = ClusterEncryptionSpec::default();
        spec.encryption.type_ = Some(mode.to_owned());
        spec
    }

    fn snapshot(spec: ClusterEncryptionSpec, unreadable: Vec<Unreadable>) -> Snapshot {
        let cluster_encryption = Some(ClusterEncryption::new(names::CLUSTER, spec));
        let mut node = Node::default();
        node.metadata.name = Some("cp-1".to_owned());
        node.metadata.labels = Some([(names::CONTROL_PLANE.to_owned(), String::new())].into());
        let objects = Objects { cluster_encryption, unreadable, nodes: vec![node], ..Objects::default() };
        let bytes = || SecretBytes::new(vec![7; 32]);
        let given = Given {
            now: jiff::Timestamp::UNIX_EPOCH,
            ages: BTreeMap::new(),
            fresh: FreshBytes { key: bytes(), salt: bytes() },
        };
        kubernetes::snapshot(&objects, &Results::default(), given).unwrap()
    }

    /// The stored object is gone, and the desired one decrypts everything. A user who is not allowed to read
    /// Secrets sees no key and no revision.
    #[test]
    fn plan_does_not_claim_that_nothing_changes_if_secrets_cannot_be_read() {
        let why = "list secrets in keyward-system: secrets is forbidden: User \"u\" cannot list resource";
        let unreadable = Unreadable { what: "secrets in keyward-system".into(), why: why.into() };
        let snapshot = snapshot(spec("identity"), vec![unreadable]);
        let mut plan = Plan { effect: Some(Effect::None), ..Plan::default() };
        let stored = kubernetes::wanted(&ClusterEncryptionSpec::default());
        assert!(!on_deployed(&mut plan, &snapshot, &stored).unwrap());
        assert_eq!(plan.exit_code(), ExitCode::from(1));
        let text = plan.table();
        for part in ["not known what is deployed", "secrets in keyward-system: list secrets", "keyward-plan"]
        {
            assert!(text.contains(part), "{text}");
        }
        assert!(!text.contains("nothing changes"), "{text}");
        let json = serde_json::to_value(&plan).unwrap();
        assert_eq!(json["unknown"][0]["what"], "secrets in keyward-system");
    }

    #[test]
    fn identity_changes_nothing_in_a_cluster_that_encrypts_nothing() {
        let snapshot = snapshot(spec("identity"), Vec::new());
        let mut plan = Plan::default();
        let stored = kubernetes::wanted(&spec("identity"));
        assert!(on_deployed(&mut plan, &snapshot, &stored).unwrap());
        assert_eq!((plan.exit_code(), plan.effect), (ExitCode::SUCCESS, Some(Effect::None)));
        assert!(plan.table().contains("nothing changes"), "{}", plan.table());
    }

    #[test]
    fn plan_lists_withheld_writes_of_a_pause_that_begins_or_ends() {
        let pause = Pause { reason: "the KMS moves".into(), by: "ada".into() };
        let ends = withheld(&snapshot(spec("aescbc"), Vec::new()), Some(&pause));
        assert!(!ends.is_empty(), "a key is to be created");
        let mut paused = spec("aescbc");
        paused.paused = Some(pause);
        assert_eq!(withheld(&snapshot(paused, Vec::new()), None), ends);
        assert!(withheld(&snapshot(spec("aescbc"), Vec::new()), None).is_empty(), "no pause");
    }
}
