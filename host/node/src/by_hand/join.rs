//! A joining node: it is registered, and gets the revision in force before its API server first starts.
//!
//! From its registration on it counts (invariant: read-before-write): no key becomes the write key anywhere
//! without it. So the revision that it gets stays valid until its agent runs and reports, however long that
//! takes. The agent then follows later decisions, for example an update of a credential.

use std::sync::Arc;
use std::time::Duration;

use keyward_core::api::{ConditionStatus, EncryptionNode, EncryptionNodeSpec, EncryptionNodeStatus};
use keyward_core::formats::revision::RevisionContent;
use keyward_core::ids::{KeyId, Revision};
use keyward_core::names;
use tokio::time::Instant;

use super::CommandSettings;
use super::drive::blocking;
use super::install::install;
use crate::api::Connection;
use crate::disk::has_memory;
use crate::error::AgentError;

/// The pause between two reads of the API.
const POLL: Duration = Duration::from_secs(1);
/// The probe interval of an agent whose report has none, in seconds.
const INTERVAL: u32 = 30;
/// The longest wait for a report of another agent, for any interval in its report.
const LONGEST_WAIT: Duration = Duration::from_mins(5);

/// The revision that was installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// 0 if the cluster has none yet.
    pub revision: Revision,
    /// The steps that were done on the disk.
    pub done: Vec<String>,
}

/// Registers the node at another API server, waits until the operator sets its revision, and installs that.
/// `say` gets messages about the progress.
///
/// # Errors
/// Another machine uses the node's name. Or the operator set no revision within `patience`, or that revision
/// cannot be installed here: then the node stays registered.
pub async fn join(
    place: &CommandSettings,
    connection: &Connection,
    patience: Duration,
    say: impl Fn(&str),
) -> Result<Joined, AgentError> {
    let deadline = Instant::now() + patience;
    let mut said = String::new();
    let paths = place.paths.clone();
    // If Keyward's files exist here, this machine is the node, whatever the node reports.
    let here = move || Ok(has_memory(&paths) || paths.config().exists());
    let mut is_known = blocking("reading the disk", here).await?;
    loop {
        let waiting = match next(place, connection, &mut is_known, &say).await {
            Ok(Next::Install(spec, content)) => {
                let revision = spec.revision;
                let done = install(place, spec, content, KeyId::default()).await?;
                return Ok(Joined { revision, done });
            }
            Ok(Next::Wait(why)) => why,
            // The API server is busy, or the load balancer is about to choose another one: the next call can
            // succeed.
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
            return Err(AgentError::NoRevision { node: place.node.clone(), after: patience, waiting });
        }
        if waiting != said {
            say(&waiting);
            said = waiting;
        }
        tokio::time::sleep(POLL).await;
    }
}

enum Next {
    Install(EncryptionNodeSpec, Option<Arc<RevisionContent>>),
    Wait(String),
}

/// `is_known`: no other machine uses the node's name.
async fn next(
    place: &CommandSettings,
    connection: &Connection,
    is_known: &mut bool,
    say: &impl Fn(&str),
) -> Result<Next, AgentError> {
    let mut node = connection.node(&place.node).await?;
    if let Some(found) = node.as_ref().filter(|_| !*is_known) {
        no_other_machine_reports(place, found, connection, say).await?;
        *is_known = true;
        // The spec may have changed meanwhile.
        node = connection.node(&place.node).await?;
    }
    let Some(node) = node else {
        connection.register(&place.node).await?;
        say(&format!("node {} is registered; from now on no key becomes a write key without it", place.node));
        return Ok(Next::Wait("waiting for the operator to set the node's revision".to_owned()));
    };
    let spec = node.spec;
    if spec.revision > Revision(0) {
        let name = names::revision_secret(spec.revision);
        let unusable = |why: String| AgentError::NotInstallable { why: format!("Secret {name}: {why}") };
        let data = match connection.secret(&name).await {
            Err(error) if error.is_not_found() => {
                return Ok(Next::Wait(format!("Secret {name} of the node's target revision is gone")));
            }
            other => other?,
        };
        let content = RevisionContent::decode(&name, &data)
            .map_err(|error| unusable(error.to_string()))?
            .ok_or_else(|| unusable("it contains no configuration".to_owned()))?;
        return Ok(Next::Install(spec, Some(Arc::new(content))));
    }
    // Only after the registration: a first revision that is decided now counts this node, and one that was
    // decided before has its key only as a read key.
    let status = connection.cluster().await?.and_then(|cluster| cluster.status).unwrap_or_default();
    if status.highest_revision == Revision(0) && connection.revision_names().await?.is_empty() {
        return Ok(Next::Install(spec, None));
    }
    let progressing = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == "Progressing" && condition.status == ConditionStatus::True);
    Ok(Next::Wait(match progressing {
        Some(condition) => {
            format!("waiting for the operator, which reports {}: {}", condition.reason, condition.message)
        }
        None => "waiting for the operator".to_owned(),
    }))
}

/// Two machines with one name would count as one node, and each would count as having what the other one has
/// (objects: api-servers). A running agent renews its report during this wait. The time in the report is not
/// used, because it is from another machine's clock.
async fn no_other_machine_reports(
    place: &CommandSettings,
    found: &EncryptionNode,
    connection: &Connection,
    say: &impl Fn(&str),
) -> Result<(), AgentError> {
    let Some((status, within)) = last_report(found) else { return Ok(()) };
    let name = &place.node;
    say(&format!(
        "an EncryptionNode {name} has reported before; checking for {} s whether that node still reports",
        within.as_secs()
    ));
    let deadline = Instant::now() + within;
    while Instant::now() < deadline {
        tokio::time::sleep(POLL).await;
        let now = connection.node(name).await?.and_then(|node| node.status);
        if now.is_some_and(|now| now != *status) {
            let why = format!(
                "node {name} is alive: its agent has just reported. Choose another name for this machine with --node. If this machine replaces it, first shut the other one down for good (if it is already gone: kubectl delete encryptionnode {name}), and run this command again"
            );
            return Err(AgentError::NotInstallable { why });
        }
    }
    Ok(())
}

/// The last report of a node's agent, and the time within which a running agent renews it. None if the node
/// has no plugins: only a report with plugins is renewed (docs/health.md).
fn last_report(node: &EncryptionNode) -> Option<(&EncryptionNodeStatus, Duration)> {
    let status = node.status.as_ref()?;
    let renews = status.loaded_hash.is_some() && !status.plugins.is_empty();
    let reported = status.probe_interval_seconds.filter(|seconds| *seconds > 0);
    let interval = Duration::from_secs(reported.unwrap_or(INTERVAL).into());
    // The agent adds up to a tenth to each interval, and needs time for the write.
    renews.then_some((status, (interval * 3 / 2 + POLL * 5).min(LONGEST_WAIT)))
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
    #[case::without_an_interval(Some(json!({"loadedHash": "sha256:0", "plugins": plugins()})), Some(50))]
    #[case::short_interval(
        Some(json!({"loadedHash": "sha256:0", "plugins": plugins(), "probeIntervalSeconds": 2})),
        Some(8)
    )]
    #[case::longest_interval(
        Some(json!({"loadedHash": "sha256:0", "plugins": plugins(), "probeIntervalSeconds": u32::MAX})),
        Some(300)
    )]
    fn an_agent_with_plugins_renews_its_report_in_time(
        #[case] status: Option<Value>,
        #[case] within: Option<u64>,
    ) {
        let mut node = EncryptionNode::new("cp-1", EncryptionNodeSpec::default());
        node.status = status.map(|status| serde_json::from_value(status).unwrap());
        assert_eq!(last_report(&node).map(|(_, within)| within.as_secs()), within);
    }
}
