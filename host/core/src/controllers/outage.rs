//! What an admin on call reads first when plugins do not work, in one line: the impact on the cluster, the
//! cause, and the next step.
//!
//! What kube-apiserver does if a KMS v2 provider does not answer: it writes with the data key that it has
//! until three minutes after the last Status without an error (kubernetes: writes-stop-after-three-minutes);
//! it reads what is under data keys that it has unwrapped, for as long as it runs
//! (kubernetes: unwrapped-data-keys-are-cached); after a restart it reads nothing under the key. Its
//! `/readyz` fails at `kms-providers`, its `/livez` does not (kubernetes: kms-gates-readyz-not-livez).
//!
//! A Status with the same key id counts as one without an error, also if its `healthz` is not `ok`: writes
//! continue while a plugin answers that it is unhealthy, though `/readyz` fails
//! (kubernetes: unhealthy-status-extends-writes).

use std::collections::{BTreeMap, BTreeSet};

use super::diagnosis::{Finding, cut_to, with_stop};
use super::reports::Health;
use crate::ids::KeyId;
use crate::provider::Failure;
use crate::snapshot::ServerView;

/// The longest cause, remedy and list of names in an Event, in bytes. With the impact they fit into its
/// 1,024.
const CAUSE: usize = 200;
const REMEDY: usize = 220;
const NAMES: usize = 100;

/// The resources that each KMS key writes.
pub(super) type Writers = BTreeMap<KeyId, Vec<String>>;

/// Plugins that do not work, grouped by cause: one outage is one line, for any number of nodes.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    groups: Vec<Group>,
}

/// How the plugin answers Status, which decides what kube-apiserver does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answers {
    /// With an error, or not at all.
    No,
    /// That it is unhealthy.
    Unhealthy,
    /// That it is healthy; a later call fails.
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
    finding: Finding,
    nodes: Vec<String>,
}

impl Troubles {
    pub(super) fn add(
        &mut self,
        server: &ServerView,
        key_id: KeyId,
        (health, answers): (Health, Answers),
        finding: Finding,
    ) {
        let node = server.name.clone();
        let same = |group: &&mut Group| {
            group.key_id == key_id
                && (group.health, group.answers) == (health, answers)
                && group.finding.cause == finding.cause
                && group.finding.remedy == finding.remedy
        };
        match self.groups.iter_mut().find(same) {
            Some(group) => group.nodes.push(node),
            None => self.groups.push(Group { key_id, health, answers, finding, nodes: vec![node] }),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// A known failure comes before an unknown health.
    pub(super) fn reason(&self) -> &'static str {
        if self.groups.iter().all(Group::is_silent) { "PluginHealthUnknown" } else { "PluginUnhealthy" }
    }

    /// The subject of the Event: each key with each kind of failure, on any nodes.
    pub(super) fn subject(&self) -> String {
        let groups: BTreeSet<String> = self
            .groups
            .iter()
            .map(|group| {
                let (health, answers) = (group.health.name(), group.answers);
                format!("key {} {health} (Status: {answers:?}) {}", group.key_id, group.finding.cause)
            })
            .collect();
        groups.into_iter().collect::<Vec<_>>().join("; ")
    }

    /// Every cause, with everything that was observed.
    pub(super) fn condition(&self, writers: Option<&Writers>) -> String {
        let ordered = self.ordered(writers);
        let impact = ordered.first().map(|group| group.impact(writers, usize::MAX)).unwrap_or_default();
        let causes: Vec<String> = ordered
            .iter()
            .map(|group| group.line(&group.finding.what, &group.finding.remedy, usize::MAX))
            .collect();
        format!("{impact} {}", causes.join(" Also: "))
    }

    /// The most serious cause, in the size of an Event. The text stays the same while the cause does.
    pub(super) fn event(&self, writers: Option<&Writers>) -> String {
        let ordered = self.ordered(writers);
        let Some(group) = ordered.first() else { return String::new() };
        let (cause, remedy) =
            (cut_to(group.finding.cause.clone(), CAUSE), cut_to(group.finding.remedy.clone(), REMEDY));
        let more = match ordered.len() {
            1 => String::new(),
            all => format!(" {} more (see keyward status).", all.saturating_sub(1)),
        };
        format!("{} {}{more}", group.impact(writers, NAMES), group.line(&cause, &remedy, NAMES))
    }

    /// The most serious first: a key that writes, then a key that is only read, then an unknown health. Among
    /// those a plugin that does not answer comes first.
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

    /// What the key writes; `None` if it is only read. If the configuration in force is not known, it may
    /// write.
    fn written(&self, writers: Option<&Writers>) -> Option<String> {
        let Some(writers) = writers else { return Some("encrypted resources".to_owned()) };
        writers.get(&self.key_id).filter(|written| !written.is_empty()).map(|written| written.join(", "))
    }

    fn impact(&self, writers: Option<&Writers>, names: usize) -> String {
        if self.is_silent() {
            return "API servers continue with what they have; changes of keys wait until this plugin reports Healthy.".to_owned();
        }
        let restart = match self.answers {
            Answers::No | Answers::Unhealthy => {
                "Do not restart API servers (/readyz fails at kms-providers, /livez does not)."
            }
            Answers::Healthy => "Do not restart API servers.",
        };
        let Some(written) = self.written(writers) else {
            let load = if self.answers == Answers::Healthy { "may fail to load" } else { "cannot be loaded" };
            return format!(
                "Writes continue, but a new configuration {load}. Until it restarts, each API server can read the objects under key {} that it has decrypted before. {restart}",
                self.key_id
            );
        };
        let written = cut_to(written, names);
        if self.answers == Answers::No {
            return format!(
                "Writes of {written} fail from about 3 minutes after the plugin last answered Status without an error. Until it restarts, each API server can read what it has decrypted before. {restart}"
            );
        }
        format!(
            "Writes of {written} continue while the plugin answers Status with the same key id; they fail when it stops answering or the API server restarts. Until it restarts, each API server can read what it has decrypted before. {restart}"
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

    fn finding(cause: &str, remedy: &str) -> Finding {
        Finding { cause: cause.into(), what: format!("{cause} (status: seen)"), remedy: remedy.into() }
    }

    fn troubles(all: &[(&str, u64, Health, Finding)]) -> Troubles {
        let mut troubles = Troubles::default();
        for (node, key, health, finding) in all {
            let server = ServerView { name: (*node).to_owned(), ..Default::default() };
            let answers = Answers::of(*health, None);
            troubles.add(&server, KeyId(*key), (*health, answers), finding.clone());
        }
        troubles
    }

    fn writers() -> Writers {
        Writers::from([(KeyId(1), vec![]), (KeyId(2), vec!["configmaps".into(), "secrets".into()])])
    }

    #[test]
    fn one_outage_on_three_nodes_is_one_line_with_impact_cause_and_next_step() {
        let sealed = finding("sealed: the KMS is sealed", "Unseal the KMS.");
        let nodes = ["a", "b", "c"];
        let all: Vec<_> = nodes.iter().map(|n| (*n, 2, Health::Error, sealed.clone())).collect();
        let troubles = troubles(&all);
        assert_eq!(
            troubles.event(Some(&writers())),
            "Writes of configmaps, secrets fail from about 3 minutes after the plugin last answered Status without an error. Until it restarts, each API server can read what it has decrypted before. Do not restart API servers (/readyz fails at kms-providers, /livez does not). Cause: the plugin of key 2 on nodes a, b, c is Error: sealed: the KMS is sealed. Next: Unseal the KMS. Then run keyward status."
        );
        let condition = troubles.condition(Some(&writers()));
        assert!(condition.contains("the KMS is sealed (status: seen). Next: Unseal the KMS."), "{condition}");
    }

    #[test]
    fn a_key_that_writes_comes_before_one_that_reads_and_both_before_the_unknown() {
        let all = [
            ("a", 2, Health::Unknown, finding("silent", "See")),
            ("a", 1, Health::Error, finding("old", "See")),
            ("b", 2, Health::Unhealthy, finding("new", "See")),
        ];
        let order = |all: &[(&str, u64, Health, Finding)]| troubles(all).event(Some(&writers()));
        assert!(order(&all).starts_with("Writes of configmaps, secrets continue while"), "{}", order(&all));
        assert!(order(&all).ends_with("2 more (see keyward status)."), "{}", order(&all));
        let reads = order(&all[..2]);
        assert!(
            reads.starts_with("Writes continue, but a new configuration cannot be loaded")
                && reads.contains("key 1"),
            "{reads}"
        );
        let silent = order(&all[..1]);
        assert!(silent.starts_with("API servers continue with what they have"), "{silent}");
        let unknown = troubles(&all[1..2]).event(None);
        assert!(unknown.starts_with("Writes of encrypted resources fail"), "{unknown}");
    }

    #[test]
    fn writes_continue_while_a_plugin_answers_that_it_is_unhealthy() {
        let sealed = finding("sealed: the KMS is sealed", "Unseal the KMS.");
        let one = troubles(&[("a", 2, Health::Unhealthy, sealed)]);
        assert_eq!(
            one.event(Some(&writers())),
            "Writes of configmaps, secrets continue while the plugin answers Status with the same key id; they fail when it stops answering or the API server restarts. Until it restarts, each API server can read what it has decrypted before. Do not restart API servers (/readyz fails at kms-providers, /livez does not). Cause: the plugin of key 2 on node a is Unhealthy: sealed: the KMS is sealed. Next: Unseal the KMS. Then run keyward status."
        );
    }

    #[test]
    fn a_plugin_that_only_fails_to_encrypt_answers_status() {
        let of = |health, phase: &str| {
            Answers::of(health, Some(&Failure { phase: phase.to_owned(), ..Default::default() }))
        };
        for phase in ["encrypt", "decrypt", "key-check"] {
            assert_eq!(of(Health::Error, phase), Answers::Healthy, "{phase}");
        }
        for phase in ["status", "start", "image", ""] {
            assert_eq!(of(Health::Error, phase), Answers::No, "{phase}");
        }
        assert_eq!(of(Health::Unhealthy, "status"), Answers::Unhealthy);
    }

    #[test]
    fn one_outage_is_one_subject_on_any_number_of_nodes() {
        let all = [
            ("a", 2, Health::Error, finding("status: it failed", "See")),
            ("b", 2, Health::Error, finding("status: it failed", "See")),
        ];
        let subject = troubles(&all[..1]).subject();
        assert_eq!(troubles(&all).subject(), subject);
        let another = [("a", 2, Health::Error, finding("start: it failed", "See"))];
        assert_ne!(troubles(&another).subject(), subject);
    }

    #[test]
    fn an_event_contains_the_next_step_for_any_text_of_a_provider_module() {
        let long = "é".repeat(3000);
        let nodes: Vec<String> = (0..500).map(|n| format!("control-plane-{n}")).collect();
        for health in [Health::Error, Health::Unhealthy] {
            let all: Vec<_> = nodes
                .iter()
                .map(|n| (n.as_str(), 2, health, finding(&long, &format!("Do {long}"))))
                .chain([("x", 1, health, finding(&long, "See"))])
                .collect();
            let many = Writers::from([(KeyId(2), vec![long.clone()])]);
            let event = troubles(&all).event(Some(&many));
            assert!(event.len() <= EVENT, "{}", event.len());
            assert!(
                event.contains("Next: Do é") && event.ends_with("1 more (see keyward status)."),
                "{event}"
            );
        }
    }
}
