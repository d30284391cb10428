//! The Role by which node agents read Secrets: exactly the revisions that a node is told to install, and the candidate
//! (OBJECTS.md, "Objects"; DESIGN.md, "Security"). Kept current before a node is told of a revision.

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

/// The Secrets that agents may read while these actions are carried out: what nodes are told now, and what they are
/// about to be told.
pub(crate) fn readable(objects: &Objects, actions: &[Action]) -> BTreeSet<String> {
    let told = objects.encryption_nodes.iter().map(|node| node.spec.revision);
    let to_be = actions.iter().filter_map(|action| match action {
        Action::SetTarget { spec, .. } => Some(spec.revision),
        _ => None,
    });
    told.chain(to_be)
        .filter(|revision| *revision != Revision(0))
        .map(names::revision_secret)
        .chain([names::PREFLIGHT_SECRET.to_owned()])
        .collect()
}

/// The Role as it is.
pub(crate) async fn read(cluster: &Cluster) -> Result<Option<Role>, CallError> {
    cluster.get::<Role>(Some(names::NAMESPACE), AGENT_ROLE).await
}

/// Makes the Role, which was read as this, say exactly that.
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
            tracing::info!(role = AGENT_ROLE, secrets = ?readable, "agents may read");
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
    fn agents_read_targets_of_now_and_next_and_the_candidate() {
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
