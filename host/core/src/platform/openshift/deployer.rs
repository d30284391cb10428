//! CONTRACT 2.2: which revision an API server's pods run, by their revision label. The rules and texts are
//! library-go's; so is their order, since the first that matches decides.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;

use super::{Component, Objects, expected_nodes};
use crate::ids::{Revision, parse_decimal};

/// The label that names a pod's revision.
const REVISION: &str = "revision";
/// The label of an API server's pods.
const APISERVER: &str = "apiserver";
const WRAPPED: &str = "failed to get converged static pod revision";

/// What an operand's pods say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodsVerdict {
    /// All run this revision. Whether there is a configuration in it is another question.
    Converged {
        /// Its number; 0 where the pods have no label.
        revision: Revision,
    },
    /// Not yet.
    Progressing {
        /// For people: which pod or node, and what of it.
        why: String,
    },
    /// That cannot be said.
    Failed {
        /// CONTRACT 2.2's texts.
        why: String,
    },
    /// The operator's CR says that it is not to be managed (CONTRACT 3).
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
    // As an API server lists them.
    pods.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    verdict(&expected_nodes(objects, component), &pods)
}

/// The verdict on these pods; `expected` are the nodes that must host a good one.
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
    // An empty label counts as a value of its own, and is read as 0.
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
