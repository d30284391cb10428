//! Plain Kubernetes: `ClusterEncryption/cluster`, revisions of our own, one agent a node.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;

use super::needed::Whose;
use super::{
    Age, Given, HistoryRequest, KMS_REQUIRED, Needed, Objects, Results, Serving, keys, kms_of, lacks_kms,
    needed,
};
use crate::SecretBytes;
use crate::api::{ClusterEncryptionSpec, EncryptionMigration};
use crate::formats::FormatError;
use crate::formats::revision::{RevisionContent, SecretData, decode_plugins};
use crate::ids::{GroupResource, KeyId, Mode, Revision};
use crate::names;
use crate::outcome::{LEASE_STOPPED, lease_fact};
use crate::provider::{EvaluationRequest, Origin};
use crate::snapshot::{
    AgentView, Platform, ServerView, Snapshot, StoredCandidate, StoredMigration, StoredRevision, Wanted,
};

/// Encrypted where the spec names nothing; every API server serves and stores them itself.
pub const DEFAULT_RESOURCES: [&str; 2] = ["configmaps", "secrets"];
const DEFAULT_KMS_TIMEOUT: &str = "10s";
const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_mins(1);

/// What is still wanted before [`snapshot`] can be made; ask until it wants nothing.
pub fn needed(objects: &Objects, results: &Results) -> Needed {
    let (keys, _) = keys::decode(secrets_of_keys(objects));
    let desired = objects.cluster_encryption.as_ref().and_then(|cluster| kms_of(&cluster.spec.encryption));
    let statuses = || objects.encryption_nodes.iter().filter_map(|node| node.status.as_ref());
    let failures = statuses()
        .filter_map(|status| Some((Whose::Candidate, status.preflight.as_ref()?.failure.clone()?)))
        .chain(statuses().flat_map(needed::unwell));
    let candidate = find(objects, names::PREFLIGHT_SECRET).and_then(|secret| decode_candidate(secret).ok());
    let candidate = candidate.map(|candidate| candidate.request(desired.as_ref()));
    let mut needed = needed::needed(desired.as_ref(), &keys, candidate, failures, results);
    needed.history = history(objects).filter(|request| !results.history.contains_key(request)).collect();
    needed
}

/// The snapshot of these objects. `None` where there is no `ClusterEncryption/cluster`.
pub fn snapshot(objects: &Objects, results: &Results, given: Given) -> Option<Snapshot> {
    let cluster = objects.cluster_encryption.as_ref()?;
    let status = cluster.status.clone().unwrap_or_default();
    let (keys, undecodable) = keys::decode(secrets_of_keys(objects));
    let revisions = revisions(objects);
    let (servers, leases) = servers(objects, &given.ages);
    let candidate = find(objects, names::PREFLIGHT_SECRET);

    let mut wanted = wanted(&cluster.spec);
    let asked = wanted.kms.as_ref().map(|kms| EvaluationRequest::new(Origin::Desired, kms));
    let answer = asked.and_then(|request| results.evaluations.get(&request));
    if answer.is_some_and(|answer| lacks_kms(&cluster.spec.encryption, answer)) {
        wanted.mistakes.push(format!("spec.encryption.kms: {KMS_REQUIRED}"));
    }

    let candidate_decoded = candidate.map(decode_candidate);
    let tried = candidate_decoded
        .as_ref()
        .and_then(|candidate| candidate.as_ref().ok())
        .map(|candidate| candidate.key_id);
    let of_objects: BTreeSet<KeyId> = keys
        .iter()
        .map(|key| key.id)
        .chain(undecodable.keys().filter_map(|name| KeyId::from_name(name)))
        .chain(revisions.values().filter_map(|r| r.content.as_ref().ok()).flat_map(RevisionContent::key_ids))
        .collect();
    // Candidates are not among them: a number that never became a key's is free, whatever was tried under it.
    let seen_by_nodes = servers.values().filter_map(|server| Some(server.status()?.highest_key_id));
    let highest_key = of_objects
        .iter()
        .copied()
        .chain(seen_by_nodes)
        .chain([status.highest_key_id])
        .max()
        .unwrap_or_default();
    let retry_key = tried.filter(|id| *id == highest_key && !of_objects.contains(id));
    let highest_revision = revisions
        .keys()
        .copied()
        .chain(servers.values().filter_map(|server| Some(server.agent.as_ref()?.spec.revision)))
        .chain(status.revisions.iter().map(|told| told.n))
        .chain([status.highest_revision])
        .max()
        .unwrap_or_default();

    Some(Snapshot {
        component: names::KUBE_APISERVER.to_owned(),
        namespace: names::NAMESPACE.to_owned(),
        referenced_namespace: names::NAMESPACE.to_owned(),
        generation: cluster.metadata.generation.unwrap_or_default(),
        wanted: in_force(wanted, &objects.serving, &revisions),
        keys,
        undecodable,
        revisions,
        highest_key,
        recorded_key: status.highest_key_id,
        highest_revision,
        recorded_revision: status.highest_revision,
        retry_key,
        told_revisions: status.revisions,
        told_keys: status.keys,
        last_converged: status.converged_revision,
        servers,
        candidate: candidate_decoded,
        candidate_version: candidate.and_then(|secret| secret.metadata.resource_version.clone()),
        migrations: migrations(objects),
        compacted: history(objects)
            .filter(|request| matches!(results.history.get(request), Some(Ok(true))))
            .map(|(resource, _)| resource)
            .collect(),
        leases,
        evaluations: results.evaluations.clone(),
        objects: results.objects.clone(),
        expiries: results.expiries.clone(),
        diagnoses: results.diagnoses.clone(),
        unreadable: objects.unreadable.clone(),
        now: given.now,
        ages: given.ages,
        fresh: given.fresh,
        platform: Platform::Kubernetes,
    })
}

/// Ends of migrations, where it matters whether what was before can still be read: while there is more than one key, or the
/// newest revision has more than one, whatever became of their secrets; and for what is decrypted.
fn history(objects: &Objects) -> impl Iterator<Item = HistoryRequest> {
    let status = objects.cluster_encryption.as_ref().and_then(|cluster| cluster.status.as_ref());
    let newest = status.and_then(|status| status.revisions.iter().max_by_key(|told| told.n));
    let with_key =
        |list: &Vec<String>| list.iter().filter(|provider| provider.contains(':')).nth(1).is_some();
    let several = secrets_of_keys(objects).nth(1).is_some()
        || newest.is_some_and(|told| told.lists.values().any(with_key));
    let matters = move |migration: &&EncryptionMigration| several || migration.spec.key_id == KeyId(0);
    objects.migrations.iter().filter(matters).filter_map(|migration| {
        let end = migration.status.as_ref()?.end_version.clone()?;
        Some((GroupResource::parse(&migration.spec.resource), end))
    })
}

fn secrets_of_keys(objects: &Objects) -> impl Iterator<Item = &Secret> {
    keys::of(&objects.secrets, names::NAMESPACE, names::KUBE_APISERVER)
}

fn find<'a>(objects: &'a Objects, name: &str) -> Option<&'a Secret> {
    objects.secrets.iter().find(|secret| secret.metadata.name.as_deref() == Some(name))
}

/// Decisions 11: a resource that this API server does not store cannot be encrypted by it. And a spec with a mistake
/// changes nothing: what is encrypted stays what it is.
fn in_force(
    mut wanted: Wanted,
    serving: &BTreeMap<GroupResource, Serving>,
    revisions: &BTreeMap<Revision, StoredRevision>,
) -> Wanted {
    let newest = revisions.values().next_back().and_then(|stored| stored.content.as_ref().ok());
    let deployed = newest.map(RevisionContent::resources).unwrap_or_default();
    // What is in force already is no mistake of this spec; that it is not served any more is the migration's to tell.
    let mistakes = &mut wanted.mistakes;
    wanted.resources.retain(|resource| {
        let why = match serving.get(resource).filter(|_| !deployed.contains(resource)) {
            Some(Serving::Aggregated(service)) => {
                format!("it is served through APIService {service}: kube-apiserver does not store it")
            }
            Some(Serving::Not) => "the API server does not serve it with list and patch".to_owned(),
            Some(Serving::Unknown(why)) => format!("it cannot be seen how it is served: {why}"),
            Some(Serving::Itself) | None => return true,
        };
        mistakes.push(format!("spec.resources: {resource}: {why}"));
        false
    });
    if !wanted.mistakes.is_empty() && !deployed.is_empty() {
        wanted.resources = deployed.into_iter().collect();
    }
    wanted
}

/// What a spec asks for, with defaults filled in; also for `plan`, which has no cluster.
pub fn wanted(spec: &ClusterEncryptionSpec) -> Wanted {
    let mut mistakes = Vec::new();
    let mode = match spec.encryption.type_.as_deref() {
        None | Some("") => Ok(Mode::Identity),
        Some(text) => Mode::parse(text).ok_or_else(|| text.to_owned()),
    };
    // The other way round, whether it is a mistake shows from what it means (`lacks_kms`).
    if mode != Ok(Mode::Kms) && spec.encryption.kms.is_some() {
        mistakes.push(format!("spec.encryption.kms: {KMS_REQUIRED}"));
    }
    let mut resources: Vec<GroupResource> = match &spec.resources {
        Some(names) if !names.is_empty() => names.iter().map(|name| GroupResource::parse(name)).collect(),
        _ => DEFAULT_RESOURCES.iter().map(|name| GroupResource::parse(name)).collect(),
    };
    resources.sort();
    resources.dedup();
    resources.retain(|resource| match refused(resource) {
        Some(why) => {
            mistakes.push(format!("spec.resources: {resource}: {why}"));
            false
        }
        None => true,
    });
    // The CRD refuses it where it is written; what was stored before it did stays.
    let proxies =
        spec.plugins.proxy.iter().flat_map(|proxy| [("http", &proxy.http), ("https", &proxy.https)]);
    for (which, _) in proxies.filter(|(_, url)| url.as_ref().is_some_and(|url| url.contains('@'))) {
        mistakes.push(format!(
            "spec.plugins.proxy.{which}: user info is refused: a plugin's environment can be read in its mirror Pod"
        ));
    }
    let kms_timeout = spec.plugins.timeout.clone().unwrap_or_else(|| DEFAULT_KMS_TIMEOUT.to_owned());
    if let Err(why) = duration(&kms_timeout) {
        mistakes.push(format!("spec.plugins.timeout: {why}"));
    }
    let request_timeout = match spec.api_server.request_timeout.as_deref().map(duration) {
        None => DEFAULT_REQUEST_TIMEOUT,
        Some(Ok(timeout)) => timeout,
        Some(Err(why)) => {
            mistakes.push(format!("spec.apiServer.requestTimeout: {why}"));
            DEFAULT_REQUEST_TIMEOUT
        }
    };
    Wanted {
        mode,
        kms: kms_of(&spec.encryption),
        resources,
        settings: spec.plugins.clone(),
        kms_timeout,
        request_timeout,
        external_reason: spec.reencrypt.clone().unwrap_or_default(),
        forget: spec.forget.iter().copied().collect(),
        mistakes,
    }
}

/// DESIGN.md, Decisions 11: what would lock the cluster or Keyward itself out, and what is not a resource's name.
fn refused(resource: &GroupResource) -> Option<&'static str> {
    let name = resource.to_string();
    if name.contains('*') {
        return Some("wildcards are refused: what they would cover changes with every CRD");
    }
    if resource.resource.is_empty() || name != name.to_lowercase() || name.contains('/') {
        return Some("expected `resource` or `resource.group`, in lower case");
    }
    if resource.group == names::GROUP {
        return Some("Keyward's own objects must be readable without the KMS");
    }
    match resource.resource.as_str() {
        "nodes" | "pods" | "leases" => Some("the API server and the nodes need these without the KMS"),
        "events" => Some("events cannot be re-encrypted: they are not kept"),
        _ => None,
    }
}

/// A Go duration above zero: it is written into the EncryptionConfiguration as it stands.
fn duration(text: &str) -> Result<Duration, String> {
    let duration = crate::duration::go(text)?;
    if duration.is_zero() { Err(format!("{text:?} must be above zero")) } else { Ok(duration) }
}

fn revisions(objects: &Objects) -> BTreeMap<Revision, StoredRevision> {
    objects
        .secrets
        .iter()
        .filter_map(|secret| {
            let name = secret.metadata.name.as_deref()?;
            let revision = names::parse_revision_secret(name)?;
            let content = RevisionContent::decode(name, &data(secret)).and_then(|content| {
                content.ok_or_else(|| FormatError::Lacks {
                    secret: name.to_owned(),
                    what: names::CONFIG_KEY.to_owned(),
                })
            });
            let resource_version = secret.metadata.resource_version.clone().unwrap_or_default();
            Some((revision, StoredRevision { content, resource_version }))
        })
        .collect()
}

/// A Secret's data with the values wrapped.
pub fn data(secret: &Secret) -> SecretData {
    secret
        .data
        .iter()
        .flatten()
        .map(|(key, value)| (key.clone(), SecretBytes::new(value.0.clone())))
        .collect()
}

fn decode_candidate(secret: &Secret) -> Result<StoredCandidate, FormatError> {
    let lacks =
        |what: &str| FormatError::Lacks { secret: names::PREFLIGHT_SECRET.to_owned(), what: what.to_owned() };
    let plugins = decode_plugins(names::PREFLIGHT_SECRET, &data(secret))?;
    let mut plugins = plugins.into_iter();
    let (Some((key_id, plugin)), None) = (plugins.next(), plugins.next()) else {
        return Err(lacks("exactly one candidate"));
    };
    let hash = plugin.digest(key_id).ok_or_else(|| lacks("a salt"))?;
    Ok(StoredCandidate { key_id, plugin, hash })
}

fn migrations(objects: &Objects) -> BTreeMap<GroupResource, StoredMigration> {
    objects
        .migrations
        .iter()
        .filter(|migration| migration.spec.operand == names::KUBE_APISERVER)
        .map(|migration| {
            let status = migration.status.clone().unwrap_or_default();
            let current = migration.metadata.generation == Some(status.observed_generation);
            let stored = StoredMigration {
                spec: migration.spec.clone(),
                status,
                current,
                resource_version: migration.metadata.resource_version.clone().unwrap_or_default(),
            };
            (GroupResource::parse(&migration.spec.resource), stored)
        })
        .collect()
}

fn server<'a>(servers: &'a mut BTreeMap<String, ServerView>, name: &str) -> &'a mut ServerView {
    servers
        .entry(name.to_owned())
        .or_insert_with(|| ServerView { name: name.to_owned(), ..Default::default() })
}

/// S2: one that only a Lease names has no agent, so it blocks and is named, until its Lease has stopped. With the Leases of
/// those.
fn servers(
    objects: &Objects,
    ages: &BTreeMap<String, Age>,
) -> (BTreeMap<String, ServerView>, BTreeMap<String, String>) {
    let mut leases = BTreeMap::new();
    let mut servers: BTreeMap<String, ServerView> = BTreeMap::new();
    for node in &objects.nodes {
        server(&mut servers, node.metadata.name.as_deref().unwrap_or_default()).is_node = true;
    }
    for node in &objects.encryption_nodes {
        server(&mut servers, node.metadata.name.as_deref().unwrap_or_default()).agent = Some(AgentView {
            spec: node.spec.clone(),
            status: node.status.clone(),
            resource_version: node.metadata.resource_version.clone().unwrap_or_default(),
        });
    }
    for lease in &objects.leases {
        let id = lease.metadata.name.as_deref().unwrap_or_default();
        // The agent knows its API server's Lease; a node's name need not be its host's.
        let answered = objects.encryption_nodes.iter().find(|node| {
            let status = node.status.as_ref();
            status.and_then(|status| status.api_server_id.as_deref()) == Some(id)
        });
        let agents = answered.and_then(|node| node.metadata.name.as_deref());
        let host = lease.metadata.labels.as_ref().and_then(|labels| labels.get("kubernetes.io/hostname"));
        let name = agents.or(host.map(String::as_str)).unwrap_or(id);
        let is_known = servers.get(name).is_some_and(|server| server.is_node || server.agent.is_some());
        if !is_known {
            let renewed = lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref());
            let renewed = renewed.map(|at| at.0.to_string()).unwrap_or_default();
            let seen = ages.get(&lease_fact(id)).filter(|age| age.value == renewed);
            let has_stopped = seen.is_some_and(|age| age.elapsed >= LEASE_STOPPED);
            leases.insert(id.to_owned(), renewed);
            if has_stopped {
                continue;
            }
        }
        server(&mut servers, name).has_lease = true;
    }
    (servers, leases)
}
