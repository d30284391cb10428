//! The revision that the pods of an API server run, by their revision label (openshift: converged-pods). Rules, texts
//! and order are those of library-go: the first rule that matches decides.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;

use super::{Component, Objects, expected_nodes};
use crate::ids::{Revision, parse_decimal};

/// The label with the revision of a pod.
const REVISION: &str = "revision";
/// The label of the pods of an API server.
const APISERVER: &str = "apiserver";
const WRAPPED: &str = "failed to get converged static pod revision";

/// The state of the pods of a component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodsVerdict {
    /// All pods run this revision. It may be a revision without a configuration.
    Converged {
        /// Number of the revision; 0 if the pods have no label.
        revision: Revision,
    },
    /// The pods have not converged.
    Progressing {
        /// The reason, for people: which pod or node, and its state.
        why: String,
    },
    /// The state is not known.
    Failed {
        /// The error, in the words of library-go.
        why: String,
    },
    /// The operator's `managementState` is not `Managed` (openshift: controllers-run-when-managed).
    NotManaged {
        /// Its `managementState`.
        state: String,
    },
}

pub(super) fn of(objects: &Objects, component: &Component) -> PodsVerdict {
    if let Some(state) = super::operator::unmanaged(objects, component) {
        return PodsVerdict::NotManaged { state };
    }
    let mut pods: Vec<&Pod> = objects
        .pods
        .iter()
        .filter(|pod| {
            let labels = pod.metadata.labels.as_ref();
            pod.metadata.namespace.as_deref() == Some(component.name)
                && labels.and_then(|labels| labels.get(APISERVER)).is_some_and(|value| value == "true")
        })
        .collect();
    // The order in which an API server lists them.
    pods.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    verdict(&expected_nodes(objects, component), &pods)
}

/// The state of these pods. Each of the `expected` nodes must host a ready pod.
pub fn verdict(expected: &BTreeSet<String>, pods: &[&Pod]) -> PodsVerdict {
    revision(expected, pods).unwrap_or_else(|why| PodsVerdict::Failed { why: format!("{WRAPPED}: {why}") })
}

fn revision(expected: &BTreeSet<String>, pods: &[&Pod]) -> Result<PodsVerdict, String> {
    let progressing = |why: String| Ok(PodsVerdict::Progressing { why });
    if expected.is_empty() {
        return progressing("no node is known to host an API server pod".to_owned());
    }
    if pods.is_empty() {
        return progressing("there is no API server pod".to_owned());
    }
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for pod in pods {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        match phase(pod) {
            "Running" if is_ready(pod) => good.push(*pod),
            "Running" => return progressing(format!("API server pod {name} is not ready")),
            "Pending" => return progressing(format!("API server pod {name} is pending")),
            "Unknown" => return Err(format!("api server pod {name} in unknown phase")),
            "Succeeded" | "Failed" => bad.push(*pod),
            other => return Err(format!("api server pod {name} has unexpected phase {other}")),
        }
    }
    let revisions: BTreeSet<&str> = good.iter().map(|pod| label(pod)).collect();
    let mut distinct = revisions.iter();
    let label_of_all = match (distinct.next(), distinct.next()) {
        (Some(only), None) => *only,
        (None, _) => return progressing("no API server pod is running".to_owned()),
        (Some(_), Some(_)) => {
            let each: Vec<&str> = revisions.iter().map(|r| if r.is_empty() { "none" } else { r }).collect();
            return progressing(format!("API server pods run revisions {}", each.join(" and ")));
        }
    };
    if let Some(node) = expected.iter().find(|node| !good.iter().any(|pod| host(pod) == Some(node.as_str())))
    {
        return progressing(format!("node {node} hosts no running API server pod"));
    }
    // A missing label counts as a value of its own, and means revision 0.
    let running = if label_of_all.is_empty() { "0" } else { label_of_all };
    let number =
        parse_decimal(running).ok_or_else(|| format!("api server has invalid revision: {running:?}"))?;
    for failed in bad.iter().map(|pod| label(pod)).filter(|label| !label.is_empty()).collect::<BTreeSet<_>>()
    {
        let newer = parse_decimal(failed)
            .ok_or_else(|| format!("api server has invalid failed revision: {failed:?}"))?;
        if newer > number {
            return Err(format!(
                "api server has failed revision {newer} which is newer than running revision {number}"
            ));
        }
    }
    Ok(PodsVerdict::Converged { revision: Revision(number) })
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn label(pod: &Pod) -> &str {
    let labels = pod.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(REVISION)).map(String::as_str).unwrap_or_default()
}

fn host(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}
