//! Requests in `spec.forget` to forget a key, with everything that is stored under it (decision 0015,
//! decision 0040).
//!
//! A request is bound to what was true when it was made (invariant: forget-is-bound). It is accepted only
//! while the key fails, and after this operator has seen it fail without a break for as long as agents take
//! to report: after an outage the first reports are from before its end. The acceptance is recorded in the
//! status, is in force from the next pass on, and lasts no longer than its reasons. If the key works again
//! while the newest configuration still contains it, the request is void for good, and the admin has to make
//! another one. A key under which verifiably nothing is stored may always leave.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::reports::{self, Health, health, plugins};
use super::{Deployed, Deployment, Turn, abandon, evidence, rollout};
use crate::api::ForgetPhase::{Accepted, CarriedOut, Pending, Void};
use crate::api::{ForgetPhase, ForgetRequest, ForgetStatus, NodePlugin};
use crate::formats::encryption_config::REVISION_ZERO;
use crate::formats::key_secret::KeySecret;
use crate::formats::revision::RevisionContent;
use crate::ids::{ConfigHash, GroupResource, KeyId, Mode};
use crate::machine::State;
use crate::outcome::{Action, FORGET_FACTS};
use crate::snapshot::{ServerView, Snapshot};

/// The value of the fact whose age counts.
const FAILS: &str = "fails";

/// Every request, with its phase from now on.
pub(super) struct Requests {
    /// The next `status.forget`.
    statuses: Vec<ForgetStatus>,
    /// Keys that may leave in this pass.
    pub(super) in_force: BTreeSet<KeyId>,
    facts: BTreeMap<String, String>,
    again_after: Option<Duration>,
}

/// Assesses every request.
pub(super) fn assess(snapshot: &Snapshot) -> Requests {
    let mut requests = Requests {
        statuses: Vec::new(),
        in_force: BTreeSet::new(),
        facts: BTreeMap::new(),
        again_after: None,
    };
    if snapshot.wanted.requests.is_empty() {
        return requests;
    }
    let assessment = rollout::assess(snapshot);
    for request in &snapshot.wanted.requests {
        let before = snapshot.phase(request).unwrap_or(Pending);
        let (phase, message) = next(snapshot, &assessment.deployment, request, before, &mut requests);
        // An acceptance is in force once the status records it.
        if matches!((before, phase), (Accepted | CarriedOut, Accepted | CarriedOut)) {
            requests.in_force.insert(request.key_id);
        }
        requests.statuses.push(ForgetStatus {
            key_id: request.key_id,
            requested_at: request.requested_at.clone(),
            phase,
            message,
        });
    }
    requests
}

fn next(
    snapshot: &Snapshot,
    deployment: &Deployment<'_>,
    request: &ForgetRequest,
    before: ForgetPhase,
    requests: &mut Requests,
) -> (ForgetPhase, String) {
    let id = request.key_id;
    match before {
        CarriedOut => return (CarriedOut, "the newest configuration does not contain the key".to_owned()),
        Void => {
            let known = snapshot.recorded_forget.iter().find(|known| known.key_id == id);
            return (Void, known.map(|known| known.message.clone()).unwrap_or_default());
        }
        Pending | Accepted => {}
    }
    if id.0 == 0 || id > snapshot.highest_key {
        return (
            Void,
            format!("key {id} does not exist; the highest key number is {}", snapshot.highest_key),
        );
    }
    let content = match deployment {
        Deployment::Converged { content, .. } | Deployment::Rolling { content, .. } => Some(*content),
        Deployment::Nothing => None,
        Deployment::Blocked => {
            if let Works::Yes(node) = works_anywhere(snapshot, None, id) {
                return (Void, works(id, &node));
            }
            return (Pending, blocked(snapshot, id));
        }
    };
    let Some(content) = content.filter(|content| content.key_ids().contains(&id)) else {
        let is_over = if before == Accepted { CarriedOut } else { Accepted };
        return (is_over, "the newest configuration does not contain the key".to_owned());
    };
    match (usage(snapshot, content, id), works_anywhere(snapshot, Some(content), id)) {
        (Usage::None, _) => (
            Accepted,
            format!("nothing is stored under key {id}; the operator is removing it from the configuration"),
        ),
        (Usage::Unverified, Works::Yes(_)) => (
            Pending,
            format!("it is not yet verified that everything that was stored under key {id} is re-encrypted"),
        ),
        (Usage::Possible, Works::Yes(node)) => (Void, works(id, &node)),
        (_, Works::Unknown(why)) => {
            (Pending, format!("the health of key {id} is unknown; the request is pending: {why}"))
        }
        (_, Works::No(why)) => failing(snapshot, content, request, &why, requests),
    }
}

/// Nothing can be decided. If the reason is that Keyward's own Secrets cannot be read, they have to be
/// readable first.
fn blocked(snapshot: &Snapshot, id: KeyId) -> String {
    let waits = format!("the operator cannot decide about key {id} now; the request is pending");
    match snapshot.unreadable.first() {
        Some(first) => format!(
            "{waits}: {} cannot be read ({}); first make Keyward's own Secrets readable, see docs/recovery.md, \"A KEK is gone\"",
            first.what, first.why
        ),
        None => waits,
    }
}

/// A key that fails: it has not failed for long enough, or nobody has accepted the loss of Keyward's own
/// objects, or the request is accepted.
fn failing(
    snapshot: &Snapshot,
    content: &RevisionContent,
    request: &ForgetRequest,
    why: &str,
    requests: &mut Requests,
) -> (ForgetPhase, String) {
    let id = request.key_id;
    let risk = || at_risk(snapshot, content, id).or_else(|| writer_leaves_too(snapshot, content, id));
    if let Some(risk) = (!request.accept_keyward_loss).then(risk).flatten() {
        return (Pending, risk);
    }
    let fact = format!("{FORGET_FACTS}{id}/{}", request.requested_at);
    let patience = snapshot.servers.values().map(reports::patience).max().unwrap_or_default();
    let left = patience.saturating_sub(snapshot.age(&fact, FAILS));
    requests.facts.insert(fact, FAILS.to_owned());
    if left.is_zero() {
        return (Accepted, format!("the operator is removing key {id} from the configuration: {why}"));
    }
    let left = left.max(Duration::from_secs(1));
    requests.again_after = Some(requests.again_after.map_or(left, |known| known.min(left)));
    (
        Pending,
        format!(
            "key {id} fails: {why}; the operator accepts the request if the key fails for {} s without interruption",
            patience.as_secs()
        ),
    )
}

/// Reports the requests, and what they wait for.
pub(super) fn report(snapshot: &Snapshot, requests: Requests, turn: &mut Turn) -> Vec<ForgetStatus> {
    for (fact, value) in requests.facts {
        turn.since(snapshot, fact, value);
    }
    if let Some(delay) = requests.again_after {
        turn.again_after(delay);
    }
    for status in &requests.statuses {
        let reason = match status.phase {
            Pending => "ForgetPending",
            Accepted => "ForgetAccepted",
            CarriedOut => continue,
            Void => "ForgetVoid",
        };
        turn.explain(format!("spec.forget: {}", status.message));
        turn.notice(true, reason, format!("spec.forget: {}", status.message));
    }
    requests.statuses
}

fn works(id: KeyId, node: &str) -> String {
    format!(
        "the request is void because key {id} works ({node}); to replace the key, change spec.encryption; to forget it, run keyward forget-key again when it fails"
    )
}

/// Whether a key works.
enum Works {
    /// It works, and why.
    Yes(String),
    /// It does not work, and why not at each server that needs it.
    No(String),
    /// It is not known for some servers, and why.
    Unknown(String),
}

/// A key works if some API server's plugin of it is healthy and reaches its KEK. It does not work if each API
/// server that has loaded the key reports a failure. `content` is the newest configuration; `None` if that is
/// not known.
fn works_anywhere(snapshot: &Snapshot, content: Option<&RevisionContent>, id: KeyId) -> Works {
    if content.is_some_and(|content| !content.kms_keys().contains(&id)) {
        return Works::Yes("the key itself is part of the configuration".to_owned());
    }
    let (mut failing, mut unknown) = (Vec::new(), Vec::new());
    for server in snapshot.servers.values() {
        let node = &server.name;
        if lacks_key_check(snapshot, server, id) {
            failing.push(format!("node {node} cannot check whether its plugin reaches its KEK"));
            continue;
        }
        let counts: Vec<&NodePlugin> = plugins(server).iter().filter(|plugin| plugin.key_id == id).collect();
        let may_need = || Loaded::by(snapshot, server).may(|content| content.key_ids().contains(&id));
        if counts.is_empty() && may_need() {
            unknown.push(format!("node {node} reports no plugin of this key"));
        }
        for plugin in counts {
            let mismatch = server.status().is_some_and(|status| status.kek_mismatch.contains(&plugin.digest));
            match health(snapshot, server, plugin) {
                Health::Healthy if !mismatch => {
                    return Works::Yes(format!("its plugin on node {node} is Healthy"));
                }
                Health::Unknown => {
                    unknown.push(format!("node {node} is silent: its report about the plugin is too old"));
                }
                _ if mismatch => failing.push(format!("its plugin on node {node} reaches another KEK")),
                other => failing.push(format!("its plugin on node {node} is {}", other.name())),
            }
        }
    }
    match (unknown.is_empty(), failing.is_empty()) {
        (true, false) => Works::No(failing.join("; ")),
        (true, true) => Works::Unknown("no node reports a plugin of this key".to_owned()),
        (false, _) => Works::Unknown(unknown.join("; ")),
    }
}

/// What an API server has loaded.
enum Loaded<'a> {
    /// It is not known, or not an existing revision.
    Unknown,
    /// Revision 0, which encrypts nothing.
    Nothing,
    Revision(&'a RevisionContent),
}

impl<'a> Loaded<'a> {
    fn by(snapshot: &'a Snapshot, server: &ServerView) -> Self {
        let Some(hash) = server.status().and_then(|status| status.loaded_hash.as_ref()) else {
            return Self::Unknown;
        };
        if *hash == ConfigHash::of(REVISION_ZERO.as_bytes()) {
            return Self::Nothing;
        }
        let mut contents = snapshot.revisions.values().filter_map(|stored| stored.content.as_ref().ok());
        contents.find(|content| content.hash() == *hash).map_or(Self::Unknown, Self::Revision)
    }

    /// Whether this may hold. It may for a configuration that is not known.
    fn may(&self, is: impl Fn(&RevisionContent) -> bool) -> bool {
        match self {
            Self::Unknown => true,
            Self::Nothing => false,
            Self::Revision(content) => is(content),
        }
    }
}

/// Whether a node reports that it has no key check of the key, and nothing else has one.
fn lacks_key_check(snapshot: &Snapshot, server: &ServerView, id: KeyId) -> bool {
    let error = server.status().and_then(|status| status.error.as_ref());
    let says = error.is_some_and(|error| {
        error.reason == "KeyCheckMissing" && error.message.contains(&format!("key {id} "))
    });
    says && snapshot.key_check(id).is_none()
}

/// What may be stored under a key. What etcd's history holds is not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Usage {
    /// Nothing: it encrypts nothing, never wrote, or everything is verified to be stored under a later key.
    None,
    /// Everything is recorded as stored under a later key, and that is not verified yet.
    Unverified,
    /// Anything.
    Possible,
}

fn usage(snapshot: &Snapshot, content: &RevisionContent, id: KeyId) -> Usage {
    let never_wrote = |key: &KeySecret| key.mode == Mode::Identity || abandon::never_wrote(snapshot, key);
    if snapshot.key(id).is_some_and(never_wrote) {
        return Usage::None;
    }
    // A node with an edited configuration may have written with any key.
    if snapshot.servers.values().any(|server| server.status().is_some_and(|status| status.drifted.is_some()))
    {
        return Usage::Possible;
    }
    let lists = content.config.lists();
    let later = snapshot.keys.iter().filter(|key| key.id > id && key.write_published.is_some());
    let later: Vec<_> = later.filter(|key| !key.is_abandoned() && !snapshot.is_forgotten(key)).collect();
    // A verification does not count while an API server has another configuration loaded.
    let hash = content.hash();
    let loaded =
        |server: &ServerView| server.status().and_then(|status| status.loaded_hash.as_ref()) == Some(&hash);
    let mut is_verified = snapshot.servers.values().all(loaded);
    for (resource, list) in lists.iter().filter(|(_, list)| list.iter().any(|provider| names(provider, id))) {
        let resource = GroupResource::parse(resource);
        let writer = list.first().and_then(|first| later.iter().find(|key| names(first, key.id)));
        let Some(writer) = writer.filter(|writer| writer.migrated.contains(&resource)) else {
            return Usage::Possible;
        };
        let migration = snapshot.migrations.get(&resource);
        is_verified &= migration.is_some_and(|migration| {
            evidence::verified(snapshot, &resource, migration)
                && evidence::is_for(snapshot, migration, writer)
        });
    }
    if is_verified { Usage::None } else { Usage::Unverified }
}

/// Whether a request waits for the verification that everything is stored under a later key.
pub(super) fn awaits_verification(snapshot: &Snapshot, content: &RevisionContent) -> bool {
    let open = snapshot.wanted.requests.iter().filter(|request| {
        let is_over = matches!(snapshot.phase(request), Some(Void | CarriedOut));
        !is_over && content.key_ids().contains(&request.key_id)
    });
    open.into_iter().any(|request| usage(snapshot, content, request.key_id) == Usage::Unverified)
}

/// Whether a provider such as `kms:3` belongs to this key (openshift: provider-list-notation).
fn names(provider: &str, id: KeyId) -> bool {
    provider.split_once(':').is_some_and(|(_, n)| n == id.to_string())
}

/// Which of Keyward's own objects would be lost with this key, since its Secrets are stored like any other.
/// `None` if all of them can be stored under another key first, because every API server already writes them
/// under another one.
fn at_risk(snapshot: &Snapshot, newest: &RevisionContent, id: KeyId) -> Option<String> {
    if let Some(resource) = writes_own(&newest.config.lists(), id) {
        return Some(kept_as_writer(id, resource));
    }
    let may_write = |server: &&ServerView| {
        Loaded::by(snapshot, server).may(|content| writes_own(&content.config.lists(), id).is_some())
    };
    let server = snapshot.servers.values().find(may_write)?;
    Some(format!(
        "key {id} is kept because the API server of node {} may still write with it: Keyward's own Secrets cannot be stored under another key; {}",
        server.name,
        kept_remedy(id)
    ))
}

/// Each resource's providers in a configuration, the writer first.
type Lists = BTreeMap<String, Vec<String>>;

/// The resource of which Keyward has objects of its own, and which this key writes.
fn writes_own(lists: &Lists, id: KeyId) -> Option<&'static str> {
    let is_written = |resource: &&str| {
        lists.get(*resource).and_then(|list| list.first()).is_some_and(|first| names(first, id))
    };
    OWN.iter().copied().find(is_written)
}

fn kept_as_writer(id: KeyId, resource: &str) -> String {
    format!(
        "key {id} is kept because it is the write key of {resource}: Keyward's own {resource} cannot be stored under another key; {}",
        kept_remedy(id)
    )
}

fn kept_remedy(id: KeyId) -> String {
    format!(
        "first change spec.encryption so that another key writes; if that is not possible, read docs/recovery.md, \"A KEK is gone\", before you run keyward forget-key {id} --accept-loss --accept-keyward-loss"
    )
}

fn kept_with_writer(id: KeyId, writer: KeyId) -> String {
    format!(
        "key {id} is kept because Keyward's own Secrets would be stored under key {writer}, for which a forget request exists too; read docs/recovery.md, \"A KEK is gone\", before you run keyward forget-key {id} --accept-loss --accept-keyward-loss"
    )
}

/// Why the operator keeps a key although the loss of what is stored under it is accepted: Keyward's own
/// objects are stored under it, as far as the newest configuration shows. `others` are the keys of requests
/// that are not over. `None` does not show that the key may leave: an API server that has loaded an earlier
/// configuration may still write with it.
pub fn kept(newest: &Lists, others: impl IntoIterator<Item = KeyId>, id: KeyId) -> Option<String> {
    if let Some(resource) = writes_own(newest, id) {
        return Some(kept_as_writer(id, resource));
    }
    let reads = newest.values().flatten().any(|provider| names(provider, id));
    let mut others = others.into_iter().filter(|other| *other != id && reads);
    let writer = others.find(|other| writes_own(newest, *other).is_some())?;
    Some(kept_with_writer(id, writer))
}

/// If the write key is forgotten too, everything that is stored under it would be lost with it.
fn writer_leaves_too(snapshot: &Snapshot, newest: &RevisionContent, id: KeyId) -> Option<String> {
    let others = snapshot
        .wanted
        .requests
        .iter()
        .filter(|other| other.key_id != id && !matches!(snapshot.phase(other), Some(Void | CarriedOut)));
    let writer =
        others.map(|other| other.key_id).find(|other| at_risk(snapshot, newest, *other).is_some())?;
    Some(kept_with_writer(id, writer))
}

/// Resources of which Keyward has objects of its own.
const OWN: [&str; 2] = ["configmaps", "secrets"];

/// What has to be written before a revision without forgotten keys: Keyward's own objects, under another key.
/// An error if that is not possible and nobody has accepted their loss.
pub(super) fn before_leaving(
    snapshot: &Snapshot,
    deployed: &Deployed<'_>,
    next: &State,
) -> Result<Option<Action>, String> {
    let Some(content) = deployed.content else { return Ok(None) };
    let leaves = |request: &&ForgetRequest| {
        let id = request.key_id;
        let is_leaving = content.key_ids().contains(&id) && !next.keys.contains_key(&id);
        is_leaving && snapshot.wanted.forget.contains(&id)
    };
    let leaving: Vec<&ForgetRequest> = snapshot.wanted.requests.iter().filter(leaves).collect();
    let used = |request: &&&ForgetRequest| usage(snapshot, content, request.key_id) != Usage::None;
    let used: Vec<&ForgetRequest> = leaving.iter().filter(used).copied().collect();
    // If the write key itself leaves, nothing that is stored under it stays readable.
    let writer = used.iter().find_map(|request| at_risk(snapshot, content, request.key_id));
    let accepts_loss = |request: &&&ForgetRequest| request.accept_keyward_loss;
    let refusing = used.iter().find(|request| !request.accept_keyward_loss);
    let reencrypt: Vec<KeyId> = match (writer, refusing) {
        (Some(risk), Some(_)) => return Err(risk),
        (Some(_), None) => Vec::new(),
        (None, _) => used.iter().map(|request| request.key_id).collect(),
    };
    let required = used.iter().filter(accepts_loss).count() < used.len();
    let lists = content.config.lists();
    let resources = OWN.iter().filter(|resource| lists.contains_key(**resource));
    let resources: Vec<GroupResource> = resources.map(|resource| GroupResource::parse(resource)).collect();
    let is_due = !reencrypt.is_empty() && !resources.is_empty();
    Ok(is_due.then(|| Action::ReencryptOwn { resources, leaving: reencrypt, required }))
}
