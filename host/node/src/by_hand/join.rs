//! A node that joins: registered first, then given the revision in force, before its API server first starts.
//!
//! From its registration on it counts (S2): no key becomes the write key anywhere without it. So whatever it is told of
//! stays good until its agent runs and says what it has, however long that takes; what is decided meanwhile, an update of
//! a credential for instance, the agent follows.

use std::sync::Arc;
use std::time::Duration;

use keyward_core::api::{ConditionStatus, EncryptionNodeSpec};
use keyward_core::formats::revision::RevisionContent;
use keyward_core::ids::{KeyId, Revision};
use keyward_core::names;
use tokio::time::Instant;

use super::ByHand;
use super::install::install;
use crate::api::Connection;
use crate::error::AgentError;

/// From one look to the next.
const PACE: Duration = Duration::from_secs(1);

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
/// Nothing was told within `patience`, or what was told cannot be installed here. The node stays registered.
pub async fn join(
    place: &ByHand,
    connection: &Connection,
    patience: Duration,
    say: impl Fn(&str),
) -> Result<Joined, AgentError> {
    let deadline = Instant::now() + patience;
    let mut said = String::new();
    loop {
        let waiting = match told(place, connection, &say).await {
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

async fn told(place: &ByHand, connection: &Connection, say: &impl Fn(&str)) -> Result<Told, AgentError> {
    let Some(node) = connection.node(&place.node).await? else {
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
