//! Logs each problem of the node twice, when it begins and when it ends. The report shows it too.

use std::collections::BTreeMap;

use keyward_core::api::{EncryptionNodeStatus, HealthStatus, NodePlugin};
use keyward_core::ids::{KeyId, PluginDigest};
use keyward_core::provider::Failure;
use tokio::time::Instant;

use crate::paths::PLUGIN_MANIFEST;

/// The consequences of a failing plugin for the API server of this node, which writes with the key or only
/// reads. The API server uses Status alone, and treats every answer with the same key id as one without an
/// error.
fn impact(plugin: &NodePlugin) -> &'static str {
    if answers_status(plugin) {
        "if the API server writes with this key, writes continue while the plugin answers Status with the same key id. They fail once it stops answering, and after a restart of the API server. Until the API server restarts, it can read what it has decrypted before: do not restart it"
    } else {
        "if the API server writes with this key, writes fail from about 3 minutes after the plugin last answered Status without an error. Until the API server restarts, it can read what it has decrypted before: do not restart it"
    }
}

/// Whether kube-apiserver treats a failing plugin as a working one.
fn answers_status(plugin: &NodePlugin) -> bool {
    match plugin.health.status {
        HealthStatus::Unhealthy => true,
        HealthStatus::Error => plugin.health.failure.as_ref().is_some_and(Failure::is_after_status),
        HealthStatus::Healthy => false,
    }
}

/// The problems that were logged last.
#[derive(Debug, Default)]
pub(crate) struct Troubles {
    plugins: BTreeMap<(KeyId, PluginDigest), Known>,
    error: Option<(String, String, Instant)>,
    failing: Option<(String, Instant)>,
}

/// The last state of a plugin, and since when.
#[derive(Clone, Copy, Debug)]
struct Known {
    status: HealthStatus,
    answers_status: bool,
    since: Instant,
}

/// A log line.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    warning: bool,
    text: String,
}

impl Troubles {
    /// Logs the problems that began or ended since the previous report.
    pub(crate) fn log(&mut self, node: &str, report: &EncryptionNodeStatus, now: Instant) {
        for Line { warning, text } in self.changes(node, report, now) {
            if warning {
                tracing::warn!("{text}");
            } else {
                tracing::info!("{text}");
            }
        }
    }

    /// Records that a pass failed, and returns whether its error differs from that of the previous pass.
    pub(crate) fn pass_failed(&mut self, error: &str, now: Instant) -> bool {
        let is_new = self.failing.as_ref().is_none_or(|(known, _)| known != error);
        let since = self.failing.as_ref().map_or(now, |(_, since)| *since);
        self.failing = Some((error.to_owned(), since));
        is_new
    }

    /// Records that a pass succeeded.
    pub(crate) fn pass_succeeded(&mut self, now: Instant) {
        if let Some((_, since)) = self.failing.take() {
            tracing::info!(seconds = now.duration_since(since).as_secs(), "reconcile recovered");
        }
    }

    fn changes(&mut self, node: &str, report: &EncryptionNodeStatus, now: Instant) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut plugins = BTreeMap::new();
        for plugin in &report.plugins {
            let id = (plugin.key_id, plugin.digest.clone());
            let status = plugin.health.status;
            let known = self.plugins.get(&id).copied();
            lines.extend(line(node, plugin, known, now));
            let since = known.filter(|known| known.status == status).map_or(now, |known| known.since);
            plugins.insert(id, Known { status, answers_status: answers_status(plugin), since });
        }
        self.plugins = plugins;
        lines.extend(self.error_changes(report, now));
        lines
    }

    fn error_changes(&mut self, report: &EncryptionNodeStatus, now: Instant) -> Option<Line> {
        match (&report.error, self.error.take()) {
            (Some(error), before) => {
                let (reason, message) = (error.reason.clone(), error.message.clone());
                let is_new = before.as_ref().is_none_or(|(known, _, _)| *known != reason);
                let since = before.filter(|_| !is_new).map_or(now, |(_, _, since)| since);
                let text = format!("revision {} is not installed: {reason}: {message}", error.revision);
                self.error = Some((reason, message, since));
                is_new.then_some(Line { warning: true, text })
            }
            (None, Some((reason, message, since))) => {
                let lasted = now.duration_since(since).as_secs();
                let text = format!("{reason} ended after {lasted} s: {message}");
                Some(Line { warning: false, text })
            }
            (None, None) => None,
        }
    }
}

/// The line of a plugin whose status, or whose answer to Status, has changed.
fn line(node: &str, plugin: &NodePlugin, known: Option<Known>, now: Instant) -> Option<Line> {
    let (key, status) = (plugin.key_id, plugin.health.status);
    if known.is_some_and(|known| known.status == status && known.answers_status == answers_status(plugin)) {
        return None;
    }
    let seen = plugin.health.detail.as_deref().unwrap_or("no detail");
    let seen = seen.lines().collect::<Vec<_>>().join(" ");
    Some(match (status, known) {
        (HealthStatus::Healthy, None) => {
            Line { warning: false, text: format!("the plugin of key {key} is healthy") }
        }
        (HealthStatus::Healthy, Some(known)) => {
            let lasted = now.duration_since(known.since).as_secs();
            let text = format!(
                "the plugin of key {key} is healthy again after {lasted} s; its API server accepts writes within about 10 seconds and needs no restart"
            );
            Line { warning: false, text }
        }
        // It has just started.
        (HealthStatus::Error, None) if !plugin.ready => {
            Line { warning: false, text: format!("the plugin of key {key} does not answer yet: {seen}") }
        }
        _ => {
            let log = format!("{PLUGIN_MANIFEST}{key}-{}-{node}", plugin.digest.short());
            let text = format!(
                "the plugin of key {key} is {}: {}. Observed: {seen}. Next: keyward status shows the diagnosis and the end of the log; if this agent runs the plugin, the whole log is in /var/log/pods/kube-system_{log}_*",
                status.name(),
                impact(plugin),
            );
            Line { warning: true, text }
        }
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use keyward_core::api::{NodeError, PluginHealth};
    use keyward_core::ids::{RemoteKeyId, Revision};

    use super::*;

    fn report(status: HealthStatus, ready: bool) -> EncryptionNodeStatus {
        let health = PluginHealth {
            status,
            remote_key_id: RemoteKeyId("kek".into()),
            last_checked_time: String::new(),
            detail: (status != HealthStatus::Healthy).then(|| "status: 503\nsealed".to_owned()),
            failure: None,
        };
        let digest = PluginDigest("0123456789abcdef0123".into());
        let plugin = NodePlugin { key_id: KeyId(1), digest, ready, health, repairs: 0 };
        EncryptionNodeStatus { plugins: vec![plugin], ..Default::default() }
    }

    fn logged(troubles: &mut Troubles, report: &EncryptionNodeStatus, now: Instant) -> Vec<(bool, String)> {
        troubles.changes("n", report, now).into_iter().map(|line| (line.warning, line.text)).collect()
    }

    #[test]
    fn an_outage_is_one_warning_and_its_end_is_one_line_with_its_duration() {
        let (mut troubles, start) = (Troubles::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let healthy = report(HealthStatus::Healthy, true);
        assert_eq!(
            logged(&mut troubles, &healthy, at(0)),
            [(false, "the plugin of key 1 is healthy".to_owned())]
        );
        assert_eq!(logged(&mut troubles, &healthy, at(30)), []);
        let failing = report(HealthStatus::Error, true);
        let began = logged(&mut troubles, &failing, at(60));
        let [(true, warning)] = began.as_slice() else { panic!("{began:?}") };
        assert!(!warning.contains('\n'), "one line: {warning}");
        for part in [
            "if the API server writes with this key, writes fail from about 3 minutes",
            "do not restart it",
            "Observed: status: 503 sealed.",
            "Next: keyward status",
            "/var/log/pods/kube-system_keyward-kms-1-0123456789abcdef-n_*",
        ] {
            assert!(warning.contains(part), "{part:?} in {warning}");
        }
        assert_eq!(logged(&mut troubles, &failing, at(90)), []);
        let over = logged(&mut troubles, &healthy, at(136));
        let [(false, line)] = over.as_slice() else { panic!("{over:?}") };
        assert!(line.starts_with("the plugin of key 1 is healthy again after 76 s"), "{line}");
    }

    #[test]
    fn an_unhealthy_plugin_that_answers_status_does_not_stop_writes() {
        let mut troubles = Troubles::default();
        let lines = logged(&mut troubles, &report(HealthStatus::Unhealthy, true), Instant::now());
        let [(true, warning)] = lines.as_slice() else { panic!("{lines:?}") };
        assert!(warning.contains("writes continue while the plugin answers Status"), "{warning}");
        assert!(!warning.contains("3 minutes") && warning.contains("do not restart it"), "{warning}");
    }

    #[test]
    fn a_starting_plugin_is_not_logged_as_a_warning() {
        let mut troubles = Troubles::default();
        let lines = logged(&mut troubles, &report(HealthStatus::Error, false), Instant::now());
        assert!(matches!(lines.as_slice(), [(false, _)]), "{lines:?}");
    }

    #[test]
    fn an_error_that_blocks_the_target_is_logged_when_it_begins_and_when_it_ends() {
        let (mut troubles, start) = (Troubles::default(), Instant::now());
        let error = |message: &str| EncryptionNodeStatus {
            error: Some(NodeError {
                revision: Revision(3),
                reason: "ConfigurationRefused".into(),
                message: message.into(),
                put_back: false,
            }),
            ..Default::default()
        };
        let began = logged(&mut troubles, &error("one"), start);
        assert_eq!(began, [(true, "revision 3 is not installed: ConfigurationRefused: one".to_owned())]);
        assert_eq!(logged(&mut troubles, &error("two"), start), []);
        let over = logged(&mut troubles, &EncryptionNodeStatus::default(), start + Duration::from_secs(7));
        assert_eq!(over, [(false, "ConfigurationRefused ended after 7 s: two".to_owned())]);
    }

    #[test]
    fn a_pass_that_keeps_failing_with_the_same_error_is_new_once() {
        let (mut troubles, now) = (Troubles::default(), Instant::now());
        assert!(troubles.pass_failed("disk full", now));
        assert!(!troubles.pass_failed("disk full", now));
        assert!(troubles.pass_failed("disk gone", now));
        troubles.pass_succeeded(now);
        assert!(troubles.pass_failed("disk gone", now));
    }
}
