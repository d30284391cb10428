//! Results that a decision still needs, on every platform: evaluations, referenced objects, diagnoses.

use serde_json::Value;

use super::{Needed, ObjectRef, Results};
use crate::api::EncryptionNodeStatus;
use crate::formats::key_secret::KeySecret;
use crate::ids::KeyId;
use crate::provider::{EvaluationRequest, Failure, Origin};

/// The missing results. The caller repeats this until nothing is missing, because a result can lead to the next
/// request.
pub(super) fn needed(
    desired: Option<&Value>,
    keys: &[KeySecret],
    candidate: Option<EvaluationRequest>,
    failures: impl IntoIterator<Item = (Whose, Failure)>,
    results: &Results,
) -> Needed {
    let mut needed = Needed::default();
    let stored = keys.iter().filter_map(|key| Some((Origin::Stored, &key.kms.as_ref()?.plugin.kms)));
    for (origin, kms) in desired.map(|kms| (Origin::Desired, kms)).into_iter().chain(stored) {
        let request = EvaluationRequest::new(origin, kms);
        match results.evaluations.get(&request) {
            None => {
                needed.evaluations.insert(request);
            }
            Some(Ok(evaluation)) => {
                for reference in &evaluation.references {
                    let source = &reference.source;
                    let object = ObjectRef { kind: source.kind, name: source.name.clone() };
                    if !results.objects.contains_key(&object) {
                        needed.objects.insert(object);
                    }
                }
            }
            Some(Err(_)) => {}
        }
    }
    let known = |request: &EvaluationRequest| matches!(results.evaluations.get(request), Some(Ok(_)));
    let candidate = candidate.filter(known);
    for (whose, failure) in failures {
        let request = match whose {
            Whose::Candidate => candidate.clone(),
            Whose::Key(id) => {
                let kms = keys.iter().find(|key| key.id == id).and_then(|key| key.kms.as_ref());
                kms.map(|kms| EvaluationRequest::new(Origin::Stored, &kms.plugin.kms)).filter(known)
            }
        };
        let Some(request) = request else { continue };
        let diagnosis = (request, failure);
        if !results.diagnoses.contains_key(&diagnosis) {
            needed.diagnoses.insert(diagnosis);
        }
    }
    needed
}

/// Whose plugin failed. The provider module diagnoses the failure with the configuration of this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// The plugin of the candidate.
    Candidate,
    /// The plugin of a key in use. A key whose secret is gone gets no diagnosis.
    Key(KeyId),
}

/// The failures of plugins that a node reports.
pub(super) fn reported_failures(status: &EncryptionNodeStatus) -> impl Iterator<Item = (Whose, Failure)> {
    status
        .plugins
        .iter()
        .filter_map(|plugin| Some((Whose::Key(plugin.key_id), plugin.health.failure.clone()?)))
}
