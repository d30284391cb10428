//! Queries of the status, for tests.

use keyward_core::api::{ClusterEncryption, ClusterEncryptionStatus, Condition, ConditionStatus, KeyStatus};
use keyward_core::ids::Revision;

/// A copy of `ClusterEncryption/cluster`.
pub struct Status(pub ClusterEncryption);

impl Status {
    /// Whether the operator has processed the current spec.
    pub fn is_current(&self) -> bool {
        self.0.status.as_ref().map(|status| status.observed_generation) == self.0.metadata.generation
    }

    /// A condition.
    pub fn condition(&self, type_: &str) -> Option<&Condition> {
        self.0.status.as_ref()?.conditions.iter().find(|condition| condition.type_ == type_)
    }

    /// A condition in one line.
    pub fn summary_of(&self, type_: &str) -> String {
        self.condition(type_)
            .map_or_else(|| "–".to_owned(), |c| format!("{:?} {} {}", c.status, c.reason, c.message))
    }

    /// A key.
    pub fn key(&self, id: u64) -> Option<&KeyStatus> {
        self.0.status.as_ref()?.keys.iter().find(|key| key.key_id.0 == id)
    }

    /// Whether nothing is in progress.
    pub fn is_idle(&self) -> bool {
        self.condition("Progressing").is_some_and(|condition| condition.status == ConditionStatus::False)
    }

    /// The Degraded conditions that are True.
    pub fn problems(&self) -> Vec<String> {
        let conditions = self.0.status.iter().flat_map(|status| &status.conditions);
        conditions
            .filter(|condition| {
                condition.type_.ends_with("Degraded") && condition.status == ConditionStatus::True
            })
            .map(|condition| format!("{}: {}", condition.reason, condition.message))
            .collect()
    }

    /// The newest revision's providers, the writer first: one list for each resource.
    pub fn newest_lists(&self) -> impl Iterator<Item = &Vec<String>> {
        let newest = self.0.status.iter().filter_map(|status| status.revisions.last());
        newest.flat_map(|revision| revision.lists.values())
    }

    /// The newest revision's number.
    pub fn newest_revision(&self) -> Option<Revision> {
        self.0.status.as_ref()?.revisions.last().map(|revision| revision.n)
    }

    /// Whether every API server has loaded the newest revision.
    pub fn has_converged(&self) -> bool {
        let newest = |status: &ClusterEncryptionStatus| status.revisions.last().map(|revision| revision.n);
        self.0.status.as_ref().is_some_and(|status| newest(status) == Some(status.converged_revision))
    }

    /// The status in one line.
    pub fn summary(&self) -> String {
        let keys: Vec<String> = self
            .0
            .status
            .iter()
            .flat_map(|status| &status.keys)
            .map(|key| format!("{}:{}:{}", key.key_id, key.role, key.migrated.len()))
            .collect();
        format!(
            "Encrypted {}; Progressing {}; keys [{}]; problems {:?}",
            self.summary_of("Encrypted"),
            self.summary_of("Progressing"),
            keys.join(" "),
            self.problems()
        )
    }
}
