//! Conditions, with OpenShift's types and reasons (openshift: controller-conditions).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `True`, `False` or `Unknown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    /// The condition holds.
    True,
    /// The condition does not hold.
    False,
    /// It is not known whether the condition holds.
    Unknown,
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Type of the condition, for example `Encrypted`.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    pub status: ConditionStatus,
    /// A short label. Empty for conditions that have no reason on OpenShift.
    #[serde(default)]
    pub reason: String,
    /// A message for people.
    #[serde(default)]
    pub message: String,
    /// When `status` last changed; for `Progressing` and `Ready`, when `status` or `reason` last changed. RFC 3339.
    // Absent in the output of core: the writer sets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<String>,
    /// The generation of the spec that the condition is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

impl Condition {
    /// Whether it reports a problem, or one that is about to occur.
    pub fn is_trouble(&self) -> bool {
        let reports = self.type_.ends_with("Degraded") || self.type_ == "KMSCredentialsExpiring";
        reports && self.status == ConditionStatus::True
    }

    /// A condition without times.
    pub fn new(
        type_: impl Into<String>,
        status: ConditionStatus,
        reason: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            type_: type_.into(),
            status,
            reason: reason.into(),
            message: message.into(),
            last_transition_time: None,
            observed_generation: None,
        }
    }
}
