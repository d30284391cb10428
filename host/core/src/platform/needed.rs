//! What a decision still wants, for every platform: evaluations, what they refer to, diagnoses.

use serde_json::Value;

use super::{Needed, ObjectRef, Results};
use crate::formats::key_secret::KeySecret;
use crate::provider::{EvaluationRequest, Failure, Origin};

/// Asked until it wants nothing: each answer may lead to the next question.
pub(super) fn needed(
    desired: Option<&Value>,
    keys: &[KeySecret],
    candidate: Option<EvaluationRequest>,
    failures: impl IntoIterator<Item = Failure>,
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
    // A preflight's failure is put to the provider with the configuration that the candidate runs with.
    if let Some(request) = candidate.filter(|request| matches!(results.evaluations.get(request), Some(Ok(_))))
    {
        for failure in failures {
            let diagnosis = (request.clone(), failure);
            if !results.diagnoses.contains_key(&diagnosis) {
                needed.diagnoses.insert(diagnosis);
            }
        }
    }
    needed
}
