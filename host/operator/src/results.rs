//! Resolves what core needs beside the objects: evaluations, referenced objects, diagnoses, and how far etcd's
//! history is compacted. Asks [`kubernetes::needed`] until nothing is missing.
//!
//! Provider modules run on blocking threads, and panics are caught for each call: a module that fails or panics
//! degrades only its own provider type. Nothing is cached here: the engine caches by function, module and inputs.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use keyward_core::platform::{Needed, ObjectRef, Objects, Results, kubernetes};
use keyward_core::provider::{EvaluationRequest, Evaluator, ProviderError};

use crate::cluster::Cluster;
use crate::error::Error;
use crate::fetch::{self, References};
use crate::metrics::Metrics;
use crate::migrator::discovery;

/// How many rounds there can be. Each is one step further away from the spec: configuration, its references,
/// diagnoses of its failures.
const ROUNDS: usize = 16;

/// All that a decision on these objects needs. `read` are referenced objects that were already read.
pub async fn resolve(
    cluster: &Cluster,
    evaluator: &Arc<dyn Evaluator>,
    objects: &Objects,
    read: References,
    metrics: &Metrics,
) -> Result<Results, Error> {
    let References { objects: known, expiries } = read;
    let mut results = Results { objects: known, expiries, ..Default::default() };
    for _ in 0..ROUNDS {
        let needed = kubernetes::needed(objects, &results);
        if needed.is_empty() {
            return Ok(results);
        }
        let Needed { evaluations, objects: references, diagnoses, history } = needed;
        let ask = Ask { evaluator: Arc::clone(evaluator), metrics: metrics.clone() };
        let blocking = tokio::task::spawn_blocking(move || {
            let evaluated: Vec<_> =
                evaluations.into_iter().map(|request| (ask.evaluate(&request), request)).collect();
            let diagnosed: Vec<_> = diagnoses
                .into_iter()
                .map(|(request, failure)| {
                    let result =
                        ask.guarded("diagnose", &request, || ask.evaluator.diagnose(&request, &failure));
                    ((request, failure), result)
                })
                .collect();
            (evaluated, diagnosed)
        });
        let read = fetch::references(cluster, references);
        let compacted = futures::future::join_all(history.into_iter().map(|request| async move {
            let result = discovery::is_compacted(cluster, &request.0, &request.1).await;
            (request, result)
        }));
        let (evaluations, read, compacted) = tokio::join!(blocking, read, compacted);
        results.objects.extend(read.objects);
        results.expiries.extend(read.expiries);
        results.history.extend(compacted);
        // Panics are caught at the call, so an error only means that the runtime shuts down.
        if let Ok((evaluated, diagnosed)) = evaluations {
            results.evaluations.extend(evaluated.into_iter().map(|(result, request)| (request, result)));
            results.diagnoses.extend(diagnosed);
        }
    }
    Err(Error::Unsettled(ROUNDS))
}

/// The objects that the evaluated configurations refer to.
pub(crate) fn referenced(results: &Results) -> BTreeSet<ObjectRef> {
    let evaluations = results.evaluations.values().flatten();
    evaluations
        .flat_map(|evaluation| &evaluation.references)
        .map(|reference| ObjectRef { kind: reference.source.kind, name: reference.source.name.clone() })
        .collect()
}

struct Ask {
    evaluator: Arc<dyn Evaluator>,
    metrics: Metrics,
}

impl Ask {
    fn evaluate(
        &self,
        request: &EvaluationRequest,
    ) -> Result<keyward_core::provider::Evaluation, ProviderError> {
        let began = Instant::now();
        let result = self.guarded("evaluate", request, || self.evaluator.evaluate(request));
        self.metrics.evaluated(&result, began.elapsed());
        result
    }

    fn guarded<T>(
        &self,
        function: &str,
        request: &EvaluationRequest,
        call: impl FnOnce() -> Result<T, ProviderError>,
    ) -> Result<T, ProviderError> {
        catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| {
            self.metrics.panicked("provider");
            Err(ProviderError::Failed {
                provider_type: provider_type(request),
                function: function.to_owned(),
                category: "panic".to_owned(),
                message: "the host failed while calling the provider module; see the operator's log"
                    .to_owned(),
            })
        })
    }
}

fn provider_type(request: &EvaluationRequest) -> String {
    serde_json::from_str::<serde_json::Value>(&request.kms)
        .ok()
        .and_then(|kms| kms.get("type")?.as_str().map(ToOwned::to_owned))
        .unwrap_or_default()
}
