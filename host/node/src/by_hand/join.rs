//! A node that joins: registered first, then given the revision in force, before its API server first starts.
//!
//! From its registration on it counts (S2): no key becomes the write key anywhere without it. So whatever it is told of
//! stays good until its agent runs and says what it has, however long that takes; what is decided meanwhile, an update of
//! a credential for instance, the agent follows.

use std::sync::Arc;
use std::time::Duration;

use keyward_core::api::{ConditionStatus, EncryptionNode, EncryptionNodeSpec, EncryptionNodeStatus};
use keyward_core::formats::revision::RevisionContent;
use keyward_core::ids::{KeyId, Revision};
use keyward_core::names;
use tokio::time::Instant;

use super::ByHand;
use super::drive::blocking;
use super::install::install;
use crate::api::Connection;
use crate::disk::has_memory;
use crate::error::AgentError;

/// From one look to the next.
const PACE: Duration = Duration::from_secs(1);
/// How often an agent renews its report that does not say how often.
const INTERVAL: u32 = 30;
/// No agent is waited for longer, whatever it says.
const LONGEST_LOOK: Duration = Duration::from_mins(5);

/// What was installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// 0 where the cluster has none yet.
    pub revision: Revision,
    /// What was done on the disk.
    pub done: Vec<String>,
}

/// Registers the node at another API server, waits until the operator tells it a revision, and installs that. `say` is
/// told what is waited for.
///
/// # Errors
/// Another machine lives by the node's name. Or nothing was told within `patience`, or what was told cannot be installed
/// here: then the node stays registered.
pub async fn join(
    place: &ByHand,
    connection: &Connection,
    patience: Duration,
    say: impl Fn(&str),
) -> Result<Joined, AgentError> {
    let deadline = Instant::now() + patience;
    let mut said = String::new();
    let paths = place.paths.clone();
    // Where there is anything of Keyward's, this machine is the node, whatever it is reported to do.
    let here = move || Ok(has_memory(&paths) || paths.config().exists());
    let mut is_known = blocking("looking at the disk", here).await?;
    loop {
        let waiting = match told(place, connection, &mut is_known, &say).await {
            Ok(Told::Install(spec, content)) => {
                let revision = spec.revision;
                let done = install(place, spec, content, KeyId::default()).await?;
                return Ok(Joined { revision, done });
            }
            Ok(Told::Wait(why)) => why,
            // An API server that is busy, or about to be led to by another, answers the next time.
            Err(error @ (AgentError::Timeout { .. } | AgentError::Call { .. })) if !error.is_not_found() => {
                error.to_string()
            }
            Err(error) if error.is_not_found() => {
                let why =
                    format!("{error}: the API server does not serve EncryptionNodes; install the CRDs first");
                return Err(AgentError::NotInstallable { why });
            }
            Err(error) => return Err(error),
        };
        if Instant::now() >= deadline {
            return Err(AgentError::NotTold { node: place.node.clone(), after: patience, waiting });
        }
        if waiting != said {
            say(&waiting);
            said = waiting;
        }
        tokio::time::sleep(PACE).await;
    }
}

enum Told {
    Install(EncryptionNodeSpec, Option<Arc<RevisionContent>>),
    Wait(String),
}

/// `is_known`: nobody else is by the node's name.
async fn told(
    place: &ByHand,
    connection: &Connection,
    is_known: &mut bool,
    say: &impl Fn(&str),
) -> Result<Told, AgentError> {
    let mut node = connection.node(&place.node).await?;
    if let Some(found) = node.as_ref().filter(|_| !*is_known) {
        nobody_lives(place, found, connection, say).await?;
        *is_known = true;
        // What it is told may be something else by now.
        node = connection.node(&place.node).await?;
    }
    let Some(node) = node else {
        connection.register(&place.node).await?;
        say(&format!("node {} is registered: from now on no key is promoted without it", place.node));
        return Ok(Told::Wait("the operator is about to tell the node its revision".to_owned()));
    };
    let spec = node.spec;
    if spec.revision > Revision(0) {
        let name = names::revision_secret(spec.revision);
        let unusable = |why: String| AgentError::NotInstallable { why: format!("Secret {name}: {why}") };
        let data = match connection.secret(&name).await {
            Err(error) if error.is_not_found() => {
                return Ok(Told::Wait(format!("Secret {name}, which the node was told of, is gone")));
            }
            other => other?,
        };
        let content = RevisionContent::decode(&name, &data)
            .map_err(|error| unusable(error.to_string()))?
            .ok_or_else(|| unusable("it holds no configuration".to_owned()))?;
        return Ok(Told::Install(spec, Some(Arc::new(content))));
    }
    // After the registration: a first revision that is made now is made with this node in mind, and one that was decided
    // before has its key to read with, no more.
    let status = connection.cluster().await?.and_then(|cluster| cluster.status).unwrap_or_default();
    if status.highest_revision == Revision(0) && connection.revision_names().await?.is_empty() {
        return Ok(Told::Install(spec, None));
    }
    let progressing = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == "Progressing" && condition.status == ConditionStatus::True);
    Ok(Told::Wait(match progressing {
        Some(condition) => {
            format!("waiting for the operator, which says {}: {}", condition.reason, condition.message)
        }
        None => "waiting for the operator".to_owned(),
    }))
}

/// Two machines by one name would be taken for one node: what either has, both would be believed to have (S2). Whoever lives
/// renews its report while this looks. Not by the report's own time: that is by another machine's clock.
async fn nobody_lives(
    place: &ByHand,
    found: &EncryptionNode,
    connection: &Connection,
    say: &impl Fn(&str),
) -> Result<(), AgentError> {
    let Some((status, within)) = reports(found) else { return Ok(()) };
    let name = &place.node;
    say(&format!("a node {name} has reported before: whether it lives shows within {} s", within.as_secs()));
    let deadline = Instant::now() + within;
    while Instant::now() < deadline {
        tokio::time::sleep(PACE).await;
        let now = connection.node(name).await?.and_then(|node| node.status);
        if now.is_some_and(|now| now != *status) {
            let why = format!(
                "node {name} lives: its agent has just reported. Give this machine another name by --node; or, where it is to take that one's place, stop that one for good first (where it is gone for good all the same: kubectl delete encryptionnode {name}), and run this again"
            );
            return Err(AgentError::NotInstallable { why });
        }
    }
    Ok(())
}

/// What a node's agent said last, and within how long it says something again if it lives. Only who has plugins renews what
/// it says (docs/health.md): of others this tells nothing.
fn reports(node: &EncryptionNode) -> Option<(&EncryptionNodeStatus, Duration)> {
    let status = node.status.as_ref()?;
    let renews = status.loaded_hash.is_some() && !status.plugins.is_empty();
    let told = status.probe_interval_seconds.filter(|seconds| *seconds > 0);
    let interval = Duration::from_secs(told.unwrap_or(INTERVAL).into());
    // Up to a tenth is added to each interval, and writing takes its time.
    renews.then_some((status, (interval * 3 / 2 + PACE * 5).min(LONGEST_LOOK)))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn plugins() -> Value {
        let health =
            json!({"status": "Healthy", "remoteKeyID": "k", "lastCheckedTime": "2026-01-01T00:00:00Z"});
        json!([{"keyID": 1, "digest": "0123", "ready": true, "health": health}])
    }

    #[rstest]
    #[case::just_registered(None, None)]
    #[case::nothing_loaded(Some(json!({"plugins": plugins()})), None)]
    #[case::nothing_to_renew(Some(json!({"loadedHash": "sha256:0"})), None)]
    #[case::does_not_say(Some(json!({"loadedHash": "sha256:0", "plugins": plugins()})), Some(50))]
    #[case::often(
        Some(json!({"loadedHash": "sha256:0", "plugins": plugins(), "probeIntervalSeconds": 2})),
        Some(8)
    )]
    #[case::hardly_ever(
        Some(json!({"loadedHash": "sha256:0", "plugins": plugins(), "probeIntervalSeconds": u32::MAX})),
        Some(300)
    )]
    fn who_has_plugins_is_heard_of_again(#[case] status: Option<Value>, #[case] within: Option<u64>) {
        let mut node = EncryptionNode::new("cp-1", EncryptionNodeSpec::default());
        node.status = status.map(|status| serde_json::from_value(status).unwrap());
        assert_eq!(reports(&node).map(|(_, within)| within.as_secs()), within);
    }
}
