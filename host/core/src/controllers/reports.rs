//! What is known about each plugin: the report of its node's agent, unless that report is too old.
//!
//! The age of a report is measured by the operator's own clock, from when the report was last seen to change.
//! The time that an agent writes into it has no meaning (decision 0018).

use std::collections::BTreeSet;
use std::time::Duration;

use super::Turn;
use crate::api::{HealthStatus, NodePlugin};
use crate::ids::KeyId;
use crate::outcome::{LEASE_STOPPED, lease_fact};
use crate::snapshot::{ServerView, Snapshot};

/// A report that has not changed for this many intervals counts as [`Health::Unknown`].
const INTERVALS: u32 = 4;
/// The interval of an agent that does not report its own (openshift: silent-reports).
const INTERVAL: Duration = Duration::from_secs(30);
/// The longest interval that counts, even if an agent reports a longer one.
const LONGEST_INTERVAL: Duration = Duration::from_mins(10);

/// The health of a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Health {
    Healthy,
    Unhealthy,
    Error,
    /// Its report is too old.
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

/// The health of this plugin now.
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

/// The plugins that a server reports.
pub(super) fn plugins(server: &ServerView) -> &[NodePlugin] {
    server.status().map(|status| status.plugins.as_slice()).unwrap_or_default()
}

/// How long the report of a node may stay unchanged.
pub(super) fn patience(server: &ServerView) -> Duration {
    let seconds = server.status().and_then(|status| status.probe_interval_seconds).unwrap_or_default();
    let interval = if seconds == 0 { INTERVAL } else { Duration::from_secs(seconds.into()) };
    interval.min(LONGEST_INTERVAL) * INTERVALS
}

fn fact(server: &ServerView, key_id: KeyId) -> String {
    format!("{}{}/{key_id}", crate::outcome::REPORT_FACTS, server.name)
}

/// Changes with each report. It is compared with itself alone, so the clock of the node may be wrong.
fn value(server: &ServerView, key_id: KeyId) -> String {
    let of_key = plugins(server).iter().filter(|plugin| plugin.key_id == key_id);
    let each = of_key.map(|plugin| {
        let digest = plugin.digest.0.get(..16).unwrap_or(&plugin.digest.0);
        format!("{digest}@{}", plugin.health.last_checked_time)
    });
    each.collect::<Vec<_>>().join(",")
}

/// Whether the reports about all plugins of this node are too old, or the node never reported. A node that
/// has reported and has no plugins does not have to report again.
pub(super) fn is_silent(snapshot: &Snapshot, server: &ServerView) -> bool {
    if server.status().is_none() {
        return true;
    }
    let mut reported = plugins(server).iter();
    reported.len() > 0 && reported.all(|plugin| health(snapshot, server, plugin) == Health::Unknown)
}

/// Keeps the age of every report, and of every Lease that nothing else reports about, and asks for another
/// pass when one becomes too old.
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
                // At rest each of them changes with every interval, which is not worth a write of the status
                // (decision 0065).
                turn.unrecorded.insert(fact);
            }
        }
    }
}

/// Whether nothing needs this plugin: no revision, no candidate, and no request to its node.
pub(super) fn orphan(snapshot: &Snapshot, server: &ServerView, plugin: &NodePlugin) -> bool {
    // An object that cannot be read may need it (invariant: unknown-is-not-absent).
    if !snapshot.unreadable.is_empty() || snapshot.openshift().is_some() {
        return false;
    }
    let key_id = plugin.key_id;
    let mut contents = snapshot.revisions.values().map(|stored| stored.content.as_ref());
    let by_revision = contents.any(|content| {
        // A revision that cannot be decoded may need it.
        content.map_or(true, |content| content.plugins.contains_key(&key_id))
    });
    let candidate = snapshot.candidate.as_ref().is_some_and(|candidate| match candidate {
        Ok(candidate) => candidate.key_id == key_id,
        Err(_) => true,
    });
    let asked = server.agent.as_ref().and_then(|agent| agent.spec.preflight.as_ref());
    !by_revision && !candidate && asked.is_none_or(|request| request.key_id != key_id)
}
