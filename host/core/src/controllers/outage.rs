//! What an admin on call reads first when plugins do not work, in one line: what it means for the cluster, the cause, and
//! what to do next.
//!
//! What kube-apiserver does with a KMS v2 provider that does not answer: it writes until three minutes after the last
//! Status without an error, with the data key that it has; it reads what is under data keys that it has unwrapped, for as long as it runs;
//! after a restart it reads nothing under the key. Its `/readyz` fails at `kms-providers`, its `/livez` does not.

use std::collections::BTreeMap;

use super::diagnosis::{Told, cut_to, with_stop};
use super::reports::Health;
use crate::ids::KeyId;
use crate::snapshot::ServerView;

/// The longest cause, remedy and list of names in an Event, in bytes: with the impact they fit its 1,024.
const CAUSE: usize = 220;
const REMEDY: usize = 240;
const NAMES: usize = 100;

/// The resources that each KMS key writes.
pub(super) type Writers = BTreeMap<KeyId, Vec<String>>;

/// Plugins that do not work, by cause: one outage is one line, on however many nodes it shows.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    groups: Vec<Group>,
}

#[derive(Debug)]
struct Group {
    key_id: KeyId,
    health: Health,
    told: Told,
    nodes: Vec<String>,
}

impl Troubles {
    pub(super) fn add(&mut self, server: &ServerView, key_id: KeyId, health: Health, told: Told) {
        let node = server.name.clone();
        let same = |group: &&mut Group| {
            group.key_id == key_id
                && group.health == health
                && group.told.cause == told.cause
                && group.told.remedy == told.remedy
        };
        match self.groups.iter_mut().find(same) {
            Some(group) => group.nodes.push(node),
            None => self.groups.push(Group { key_id, health, told, nodes: vec![node] }),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// What is known to be wrong comes before what is not known.
    pub(super) fn reason(&self) -> &'static str {
        if self.groups.iter().all(Group::is_silent) { "PluginHealthUnknown" } else { "PluginUnhealthy" }
    }

    /// Every cause, with all that was seen.
    pub(super) fn condition(&self, writers: Option<&Writers>) -> String {
        let ordered = self.ordered(writers);
        let impact = ordered.first().map(|group| group.impact(writers, usize::MAX)).unwrap_or_default();
        let causes: Vec<String> = ordered
            .iter()
            .map(|group| group.line(&group.told.what, &group.told.remedy, usize::MAX))
            .collect();
        format!("{impact} {}", causes.join(" Also: "))
    }

    /// The gravest of them, in what an Event can carry; stays the same for as long as the cause does.
    pub(super) fn event(&self, writers: Option<&Writers>) -> String {
        let ordered = self.ordered(writers);
        let Some(group) = ordered.first() else { return String::new() };
        let (cause, remedy) =
            (cut_to(group.told.cause.clone(), CAUSE), cut_to(group.told.remedy.clone(), REMEDY));
        let more = match ordered.len() {
            1 => String::new(),
            all => format!(" {} more: keyward status.", all.saturating_sub(1)),
        };
        format!("{} {}{more}", group.impact(writers, NAMES), group.line(&cause, &remedy, NAMES))
    }

    /// The gravest first: a key that writes, then one that is read with, then what is not known.
    fn ordered(&self, writers: Option<&Writers>) -> Vec<&Group> {
        let mut ordered: Vec<&Group> = self.groups.iter().collect();
        ordered.sort_by_key(|group| (group.is_silent(), group.written(writers).is_none(), group.key_id));
        ordered
    }
}

impl Group {
    fn is_silent(&self) -> bool {
        self.health == Health::Unknown
    }

    /// What the key writes; `None` where it only reads. Where the configuration in force is not known it may write.
    fn written(&self, writers: Option<&Writers>) -> Option<String> {
        let Some(writers) = writers else { return Some("encrypted resources".to_owned()) };
        writers.get(&self.key_id).filter(|written| !written.is_empty()).map(|written| written.join(", "))
    }

    fn impact(&self, writers: Option<&Writers>, names: usize) -> String {
        if self.is_silent() {
            return "API servers go on as they are; key changes wait until this plugin is known to be healthy.".to_owned();
        }
        let reads = "until it restarts. Do not restart API servers (/readyz fails at kms-providers, /livez does not).";
        match self.written(writers) {
            Some(written) => format!(
                "Writes of {} fail from about 3 minutes after the plugin last answered Status without an error; each API server reads what it has decrypted before {reads}",
                cut_to(written, names)
            ),
            None => format!(
                "Writes go on, but no new configuration can be loaded; each API server reads objects under key {} that it has decrypted before {reads}",
                self.key_id
            ),
        }
    }

    fn line(&self, cause: &str, remedy: &str, names: usize) -> String {
        let on = if self.nodes.len() == 1 { "node" } else { "nodes" };
        let (key, nodes) = (self.key_id, cut_to(self.nodes.join(", "), names));
        let remedy = if remedy.is_empty() { String::new() } else { format!("{} ", with_stop(remedy)) };
        format!(
            "Cause: the plugin of key {key} on {on} {nodes} is {}: {} Next: {remedy}Then run keyward status.",
            self.health.name(),
            with_stop(cause),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: usize = 1024;

    fn told(cause: &str, remedy: &str) -> Told {
        Told { cause: cause.into(), what: format!("{cause} (status: seen)"), remedy: remedy.into() }
    }

    fn troubles(all: &[(&str, u64, Health, Told)]) -> Troubles {
        let mut troubles = Troubles::default();
        for (node, key, health, told) in all {
            let server = ServerView { name: (*node).to_owned(), ..Default::default() };
            troubles.add(&server, KeyId(*key), *health, told.clone());
        }
        troubles
    }

    fn writers() -> Writers {
        Writers::from([(KeyId(1), vec![]), (KeyId(2), vec!["configmaps".into(), "secrets".into()])])
    }

    #[test]
    fn one_outage_on_three_nodes_is_one_line_with_impact_cause_and_next_step() {
        let sealed = told("sealed: the KMS is sealed", "Unseal the KMS.");
        let nodes = ["a", "b", "c"];
        let all: Vec<_> = nodes.iter().map(|n| (*n, 2, Health::Error, sealed.clone())).collect();
        let troubles = troubles(&all);
        assert_eq!(
            troubles.event(Some(&writers())),
            "Writes of configmaps, secrets fail from about 3 minutes after the plugin last answered Status without an error; each API server reads what it has decrypted before until it restarts. Do not restart API servers (/readyz fails at kms-providers, /livez does not). Cause: the plugin of key 2 on nodes a, b, c is Error: sealed: the KMS is sealed. Next: Unseal the KMS. Then run keyward status."
        );
        let condition = troubles.condition(Some(&writers()));
        assert!(condition.contains("the KMS is sealed (status: seen). Next: Unseal the KMS."), "{condition}");
    }

    #[test]
    fn a_key_that_writes_comes_before_one_that_reads_and_both_before_the_unknown() {
        let all = [
            ("a", 2, Health::Unknown, told("silent", "See")),
            ("a", 1, Health::Error, told("old", "See")),
            ("b", 2, Health::Unhealthy, told("new", "See")),
        ];
        let order = |all: &[(&str, u64, Health, Told)]| troubles(all).event(Some(&writers()));
        assert!(order(&all).starts_with("Writes of configmaps, secrets fail"), "{}", order(&all));
        assert!(order(&all).ends_with("2 more: keyward status."), "{}", order(&all));
        let reads = order(&all[..2]);
        assert!(
            reads.starts_with("Writes go on, but no new configuration") && reads.contains("key 1"),
            "{reads}"
        );
        let silent = order(&all[..1]);
        assert!(silent.starts_with("API servers go on as they are"), "{silent}");
        let unknown = troubles(&all[1..2]).event(None);
        assert!(unknown.starts_with("Writes of encrypted resources fail"), "{unknown}");
    }

    #[test]
    fn an_event_carries_the_next_step_whatever_a_provider_returns() {
        let long = "é".repeat(3000);
        let nodes: Vec<String> = (0..500).map(|n| format!("control-plane-{n}")).collect();
        let all: Vec<_> = nodes
            .iter()
            .map(|n| (n.as_str(), 2, Health::Error, told(&long, &format!("Do {long}"))))
            .collect();
        let many = Writers::from([(KeyId(2), vec![long.clone()])]);
        let event = troubles(&all).event(Some(&many));
        assert!(event.len() <= EVENT, "{}", event.len());
        assert!(event.contains("Next: Do é") && event.ends_with("Then run keyward status."), "{event}");
    }
}
