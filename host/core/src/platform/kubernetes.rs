//! Plain Kubernetes: `ClusterEncryption/cluster`, Keyward's own revisions, one agent per node.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;

use super::needed::Whose;
use super::{
    Age, Given, HistoryRequest, KMS_REQUIRED, Needed, Objects, Results, Serving, TYPE_REQUIRED, VERBS, keys,
    kms_of, lacks_kms, named, needed, refused,
};
use crate::SecretBytes;
use crate::api::{ClusterEncryptionSpec, EncryptionMigration};
use crate::formats::FormatError;
use crate::formats::revision::{RevisionContent, SecretData, decode_plugins};
use crate::ids::{GroupResource, KeyId, LAST, Mode, Revision};
use crate::names;
use crate::node::pod;
use crate::outcome::{LEASE_STOPPED, lease_fact};
use crate::provider::{EvaluationRequest, Origin};
use crate::snapshot::{
    AgentView, Platform, ServerView, Snapshot, StoredCandidate, StoredMigration, StoredRevision, Wanted,
};

/// The resources that are encrypted by default. Every API server serves and stores them itself.
pub const DEFAULT_RESOURCES: [&str; 2] = ["configmaps", "secrets"];
const RESOURCES: &str = "spec.resources";
const TWICE: &str = ": it is listed twice";
const DEFAULT_KMS_TIMEOUT: &str = "10s";
const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_mins(1);

/// The results that are missing before [`snapshot`] can be built. The caller repeats this until nothing is missing.
pub fn needed(objects: &Objects, results: &Results) -> Needed {
    let (keys, _) = keys::decode(secrets_of_keys(objects));
    let desired = objects.cluster_encryption.as_ref().and_then(|cluster| kms_of(&cluster.spec.encryption));
    let statuses = || objects.encryption_nodes.iter().filter_map(|node| node.status.as_ref());
    let failures = statuses()
        .filter_map(|status| Some((Whose::Candidate, status.preflight.as_ref()?.failure.clone()?)))
        .chain(statuses().flat_map(needed::reported_failures));
    let candidate = find(objects, names::PREFLIGHT_SECRET).and_then(|secret| decode_candidate(secret).ok());
    let candidate = candidate.map(|candidate| candidate.request(desired.as_ref()));
    let mut needed = needed::needed(desired.as_ref(), &keys, candidate, failures, results);
    needed.history = history(objects).filter(|request| !results.history.contains_key(request)).collect();
    needed
}

/// The snapshot of these objects. `None` if there is no `ClusterEncryption/cluster`.
pub fn snapshot(objects: &Objects, results: &Results, given: Given) -> Option<Snapshot> {
    let cluster = objects.cluster_encryption.as_ref()?;
    let status = cluster.status.clone().unwrap_or_default();
    let (mut keys, undecodable) = keys::decode(secrets_of_keys(objects));
    let foreign = named::foreign(objects, &keys);
    keys.retain(|key| key.id.0 <= LAST);
    let revisions = revisions(objects);
    let (servers, leases) = servers(objects, &given.ages);
    let candidate = find(objects, names::PREFLIGHT_SECRET);

    let mut wanted = wanted(&cluster.spec);
    let request = wanted.kms.as_ref().map(|kms| EvaluationRequest::new(Origin::Desired, kms));
    let answer = request.and_then(|request| results.evaluations.get(&request));
    if answer.is_some_and(|answer| lacks_kms(&cluster.spec.encryption, answer)) {
        wanted.mistakes.push(format!("spec.encryption.kms: {KMS_REQUIRED}"));
    }

    let candidate_decoded = candidate.map(decode_candidate);
    let tried = candidate_decoded
        .as_ref()
        .and_then(|candidate| candidate.as_ref().ok())
        .map(|candidate| candidate.key_id);
    let named_keys = named::keys(objects, &keys, &revisions);
    let key_numbers = named::count_keys(objects, &named_keys);
    let highest_key = KeyId(key_numbers.highest);
    // An agent records the numbers of keys, never those of candidates: a number that it has seen was used.
    let seen = |id| servers.values().filter_map(ServerView::status).any(|status| status.highest_key_id >= id);
    let retry_key = tried.filter(|id| *id == highest_key && !named_keys.contains(id) && !seen(*id));
    let revision_numbers = named::count_revisions(objects, &keys);

    let mut snapshot = Snapshot {
        component: names::KUBE_APISERVER.to_owned(),
        namespace: names::NAMESPACE.to_owned(),
        referenced_namespace: names::NAMESPACE.to_owned(),
        generation: cluster.metadata.generation.unwrap_or_default(),
        wanted: in_force(
            wanted,
            &objects.serving,
            revisions.values().next_back().and_then(|stored| stored.content.as_ref().ok()),
        ),
        keys,
        undecodable,
        revisions,
        highest_key,
        named_key: KeyId(key_numbers.named),
        excess_keys: key_numbers.beyond().into_iter().map(KeyId).collect(),
        recorded_key: status.highest_key_id,
        highest_revision: Revision(revision_numbers.highest),
        excess_revisions: revision_numbers.beyond().into_iter().map(Revision).collect(),
        excess: key_numbers.excess.into_iter().chain(revision_numbers.excess).chain(foreign).collect(),
        recorded_revision: status.highest_revision,
        retry_key,
        recorded_revisions: status.revisions,
        recorded_keys: status.keys,
        recorded_forget: status.forget,
        last_converged: status.converged_revision,
        servers,
        candidate: candidate_decoded,
        candidate_version: candidate.and_then(|secret| secret.metadata.resource_version.clone()),
        migrations: migrations(objects),
        compacted: history(objects)
            .filter(|request| matches!(results.history.get(request), Some(Ok(true))))
            .map(|(resource, _)| resource)
            .collect(),
        history_trouble: history(objects)
            .filter_map(|request| {
                let why = results.history.get(&request)?.as_ref().err()?.clone();
                Some((request.0, why))
            })
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
    };
    snapshot.wanted.forget = snapshot.accepted();
    Some(snapshot)
}

/// The end versions of migrations for which it matters whether older values can still be read. This is the case while
/// there is more than one key secret, or the newest revision has more than one key (even if key secrets are gone), and
/// for decryptions.
fn history(objects: &Objects) -> impl Iterator<Item = HistoryRequest> {
    let status = objects.cluster_encryption.as_ref().and_then(|cluster| cluster.status.as_ref());
    let newest = status.and_then(|status| status.revisions.iter().max_by_key(|recorded| recorded.n));
    let with_key =
        |list: &Vec<String>| list.iter().filter(|provider| provider.contains(':')).nth(1).is_some();
    let several = secrets_of_keys(objects).nth(1).is_some()
        || newest.is_some_and(|recorded| recorded.lists.values().any(with_key));
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

/// The request of a spec while `newest` is the newest revision. A resource that the API server does not store cannot be
/// encrypted. A spec with a mistake does not change which resources are encrypted (decision 0062). An encrypted
/// resource stays encrypted until its decryption is confirmed (invariant: decryption-is-confirmed).
pub fn in_force(
    mut wanted: Wanted,
    serving: &BTreeMap<GroupResource, Serving>,
    newest: Option<&RevisionContent>,
) -> Wanted {
    let deployed = newest.map(RevisionContent::resources).unwrap_or_default();
    accept_deployed(&mut wanted, &deployed.iter().cloned().collect());
    // A resource that is deployed already is not a mistake of this spec. If it is not served any more, the migration
    // reports that.
    let mistakes = &mut wanted.mistakes;
    wanted.resources.retain(|resource| {
        let why = match serving.get(resource).filter(|_| !deployed.contains(resource)) {
            Some(Serving::Aggregated(service)) => {
                format!("it is served through APIService {service}, so kube-apiserver does not store it")
            }
            Some(Serving::Forbidden(verbs)) => lacks_rights(resource, verbs),
            Some(Serving::Not) => "the API server does not serve it with get, list and patch".to_owned(),
            Some(Serving::Unknown(why)) => format!("it is not known how the API server serves it: {why}"),
            Some(Serving::Itself) | None => return true,
        };
        mistakes.push(format!("spec.resources: {resource}: {why}"));
        false
    });
    let encrypted = newest.map(RevisionContent::encrypted).unwrap_or_default();
    if !wanted.mistakes.is_empty() && !deployed.is_empty() {
        // A decryption that was confirmed and has started continues.
        let continues =
            |resource: &GroupResource| wanted.decrypt.contains(resource) && !encrypted.contains(resource);
        wanted.resources = deployed.into_iter().filter(|resource| !continues(resource)).collect();
        return wanted;
    }
    keep_encrypted(&mut wanted, encrypted);
    wanted
}

/// Accepts refused resources that are `deployed`, and duplicates: both become notices. An older version accepted them,
/// and a mistake would prevent every later key (decision 0063).
pub fn accept_deployed(wanted: &mut Wanted, deployed: &BTreeSet<GroupResource>) {
    // A text that is not the name of a resource is in no configuration.
    let is_accepted =
        |resource: &GroupResource| deployed.contains(resource) && refused::no_name(resource).is_none();
    let (accepted, refused): (Vec<_>, Vec<_>) =
        std::mem::take(&mut wanted.refused).into_iter().partition(is_accepted);
    wanted.refused = refused;
    for resource in &accepted {
        let why = refused::why(resource).unwrap_or_default();
        let mistake = refusal(resource, why);
        wanted.mistakes.retain(|found| *found != mistake);
        wanted.notices.push(format!(
            "{mistake}; it is encrypted already and stays encrypted; to decrypt it, remove it from spec.resources and add it to spec.decrypt"
        ));
    }
    wanted.resources.extend(accepted);
    wanted.resources.sort();
    let is_twice = |mistake: &mut String| mistake.starts_with(RESOURCES) && mistake.ends_with(TWICE);
    let twice: Vec<String> = wanted.mistakes.extract_if(.., is_twice).collect();
    wanted.notices.extend(twice.into_iter().map(|duplicate| format!("{duplicate}; it counts once")));
}

fn refusal(resource: &GroupResource, why: &str) -> String {
    format!("{RESOURCES}: {resource}: {why}")
}

/// The missing verbs, and the command that grants them.
fn lacks_rights(resource: &GroupResource, verbs: &[&str]) -> String {
    let (namespace, account) = (names::NAMESPACE, names::OPERATOR_SERVICE_ACCOUNT);
    let role = format!("{account}-{resource}");
    let (lacks, all) = (verbs.join(" or "), VERBS.join(","));
    format!(
        "the operator is not allowed to {lacks} it; grant it: kubectl create clusterrole {role} --verb={all} \
         --resource={resource} && kubectl create clusterrolebinding {role} --clusterrole={role} \
         --serviceaccount={namespace}:{account}"
    )
}

/// The resources that a spec adds to the newest revision among these Secrets. Nothing is rolled out before it is known
/// that they can be encrypted.
pub fn added(spec: &ClusterEncryptionSpec, secrets: &[Secret]) -> Vec<GroupResource> {
    let number = |secret: &&Secret| revision_of(secret);
    let newest = secrets.iter().filter(|secret| number(secret).is_some()).max_by_key(number);
    let content = newest.and_then(|secret| {
        RevisionContent::decode(secret.metadata.name.as_deref().unwrap_or_default(), &data(secret)).ok()?
    });
    let deployed = content.as_ref().map(RevisionContent::resources).unwrap_or_default();
    wanted(spec).resources.into_iter().filter(|resource| !deployed.contains(resource)).collect()
}

/// Adds encrypted resources that left the list without a request to decrypt them: they keep their key, and are migrated
/// to later keys.
///
/// A request is explicit: the mode `identity`, or the resource in `spec.decrypt`. A resource that `identity` writes
/// already needs no confirmation.
pub fn keep_encrypted(wanted: &mut Wanted, encrypted: impl IntoIterator<Item = GroupResource>) {
    if wanted.mode == Ok(Mode::Identity) {
        return;
    }
    let left =
        |resource: &GroupResource| !wanted.resources.contains(resource) && !wanted.decrypt.contains(resource);
    wanted.unconfirmed = encrypted.into_iter().filter(left).collect();
    wanted.resources.extend(wanted.unconfirmed.iter().cloned());
    wanted.resources.sort();
}

/// The request of a `ClusterEncryption`, with defaults; also for `plan`, which has no cluster.
pub fn wanted(spec: &ClusterEncryptionSpec) -> Wanted {
    let mut wanted = read(spec);
    let why = match (spec.encryption.type_.as_deref().unwrap_or_default(), &wanted.mode) {
        ("", _) => TYPE_REQUIRED.to_owned(),
        (_, Err(text)) => format!("spec.encryption.type: {}", Mode::unknown(text)),
        (_, Ok(_)) => return wanted,
    };
    wanted.mode = Err(spec.encryption.type_.clone().unwrap_or_default());
    // Without the type it is not known whether a `kms` object is allowed.
    wanted.mistakes.retain(|mistake| !mistake.ends_with(KMS_REQUIRED));
    wanted.mistakes.insert(0, why);
    wanted
}

/// The request of a spec, for each platform. An empty type means `identity`, as on OpenShift
/// (openshift: encryption-mode).
pub fn read(spec: &ClusterEncryptionSpec) -> Wanted {
    let mut mistakes = Vec::new();
    let mode = match spec.encryption.type_.as_deref() {
        None | Some("") => Ok(Mode::Identity),
        Some(text) => Mode::parse(text).ok_or_else(|| text.to_owned()),
    };
    // The opposite case is checked in `lacks_kms`, because it depends on the loaded provider modules.
    if mode != Ok(Mode::Kms) && spec.encryption.kms.is_some() {
        mistakes.push(format!("spec.encryption.kms: {KMS_REQUIRED}"));
    }
    let named = resources(spec, &mut mistakes);
    let decrypt = decrypt(spec, &named, &mut mistakes);
    let (refused, resources): (Vec<_>, Vec<_>) =
        named.into_iter().partition(|resource| refused::why(resource).is_some());
    mistakes.extend(refused.iter().filter_map(|resource| Some(refusal(resource, refused::why(resource)?))));
    // The CRD refuses new values. An older version may have stored one.
    let proxies =
        spec.plugins.proxy.iter().flat_map(|proxy| [("http", &proxy.http), ("https", &proxy.https)]);
    for (which, _) in proxies.filter(|(_, url)| url.as_ref().is_some_and(|url| url.contains('@'))) {
        mistakes.push(format!(
            "spec.plugins.proxy.{which}: must not contain user info, because a plugin's environment can be read in its mirror Pod"
        ));
    }
    for (field, why) in spec.plugins.resources.iter().flat_map(pod::check_resources) {
        mistakes.push(format!("spec.plugins.resources.{field}: {why}"));
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
        decrypt,
        unconfirmed: Vec::new(),
        settings: spec.plugins.clone(),
        kms_timeout,
        request_timeout,
        external_reason: spec.reencrypt.clone().unwrap_or_default(),
        paused: spec.paused.clone(),
        requests: spec.forget.clone(),
        forget: BTreeSet::new(),
        refused,
        mistakes,
        notices: Vec::new(),
    }
}

/// The resources to encrypt, sorted.
fn resources(spec: &ClusterEncryptionSpec, mistakes: &mut Vec<String>) -> Vec<GroupResource> {
    let mut resources: Vec<GroupResource> = match &spec.resources {
        Some(names) if !names.is_empty() => {
            names.iter().map(|name| GroupResource::as_written(name)).collect()
        }
        _ => DEFAULT_RESOURCES.iter().map(|name| GroupResource::parse(name)).collect(),
    };
    resources.sort();
    twice(RESOURCES, &resources, mistakes);
    resources.dedup();
    resources
}

/// The resources that may be decrypted, sorted. Any name is allowed: a resource that was never encrypted is in plain
/// text.
fn decrypt(
    spec: &ClusterEncryptionSpec,
    resources: &[GroupResource],
    mistakes: &mut Vec<String>,
) -> Vec<GroupResource> {
    let mut decrypt: Vec<GroupResource> =
        spec.decrypt.iter().map(|name| GroupResource::as_written(name)).collect();
    decrypt.sort();
    twice("spec.decrypt", &decrypt, mistakes);
    decrypt.dedup();
    for resource in &decrypt {
        if let Some(why) = refused::no_name(resource) {
            mistakes.push(format!("spec.decrypt: {resource}: {why}"));
        } else if resources.contains(resource) {
            mistakes.push(format!(
                "spec.decrypt: {resource}: it is also in spec.resources (default: configmaps and secrets); remove it from one of them"
            ));
        }
    }
    decrypt
}

fn twice(field: &str, sorted: &[GroupResource], mistakes: &mut Vec<String>) {
    let pairs = sorted.iter().zip(sorted.iter().skip(1)).filter(|(one, next)| one == next);
    let mut names: Vec<&GroupResource> = pairs.map(|(one, _)| one).collect();
    names.dedup();
    mistakes.extend(names.into_iter().map(|name| format!("{field}: {name}{TWICE}")));
}

/// A Go duration above zero: it is written to the EncryptionConfiguration unchanged.
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
            let revision = revision_of(secret)?;
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

/// The revision of a Secret; `None` if it is not a revision, or if its number is above the maximum
/// ([`named::foreign`]).
fn revision_of(secret: &Secret) -> Option<Revision> {
    let revision = names::parse_revision_secret(secret.metadata.name.as_deref()?)?;
    (revision.0 <= LAST).then_some(revision)
}

/// The data of a Secret.
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

/// The API servers, and the Leases of those that only a Lease names. Such an API server has no agent, so it blocks
/// every decision until its Lease is not renewed any more (objects: api-servers).
fn servers(
    objects: &Objects,
    ages: &BTreeMap<String, Age>,
) -> (BTreeMap<String, ServerView>, BTreeMap<String, String>) {
    let mut leases = BTreeMap::new();
    let mut servers: BTreeMap<String, ServerView> = BTreeMap::new();
    for node in &objects.nodes {
        let server = server(&mut servers, node.metadata.name.as_deref().unwrap_or_default());
        let labels = node.metadata.labels.as_ref();
        let is_control_plane = labels.is_some_and(|labels| labels.contains_key(names::CONTROL_PLANE));
        (server.is_node, server.lacks_label) = (is_control_plane, !is_control_plane);
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
        // The agent reports the Lease of its API server, because the name of a node can differ from its host name.
        let reported = objects.encryption_nodes.iter().find(|node| {
            let status = node.status.as_ref();
            status.and_then(|status| status.api_server_id.as_deref()) == Some(id)
        });
        let node = reported.and_then(|node| node.metadata.name.as_deref());
        let host = lease.metadata.labels.as_ref().and_then(|labels| labels.get("kubernetes.io/hostname"));
        let name = node.or(host.map(String::as_str)).unwrap_or(id);
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
