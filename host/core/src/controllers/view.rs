//! The aggregate status for admins.

use std::collections::{BTreeMap, BTreeSet};

use super::reports::{self, Health};
use super::{Deployed, Deployment, decommission, diagnosis, health};
use crate::api::{KeyStatus, MigrationSummary, PluginSummary, RevisionStatus};
use crate::ids::{GroupResource, KeyId, Mode, Revision};
use crate::machine::{self, State, Step};
use crate::outcome::StatusView;
use crate::provider::Origin;
use crate::snapshot::Snapshot;

/// Computed again in each pass; contains no secret byte.
pub(super) fn view(snapshot: &Snapshot, deployment: &Deployment<'_>, deployed: &Deployed<'_>) -> StatusView {
    StatusView {
        converged_revision: match deployment {
            Deployment::Converged { revision, .. } => *revision,
            _ => snapshot.last_converged,
        },
        revisions: revisions(snapshot, deployment),
        keys: if blocked(deployment) { snapshot.recorded_keys.clone() } else { keys(snapshot, deployed) },
        encrypted: encrypted(snapshot, deployment, deployed),
        migrations: migrations(snapshot),
        forget: Vec::new(),
        paused: None,
        reencrypted: reencrypted(snapshot, deployed),
        plugins: plugins(snapshot),
        expiries: Vec::new(),
    }
}

/// Resources of which something may be stored under a key, or that have a KMS provider in a configuration
/// that an API server has or is given. Without the ClusterEncryption that provider would stay there, and API
/// servers fail if its KMS is gone. A local key may stay as a read key after everything was rewritten in
/// plain text: it needs nothing.
fn encrypted(
    snapshot: &Snapshot,
    deployment: &Deployment<'_>,
    deployed: &Deployed<'_>,
) -> Option<Vec<String>> {
    if blocked(deployment) {
        return None;
    }
    let at_nodes = match deployment {
        Deployment::Rolling { .. } => revisions_at_nodes(snapshot),
        _ => BTreeSet::new(),
    };
    // If a revision that a node has cannot be read, the recorded value stays.
    let at_nodes = at_nodes.into_iter().filter(|revision| *revision > Revision(0));
    let decoded: Option<Vec<State>> =
        at_nodes.map(|revision| machine::decode(snapshot.content(revision)?, []).ok()).collect();
    let decoded = decoded?;
    let newest = deployed.state.as_ref();
    let is_decrypted = |resource: &GroupResource| {
        let writer = newest.and_then(|state| state.write_key(resource));
        writer.is_some_and(|key| key.mode == Mode::Identity && key.migrated.contains(resource))
    };
    let mut found = BTreeSet::new();
    for state in newest.into_iter().chain(&decoded) {
        let counts = |resource: &&GroupResource| {
            let decrypted = is_decrypted(resource);
            state.read_keys(resource).any(|key| match key.mode {
                Mode::Kms => true,
                Mode::Identity => false,
                _ => !decrypted,
            })
        };
        found.extend(state.resources.keys().filter(counts).cloned());
    }
    Some(found.iter().map(ToString::to_string).collect())
}

/// The revisions that some node has, is given, or had last.
fn revisions_at_nodes(snapshot: &Snapshot) -> BTreeSet<Revision> {
    let of_nodes = snapshot.servers.values().flat_map(|server| {
        let given = server.agent.as_ref().map(|agent| agent.spec.revision);
        given.into_iter().chain(server.status().map(|status| status.revision))
    });
    of_nodes.chain([snapshot.last_converged]).collect()
}

/// While nothing can be decided, the status keeps what it recorded before. A lost revision is recreated from
/// that.
fn blocked(deployment: &Deployment<'_>) -> bool {
    matches!(deployment, Deployment::Blocked)
}

fn revisions(snapshot: &Snapshot, deployment: &Deployment<'_>) -> Vec<RevisionStatus> {
    let found = snapshot.revisions.iter().filter_map(|(n, stored)| {
        let content = stored.content.as_ref().ok()?;
        Some(RevisionStatus { n: *n, config_hash: content.hash(), lists: content.config.lists() })
    });
    let mut all: BTreeMap<Revision, RevisionStatus> = found.map(|status| (status.n, status)).collect();
    let named = revisions_at_nodes(snapshot);
    // Kept until a later revision is loaded everywhere: a node that had it may have written with it.
    for recorded in &snapshot.recorded_revisions {
        let n = recorded.n;
        if blocked(deployment) || named.contains(&n) || n > snapshot.last_converged {
            all.entry(n).or_insert_with(|| recorded.clone());
        }
    }
    all.into_values().collect()
}

fn keys(snapshot: &Snapshot, deployed: &Deployed<'_>) -> Vec<KeyStatus> {
    snapshot
        .keys
        .iter()
        .map(|key| {
            let state = deployed.state.as_ref();
            let writes = state.is_some_and(|s| s.resources.values().any(|keys| keys.write == Some(key.id)));
            let reads = state.is_some_and(|s| s.resources.values().any(|keys| keys.read.contains(&key.id)));
            let newest = snapshot.keys.first().is_some_and(|first| first.id == key.id);
            let role = match (writes, reads, newest) {
                _ if key.abandoned.is_some() => "abandoned",
                (true, _, _) => "write",
                (_, true, _) => "read",
                (_, _, true) => "pending",
                _ => "unused",
            };
            let kms = key.kms.as_ref();
            let evaluation = kms.and_then(|kms| snapshot.evaluation(Origin::Stored, &kms.plugin.kms).ok());
            KeyStatus {
                key_id: key.id,
                mode: key.mode,
                role: role.to_owned(),
                provider: kms.and_then(|kms| kms.plugin.kms.get("type")?.as_str().map(ToOwned::to_owned)),
                kek: evaluation.map(|evaluation| evaluation.kek.key.clone()),
                remote_key_id: kms.and_then(|kms| kms.key_check.as_ref()).map(|c| c.remote_key_id.clone()),
                reason: key.internal_reason.clone(),
                migrated: key.migrated.iter().map(ToString::to_string).collect(),
            }
        })
        .chain(lost(snapshot, deployed))
        .chain(decommission::retired(snapshot).into_iter().filter(|key| !is_deployed(deployed, key.key_id)))
        .collect()
}

fn is_deployed(deployed: &Deployed<'_>, id: KeyId) -> bool {
    deployed.state.as_ref().is_some_and(|state| state.keys.contains_key(&id))
}

/// Deployed keys whose secrets are gone or cannot be decoded. They are not retired.
fn lost(snapshot: &Snapshot, deployed: &Deployed<'_>) -> Vec<KeyStatus> {
    let Some(state) = &deployed.state else { return Vec::new() };
    let gone = state.keys.values().rev().filter(|key| snapshot.key(key.id).is_none());
    gone.map(|key| {
        let writes = state.resources.values().any(|keys| keys.write == Some(key.id));
        let recorded = snapshot.recorded_keys.iter().find(|recorded| recorded.key_id == key.id).cloned();
        let recorded = recorded.unwrap_or_else(|| KeyStatus {
            key_id: key.id,
            mode: key.mode,
            role: String::new(),
            provider: None,
            kek: None,
            remote_key_id: None,
            reason: String::new(),
            migrated: Vec::new(),
        });
        KeyStatus { role: if writes { "write" } else { "read" }.to_owned(), ..recorded }
    })
    .collect()
}

/// The token of `spec.reencrypt` that was carried out: the write key was made for it, and everything is
/// stored under it.
fn reencrypted(snapshot: &Snapshot, deployed: &Deployed<'_>) -> Option<String> {
    let newest = snapshot.usable().next()?;
    let done = matches!(deployed.desired.step, Step::Settled | Step::Decrypt | Step::Decrypting);
    (done && !newest.external_reason.is_empty()).then(|| newest.external_reason.clone())
}

fn migrations(snapshot: &Snapshot) -> Vec<MigrationSummary> {
    snapshot
        .migrations
        .iter()
        .map(|(resource, migration)| MigrationSummary {
            resource: resource.to_string(),
            key_id: migration.spec.key_id,
            phase: if migration.current {
                format!("{:?}", migration.status.phase)
            } else {
                "Pending".to_owned()
            },
            done: if migration.current { migration.status.done } else { 0 },
            total: if migration.current { migration.status.total } else { 0 },
        })
        .collect()
}

/// Every report that still means something. A report about an orphaned plugin that is too old does not.
fn plugins(snapshot: &Snapshot) -> Vec<PluginSummary> {
    let mut summaries = Vec::new();
    for server in snapshot.servers.values() {
        for plugin in reports::plugins(server) {
            let health = reports::health(snapshot, server, plugin);
            let orphan = reports::orphan(snapshot, server, plugin);
            if orphan && health == Health::Unknown {
                continue;
            }
            let finding = health::finding(snapshot, server, plugin);
            let unneeded = if orphan { "orphaned: no revision and no candidate needs it" } else { "" };
            let parts = [finding.what.as_str(), unneeded].into_iter().filter(|part| !part.is_empty());
            summaries.push(PluginSummary {
                node: server.name.clone(),
                key_id: plugin.key_id,
                status: health.name().to_owned(),
                remote_key_id: Some(plugin.health.remote_key_id.clone()),
                since: None,
                detail: diagnosis::cut(parts.collect::<Vec<_>>().join("; ")),
                remedy: diagnosis::cut(finding.remedy),
            });
        }
    }
    summaries
}
