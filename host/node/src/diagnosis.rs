//! Why a plugin does not start: the kubelet's status of its container, and the end of its log.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};
use keyward_core::node::pod::CONTAINER;
use keyward_core::node::{Instance, Scrubber};
use keyward_core::provider::Failure;
use keyward_kms::KmsError;

use crate::api::Connection;
use crate::logs;
use crate::paths::Paths;
use crate::prober::LONGEST_MESSAGE;

/// Reads the status and the logs of the node's pods.
#[derive(Clone, Debug)]
pub(crate) struct Diagnoser {
    /// None if the API cannot be called.
    pub(crate) connection: Option<Connection>,
    pub(crate) paths: Paths,
    pub(crate) node: String,
}

/// The result of a diagnosis.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Finding {
    /// `image` if the image cannot be pulled or used.
    phase: Option<&'static str>,
    exit_code: Option<i32>,
    message: Option<String>,
    log_tail: Vec<String>,
}

impl Finding {
    /// The finding of a container that has ended.
    pub(crate) fn ended(exit_code: i32) -> Self {
        Self {
            exit_code: Some(exit_code),
            message: Some(format!("the plugin ended with exit code {exit_code}")),
            ..Default::default()
        }
    }

    /// The container runs or is about to run.
    pub(crate) fn says_nothing(&self) -> bool {
        self.phase.is_none() && self.exit_code.is_none() && self.message.is_none()
    }

    /// Adds the finding to the failure. The container's state explains only a plugin that does not answer.
    pub(crate) fn explain(&self, failure: &mut Failure) {
        failure.log_tail.clone_from(&self.log_tail);
        if failure.phase != "start" {
            return;
        }
        if let Some(phase) = self.phase {
            phase.clone_into(&mut failure.phase);
        }
        if let Some(message) = &self.message {
            failure.message.clone_from(message);
        }
        failure.exit_code = self.exit_code;
    }

    fn clean(&mut self, scrubber: &Scrubber) {
        let message = self.message.take();
        self.message = message.map(|message| scrubber.clean_and_cut(&message, LONGEST_MESSAGE));
    }
}

/// The failure of a probe.
pub(crate) fn probed(error: &KmsError) -> Failure {
    Failure {
        phase: error.phase().as_str().to_owned(),
        grpc_code: error.grpc_code(),
        message: error.to_string(),
        ..Default::default()
    }
}

/// The failure that a provider module receives: the error of the probe, with the pod's status and the
/// kubelet's log of the plugin. The agent reads these step by step. Tests of diagnoses pass all of them to
/// this function.
pub fn failure(error: &KmsError, pod: &Pod, log: &str, scrubber: &Scrubber) -> Failure {
    let mut failure = probed(error);
    failure.message = scrubber.clean_and_cut(&failure.message, LONGEST_MESSAGE);
    let mut finding = container(pod);
    finding.clean(scrubber);
    finding.log_tail = logs::excerpt(log, scrubber);
    finding.explain(&mut failure);
    failure
}

impl Diagnoser {
    /// Reads the instance's pod and log. A part that cannot be read is left out: the failure itself is known.
    pub(crate) async fn look(&self, instance: &Instance, scrubber: &Arc<Scrubber>) -> Finding {
        let name = instance.pod_name();
        let pod = async {
            match &self.connection {
                Some(connection) => connection.mirror_pod(&name, &self.node).await,
                None => Ok(None),
            }
        };
        let mut finding = match pod.await {
            Ok(pod) => pod.as_ref().map(container).unwrap_or_default(),
            Err(error) => {
                tracing::debug!(%instance, %error, "the plugin's mirror Pod cannot be read");
                Finding::default()
            }
        };
        finding.clean(scrubber);
        let (folder, node, scrubber) = (self.paths.logs(), self.node.clone(), Arc::clone(scrubber));
        let read =
            tokio::task::spawn_blocking(move || logs::tail(&folder, &name, &node, CONTAINER, &scrubber));
        finding.log_tail = read.await.unwrap_or_default();
        finding
    }
}

/// The kubelet's status of the plugin's container.
fn container(pod: &Pod) -> Finding {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let Some(status) = statuses.into_iter().find(|status| status.name == CONTAINER) else {
        return Finding::default();
    };
    let ended = |ended: &ContainerStateTerminated| Finding::ended(ended.exit_code);
    let state = status.state.as_ref();
    if let Some(terminated) = state.and_then(|state| state.terminated.as_ref()) {
        return ended(terminated);
    }
    let Some(waiting) = state.and_then(|state| state.waiting.as_ref()) else { return Finding::default() };
    let reason = waiting.reason.as_deref().unwrap_or("waiting");
    if let Some(last) = status.last_state.as_ref().and_then(|last| last.terminated.as_ref()) {
        return ended(last);
    }
    let message = waiting.message.as_deref().map(|message| format!(": {message}")).unwrap_or_default();
    let image = matches!(
        reason,
        "ErrImagePull"
            | "ImagePullBackOff"
            | "InvalidImageName"
            | "ErrImageNeverPull"
            | "ImageInspectError"
            | "RegistryUnavailable"
            | "SignatureValidationFailed"
    );
    match reason {
        // The first reason of every pod.
        "ContainerCreating" | "PodInitializing" => Finding::default(),
        _ => Finding {
            phase: image.then_some("image"),
            message: Some(format!("the plugin's container does not start: {reason}{message}")),
            ..Default::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn found(status: &Value) -> (String, Option<i32>, String) {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "status": {"containerStatuses": [status]},
        }))
        .unwrap();
        let mut failure =
            Failure { phase: "start".into(), message: "nothing listens".into(), ..Default::default() };
        container(&pod).explain(&mut failure);
        (failure.phase, failure.exit_code, failure.message)
    }

    fn status(state: &Value, last: &Value) -> Value {
        json!({
            "name": CONTAINER, "image": "i", "imageID": "", "ready": false, "restartCount": 1,
            "state": state, "lastState": last,
        })
    }

    #[rstest]
    #[case::no_image(json!({"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}), json!({}),
        "image", None, "the plugin's container does not start: ImagePullBackOff: not found")]
    #[case::cannot_be_made(json!({"waiting": {"reason": "CreateContainerConfigError"}}), json!({}),
        "start", None, "the plugin's container does not start: CreateContainerConfigError")]
    #[case::crashes(json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}),
        json!({"terminated": {"exitCode": 3}}), "start", Some(3), "the plugin ended with exit code 3")]
    #[case::ended(json!({"terminated": {"exitCode": 1}}), json!({}), "start", Some(1), "the plugin ended with exit code 1")]
    #[case::starting(json!({"waiting": {"reason": "ContainerCreating"}}), json!({}), "start", None, "nothing listens")]
    #[case::running(json!({"running": {}}), json!({"terminated": {"exitCode": 3}}), "start", None, "nothing listens")]
    fn the_container_status_explains_why_a_plugin_does_not_answer(
        #[case] state: Value,
        #[case] last: Value,
        #[case] phase: &str,
        #[case] exit_code: Option<i32>,
        #[case] message: &str,
    ) {
        assert_eq!(found(&status(&state, &last)), (phase.to_owned(), exit_code, message.to_owned()));
    }

    #[test]
    fn the_container_status_does_not_explain_a_plugin_that_answers() {
        let mut failure = Failure { phase: "encrypt".into(), message: "denied".into(), ..Default::default() };
        let finding = Finding {
            exit_code: Some(1),
            message: Some("ended".into()),
            log_tail: vec!["why".into()],
            ..Default::default()
        };
        finding.explain(&mut failure);
        assert_eq!((failure.message.as_str(), failure.exit_code), ("denied", None));
        assert_eq!(failure.log_tail, ["why"]);
    }
}
