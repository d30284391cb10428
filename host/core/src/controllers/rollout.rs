//! Which configuration every API server has, and which node moves next (invariant: read-before-write,
//! invariant: decide-from-one-revision).
//!
//! The newest revision is the target (decision 0029). One node goes first. The others follow one at a time,
//! each when the previous one has succeeded.

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
    /// No revision was ever made, and every server shows revision 0 (objects: beginnings).
    Nothing,
    /// Every server has loaded this revision, plugins included.
    Converged {
        /// Its number.
        revision: Revision,
        /// Its content.
        content: &'a RevisionContent,
    },
    /// Some server has not loaded it yet.
    Rolling {
        /// The target.
        target: Revision,
        /// Its content.
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
    /// What was observed.
    pub deployment: Deployment<'a>,
    /// What is waited for.
    pub waiting: Option<Waiting>,
    /// What is worth an Event.
    pub notices: Vec<Notice>,
    /// A lost revision that can be recreated.
    pub rebuilt: Option<(Revision, Box<RevisionContent>)>,
    targets: BTreeMap<String, Revision>,
}

impl<'a> Assessment<'a> {
    /// An assessment without targets for nodes.
    pub(super) fn of_pods(
        deployment: Deployment<'a>,
        waiting: Option<Waiting>,
        notices: Vec<Notice>,
    ) -> Self {
        Self { deployment, waiting, notices, rebuilt: None, targets: BTreeMap::new() }
    }
}

/// The subject of a notice that blocks every decision. The reason why something cannot be read is in the API
/// server's words, which may differ in each response.
pub(super) fn subject(snapshot: &Snapshot, message: &str) -> String {
    snapshot.unreadable.first().map_or(message, |unreadable| &unreadable.what).to_owned()
}

/// Assesses every API server.
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
        // Nothing is decided from the absence of an object that could not be read (decision 0012).
        let message = format!(
            "{} cannot be read ({}); nothing is decided until it can be read. Nodes keep what they have installed",
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
            "no agent reports for the API server on {}; run the node agent there. If that machine is gone, its API server stops counting when its Lease in kube-system has not been renewed for {} minutes",
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
    // Neither a node that runs recovered data, which has loaded the configuration, nor a silent node keeps
    // the others from the target. But a node that became silent with the target in its file, and not loaded,
    // may be silent because of the target (decision 0047).
    let to_go = || behind.iter().filter(|(_, behind)| matches!(behind, Behind::Lagging(_)));
    let may_have_failed_on_it = |server: &ServerView| {
        server.status().is_some_and(|status| {
            status.installed_hash.as_ref() == Some(&hash) && status.loaded_hash.as_ref() != Some(&hash)
        })
    };
    let heard = || {
        to_go().filter(|(server, _)| !reports::is_silent(snapshot, server) || may_have_failed_on_it(server))
    };
    let has_target = |(server, _): &&(&ServerView, Behind)| targets.get(&server.name) == Some(target);
    let next = heard().find(has_target).or_else(|| heard().next());
    let next = next.or_else(|| to_go().find(has_target)).or_else(|| to_go().next()).or(behind.first());
    let (server, why) = match next {
        Some((server, why)) => (*server, why.clone()),
        None => return blocked("Unreadable", "no API server is lagging".to_owned(), targets),
    };
    targets.insert(server.name.clone(), *target);
    let (why, is_recovered) = match why {
        Behind::Lagging(why) => (why, false),
        Behind::Recovered(why) => (why, true),
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
                if error.put_back { "; the last good configuration was restored" } else { "" }
            ),
            true,
        ),
        None if is_recovered => ("CredentialRecovered", format!("node {} {why}", server.name), true),
        None => (
            "APIServerRevisionNotConverged",
            format!(
                "revision {target}: {} of {} API servers have not converged; node {}: {why}",
                behind.len(),
                snapshot.servers.len(),
                server.name
            ),
            false,
        ),
    };
    // A node reports its failure in its own words, which may differ at each attempt.
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

/// The edits that nodes report: of a configuration file, which may have written plain text; of a plugin's
/// manifest or files, which the agent has restored.
fn edited(snapshot: &Snapshot) -> Vec<Notice> {
    let repaired = snapshot.servers.values().flat_map(|server| {
        let plugins = server.status().into_iter().flat_map(|status| &status.plugins);
        plugins.filter(|plugin| plugin.repairs > 0).map(|plugin| {
            let times = if plugin.repairs == 1 { "once".to_owned() } else { format!("{} times", plugin.repairs) };
            let message = format!(
                "node {}: the manifest or the files of key {}'s plugin were edited; the agent restored them {times}",
                server.name, plugin.key_id
            );
            Notice::new(true, "PluginEdited", message)
        })
    });
    let notice = |server: &ServerView| {
        let revision = server.status()?.drifted?;
        let message = format!(
            "node {}: its configuration file was edited while revision {revision} was its target; everything is re-encrypted when the node has converged again",
            server.name
        );
        Some(Notice::new(true, "ConfigurationEdited", message))
    };
    snapshot.servers.values().filter_map(notice).chain(repaired).collect()
}

/// Whether neither the status nor a revision shows that Keyward made this configuration.
pub(super) fn is_foreign(snapshot: &Snapshot, hash: &ConfigHash) -> bool {
    let recorded = || snapshot.recorded_revisions.iter().any(|recorded| recorded.config_hash == *hash);
    let kept = || snapshot.revisions.values().any(|r| r.content.as_ref().is_ok_and(|c| c.hash() == *hash));
    hash != zero_hash() && !recorded() && !kept()
}

/// The newest revision that anything shows to have been given to a node, and what shows it: the target of a
/// node, what a node has, has loaded or has installed, and what every API server had loaded once. No older
/// revision may become the target.
fn given(snapshot: &Snapshot, targets: &BTreeMap<String, Revision>) -> Option<(String, Revision)> {
    let given = targets.iter().map(|(name, revision)| (format!("the target of node {name} is"), *revision));
    let has = snapshot.servers.values().flat_map(|server| {
        let status = server.status();
        // Several revisions may have had the same bytes.
        let of = |hash: Option<&ConfigHash>| {
            let recorded = snapshot.recorded_revisions.iter();
            recorded.filter(|recorded| Some(&recorded.config_hash) == hash).map(|recorded| recorded.n).min()
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
    given
        .chain(has)
        .chain(converged)
        .filter(|(_, revision)| revision.0 > 0)
        .max_by_key(|(_, revision)| *revision)
}

/// A missing revision that is newer than the newest existing one. Nothing shows that it was given to a node.
/// But a node that has not reported may have it, or may have left with it, and may have written with a key
/// that no other revision has (the successor of a forgotten key). A revision that can be recreated is
/// recreated. Any other is superseded when every node has reported.
fn perhaps_given<'a>(
    snapshot: &Snapshot,
    target: Revision,
    blocked: &impl Fn(&str, String, BTreeMap<String, Revision>) -> Assessment<'a>,
    targets: &BTreeMap<String, Revision>,
) -> Option<Assessment<'a>> {
    let revision =
        snapshot.recorded_revisions.iter().map(|recorded| recorded.n).max().filter(|n| *n > target)?;
    if let Some(server) = snapshot.servers.values().find(|server| server.status().is_none()) {
        let message = format!(
            "revision {revision} is gone, and node {}, whose agent has not reported, may have installed it; nothing is decided until that agent reports or the node is deleted",
            server.name
        );
        return Some(blocked("RevisionLost", message, targets.clone()));
    }
    if let Some((revision, name)) = lost::undecodable(snapshot, target) {
        let message = format!(
            "revision {revision} is gone, and Secret {name}, which holds one of its keys, cannot be decoded; fix that Secret, or delete it if its content is lost"
        );
        return Some(blocked("RevisionLost", message, targets.clone()));
    }
    let content = lost::rebuild(snapshot, revision).ok()?;
    let message = format!(
        "revision {revision} is gone; the operator recreates it from the status and the key secrets, with the same bytes"
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
                "{what}; the operator recreates it from the status and the key secrets, with the same bytes"
            );
            Assessment {
                rebuilt: Some((revision, Box::new(content))),
                ..blocked("RevisionLost", message, targets)
            }
        }
        Err(why) => {
            let message = format!(
                "{what}. It cannot be recreated: {why}. Nothing is written, and nodes keep what they have; restore Secret {}",
                crate::names::revision_secret(revision)
            );
            blocked("RevisionLost", message, targets)
        }
    }
}

/// No revision was ever made. Every server must show revision 0. Any other configuration was written by
/// somebody else: it is refused, and never replaced (decision 0014).
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
                "the API server on {} has loaded an EncryptionConfiguration that Keyward did not write; Keyward does not change it",
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

/// Why the state of a server is not known.
fn not_heard(server: &ServerView) -> Option<String> {
    let Some(status) = server.status() else {
        return Some("its agent has not reported yet".to_owned());
    };
    if status.loaded_hash.is_some() {
        return None;
    }
    Some(match &status.error {
        Some(error) => format!("{}: {}", error.reason, error.message),
        None => "it is not known which configuration its API server has loaded".to_owned(),
    })
}

/// Why a server is behind the target.
#[derive(Clone, Debug)]
enum Behind {
    /// Something of the target is missing.
    Lagging(String),
    /// It has loaded the target, and runs a plugin with data from `node-agent recover`. A rollout does not
    /// change that; newer data do (decision 0048, objects: between-revisions).
    Recovered(String),
}

/// Why a server is behind this revision; `None` if it has converged, plugins included.
fn behind(
    snapshot: &Snapshot,
    server: &ServerView,
    target: Revision,
    content: &RevisionContent,
    hash: &ConfigHash,
) -> Option<Behind> {
    if let Some(why) = not_heard(server) {
        return Some(Behind::Lagging(why));
    }
    let status = server.status()?;
    if let Some(loaded) = status.loaded_hash.as_ref().filter(|loaded| *loaded != hash) {
        let why = if is_foreign(snapshot, loaded) {
            "its API server has loaded a configuration that Keyward does not know (edited, or very old); it may write plain text"
        } else {
            "its API server has not loaded the configuration yet"
        };
        return Some(Behind::Lagging(why.to_owned()));
    }
    let mut recovered_key = None;
    for (id, digest) in content.digests() {
        let recovered = status.recovered.iter().find(|one| one.key_id == id);
        let runs = recovered.map_or(&digest, |one| &one.digest);
        match status.plugins.iter().find(|plugin| plugin.key_id == id && plugin.digest == *runs) {
            None => return Some(Behind::Lagging(format!("the plugin of key {id} is not running yet"))),
            Some(plugin) if !plugin.ready => {
                let detail = plugin.health.detail.as_deref().unwrap_or("it is starting");
                return Some(Behind::Lagging(format!("the plugin of key {id} is not ready: {detail}")));
            }
            Some(_) => {}
        }
        // A key that has a secret, and is neither abandoned nor forgotten, gets newer data. Any other key is
        // read as it is deployed until nothing needs it, and its successor waits for convergence.
        let is_followed = snapshot.usable().any(|key| key.id == id);
        if let Some(one) = recovered.filter(|one| one.digest != digest && is_followed) {
            recovered_key = Some(format!(
                "runs key {id} with a credential that `recover` replaced on this node; update {} so that all nodes use it",
                one.sources.join(", ")
            ));
        }
    }
    if status.revision != target {
        return Some(Behind::Lagging("its agent has not finished the installation".to_owned()));
    }
    recovered_key.map(Behind::Recovered)
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
        // While decisions are blocked, a node may still be registered, so that its agent can report
        // (invariant: unknown-is-not-absent).
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
            _ => "new key checks".to_owned(),
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

/// KMS keys of the kept revisions.
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
