//! What is known of each plugin: as its node's agent reports it, unless nothing was heard of it for too long.
//!
//! Whether anything was heard is told by the operator's own clock: a report has an age since it was last seen to
//! change. What time an agent writes into it means nothing (DESIGN.md, "Health").

use std::collections::BTreeSet;
use std::time::Duration;

use super::Turn;
use crate::api::{HealthStatus, NodePlugin};
use crate::ids::KeyId;
use crate::outcome::{LEASE_STOPPED, lease_fact};
use crate::snapshot::{ServerView, Snapshot};

/// A report that does not change for so many intervals counts as [`Health::Unknown`].
const INTERVALS: u32 = 4;
/// CONTRACT 3.8; of an agent that does not say how often it reports.
const INTERVAL: Duration = Duration::from_secs(30);
/// Nobody reports less often, whatever an agent says.
const LONGEST_INTERVAL: Duration = Duration::from_mins(10);

/// How a plugin is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Health {
    Healthy,
    Unhealthy,
    Error,
    /// Nothing was heard of it for too long.
    Unknown,
}

impl Health {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Healthy => "Healthy",
            Self::Unhealthy => "Unhealthy",
            Self::Error => "Error",
            Self::Unknown => "Unknown",
        }
    }
}

/// What counts of this plugin now.
pub(super) fn health(snapshot: &Snapshot, server: &ServerView, plugin: &NodePlugin) -> Health {
    if snapshot.age(&fact(server, plugin.key_id), &value(server, plugin.key_id)) >= patience(server) {
        return Health::Unknown;
    }
    match plugin.health.status {
        HealthStatus::Healthy => Health::Healthy,
        HealthStatus::Unhealthy => Health::Unhealthy,
        HealthStatus::Error => Health::Error,
    }
}

/// What a server reports.
pub(super) fn plugins(server: &ServerView) -> &[NodePlugin] {
    server.status().map(|status| status.plugins.as_slice()).unwrap_or_default()
}

/// How long a node may say nothing new.
pub(super) fn patience(server: &ServerView) -> Duration {
    let told = server.status().and_then(|status| status.probe_interval_seconds).unwrap_or_default();
    let interval = if told == 0 { INTERVAL } else { Duration::from_secs(told.into()) };
    interval.min(LONGEST_INTERVAL) * INTERVALS
}

fn fact(server: &ServerView, key_id: KeyId) -> String {
    format!("{}{}/{key_id}", crate::outcome::REPORT_FACTS, server.name)
}

/// Changes with each report: compared with itself alone, so that the node's clock may say what it likes.
fn value(server: &ServerView, key_id: KeyId) -> String {
    let of_key = plugins(server).iter().filter(|plugin| plugin.key_id == key_id);
    let told = of_key.map(|plugin| {
        let digest = plugin.digest.0.get(..16).unwrap_or(&plugin.digest.0);
        format!("{digest}@{}", plugin.health.last_checked_time)
    });
    told.collect::<Vec<_>>().join(",")
}

/// Nothing was heard of any plugin of this node for too long, or nothing of the node ever. Of one that has reported and has no
/// plugins nothing is expected.
pub(super) fn is_silent(snapshot: &Snapshot, server: &ServerView) -> bool {
    if server.status().is_none() {
        return true;
    }
    let mut reported = plugins(server).iter();
    reported.len() > 0 && reported.all(|plugin| health(snapshot, server, plugin) == Health::Unknown)
}

/// Keeps the age of every report, and of Leases that nothing else tells of, and looks again when one would grow too old.
pub(super) fn observe(snapshot: &Snapshot, turn: &mut Turn) {
    for (lease, renewed) in &snapshot.leases {
        let fact = lease_fact(lease);
        let left = LEASE_STOPPED.saturating_sub(turn.since(snapshot, fact.clone(), renewed.clone()));
        if !left.is_zero() {
            turn.again_after(left.max(Duration::from_secs(1)));
            turn.unrecorded.insert(fact);
        }
    }
    for server in snapshot.servers.values() {
        let keys: BTreeSet<KeyId> = plugins(server).iter().map(|plugin| plugin.key_id).collect();
        for key_id in keys {
            let fact = fact(server, key_id);
            let age = turn.since(snapshot, fact.clone(), value(server, key_id));
            let left = patience(server).saturating_sub(age);
            if !left.is_zero() {
                turn.again_after(left.max(Duration::from_secs(1)));
                // At rest each of them changes each interval: not worth a write of the status.
                turn.unrecorded.insert(fact);
            }
        }
    }
}

/// Why nothing needs this plugin: no revision, and nobody who is asked to try it.
pub(super) fn orphan(snapshot: &Snapshot, server: &ServerView, plugin: &NodePlugin) -> bool {
    // Of what cannot be read it is not known what it needs (S7).
    if !snapshot.unreadable.is_empty() || snapshot.openshift().is_some() {
        return false;
    }
    let key_id = plugin.key_id;
    let mut contents = snapshot.revisions.values().map(|stored| stored.content.as_ref());
    let by_revision = contents.any(|content| {
        // One that cannot be decoded may need it.
        content.map_or(true, |content| content.plugins.contains_key(&key_id))
    });
    let candidate = snapshot.candidate.as_ref().is_some_and(|candidate| match candidate {
        Ok(candidate) => candidate.key_id == key_id,
        Err(_) => true,
    });
    let asked = server.agent.as_ref().and_then(|agent| agent.spec.preflight.as_ref());
    !by_revision && !candidate && asked.is_none_or(|request| request.key_id != key_id)
}
