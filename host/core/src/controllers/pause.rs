//! What an admin has paused: the whole operator (`spec.paused`), or the agent of a node (a file on that
//! node).
//!
//! A pause withholds the decided writes, and nothing else (invariant: pause-withholds-everything). The
//! decision is made as always, so that health, conditions and the status continue, and the status lists what
//! resuming will do. Every state between two actions is safe, since the operator may die between any two of
//! them.

use super::{Turn, evidence};
use crate::api::{ConditionStatus, PauseStatus};
use crate::snapshot::Snapshot;

const CONDITION: &str = "Paused";

/// Withholds the actions if Keyward is paused, and reports every pause.
pub(super) fn decide(snapshot: &Snapshot, turn: &mut Turn) -> Option<PauseStatus> {
    if snapshot.openshift().is_some() {
        return None; // OpenShift has neither the field nor the agents
    }
    let nodes = nodes(snapshot);
    let Some(pause) = &snapshot.wanted.paused else {
        report(turn, "NodesPaused", &nodes);
        return None;
    };
    turn.withheld = std::mem::take(&mut turn.actions);
    let actions = turn.withheld.iter().map(crate::outcome::Action::sentence);
    let withheld: Vec<String> = actions.chain(migrations(snapshot)).collect();
    let next = match withheld.len() {
        0 => "if you resume now, nothing is written".to_owned(),
        count => format!("withheld writes: {count} (status.paused.withheld)"),
    };
    let message = format!("Keyward is paused by {}: {}; {next}", pause.by, pause.reason);
    if !withheld.is_empty() {
        turn.wait_above_all("Paused", message.clone());
    }
    report(turn, "SpecPaused", &std::iter::once(message).chain(nodes).collect::<Vec<_>>());
    Some(PauseStatus { by: pause.by.clone(), reason: pause.reason.clone(), since: None, withheld })
}

/// Migrations that have not ended. The engine continues them after the pause, independently of this decision.
fn migrations(snapshot: &Snapshot) -> impl Iterator<Item = String> + '_ {
    let open = snapshot.migrations.iter().filter(|(_, migration)| !evidence::succeeded(migration));
    open.map(|(resource, migration)| match migration.spec.key_id {
        evidence::NO_KEY => format!("continue the decryption of {resource}"),
        id => format!("continue the re-encryption of {resource} under key {id}"),
    })
}

/// Nodes whose agents an admin has paused.
fn nodes(snapshot: &Snapshot) -> Vec<String> {
    let paused = snapshot.servers.values().filter_map(|server| {
        let pause = server.status()?.paused.as_ref()?;
        let since = pause.since.as_ref().map(|at| format!(" since {at}")).unwrap_or_default();
        let next = match pause.withheld.len() {
            0 => "it withholds nothing".to_owned(),
            count => format!("withheld steps: {count} (EncryptionNode.status.paused.withheld)"),
        };
        Some(format!("the agent of node {} is paused{since}: {}; {next}", server.name, pause.reason))
    });
    paused.collect()
}

fn report(turn: &mut Turn, reason: &str, pauses: &[String]) {
    if pauses.is_empty() {
        return turn.condition(CONDITION, ConditionStatus::False, "AsExpected", "");
    }
    for pause in pauses {
        turn.explain(pause.clone());
        turn.notice(true, reason, pause.clone());
    }
    turn.condition(CONDITION, ConditionStatus::True, reason, &pauses.join("; "));
}
