//! What an admin on call reads first when plugins do not work, in one line: what it means for the cluster, the cause, and
//! what to do next.
//!
//! What kube-apiserver does with a KMS v2 provider that does not answer: it writes until three minutes after the last
//! Status without an error, with the data key that it has; it reads what is under data keys that it has unwrapped, for as long as it runs;
//! after a restart it reads nothing under the key. Its `/readyz` fails at `kms-providers`, its `/livez` does not.
//!
//! A Status that is answered with the same key id counts as one without an error whatever its `healthz` says: writes go on
//! while a plugin answers that it is unhealthy, though `/readyz` fails.

use std::collections::{BTreeMap, BTreeSet};

use super::diagnosis::{Told, cut_to, with_stop};
use super::reports::Health;
use crate::ids::KeyId;
use crate::provider::Failure;
use crate::snapshot::ServerView;

/// The longest cause, remedy and list of names in an Event, in bytes: with the impact they fit its 1,024.
const CAUSE: usize = 200;
const REMEDY: usize = 220;
const NAMES: usize = 100;

/// The resources that each KMS key writes.
pub(super) type Writers = BTreeMap<KeyId, Vec<String>>;

/// Plugins that do not work, by cause: one outage is one line, on however many nodes it shows.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    groups: Vec<Group>,
}

/// How the plugin answers Status, which is what kube-apiserver goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answers {
    /// With an error, or not at all.
    No,
    /// That it is unhealthy.
    Unhealthy,
    /// That it is healthy; what fails is asked after that.
    Healthy,
}

impl Answers {
    pub(super) fn of(health: Health, failure: Option<&Failure>) -> Self {
        match health {
            Health::Unhealthy => Self::Unhealthy,
            Health::Error if failure.is_some_and(Failure::is_after_status) => Self::Healthy,
            _ => Self::No,
        }
    }
}

#[derive(Debug)]
struct Group {
    key_id: KeyId,
    health: Health,
    answers: Answers,
    told: Told,
    nodes: Vec<String>,
}

impl Troubles {
    pub(super) fn add(
        &mut self,
        server: &ServerView,
        key_id: KeyId,
        (health, answers): (Health, Answers),
        told: Told,
    ) {
        let node = server.name.clone();
        let same = |group: &&mut Group| {
            group.key_id == key_id
                && (group.health, group.answers) == (health, answers)
                && group.told.cause == told.cause
                && group.told.remedy == told.remedy
        };
        match self.groups.iter_mut().find(same) {
            Some(group) => group.nodes.push(node),
            None => self.groups.push(Group { key_id, health, answers, told, nodes: vec![node] }),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// What is known to be wrong comes before what is not known.
    pub(super) fn reason(&self) -> &'static str {
        if self.groups.iter().all(Group::is_silent) { "PluginHealthUnknown" } else { "PluginUnhealthy" }
    }

    /// What the Event is about: each key with each way to fail, on whichever nodes.
    pub(super) fn subject(&self) -> String {
        let groups: BTreeSet<String> = self
            .groups
            .iter()
            .map(|group| {
                let (health, answers) = (group.health.name(), group.answers);
                format!("key {} {health} (Status: {answers:?}) {}", group.key_id, group.told.cause)
            })
            .collect();
        groups.into_iter().collect::<Vec<_>>().join("; ")
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

    /// The gravest first: a key that writes, then one that is read with, then what is not known; of these what does not answer.
    fn ordered(&self, writers: Option<&Writers>) -> Vec<&Group> {
        let mut ordered: Vec<&Group> = self.groups.iter().collect();
        ordered.sort_by_key(|group| {
            let answers = group.answers != Answers::No;
            (group.is_silent(), group.written(writers).is_none(), answers, group.key_id)
        });
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
        let reads = match self.answers {
            Answers::No | Answers::Unhealthy => {
                "until it restarts. Do not restart API servers (/readyz fails at kms-providers, /livez does not)."
            }
            Answers::Healthy => "until it restarts. Do not restart API servers.",
        };
        let Some(written) = self.written(writers) else {
            let load = if self.answers == Answers::Healthy { "may fail to load" } else { "cannot be loaded" };
            return format!(
                "Writes go on, but a new configuration {load}; each API server reads objects under key {} that it has decrypted before {reads}",
                self.key_id
            );
        };
        let written = cut_to(written, names);
        if self.answers == Answers::No {
            return format!(
                "Writes of {written} fail from about 3 minutes after the plugin last answered Status without an error; each API server reads what it has decrypted before {reads}"
            );
        }
        format!(
            "Writes of {written} go on while the plugin answers Status with the same key id; they fail once it stops answering, and after a restart of the API server; each API server reads what it has decrypted before {reads}"
        )
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
            let answers = Answers::of(*health, None);
            troubles.add(&server, KeyId(*key), (*health, answers), told.clone());
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
        assert!(order(&all).starts_with("Writes of configmaps, secrets go on while"), "{}", order(&all));
        assert!(order(&all).ends_with("2 more: keyward status."), "{}", order(&all));
        let reads = order(&all[..2]);
        assert!(
            reads.starts_with("Writes go on, but a new configuration cannot be loaded")
                && reads.contains("key 1"),
            "{reads}"
        );
        let silent = order(&all[..1]);
        assert!(silent.starts_with("API servers go on as they are"), "{silent}");
        let unknown = troubles(&all[1..2]).event(None);
        assert!(unknown.starts_with("Writes of encrypted resources fail"), "{unknown}");
    }

    #[test]
    fn writes_go_on_while_a_plugin_answers_that_it_is_unhealthy() {
        let sealed = told("sealed: the KMS is sealed", "Unseal the KMS.");
        let one = troubles(&[("a", 2, Health::Unhealthy, sealed)]);
        assert_eq!(
            one.event(Some(&writers())),
            "Writes of configmaps, secrets go on while the plugin answers Status with the same key id; they fail once it stops answering, and after a restart of the API server; each API server reads what it has decrypted before until it restarts. Do not restart API servers (/readyz fails at kms-providers, /livez does not). Cause: the plugin of key 2 on node a is Unhealthy: sealed: the KMS is sealed. Next: Unseal the KMS. Then run keyward status."
        );
    }

    #[test]
    fn a_plugin_that_only_fails_to_encrypt_answers_status() {
        let of = |health, phase: &str| {
            Answers::of(health, Some(&Failure { phase: phase.to_owned(), ..Default::default() }))
        };
        for phase in ["encrypt", "decrypt", "canary"] {
            assert_eq!(of(Health::Error, phase), Answers::Healthy, "{phase}");
        }
        for phase in ["status", "start", "image", ""] {
            assert_eq!(of(Health::Error, phase), Answers::No, "{phase}");
        }
        assert_eq!(of(Health::Unhealthy, "status"), Answers::Unhealthy);
    }

    #[test]
    fn one_outage_is_one_subject_on_however_many_nodes() {
        let all = [
            ("a", 2, Health::Error, told("status: it failed", "See")),
            ("b", 2, Health::Error, told("status: it failed", "See")),
        ];
        let subject = troubles(&all[..1]).subject();
        assert_eq!(troubles(&all).subject(), subject);
        let another = [("a", 2, Health::Error, told("start: it failed", "See"))];
        assert_ne!(troubles(&another).subject(), subject);
    }

    #[test]
    fn an_event_carries_the_next_step_whatever_a_provider_returns() {
        let long = "é".repeat(3000);
        let nodes: Vec<String> = (0..500).map(|n| format!("control-plane-{n}")).collect();
        for health in [Health::Error, Health::Unhealthy] {
            let all: Vec<_> = nodes
                .iter()
                .map(|n| (n.as_str(), 2, health, told(&long, &format!("Do {long}"))))
                .chain([("x", 1, health, told(&long, "See"))])
                .collect();
            let many = Writers::from([(KeyId(2), vec![long.clone()])]);
            let event = troubles(&all).event(Some(&many));
            assert!(event.len() <= EVENT, "{}", event.len());
            assert!(event.contains("Next: Do é") && event.ends_with("1 more: keyward status."), "{event}");
        }
    }
}
