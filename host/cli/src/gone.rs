//! What is known where `ClusterEncryption/cluster` is gone: it may have been deleted while everything was under a key.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::Result;
use k8s_openapi::api::core::v1::Secret;
use keyward_core::api::{EncryptionMigration, EncryptionNode, MigrationPhase};
use keyward_core::formats::revision::RevisionContent;
use keyward_core::ids::Revision;
use keyward_core::names;
use keyward_core::platform::kubernetes;
use kube::Api;
use kube::api::ListParams;

/// Each resource's providers in the newest revision, the writer first.
type Lists = BTreeMap<String, Vec<String>>;

/// Reads what is left of it, and says how to go on.
pub(crate) async fn told(client: &kube::Client) -> Result<String> {
    let all = ListParams::default();
    let nodes = Api::<EncryptionNode>::all(client.clone()).list(&all).await?.items;
    let migrations = Api::<EncryptionMigration>::all(client.clone()).list(&all).await?.items;
    // Most may not read these, and get the rest all the same.
    let secrets = Api::<Secret>::namespaced(client.clone(), names::NAMESPACE).list(&all).await;
    Ok(render(newest(&secrets.map(|found| found.items).unwrap_or_default()), &nodes, &migrations))
}

fn newest(secrets: &[Secret]) -> Option<(Revision, Lists)> {
    let revisions = secrets.iter().filter_map(|secret| {
        let name = secret.metadata.name.as_deref()?;
        Some((names::parse_revision_secret(name)?, name, secret))
    });
    let (revision, name, secret) = revisions.max_by_key(|(revision, ..)| *revision)?;
    let content = RevisionContent::decode(name, &kubernetes::data(secret)).ok()??;
    Some((revision, content.config.lists()))
}

fn render(
    newest: Option<(Revision, Lists)>,
    nodes: &[EncryptionNode],
    migrations: &[EncryptionMigration],
) -> String {
    let mut loaded: BTreeMap<Revision, Vec<&str>> = BTreeMap::new();
    let mut plugins = BTreeSet::new();
    for node in nodes {
        let Some(status) = node.status.as_ref().filter(|status| status.revision > Revision(0)) else {
            continue;
        };
        loaded.entry(status.revision).or_default().push(node.metadata.name.as_deref().unwrap_or_default());
        plugins.extend(status.plugins.iter().map(|plugin| plugin.key_id.to_string()));
    }
    if newest.is_none() && loaded.is_empty() && migrations.is_empty() {
        return "there is no ClusterEncryption/cluster, and no trace of encryption by Keyward: no revision, no migration, no node that reports one\n".to_owned();
    }
    let mut text = "warning: ClusterEncryption/cluster is gone, and what was encrypted still is\n".to_owned();
    for (revision, nodes) in loaded {
        let _ = writeln!(text, "  revision {revision} is loaded on {}", nodes.join(", "));
    }
    if !plugins.is_empty() {
        let keys: Vec<String> = plugins.into_iter().collect();
        let _ = writeln!(text, "  plugins run for key {}", keys.join(", "));
    }
    match newest {
        Some((revision, lists)) => {
            for (resource, providers) in lists {
                let writer = providers.first().map_or("nothing", String::as_str);
                let how = match writer {
                    "identity" => "are written in plain text".to_owned(),
                    writer => format!("are written under {writer}"),
                };
                let _ = writeln!(
                    text,
                    "  {resource} {how} by revision {revision}, and read with {}",
                    providers.join(", ")
                );
            }
        }
        None => {
            let _ = writeln!(
                text,
                "  the revisions' Secrets in {} cannot be read, or there is none",
                names::NAMESPACE
            );
        }
    }
    for migration in migrations {
        let phase = migration.status.as_ref().map(|status| status.phase).unwrap_or_default();
        let done = match phase {
            MigrationPhase::Succeeded => "everything is stored".to_owned(),
            other => format!("not everything is stored ({other:?})"),
        };
        let under = match migration.spec.key_id.0 {
            0 => "in plain text".to_owned(),
            id => format!("under key {id}"),
        };
        let _ = writeln!(text, "  {}: {done} {under}", migration.spec.resource);
    }
    text.push_str(
        "nothing looks after keys, plugins and nodes now; do not delete Secrets of keyward-system, EncryptionNodes, plugins or KEKs: what is stored can only be read with them\n\
         to go on: create ClusterEncryption/cluster again with the spec that it had; first check it with `keyward plan -f FILE`, which says `nothing changes` where it names the same KEK\n\
         to decrypt everything: create it with spec.encryption.type identity, and delete it once status.encryptedResources is empty\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use keyward_core::api::{EncryptionMigrationSpec, EncryptionMigrationStatus, EncryptionNodeSpec};
    use keyward_core::ids::KeyId;

    use super::*;

    #[test]
    fn what_is_encrypted_is_listed_though_its_object_is_gone() {
        let mut node = EncryptionNode::new("cp-1", EncryptionNodeSpec::default());
        node.status.get_or_insert_default().revision = Revision(9);
        let spec = EncryptionMigrationSpec {
            resource: "secrets".into(),
            key_id: KeyId(6),
            ..EncryptionMigrationSpec::default()
        };
        let mut migration = EncryptionMigration::new("m", spec);
        migration.status =
            Some(EncryptionMigrationStatus { phase: MigrationPhase::Succeeded, ..Default::default() });
        let lists = BTreeMap::from([("secrets".to_owned(), vec!["kms:6".to_owned(), "identity".to_owned()])]);
        let told = render(Some((Revision(9), lists)), &[node.clone()], &[migration.clone()]);
        for part in [
            "revision 9 is loaded on cp-1",
            "secrets are written under kms:6 by revision 9",
            "secrets: everything is stored under key 6",
            "to go on: create ClusterEncryption/cluster again",
        ] {
            assert!(told.contains(part), "{told}");
        }
        let told = render(None, &[node], &[migration]);
        assert!(told.contains("cannot be read") && told.contains("under key 6"), "{told}");
        assert!(render(None, &[], &[]).contains("no trace"));
    }
}
