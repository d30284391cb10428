//! What becomes of `spec.forget`: a request to give a key up, with all that is stored under it.
//!
//! A request is bound to what was true when it was made. It is accepted only while the key does not work, which has to be
//! seen for as long as agents take to report, from when anything can be decided at all: after an outage the first reports are
//! from before its end. The acceptance is recorded in the status, and in force from the next pass on. A key that works again
//! before the newest configuration is without it makes the request void, for good: another has to be made. A key under which
//! nothing is stored may always leave.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::reports::{self, Health, health, plugins};
use super::{Deployed, Deployment, Turn, abandon, rollout};
use crate::api::ForgetPhase::{Accepted, CarriedOut, Pending, Void};
use crate::api::{ForgetPhase, ForgetRequest, ForgetStatus, NodePlugin};
use crate::formats::encryption_config::REVISION_ZERO;
use crate::formats::revision::RevisionContent;
use crate::ids::{ConfigHash, GroupResource, KeyId, Mode};
use crate::machine::State;
use crate::outcome::Action;
use crate::snapshot::{ServerView, Snapshot};

/// The value of the fact that is waited on.
const FAILS: &str = "fails";

/// Every request, as it is from now on.
pub(super) struct Requests {
    /// `status.forget` to be.
    statuses: Vec<ForgetStatus>,
    /// Keys that may leave in this pass.
    pub(super) in_force: BTreeSet<KeyId>,
    facts: BTreeMap<String, String>,
    again_after: Option<Duration>,
}

/// Looks at every request.
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
        // What is accepted now is in force once the status says so.
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
        CarriedOut => return (CarriedOut, "the newest configuration is without the key".to_owned()),
        Void => {
            let told = snapshot.told_forget.iter().find(|told| told.key_id == id);
            return (Void, told.map(|told| told.message.clone()).unwrap_or_default());
        }
        Pending | Accepted => {}
    }
    if id.0 == 0 || id > snapshot.highest_key {
        return (Void, format!("key {id} was never made; the highest is {}", snapshot.highest_key));
    }
    let content = match deployment {
        Deployment::Converged { content, .. } | Deployment::Rolling { content, .. } => Some(*content),
        Deployment::Nothing => None,
        Deployment::Blocked => {
            if let Works::Yes(node) = works_anywhere(snapshot, None, id) {
                return (Void, works(id, &node));
            }
            return (before, blocked(snapshot, id));
        }
    };
    let Some(content) = content.filter(|content| content.key_ids().contains(&id)) else {
        let is_over = if before == Accepted { CarriedOut } else { Accepted };
        return (is_over, "the newest configuration is without the key".to_owned());
    };
    if is_unused(snapshot, content, id) {
        return (
            Accepted,
            format!("nothing is stored under key {id}; it is about to leave the configuration"),
        );
    }
    match works_anywhere(snapshot, Some(content), id) {
        Works::Yes(node) => (Void, works(id, &node)),
        Works::Unknown(why) => {
            (before, format!("key {id}: it is not known whether it works, so that the request waits: {why}"))
        }
        Works::No(why) if before == Accepted => (Accepted, format!("key {id} is about to leave: {why}")),
        Works::No(why) => pending(snapshot, content, request, &why, requests),
    }
}

/// Nothing can be decided. Where that is because Keyward's own Secrets cannot be read, they come first.
fn blocked(snapshot: &Snapshot, id: KeyId) -> String {
    let waits = format!("key {id}: nothing can be decided now, so that the request waits");
    match snapshot.unreadable.first() {
        Some(first) => format!(
            "{waits}: {} cannot be read ({}); Keyward's own Secrets have to be readable first, see docs/recovery.md, \"A KEK is gone\"",
            first.what, first.why
        ),
        None => waits,
    }
}

/// A key that does not work: not for long enough, or not without a loss that nobody accepted, or accepted.
fn pending(
    snapshot: &Snapshot,
    content: &RevisionContent,
    request: &ForgetRequest,
    why: &str,
    requests: &mut Requests,
) -> (ForgetPhase, String) {
    let id = request.key_id;
    if !request.accept_keyward_loss
        && let Some(risk) = at_risk(snapshot, content, id)
    {
        return (Pending, risk);
    }
    let fact = format!("forget/{id}/{}", request.requested_at);
    let patience = snapshot.servers.values().map(reports::patience).max().unwrap_or_default();
    let left = patience.saturating_sub(snapshot.age(&fact, FAILS));
    requests.facts.insert(fact, FAILS.to_owned());
    if left.is_zero() {
        return (Accepted, format!("key {id} is about to leave: {why}"));
    }
    let left = left.max(Duration::from_secs(1));
    requests.again_after = Some(requests.again_after.map_or(left, |known| known.min(left)));
    (
        Pending,
        format!("key {id} does not work: {why}; it is given up if that lasts for {} s", patience.as_secs()),
    )
}

/// What the status says, and what is waited on.
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
        "the request is void: key {id} works ({node}), so that nothing of it has to be lost; change spec.encryption to leave it, or run keyward forget-key again if it fails again"
    )
}

/// Whether a key works.
enum Works {
    /// There.
    Yes(String),
    /// Each server that needs it says why not.
    No(String),
    /// Of some it is not known.
    Unknown(String),
}

/// A key works where an API server's plugin of it is healthy and reaches its KEK. It does not where each one that has the key
/// loaded reports a failure. `content` is the newest configuration; `None` where it is not known.
fn works_anywhere(snapshot: &Snapshot, content: Option<&RevisionContent>, id: KeyId) -> Works {
    if content.is_some_and(|content| !content.kms_keys().contains(&id)) {
        return Works::Yes("the key itself is part of the configuration".to_owned());
    }
    let (mut failing, mut unknown) = (Vec::new(), Vec::new());
    for server in snapshot.servers.values() {
        let node = &server.name;
        if lacks_canary(snapshot, server, id) {
            failing.push(format!("nothing shows on node {node} that its plugin reaches its KEK"));
            continue;
        }
        let counts: Vec<&NodePlugin> = plugins(server).iter().filter(|plugin| plugin.key_id == id).collect();
        let may_need = || Loaded::by(snapshot, server).may(|content| content.key_ids().contains(&id));
        if counts.is_empty() && may_need() {
            unknown.push(format!("nothing is known of its plugin on node {node}"));
        }
        for plugin in counts {
            let mismatch = server.status().is_some_and(|status| status.kek_mismatch.contains(&plugin.digest));
            match health(snapshot, server, plugin) {
                Health::Healthy if !mismatch => {
                    return Works::Yes(format!("its plugin on node {node} is Healthy"));
                }
                Health::Unknown => unknown.push(format!("nothing was heard of its plugin on node {node}")),
                _ if mismatch => failing.push(format!("its plugin on node {node} reaches another KEK")),
                other => failing.push(format!("its plugin on node {node} is {}", other.name())),
            }
        }
    }
    match (unknown.is_empty(), failing.is_empty()) {
        (true, false) => Works::No(failing.join("; ")),
        (true, true) => Works::Unknown("no node reports on it".to_owned()),
        (false, _) => Works::Unknown(unknown.join("; ")),
    }
}

/// What an API server has loaded.
enum Loaded<'a> {
    /// It is not known, or no revision that exists.
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

    /// Whether this may be so of it: of what is not known it may.
    fn may(&self, is: impl Fn(&RevisionContent) -> bool) -> bool {
        match self {
            Self::Unknown => true,
            Self::Nothing => false,
            Self::Revision(content) => is(content),
        }
    }
}

/// A node that has no canary of the key says so, and nobody can give it one.
fn lacks_canary(snapshot: &Snapshot, server: &ServerView, id: KeyId) -> bool {
    let error = server.status().and_then(|status| status.error.as_ref());
    let says = error.is_some_and(|error| {
        error.reason == "CanaryMissing" && error.message.contains(&format!("key {id} "))
    });
    says && snapshot.canary(id).is_none()
}

/// Nothing is stored under it: a later key holds everything, or it encrypts nothing. What etcd's history holds is not counted.
fn is_unused(snapshot: &Snapshot, content: &RevisionContent, id: KeyId) -> bool {
    if snapshot.key(id).is_some_and(|key| key.mode == Mode::Identity) {
        return true;
    }
    if snapshot.key(id).is_some_and(|key| abandon::never_wrote(snapshot, key)) {
        return true;
    }
    let lists = content.config.lists();
    let later = snapshot.keys.iter().filter(|key| key.id > id && key.write_published.is_some());
    let later: Vec<_> = later.filter(|key| !key.is_abandoned() && !snapshot.is_given_up(key)).collect();
    let mut with_it = lists.iter().filter(|(_, list)| list.iter().any(|provider| names(provider, id)));
    with_it.all(|(resource, list)| {
        let resource = GroupResource::parse(resource);
        let writer = list.first();
        later
            .iter()
            .any(|key| writer.is_some_and(|writer| names(writer, key.id)) && key.migrated.contains(&resource))
    })
}

/// Whether a provider's notation (`kms:3`) is this key's.
fn names(provider: &str, id: KeyId) -> bool {
    provider.split_once(':').is_some_and(|(_, n)| n == id.to_string())
}

/// What of Keyward's own would be lost with this key: its Secrets are stored like any other. `None` where all of it can be
/// stored under another key first, because each API server writes Secrets under another by now.
fn at_risk(snapshot: &Snapshot, newest: &RevisionContent, id: KeyId) -> Option<String> {
    let writes = |content: &RevisionContent| {
        let lists = content.config.lists();
        let mut own = OWN.iter().filter_map(|resource| lists.get(*resource)?.first());
        own.any(|first| names(first, id))
    };
    let remedy = "see docs/recovery.md, \"A KEK is gone\", before you accept that too (keyward forget-key --accept-keyward-loss)";
    if writes(newest) {
        return Some(format!(
            "key {id} is kept: it is the write key of Secrets, so that the Secrets that Keyward needs cannot be stored under another key first; {remedy}"
        ));
    }
    let server = snapshot.servers.values().find(|server| Loaded::by(snapshot, server).may(writes))?;
    Some(format!(
        "key {id} is kept: the API server of node {} may still write Secrets with it, so that the Secrets that Keyward needs cannot be stored under another key first; {remedy}",
        server.name
    ))
}

/// Resources of which Keyward has objects of its own.
const OWN: [&str; 2] = ["configmaps", "secrets"];

/// What has to be written before a revision without keys that were given up: Keyward's own objects, under another key. An error
/// where that cannot be, and nobody has accepted their loss.
pub(super) fn before_leaving(
    snapshot: &Snapshot,
    deployed: &Deployed<'_>,
    next: &State,
) -> Result<Option<Action>, String> {
    let Some(content) = deployed.content else { return Ok(None) };
    let leaves = |request: &&ForgetRequest| {
        let id = request.key_id;
        let is_dropped = content.key_ids().contains(&id) && !next.keys.contains_key(&id);
        is_dropped && snapshot.wanted.forget.contains(&id)
    };
    let leaving: Vec<&ForgetRequest> = snapshot.wanted.requests.iter().filter(leaves).collect();
    let mut reencrypt = Vec::new();
    for request in &leaving {
        let id = request.key_id;
        if is_unused(snapshot, content, id) {
            continue;
        }
        match at_risk(snapshot, content, id) {
            None => reencrypt.push(id),
            Some(_) if request.accept_keyward_loss => {}
            Some(risk) => return Err(risk),
        }
    }
    let lists = content.config.lists();
    let resources = OWN.iter().filter(|resource| lists.contains_key(**resource));
    let resources: Vec<GroupResource> = resources.map(|resource| GroupResource::parse(resource)).collect();
    let is_due = !reencrypt.is_empty() && !resources.is_empty();
    Ok(is_due.then(|| Action::ReencryptOwn { resources, leaving: reencrypt }))
}
