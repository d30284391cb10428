//! The Role by which node agents read Secrets: exactly the revisions that are targets of nodes, and the candidate
//! (objects: agent-role). The operator updates it before a node gets a new target (decision 0050).

use std::collections::BTreeSet;

use k8s_openapi::api::rbac::v1::{PolicyRule, Role};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use keyward_core::ids::Revision;
use keyward_core::names;
use keyward_core::outcome::Action;
use keyward_core::platform::Objects;

use crate::cluster::{CallError, Cluster};

/// The Role's name, and that of the binding in deploy/rbac.
pub const AGENT_ROLE: &str = "keyward-node-agent";

/// The Secrets that agents are allowed to read while these actions are carried out: the current targets, and the
/// targets that these actions set.
pub(crate) fn readable(objects: &Objects, actions: &[Action]) -> BTreeSet<String> {
    let current = objects.encryption_nodes.iter().map(|node| node.spec.revision);
    let next = actions.iter().filter_map(|action| match action {
        Action::SetTarget { spec, .. } => Some(spec.revision),
        _ => None,
    });
    current
        .chain(next)
        .filter(|revision| *revision != Revision(0))
        .map(names::revision_secret)
        .chain([names::PREFLIGHT_SECRET.to_owned()])
        .collect()
}

/// The Role as it is stored.
pub(crate) async fn read(cluster: &Cluster) -> Result<Option<Role>, CallError> {
    cluster.get::<Role>(Some(names::NAMESPACE), AGENT_ROLE).await
}

/// Creates or updates the Role, given as it was read, so that it allows exactly these Secrets.
pub(crate) async fn ensure(
    cluster: &Cluster,
    role: Option<Role>,
    readable: &BTreeSet<String>,
) -> Result<(), CallError> {
    let rules = Some(vec![PolicyRule {
        api_groups: Some(vec![String::new()]),
        resources: Some(vec!["secrets".to_owned()]),
        resource_names: Some(readable.iter().cloned().collect()),
        verbs: vec!["get".to_owned()],
        non_resource_urls: None,
    }]);
    let namespace = Some(names::NAMESPACE);
    match role {
        Some(role) if role.rules == rules => Ok(()),
        Some(role) => {
            tracing::info!(role = AGENT_ROLE, secrets = ?readable, "Role of the agents updated");
            cluster.replace(namespace, &Role { rules, ..role }).await.map(drop)
        }
        None => {
            let metadata = ObjectMeta {
                name: Some(AGENT_ROLE.to_owned()),
                namespace: Some(names::NAMESPACE.to_owned()),
                ..Default::default()
            };
            cluster.create(namespace, &Role { metadata, rules }).await.map(drop)
        }
    }
}

#[cfg(test)]
mod tests {
    use keyward_core::api::{EncryptionNode, EncryptionNodeSpec};

    use super::*;

    #[test]
    fn agents_read_current_and_next_targets_and_the_candidate() {
        let spec = |n| EncryptionNodeSpec { revision: Revision(n), ..Default::default() };
        let objects = Objects {
            encryption_nodes: vec![EncryptionNode::new("a", spec(0)), EncryptionNode::new("b", spec(3))],
            ..Default::default()
        };
        let action = Action::SetTarget {
            node: "a".into(),
            spec: Box::new(spec(4)),
            resource_version: None,
            what: String::new(),
        };
        let names: Vec<String> = readable(&objects, &[action]).into_iter().collect();
        assert_eq!(names, ["encryption-config-3", "encryption-config-4", "encryption-preflight"]);
    }
}
