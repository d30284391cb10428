//! The KMS rotated its KEK: does everything have to be re-encrypted (decision 0006)?
//!
//! A rotation makes no new key secret and no new revision. When every API server is seen to write under the
//! new id, every resource is rewritten. Before that, a server that has not noticed the rotation would take
//! old objects for fresh ones and skip them (kubernetes: only-stale-values-are-rewritten).

use std::collections::BTreeSet;
use std::time::Duration;

use super::migration::{self, DesiredMigration, Report};
use super::reports::{self, Health};
use super::{Deployed, Deployment, Turn, evidence, health};
use crate::formats::key_secret::KeySecret;
use crate::ids::{GroupResource, Mode, RemoteKeyId};
use crate::machine::Step;
use crate::outcome::Action;
use crate::snapshot::{Snapshot, StoredMigration};

/// How long every fresh report has to show the same new id.
const STABLE: Duration = Duration::from_mins(5);

/// Re-encrypts after a rotation in the KMS, when nothing else is under way.
pub(super) fn decide(
    snapshot: &Snapshot,
    deployment: &Deployment<'_>,
    deployed: &Deployed<'_>,
    settled: bool,
    turn: &mut Turn,
) {
    let Deployment::Converged { content, .. } = deployment else { return };
    if !settled || deployed.desired.step != Step::Settled {
        return;
    }
    let newest = deployed.newest().filter(|key| key.mode == Mode::Kms);
    let Some(secret) = newest.and_then(|key| snapshot.key(key.id)) else { return };
    let Some(now) = reported(snapshot, secret, turn) else { return };
    let Some(before) = known(secret) else { return };
    // A migration for an id that was replaced meanwhile has rewritten some objects under it, and servers have
    // written more.
    let interrupted = || {
        let migrations = snapshot.migrations.values().filter(|m| evidence::is_for(snapshot, m, secret));
        migrations.filter_map(|m| m.spec.remote_key_id.as_ref()).find(|remote| **remote != now)
    };
    let Some(before) = Some(before).filter(|before| **before != now).or_else(interrupted) else { return };
    turn.explain(format!("the remote key id of key {} changed from {before} to {now}", secret.id));
    if !is_followed(snapshot, secret) {
        let message = format!(
            "the KMS rotated the KEK of key {} from {before} to {now}. Keyward does not re-encrypt after a rotation by itself: what was stored before is still under the earlier version. Run keyward reencrypt. Until Ready is True after that, keep every earlier version of the KEK: do not trim it, and do not raise its min_decryption_version",
            secret.id
        );
        turn.notice(true, "RotationNotFollowed", message.clone());
        turn.wait("RotationNotFollowed", message);
        return;
    }
    if let Some(why) = not_adopted(snapshot, secret, &now) {
        turn.wait("RotationNotAdopted", why);
        return;
    }
    let stable = turn.since(snapshot, format!("adopted/{}", secret.id), now.0.clone());
    let needed = STABLE.max(snapshot.wanted.request_timeout);
    if stable < needed {
        turn.wait_until(
            "RotationSettling",
            format!("the KMS rotated key {} to {now}; re-encryption starts if this does not change for {needed:?}", secret.id),
            format!("adopted/{}", secret.id),
            needed,
        );
        turn.again_after(needed.saturating_sub(stable));
        return;
    }
    let resources: Vec<&GroupResource> = deployed.desired.state.resources.keys().collect();
    let mut report = Report::default();
    for resource in resources {
        let wanted = DesiredMigration::of(snapshot, resource, secret, Some(now.clone()));
        let existing = snapshot.migrations.get(resource);
        match existing.filter(|migration| wanted.is(migration)) {
            Some(migration) if evidence::succeeded(migration) && began_since(snapshot, migration, stable) => {
                continue;
            }
            // The id was another one meanwhile, and servers wrote under it.
            Some(migration) if evidence::succeeded(migration) => {
                migration::start(&wanted, Some(migration), migration.spec.attempt.saturating_add(1), turn);
            }
            Some(migration) => {
                migration::follow(snapshot, resource, migration, &mut report, turn);
                continue;
            }
            None => match health::gate(snapshot, content, &content.kms_keys(), "re-encryption") {
                Some(why) => turn.wait("PluginUnhealthy", why),
                None => migration::start(&wanted, existing, 0, turn),
            },
        }
        report.under_way.push(resource);
    }
    if report.under_way.is_empty() {
        turn.explain(format!("everything is stored under remote key id {now}"));
        let key = Box::new(KeySecret { remote_key_id: Some(now.clone()), ..secret.clone() });
        turn.act(Action::RecordRotation { key, remote_key_id: now });
    } else {
        turn.wait(
            "Migrating",
            format!("re-encrypting {} after a rotation by the KMS", migration::list(&report.under_way)),
        );
    }
    report.publish(turn);
}

/// Whether a migration began while every server wrote under the present id. It begins only after they had
/// done so for a while. So a migration that ended since then also began since then. After a jump of the clock
/// or a restart of the operator it runs again.
fn began_since(snapshot: &Snapshot, migration: &StoredMigration, stable: Duration) -> bool {
    let ended = migration.status.finished_at.as_ref().and_then(|at| at.parse::<jiff::Timestamp>().ok());
    ended.is_none_or(|ended| {
        Duration::try_from(snapshot.now.duration_since(ended)).is_ok_and(|age| age <= stable)
    })
}

/// The id under which everything is stored: that of the last rotation that was re-encrypted, else the key
/// check's.
fn known(secret: &KeySecret) -> Option<&RemoteKeyId> {
    let key_check = || secret.kms.as_ref()?.key_check.as_ref().map(|key_check| &key_check.remote_key_id);
    secret.remote_key_id.as_ref().or_else(key_check)
}

/// The id that every API server's plugin reports, if all of them are healthy. Servers that disagree are
/// named.
fn reported(snapshot: &Snapshot, secret: &KeySecret, turn: &mut Turn) -> Option<RemoteKeyId> {
    let mut ids: BTreeSet<&RemoteKeyId> = BTreeSet::new();
    let mut each = Vec::new();
    for server in snapshot.servers.values() {
        let plugins = &server.status()?.plugins;
        let plugin = plugins.iter().find(|plugin| {
            plugin.key_id == secret.id
                && plugin.ready
                && reports::health(snapshot, server, plugin) == Health::Healthy
        })?;
        ids.insert(&plugin.health.remote_key_id);
        each.push(format!("{} {}", server.name, plugin.health.remote_key_id));
    }
    match (ids.len(), ids.first()) {
        (1, Some(id)) => Some((*id).clone()),
        (0, _) => None,
        _ => {
            turn.wait(
                "RotationDisagrees",
                format!("plugins of key {} report different KEKs: {}", secret.id, each.join(", ")),
            );
            None
        }
    }
}

/// Whether agents report which id their API servers write with. Without that, a server that has not noticed
/// the rotation would skip old objects as fresh ones.
fn is_followed(snapshot: &Snapshot, secret: &KeySecret) -> bool {
    snapshot.servers.values().any(|server| {
        server.status().is_some_and(|status| status.adopted.iter().any(|adopted| adopted.key_id == secret.id))
    })
}

fn not_adopted(snapshot: &Snapshot, secret: &KeySecret, now: &RemoteKeyId) -> Option<String> {
    let mut behind = Vec::new();
    for server in snapshot.servers.values() {
        let adopted = server.status().into_iter().flat_map(|status| &status.adopted);
        match adopted.into_iter().find(|adopted| adopted.key_id == secret.id) {
            Some(adopted) if adopted.remote_key_id == *now => {}
            Some(adopted) => behind.push(format!(
                "the API server on {} still writes with remote key id {}",
                server.name, adopted.remote_key_id
            )),
            None => {
                behind.push(format!(
                    "it is not known with which remote key id the API server on {} writes",
                    server.name
                ));
            }
        }
    }
    let what = format!("the KMS rotated key {} to {now}", secret.id);
    (!behind.is_empty()).then(|| format!("{what}; re-encryption waits: {}", behind.join("; ")))
}
