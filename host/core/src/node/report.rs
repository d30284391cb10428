//! `EncryptionNode.status`: what was observed, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::decide::Ask;
use super::install::refusal_message;
use super::instance::Instance;
use super::observe::Socket;
use super::recovered::in_force;
use super::view::{Problem, View, plugins_of};
use crate::api::{
    EncryptionNodeStatus, HealthStatus, NodeError, NodePause, NodePlugin, PluginHealth, PreflightAnswer,
    RecoveredPlugin,
};
use crate::formats::key_secret::rfc3339;
use crate::ids::{KeyId, PluginDigest, RemoteKeyId, Revision};

/// OpenShift allows details and remote key ids of 1 to this many characters (openshift: encryption-status).
const MAX_DETAIL: usize = 1024;

/// The status. `None` without a spec, and until this agent has probed every serving plugin: a report would
/// lack the others.
pub(super) fn report(
    view: &View<'_>,
    asks: &BTreeMap<Instance, Ask>,
    preflight: Option<PreflightAnswer>,
    problem: Option<&Problem>,
    paused: Option<NodePause>,
) -> Option<EncryptionNodeStatus> {
    let seen = view.o.spec.as_ref()?;
    let unseen = asks.iter().any(|(instance, ask)| {
        let serves = view.serves(instance) || matches!(ask.question.socket, Socket::External(_));
        let probed = view.o.probes.get(instance);
        serves && probed.is_none_or(|probed| probed.last.is_none())
    });
    if unseen {
        return None;
    }
    let revision = installed(view);
    let done = revision == seen.spec.revision;
    let reading = view.o.server.as_ref().ok();
    Some(EncryptionNodeStatus {
        observed_generation: seen.generation,
        api_server_id: reading.and_then(|reading| reading.id.clone()),
        loaded_hash: view.loaded.cloned(),
        installed_hash: view.file.cloned(),
        revision,
        highest_key_id: view.o.disk.highest_key_id,
        plugins: asks.iter().filter_map(|(instance, ask)| plugin(view, instance, ask)).collect(),
        adopted: reading.map(|reading| reading.adopted.clone()).unwrap_or_default(),
        probe_interval_seconds: Some(interval(view.o.policy.probe_interval)),
        held: keys_on_disk(view),
        recovered: recovered(view),
        drifted: view.o.disk.drift,
        kek_mismatch: mismatched(view, asks),
        paused,
        credential_expires: view.o.credential_expires.map(|at| rfc3339(&at)),
        preflight,
        error: error(view, seen.spec.revision, done, problem),
    })
}

/// The target if it is completely installed. Otherwise the newest stored revision that is loaded with all its
/// plugins: the previous one, until the API server has loaded the next. 0 if there is none.
fn installed(view: &View<'_>) -> Revision {
    if let Some(target) = view.target.as_ref().filter(|t| view.is_complete(&t.hash, &t.plugins)) {
        return target.revision;
    }
    let target = view.target.as_ref().map(|target| target.revision);
    let mut kept = view.o.disk.revisions.iter().rev().filter(|(n, _)| Some(**n) != target);
    let found = kept.find(|(_, content)| {
        view.loaded == Some(&content.hash())
            && plugins_of(content, &view.o.disk.recovered).is_ok_and(|plugins| {
                plugins.values().all(|needed| view.is_ready(&needed.instance, needed.external.as_deref()))
            })
    });
    found.map_or(Revision(0), |(n, _)| *n)
}

fn plugin(view: &View<'_>, instance: &Instance, ask: &Ask) -> Option<NodePlugin> {
    let external = match &ask.question.socket {
        Socket::External(endpoint) => Some(endpoint.as_str()),
        Socket::Generation | Socket::Link => None,
    };
    let last = view.o.probes.get(instance)?.last.as_ref()?;
    let failure = last.failure.as_ref().filter(|_| last.status != HealthStatus::Healthy);
    Some(NodePlugin {
        key_id: instance.key_id,
        digest: digest(view, instance)?,
        ready: view.is_ready(instance, external),
        health: PluginHealth {
            status: last.status,
            remote_key_id: RemoteKeyId(filled(last.remote_key_id.as_ref().map_or("", |id| &id.0), "unknown")),
            last_checked_time: last.at.clone(),
            detail: failure.map(|failure| filled(&failure.message, "no detail")),
            failure: failure.cloned(),
        },
        repairs: view.on_disk(instance).repairs,
    })
}

/// Text that a status can always contain: cut to the allowed length, and never empty.
fn filled(text: &str, nothing: &str) -> String {
    let cut: String = text.chars().take(MAX_DETAIL).collect();
    if cut.trim().is_empty() { nothing.to_owned() } else { cut }
}

/// In whole seconds, rounded up, and at least 1.
fn interval(interval: Duration) -> u32 {
    let seconds = interval.as_secs() + u64::from(interval.subsec_nanos() > 0);
    u32::try_from(seconds.max(1)).unwrap_or(u32::MAX)
}

/// Plugins that reach another KEK than the one of their key check.
fn mismatched(view: &View<'_>, asks: &BTreeMap<Instance, Ask>) -> BTreeSet<PluginDigest> {
    let is_other = |instance: &&Instance| {
        let failing = view.o.probes.get(*instance).and_then(|probed| probed.failing.as_ref());
        failing.is_some_and(|failing| failing.mismatch)
    };
    asks.keys().filter(is_other).filter_map(|instance| digest(view, instance)).collect()
}

/// Keys of which this disk has data that a plugin could be started with.
fn keys_on_disk(view: &View<'_>) -> BTreeSet<KeyId> {
    let disk = &view.o.disk;
    let kept = disk.revisions.values().flat_map(|content| content.plugins.keys().copied());
    kept.chain(disk.instances.keys().map(|instance| instance.key_id)).collect()
}

/// Keys that run with a replacement credential on this node.
fn recovered(view: &View<'_>) -> Vec<RecoveredPlugin> {
    let target = view.target.as_ref().map(|target| target.content);
    let loaded = view.loaded.and_then(|hash| view.content_of(hash));
    let mut plugins: BTreeMap<KeyId, RecoveredPlugin> = BTreeMap::new();
    for content in target.into_iter().chain(loaded) {
        for key_id in content.kms_keys() {
            let Some(found) = in_force(&view.o.disk.recovered, key_id, content) else { continue };
            let Some((digest, _)) = found.over(content) else { continue };
            if view.serves(&Instance::new(key_id, &digest)) {
                let sources = found.values.keys().map(|source| format!("{}/{}", source.kind, source.name));
                let sources = sources.collect::<BTreeSet<_>>().into_iter().collect();
                plugins.entry(key_id).or_insert(RecoveredPlugin { key_id, digest, sources });
            }
        }
    }
    plugins.into_values().collect()
}

fn digest(view: &View<'_>, instance: &Instance) -> Option<PluginDigest> {
    let recorded = view.o.disk.instances.get(instance).and_then(|found| found.digest.clone());
    recorded.or_else(|| view.o.record(instance).map(|(digest, _)| digest))
}

fn error(view: &View<'_>, target: Revision, done: bool, problem: Option<&Problem>) -> Option<NodeError> {
    let error = |reason: &str, message: String, put_back: bool| NodeError {
        revision: target,
        reason: reason.to_owned(),
        message,
        put_back,
    };
    // The refusal is reported as long as it is recorded, also while plugins are probed for the next attempt.
    let refusal = view.o.disk.refusal.as_ref().filter(|refusal| refusal.revision == target && !done);
    if let Some(refusal) = refusal {
        let put_back = view.file.is_some() && view.file != Some(&refusal.hash);
        return Some(error("ConfigurationRefused", refusal_message(refusal), put_back));
    }
    let blocked = view.o.failed_step.as_ref().map(|failed| {
        let message = format!("{}: {}", failed.step, failed.message);
        error("StepFailed", message, false)
    });
    let problem = problem.map(|problem| error(problem.reason, problem.message.clone(), false));
    blocked.or(problem)
}
