//! The numbers that the objects of platform `kubernetes` name, also objects that cannot be decoded (objects: numbers).

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;

use super::numbers::{self, Excess, Mark, Numbers};
use super::{Objects, kubernetes};
use crate::api::{ClusterEncryptionStatus, EncryptionNodeStatus};
use crate::formats::key_secret::KeySecret;
use crate::formats::revision::{RevisionContent, SecretData};
use crate::ids::{KeyId, LAST, Revision};
use crate::names;
use crate::snapshot::StoredRevision;

/// The remedy for an ignored mark of an agent.
const AGENTS_KEY: &str = "If this number was really used (for example before etcd was restored from an older backup), set status.highestKeyID of ClusterEncryption cluster to it; if not, correct the agent's record on that node (state.json)";
/// The same for a revision.
const AGENTS_REVISION: &str = "If this number was really used (for example before etcd was restored from an older backup), set status.highestRevision of ClusterEncryption cluster to it; if not, correct the agent's record on that node (state.json)";
/// The same for the operator's own mark.
const OWN: &str = "Correct it with kubectl edit clusterencryption cluster --subresource=status";

/// The remedy for a Secret that no operator of Keyward can have written.
const FOREIGN: &str = "Find out who wrote it, and rename or delete it";

/// Secrets with numbers above the maximum. No object of Keyward has such a number, because the maximum has no
/// successor. So these numbers do not count, and the Secrets are reported.
pub(super) fn foreign(objects: &Objects, decoded: &[KeySecret]) -> Vec<Excess> {
    let excess = |secret: &str, field: &'static str, number: u64| {
        let (secret, named) = (Some(secret.to_owned()), LAST);
        (number > LAST).then_some(Excess { node: None, secret, field, number, named, remedy: FOREIGN })
    };
    let named = objects.secrets.iter().filter_map(|secret| {
        let name = secret.metadata.name.as_deref()?;
        let revision = || names::parse_revision_secret(name).map(|revision| revision.0);
        excess(name, "metadata.name", key_secret(secret).map(|id| id.0).or_else(revision)?)
    });
    let published = decoded.iter().filter_map(|key| {
        let name = names::key_secret(names::KUBE_APISERVER, key.id);
        excess(&name, names::ANNOTATION_WRITE_PUBLISHED, key.write_published?.0)
    });
    named.chain(published).collect()
}

/// All keys that an object names. A candidate does not count: its number is free until another object names it.
pub(super) fn keys(
    objects: &Objects,
    decoded: &[KeySecret],
    revisions: &BTreeMap<Revision, StoredRevision>,
) -> BTreeSet<KeyId> {
    let mut named: BTreeSet<KeyId> = decoded.iter().map(|key| key.id).collect();
    // Only by name: a key secret that lost its label, or cannot be decoded, still uses its number.
    named.extend(objects.secrets.iter().filter_map(key_secret));
    named.extend(of_contents(revisions.values()));
    let undecodable = objects.secrets.iter().filter(|secret| {
        let name = secret.metadata.name.as_deref();
        let stored =
            name.and_then(names::parse_revision_secret).and_then(|revision| revisions.get(&revision));
        stored.is_some_and(|stored| stored.content.is_err())
    });
    named.extend(undecodable.flat_map(of_undecodable));
    let specs = objects.encryption_nodes.iter().map(|node| &node.spec);
    named.extend(specs.flat_map(|spec| &spec.key_checks).map(|key_check| key_check.key_id));
    named.extend(objects.migrations.iter().map(|migration| migration.spec.key_id));
    if let Some(status) = status(objects) {
        named.extend(status.keys.iter().map(|key| key.key_id));
        let lists = status.revisions.iter().flat_map(|revision| revision.lists.values()).flatten();
        named.extend(lists.flat_map(|provider| of_provider(provider)));
    }
    named.retain(|id| id.0 <= LAST);
    named
}

/// The highest key number, and the ignored marks.
pub(super) fn count_keys(objects: &Objects, named: &BTreeSet<KeyId>) -> Numbers {
    let agents = agents(objects).flat_map(move |(node, status)| {
        let used = status.adopted.iter().map(|adopted| ("status.adopted", adopted.key_id));
        let recovered = status.recovered.iter().map(|recovered| ("status.recovered", recovered.key_id));
        let all = used.chain(recovered).chain([("status.highestKeyID", status.highest_key_id)]);
        all.map(move |(field, KeyId(number))| Mark { node: Some(node), field, number, remedy: AGENTS_KEY })
    });
    let own = status(objects).map(|status| own("status.highestKeyID", status.highest_key_id.0));
    numbers::count(named.iter().map(|id| id.0), agents.chain(own).collect::<Vec<_>>())
}

/// The highest revision number, and the ignored marks.
pub(super) fn count_revisions(objects: &Objects, decoded: &[KeySecret]) -> Numbers {
    let secrets = objects.secrets.iter().filter_map(|secret| secret.metadata.name.as_deref());
    let status = status(objects);
    let named = secrets
        .filter_map(names::parse_revision_secret)
        .chain(objects.encryption_nodes.iter().map(|node| node.spec.revision))
        .chain(objects.migrations.iter().map(|migration| migration.spec.since))
        .chain(decoded.iter().filter_map(|key| key.write_published))
        .chain(status.iter().flat_map(|status| &status.revisions).map(|revision| revision.n))
        .chain(status.map(|status| status.converged_revision));
    let agents = agents(objects).flat_map(|(node, status)| {
        let error = status.error.as_ref().map(|error| ("status.error.revision", error.revision));
        let drifted = status.drifted.map(|drifted| ("status.drifted", drifted));
        [("status.revision", status.revision)].into_iter().chain(error).chain(drifted).map(
            move |(field, Revision(number))| Mark {
                node: Some(node),
                field,
                number,
                remedy: AGENTS_REVISION,
            },
        )
    });
    let own = status.map(|status| own("status.highestRevision", status.highest_revision.0));
    let named = named.map(|revision| revision.0).filter(|number| *number <= LAST);
    numbers::count(named, agents.chain(own).collect::<Vec<_>>())
}

fn own(field: &'static str, number: u64) -> Mark<'static> {
    Mark { node: None, field, number, remedy: OWN }
}

fn status(objects: &Objects) -> Option<&ClusterEncryptionStatus> {
    objects.cluster_encryption.as_ref()?.status.as_ref()
}

fn agents(objects: &Objects) -> impl Iterator<Item = (&str, &EncryptionNodeStatus)> {
    objects
        .encryption_nodes
        .iter()
        .filter_map(|node| Some((node.metadata.name.as_deref().unwrap_or_default(), node.status.as_ref()?)))
}

/// The keys of these revisions, by providers and by plugin data.
pub(super) fn of_contents<'a>(revisions: impl Iterator<Item = &'a StoredRevision>) -> BTreeSet<KeyId> {
    let contents = revisions.filter_map(|stored| stored.content.as_ref().ok());
    contents.flat_map(of_content).collect()
}

/// The keys of a revision, by providers and by plugin data.
pub(super) fn of_content(content: &RevisionContent) -> BTreeSet<KeyId> {
    content.key_ids().into_iter().chain(content.plugins.keys().copied()).collect()
}

fn key_secret(secret: &Secret) -> Option<KeyId> {
    let name = secret.metadata.name.as_deref()?;
    let labels = secret.metadata.labels.as_ref();
    let labelled = labels.is_some_and(|labels| labels.contains_key(names::LABEL_COMPONENT));
    let prefix = names::key_secret(names::KUBE_APISERVER, KeyId(0));
    let prefix = prefix.strip_suffix('0').unwrap_or_default();
    (labelled || name.starts_with(prefix)).then(|| KeyId::from_name(name)).flatten()
}

/// The keys of a configuration secret that is not understood: the numbers in its data keys, and in all fields `name` of
/// its configuration.
pub(super) fn of_undecodable(secret: &Secret) -> BTreeSet<KeyId> {
    fn walk(value: &Value, named: &mut BTreeSet<KeyId>) {
        match value {
            Value::Object(fields) => {
                for (field, value) in fields {
                    if let Some(name) = value.as_str().filter(|_| field.eq_ignore_ascii_case("name")) {
                        let number = name.split('_').next().unwrap_or_default();
                        named.extend(number.parse::<KeyId>());
                    }
                    walk(value, named);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| walk(item, named)),
            _ => {}
        }
    }
    let data: SecretData = kubernetes::data(secret);
    let mut named: BTreeSet<KeyId> = data.keys().filter_map(|key| KeyId::from_name(key)).collect();
    let config = data.get(names::CONFIG_KEY).and_then(|bytes| std::str::from_utf8(bytes.expose()).ok());
    let config = config.and_then(|text| {
        let json = serde_json::from_str::<Value>(text).ok();
        json.or_else(|| serde_saphyr::from_str::<Value>(text).ok())
    });
    if let Some(config) = config {
        walk(&config, &mut named);
    }
    named
}

/// A provider in a status, for example `kms:7`; with several keys, `aescbc:7+6`.
fn of_provider(provider: &str) -> impl Iterator<Item = KeyId> {
    let keys = provider.split_once(':').map(|(_, keys)| keys).unwrap_or_default();
    keys.split('+').filter_map(|id| id.parse().ok())
}
