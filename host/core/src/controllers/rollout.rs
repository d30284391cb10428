//! Where every API server stands, and which node moves next (S2, S7; DESIGN.md, "Node agent").
//!
//! The newest revision is the target. One node goes first, the others follow one at a time, each only when the one
//! before has succeeded.

use std::collections::BTreeMap;

use super::{Turn, lost, pods, reports};
use crate::api::{EncryptionNodeSpec, KeyCheckEntry, PreflightRequest};
use crate::formats::encryption_config::{REVISION_ZERO, zero_hash};
use crate::formats::revision::RevisionContent;
use crate::ids::{ConfigHash, KeyId, Revision};
use crate::outcome::{Action, LEASE_STOPPED, Notice, Waiting};
use crate::snapshot::{ServerView, Snapshot};

/// What the API servers were seen to have loaded.
#[derive(Clone, Debug)]
pub enum Deployment<'a> {
    /// CONTRACT's "C absent": no revision was ever made, and every server shows revision 0.
    Nothing,
    /// Every server has loaded this revision, plugins included.
    Converged {
        /// Its number.
        revision: Revision,
        /// All of it.
        content: &'a RevisionContent,
    },
    /// Some server has not yet.
    Rolling {
        /// Where they are going.
        target: Revision,
        /// All of it.
        content: &'a RevisionContent,
    },
    /// Nothing may be decided.
    Blocked,
}

impl Deployment<'_> {
    /// Whether the state machine may take its next step.
    pub fn is_converged(&self) -> bool {
        matches!(self, Self::Nothing | Self::Converged { .. })
    }
}

/// The deployment, why it is not further, and each node's target.
#[derive(Clone, Debug)]
pub struct Assessment<'a> {
    /// What was seen.
    pub deployment: Deployment<'a>,
    /// What is waited for.
    pub waiting: Option<Waiting>,
    /// What is worth an Event.
    pub notices: Vec<Notice>,
    /// A lost revision that can be made anew.
    pub rebuilt: Option<(Revision, Box<RevisionContent>)>,
    targets: BTreeMap<String, Revision>,
}

impl<'a> Assessment<'a> {
    /// Where no node is told anything.
    pub(super) fn of_pods(
        deployment: Deployment<'a>,
        waiting: Option<Waiting>,
        notices: Vec<Notice>,
    ) -> Self {
        Self { deployment, waiting, notices, rebuilt: None, targets: BTreeMap::new() }
    }
}

/// What a notice is about that blocks every decision. Why something cannot be read is in the API server's words, which may be
/// others in each answer.
pub(super) fn subject(snapshot: &Snapshot, message: &str) -> String {
    snapshot.unreadable.first().map_or(message, |unreadable| &unreadable.what).to_owned()
}

/// Looks at every API server.
pub fn assess(snapshot: &Snapshot) -> Assessment<'_> {
    if let Some(openshift) = snapshot.openshift() {
        return pods::assess(snapshot, openshift);
    }
    let mut targets: BTreeMap<String, Revision> = snapshot
        .servers
        .values()
        .filter(|server| server.is_node || server.agent.is_some())
        .map(|server| (server.name.clone(), server.agent.as_ref().map_or(Revision(0), |a| a.spec.revision)))
        .collect();
    let blocked = |reason: &str, message: String, targets: BTreeMap<String, Revision>| Assessment {
        deployment: Deployment::Blocked,
        notices: vec![Notice::new(true, reason, message.clone()).about(subject(snapshot, &message))],
        waiting: Some(Waiting { reason: reason.to_owned(), message }),
        rebuilt: None,
        targets,
    };
    if let Some(unreadable) = snapshot.unreadable.first() {
        // Decisions 12: nothing is decided from the absence of what could not be read.
        let message = format!(
            "{} cannot be read ({}); nothing is decided until it can. Nodes go on with what they have installed",
            unreadable.what, unreadable.why
        );
        return blocked("Unreadable", message, targets);
    }
    if snapshot.servers.is_empty() {
        let message = "no control-plane node, no EncryptionNode and no API server's identity Lease was found";
        return blocked("NoControlPlane", message.to_owned(), targets);
    }
    if let Some(server) = snapshot.servers.values().find(|s| s.has_lease && !s.is_node && s.agent.is_none()) {
        let message = format!(
            "the API server on {} is answered for by no agent; run the node agent there. Where that machine is gone, it counts until its Lease in kube-system was not renewed for {} minutes",
            server.name,
            LEASE_STOPPED.as_secs() / 60
        );
        return blocked("NodeNotPrepared", message, targets);
    }
    let silent = snapshot.servers.values().find_map(|server| Some((server, not_heard(server)?)));
    let given = given(snapshot, &targets);
    let Some((target, stored)) = snapshot.revisions.last_key_value() else {
        if let Some((who, revision)) = given {
            return lost(snapshot, &who, revision, "every revision is gone", blocked, targets);
        }
        if let Some((server, why)) = silent {
            return blocked("NodeNotPrepared", format!("node {}: {why}", server.name), targets);
        }
        return nothing_yet(snapshot, targets);
    };
    if let Some((who, revision)) = given.filter(|(_, revision)| revision > target) {
        return lost(snapshot, &who, revision, &format!("the newest is {target}"), blocked, targets);
    }
    if let Some(assessment) = perhaps_given(snapshot, *target, &blocked, &targets) {
        return assessment;
    }
    let content = match stored.understood() {
        Ok(content) => content,
        Err(error) => {
            return blocked("RevisionUnreadable", format!("revision {target}: {error}"), targets);
        }
    };
    let hash = content.hash();
    let behind: Vec<(&ServerView, Behind)> = snapshot
        .servers
        .values()
        .filter_map(|server| Some((server, behind(snapshot, server, *target, content, &hash)?)))
        .collect();
    if behind.is_empty() {
        return Assessment {
            deployment: Deployment::Converged { revision: *target, content },
            waiting: None,
            notices: edited(snapshot),
            rebuilt: None,
            targets,
        };
    }
    // One that runs what an admin gave it has the configuration, and one that is silent may never have it: neither keeps the
    // others from it. But one that fell silent with this revision in its file may have done so because of it.
    let to_go = || behind.iter().filter(|(_, behind)| matches!(behind, Behind::On(_)));
    let is_at_it = |server: &ServerView| {
        server.status().is_some_and(|status| {
            status.installed_hash.as_ref() == Some(&hash) && status.loaded_hash.as_ref() != Some(&hash)
        })
    };
    let heard = || to_go().filter(|(server, _)| !reports::is_silent(snapshot, server) || is_at_it(server));
    let is_told = |(server, _): &&(&ServerView, Behind)| targets.get(&server.name) == Some(target);
    let next = heard().find(is_told).or_else(|| heard().next());
    let next = next.or_else(|| to_go().find(is_told)).or_else(|| to_go().next()).or(behind.first());
    let (server, why) = match next {
        Some((server, why)) => (*server, why.clone()),
        None => return blocked("Unreadable", "no server is behind".to_owned(), targets),
    };
    targets.insert(server.name.clone(), *target);
    let (why, by_hand) = match why {
        Behind::On(why) => (why, false),
        Behind::ByHand(why) => (why, true),
    };
    let error = server.status().and_then(|status| status.error.as_ref()).filter(|e| e.revision == *target);
    let (reason, message, warning) = match error {
        Some(error) => (
            "RolloutStopped",
            format!(
                "revision {target} on node {}: {}: {}{}",
                server.name,
                error.reason,
                error.message,
                if error.put_back { "; the last good configuration was put back" } else { "" }
            ),
            true,
        ),
        None if by_hand => ("CredentialRecovered", format!("node {} {why}", server.name), true),
        None => (
            "APIServerRevisionNotConverged",
            format!(
                "revision {target}: {} of {} API servers to go; node {}: {why}",
                behind.len(),
                snapshot.servers.len(),
                server.name
            ),
            false,
        ),
    };
    // Why a node fails is in its own words, which may be others at each attempt.
    let subject = match error {
        Some(error) => format!("revision {target} on node {}: {}", server.name, error.reason),
        None => message.clone(),
    };
    Assessment {
        deployment: Deployment::Rolling { target: *target, content },
        notices: warning
            .then(|| Notice::new(true, reason, message.clone()).about(subject))
            .into_iter()
            .chain(edited(snapshot))
            .collect(),
        waiting: Some(Waiting { reason: reason.to_owned(), message }),
        rebuilt: None,
        targets,
    }
}

/// What was edited by hand on nodes: a configuration file, by which plain text may have been written; a plugin's manifest or
/// files, which are as they should be again.
fn edited(snapshot: &Snapshot) -> Vec<Notice> {
    let repaired = snapshot.servers.values().flat_map(|server| {
        let plugins = server.status().into_iter().flat_map(|status| &status.plugins);
        plugins.filter(|plugin| plugin.repairs > 0).map(|plugin| {
            let times = if plugin.repairs == 1 { "once".to_owned() } else { format!("{} times", plugin.repairs) };
            let message = format!(
                "node {}: the manifest or the files of key {}'s plugin were edited by hand, and written anew {times}",
                server.name, plugin.key_id
            );
            Notice::new(true, "PluginEdited", message)
        })
    });
    let notice = |server: &ServerView| {
        let revision = server.status()?.drifted?;
        let message = format!(
            "node {}: its configuration file was edited by hand while revision {revision} was to be in force; once that is over, everything is re-encrypted",
            server.name
        );
        Some(Notice::new(true, "ConfigurationEdited", message))
    };
    snapshot.servers.values().filter_map(notice).chain(repaired).collect()
}

/// Whether nobody remembers that Keyward made this configuration.
pub(super) fn is_foreign(snapshot: &Snapshot, hash: &ConfigHash) -> bool {
    let told = || snapshot.told_revisions.iter().any(|told| told.config_hash == *hash);
    let kept = || snapshot.revisions.values().any(|r| r.content.as_ref().is_ok_and(|c| c.hash() == *hash));
    hash != zero_hash() && !told() && !kept()
}

/// The newest revision of which anything tells that it was given to a node, and what tells so: what nodes were told and
/// have, what was once loaded everywhere, what an API server shows. Only what stands behind this may be stepped to.
fn given(snapshot: &Snapshot, targets: &BTreeMap<String, Revision>) -> Option<(String, Revision)> {
    let told = targets.iter().map(|(name, revision)| (format!("node {name} was given"), *revision));
    let has = snapshot.servers.values().flat_map(|server| {
        let status = server.status();
        // The same bytes may have been those of several revisions.
        let of = |hash: Option<&ConfigHash>| {
            let told = snapshot.told_revisions.iter().filter(|told| Some(&told.config_hash) == hash);
            told.map(|told| told.n).min()
        };
        let loaded = of(status.and_then(|status| status.loaded_hash.as_ref()));
        // Its API server has not loaded this yet, but may at any moment.
        let installed = of(status.and_then(|status| status.installed_hash.as_ref()));
        let says = move |what: &str| format!("node {} {what}", server.name);
        let has = status.map(|status| (says("has"), status.revision));
        let loaded = loaded.map(|n| (says("has loaded"), n));
        let installed = installed.map(|n| (says("has installed"), n));
        has.into_iter().chain(loaded).chain(installed)
    });
    let converged = [("every API server had loaded".to_owned(), snapshot.last_converged)];
    told.chain(has)
        .chain(converged)
        .filter(|(_, revision)| revision.0 > 0)
        .max_by_key(|(_, revision)| *revision)
}

/// A revision behind the newest that was there once. Nothing tells that it was given to a node; but one of which nothing is
/// known may have it, or have left with it, and have written with a key that no other has (one in the place of a key that
/// was given up). What can be made anew is; what cannot is left behind once every node has reported.
fn perhaps_given<'a>(
    snapshot: &Snapshot,
    target: Revision,
    blocked: &impl Fn(&str, String, BTreeMap<String, Revision>) -> Assessment<'a>,
    targets: &BTreeMap<String, Revision>,
) -> Option<Assessment<'a>> {
    let revision = snapshot.told_revisions.iter().map(|told| told.n).max().filter(|told| *told > target)?;
    if let Some(server) = snapshot.servers.values().find(|server| server.status().is_none()) {
        let message = format!(
            "revision {revision} is gone, and node {}, whose agent has not reported since, may have it; nothing is decided until it has reported or leaves",
            server.name
        );
        return Some(blocked("RevisionLost", message, targets.clone()));
    }
    if let Some((told, name)) = lost::undecodable(snapshot, target) {
        let message = format!(
            "revision {told} is gone, and Secret {name}, whose key it had, cannot be decoded; mend it, or delete it where it is lost"
        );
        return Some(blocked("RevisionLost", message, targets.clone()));
    }
    let content = lost::rebuild(snapshot, revision).ok()?;
    let message = format!(
        "revision {revision} is gone. It is made anew from the status and the key secrets: the bytes are the same"
    );
    let assessment = blocked("RevisionLost", message, targets.clone());
    Some(Assessment { rebuilt: Some((revision, Box::new(content))), ..assessment })
}

/// A revision that a node was given is gone.
fn lost<'a>(
    snapshot: &Snapshot,
    who: &str,
    revision: Revision,
    also: &str,
    blocked: impl Fn(&str, String, BTreeMap<String, Revision>) -> Assessment<'a>,
    targets: BTreeMap<String, Revision>,
) -> Assessment<'a> {
    let what = format!("{who} revision {revision}, which is gone; {also}");
    match lost::rebuild(snapshot, revision) {
        Ok(content) => {
            let message = format!(
                "{what}. It is made anew from the status and the key secrets: the bytes are the same"
            );
            Assessment {
                rebuilt: Some((revision, Box::new(content))),
                ..blocked("RevisionLost", message, targets)
            }
        }
        Err(why) => {
            let message = format!(
                "{what}. It cannot be made anew: {why}. Nothing is written; nodes go on with what they have. Restore Secret {}",
                crate::names::revision_secret(revision)
            );
            blocked("RevisionLost", message, targets)
        }
    }
}

/// No revision was ever made: every server must show revision 0, or it holds what somebody else wrote, which is refused
/// and never replaced (Decisions 14).
fn nothing_yet(snapshot: &Snapshot, targets: BTreeMap<String, Revision>) -> Assessment<'_> {
    let zero = ConfigHash::of(REVISION_ZERO.as_bytes());
    let foreign = snapshot.servers.values().find(|server| {
        server.status().and_then(|status| status.loaded_hash.as_ref()).is_some_and(|hash| *hash != zero)
    });
    match foreign {
        None => Assessment {
            deployment: Deployment::Nothing,
            waiting: None,
            notices: Vec::new(),
            rebuilt: None,
            targets,
        },
        Some(server) => {
            let message = format!(
                "the API server on {} has loaded an EncryptionConfiguration that Keyward did not write; it is left alone",
                server.name
            );
            Assessment {
                deployment: Deployment::Blocked,
                notices: vec![Notice::new(true, "ForeignConfiguration", message.clone())],
                waiting: Some(Waiting { reason: "ForeignConfiguration".to_owned(), message }),
                rebuilt: None,
                targets,
            }
        }
    }
}

/// Why nothing is known of a server.
fn not_heard(server: &ServerView) -> Option<String> {
    let Some(status) = server.status() else {
        return Some("its agent has not reported yet".to_owned());
    };
    if status.loaded_hash.is_some() {
        return None;
    }
    Some(match &status.error {
        Some(error) => format!("{}: {}", error.reason, error.message),
        None => "what its API server has loaded cannot be read".to_owned(),
    })
}

/// Why a server is not at a revision.
#[derive(Clone, Debug)]
enum Behind {
    /// It is on its way.
    On(String),
    /// It has loaded the configuration, and runs a plugin with data that an admin replaced there (Decisions 12). No rollout
    /// changes that: newer data do (OBJECTS.md, "Between revisions", (a)).
    ByHand(String),
}

/// Why a server is not at this revision; `None` where it is, plugins included.
fn behind(
    snapshot: &Snapshot,
    server: &ServerView,
    target: Revision,
    content: &RevisionContent,
    hash: &ConfigHash,
) -> Option<Behind> {
    if let Some(why) = not_heard(server) {
        return Some(Behind::On(why));
    }
    let status = server.status()?;
    if let Some(loaded) = status.loaded_hash.as_ref().filter(|loaded| *loaded != hash) {
        let why = if is_foreign(snapshot, loaded) {
            "its API server has loaded a configuration that Keyward does not know, edited by hand or of long ago; it may write plain text"
        } else {
            "its API server has not loaded the configuration yet"
        };
        return Some(Behind::On(why.to_owned()));
    }
    let mut by_hand = None;
    for (id, digest) in content.digests() {
        let recovered = status.recovered.iter().find(|one| one.key_id == id);
        let runs = recovered.map_or(&digest, |one| &one.digest);
        match status.plugins.iter().find(|plugin| plugin.key_id == id && plugin.digest == *runs) {
            None => return Some(Behind::On(format!("the plugin of key {id} is not running yet"))),
            Some(plugin) if !plugin.ready => {
                let detail = plugin.health.detail.as_deref().unwrap_or("it is starting");
                return Some(Behind::On(format!("the plugin of key {id} is not ready: {detail}")));
            }
            Some(_) => {}
        }
        // Newer data come to a key that has a secret and was not given up. Any other is read as it is deployed until
        // nothing needs it, and what would take its place waits for convergence.
        let is_followed = snapshot.usable().any(|key| key.id == id);
        if let Some(one) = recovered.filter(|one| one.digest != digest && is_followed) {
            by_hand = Some(format!(
                "runs key {id} with a credential from `recover`; update {} so that all nodes follow",
                one.sources.join(", ")
            ));
        }
    }
    if status.revision != target {
        return Some(Behind::On("its agent has not finished".to_owned()));
    }
    by_hand.map(Behind::ByHand)
}

/// Each node's spec: target, preflight request, key checks.
pub(super) fn decide(
    snapshot: &Snapshot,
    assessment: &Assessment<'_>,
    mut requests: BTreeMap<String, PreflightRequest>,
    turn: &mut Turn,
) {
    let key_checks: Vec<KeyCheckEntry> = kms_keys(snapshot)
        .into_iter()
        .filter_map(|key_id| Some(KeyCheckEntry { key_id, key_check: snapshot.key_check(key_id)?.clone() }))
        .collect();
    for (name, revision) in &assessment.targets {
        let Some(server) = snapshot.servers.get(name) else { continue };
        let current = server.agent.as_ref().map(|agent| &agent.spec);
        // Blocked: a node may be registered, so that its agent can report; nothing else is decided (S7).
        let blocked = matches!(assessment.deployment, Deployment::Blocked);
        if blocked && (current.is_some() || !snapshot.unreadable.is_empty()) {
            continue;
        }
        let config_hash = match snapshot.content(*revision) {
            Some(content) => Some(content.hash()),
            None => current.and_then(|spec| spec.config_hash.clone()),
        };
        let spec = EncryptionNodeSpec {
            revision: *revision,
            config_hash,
            preflight: requests.remove(name),
            key_checks: key_checks.clone(),
        };
        if current == Some(&spec) {
            continue;
        }
        let what = match (current, &spec.preflight) {
            (None, _) => "registered".to_owned(),
            (Some(old), _) if old.revision != spec.revision => format!("revision {revision}"),
            (Some(old), Some(request)) if old.preflight != spec.preflight => {
                format!("preflight of key {}", request.key_id)
            }
            _ => "key checks".to_owned(),
        };
        turn.explain(format!("node {name}: {what}"));
        turn.act(Action::SetTarget {
            node: name.clone(),
            spec: Box::new(spec),
            resource_version: server.agent.as_ref().map(|agent| agent.resource_version.clone()),
            what,
        });
    }
}

/// KMS keys that stand in some kept revision.
fn kms_keys(snapshot: &Snapshot) -> Vec<KeyId> {
    let mut keys: Vec<KeyId> = snapshot
        .revisions
        .values()
        .filter_map(|revision| revision.content.as_ref().ok())
        .flat_map(RevisionContent::kms_keys)
        .collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}
