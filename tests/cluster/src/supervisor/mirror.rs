//! Reports to the API server: the Node, and a mirror Pod for each static pod. Best effort, as in a kubelet:
//! the pods also run while no API server responds.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::NodeConfig;
use super::manifest::{HOST_IP, StaticPod};
use super::state::{ContainerState, PodState, State, Terminated};

/// The running pods: each pod with its state at the same index.
pub(crate) type Pods = (Vec<Arc<StaticPod>>, Vec<PodState>);

const MIRROR: &str = "kubernetes.io/config.mirror";
const HASH: &str = "kubernetes.io/config.hash";
const SOURCE: &str = "kubernetes.io/config.source";
/// How often it checks even if nothing changed on the node: a mirror Pod may have been deleted.
const PERIOD: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(5);

/// Reports for ever.
pub(crate) async fn report(config: Arc<NodeConfig>, mut pods: watch::Receiver<Pods>) {
    let mut reporter = Reporter { config, client: None, node: None, reported: BTreeMap::new() };
    let mut last_problem = String::new();
    loop {
        let current = pods.borrow_and_update().clone();
        let outcome = tokio::time::timeout(TIMEOUT, reporter.sync(&current)).await;
        let problem = match outcome {
            Ok(Ok(())) => String::new(),
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => "no response in time".to_owned(),
        };
        if problem != last_problem && !problem.is_empty() {
            eprintln!("reporting to the API server: {problem}");
        }
        last_problem = problem;
        let _ = tokio::time::timeout(PERIOD, pods.changed()).await;
    }
}

struct Reporter {
    config: Arc<NodeConfig>,
    client: Option<Client>,
    /// The Node's uid, once it is registered.
    node: Option<String>,
    /// The last reported status of each mirror Pod, by uid.
    reported: BTreeMap<String, Value>,
}

impl Reporter {
    async fn sync(&mut self, (pods, states): &Pods) -> Result<()> {
        let client = match &self.client {
            Some(client) => client.clone(),
            None => self.client.insert(client(&self.config.kubeconfig()).await?).clone(),
        };
        let node = match &self.node {
            Some(node) => node.clone(),
            None => self.node.insert(register(&client, &self.config.name).await?).clone(),
        };
        let here = ListParams::default().fields(&format!("spec.nodeName={}", self.config.name));
        let existing = Api::<Pod>::all(client.clone()).list(&here).await.context("listing pods")?.items;
        for mirror in existing.iter().filter(|pod| pod.annotations().contains_key(MIRROR)) {
            if !pods.iter().any(|pod| is_mirror_of(mirror, pod)) {
                let api = Api::<Pod>::namespaced(client.clone(), &mirror.namespace().unwrap_or_default());
                let now = DeleteParams::default().grace_period(0);
                ignore_missing(api.delete(&mirror.name_any(), &now).await)
                    .context("deleting a mirror pod")?;
            }
        }
        let mut reported = BTreeMap::new();
        for (pod, state) in pods.iter().zip(states) {
            let api = Api::<Pod>::namespaced(client.clone(), &pod.namespace);
            let uid = if let Some(mirror) = existing.iter().find(|mirror| is_mirror_of(mirror, pod)) {
                mirror.uid()
            } else {
                let made = api.create(&PostParams::default(), &mirror_of(pod, &node)).await;
                made.with_context(|| format!("creating mirror pod {}", pod.name))?.uid()
            };
            let wanted = status(pod, state);
            let uid = uid.unwrap_or_default();
            if self.reported.get(&uid) != Some(&wanted) {
                let patch = Patch::Merge(json!({"metadata": {"uid": uid}, "status": wanted}));
                let done = api.patch_status(&pod.name, &PatchParams::default(), &patch).await;
                done.with_context(|| format!("status of pod {}", pod.name))?;
            }
            reported.insert(uid, wanted);
        }
        self.reported = reported;
        Ok(())
    }
}

async fn client(kubeconfig: &Path) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).context("the node's kubeconfig")?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.default_retry = false;
    config.connect_timeout = Some(TIMEOUT);
    Ok(Client::try_from(config)?)
}

/// Registers the node as a control-plane node; returns its uid.
async fn register(client: &Client, name: &str) -> Result<String> {
    let api = Api::<Node>::all(client.clone());
    let node: Node = serde_json::from_value(json!({"metadata": {"name": name, "labels": {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "node-role.kubernetes.io/control-plane": "",
    }}}))?;
    let uid = match api.create(&PostParams::default(), &node).await {
        Ok(node) => node.uid(),
        Err(kube::Error::Api(status)) if status.is_already_exists() => api.get(name).await?.uid(),
        Err(error) => return Err(error).context("registering the node"),
    };
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": HOST_IP}, {"type": "Hostname", "address": name}],
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady",
            "message": "the tests run a supervisor in place of the kubelet"}],
    }});
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(status))
        .await
        .context("status of the node")?;
    uid.context("a node without a uid")
}

fn is_mirror_of(mirror: &Pod, pod: &StaticPod) -> bool {
    mirror.name_any() == pod.name
        && mirror.namespace().as_deref() == Some(&pod.namespace)
        && mirror.annotations().get(MIRROR) == Some(&pod.uid)
        && mirror.metadata.deletion_timestamp.is_none()
}

fn mirror_of(pod: &StaticPod, node: &str) -> Pod {
    let mut annotations = pod.annotations.clone();
    annotations.extend([
        (MIRROR.to_owned(), pod.uid.clone()),
        (HASH.to_owned(), pod.uid.clone()),
        (SOURCE.to_owned(), "file".to_owned()),
    ]);
    Pod {
        metadata: ObjectMeta {
            name: Some(pod.name.clone()),
            namespace: Some(pod.namespace.clone()),
            labels: Some(pod.labels.clone()),
            annotations: Some(annotations),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Node".to_owned(),
                name: pod.spec.node_name.clone().unwrap_or_default(),
                uid: node.to_owned(),
                controller: Some(true),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(pod.spec.clone()),
        status: None,
    }
}

fn ignore_missing<T>(result: kube::Result<T>) -> Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The Pod status that a kubelet would report.
fn status(pod: &StaticPod, state: &PodState) -> Value {
    let phase = phase(pod, state);
    let ready = word(state.is_running());
    let initialized = word(phase != "Pending");
    let condition = |kind: &str, status: &str| json!({"type": kind, "status": status});
    let containers = |list: &[ContainerState]| list.iter().map(container_status).collect::<Vec<_>>();
    json!({
        "phase": phase,
        "hostIP": HOST_IP,
        "podIP": HOST_IP,
        "podIPs": [{"ip": HOST_IP}],
        "startTime": state.started,
        "conditions": [
            condition("PodScheduled", "True"),
            condition("Initialized", initialized),
            condition("ContainersReady", ready),
            condition("Ready", ready),
        ],
        "initContainerStatuses": containers(&state.init_containers),
        "containerStatuses": containers(&state.containers),
    })
}

fn word(yes: bool) -> &'static str {
    if yes { "True" } else { "False" }
}

/// Pending until a container has started once; Succeeded or Failed when all have exited and none restarts.
fn phase(pod: &StaticPod, state: &PodState) -> &'static str {
    let ended = |container: &ContainerState| match &container.state {
        State::Terminated(end) => Some(end.exit_code),
        _ => None,
    };
    let codes: Option<Vec<i32>> = state.containers.iter().map(ended).collect();
    match codes {
        Some(codes) if codes.iter().all(|code| *code == 0) => return "Succeeded",
        Some(_) => return "Failed",
        None => {}
    }
    let sidecar = |name: &str| {
        let mut inits = pod.spec.init_containers.iter().flatten();
        inits.any(|init| init.name == name && init.restart_policy.as_deref() == Some("Always"))
    };
    let failed_init = |container: &ContainerState| {
        !sidecar(&container.name) && ended(container).is_some_and(|code| code != 0)
    };
    if state.init_containers.iter().any(failed_init) {
        return "Failed";
    }
    let started = |container: &ContainerState| {
        container.last.is_some() || !matches!(container.state, State::Waiting { .. })
    };
    if state.containers.iter().any(started) { "Running" } else { "Pending" }
}

fn container_status(container: &ContainerState) -> Value {
    let running = matches!(container.state, State::Running { .. });
    let state = match &container.state {
        State::Waiting { reason, message } => json!({"waiting": {"reason": reason, "message": message}}),
        State::Running { since, .. } => json!({"running": {"startedAt": since}}),
        State::Terminated(end) => json!({"terminated": terminated(end)}),
    };
    // A merge patch removes only the fields that are null in it.
    let mut whole = json!({"waiting": null, "running": null, "terminated": null});
    if let (Value::Object(whole), Value::Object(state)) = (&mut whole, state) {
        whole.extend(state);
    }
    let last = container.last.as_ref().map_or(json!({}), |end| json!({"terminated": terminated(end)}));
    json!({
        "name": container.name,
        "image": container.image,
        "imageID": container.image,
        "ready": running,
        "started": running,
        "restartCount": container.restarts,
        "state": whole,
        "lastState": last,
    })
}

fn terminated(end: &Terminated) -> Value {
    json!({
        "exitCode": end.exit_code,
        "reason": if end.exit_code == 0 { "Completed" } else { "Error" },
        "startedAt": end.started,
        "finishedAt": end.finished,
    })
}

#[cfg(test)]
mod tests {
    use super::super::{manifest, pod};
    use super::*;

    const POD: &str =
        "{metadata: {name: a, namespace: kube-system, annotations: {mine: '1'}}, spec: {hostNetwork: true,
        initContainers: [{name: side, image: x, restartPolicy: Always}, {name: init, image: x}],
        containers: [{name: main, image: x}]}}";

    fn end(exit_code: i32) -> Terminated {
        let at: jiff::Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        Terminated { exit_code, started: at, finished: at }
    }

    fn states(init: State, main: State, last: Option<Terminated>) -> (StaticPod, PodState) {
        let parsed = manifest::parse("a.yaml", POD.as_bytes(), "node-1").unwrap();
        let mut state = pod::initial(&parsed);
        state.init_containers[1].state = init;
        state.containers[0].state = main;
        state.containers[0].last = last;
        (parsed, state)
    }

    #[test]
    fn the_phase_is_the_kubelets() {
        let waiting = || State::waiting("PodInitializing", "");
        let running = || State::Running { pid: 1, since: end(0).started };
        for (init, main, last, expected) in [
            (waiting(), waiting(), None, "Pending"),
            (State::Terminated(end(0)), running(), None, "Running"),
            (State::Terminated(end(0)), State::waiting("ImagePullBackOff", ""), None, "Pending"),
            (State::Terminated(end(0)), State::waiting("CrashLoopBackOff", ""), Some(end(1)), "Running"),
            (State::Terminated(end(0)), State::Terminated(end(0)), None, "Succeeded"),
            (State::Terminated(end(0)), State::Terminated(end(2)), None, "Failed"),
            (State::Terminated(end(3)), waiting(), None, "Failed"),
        ] {
            let (pod, state) = states(init, main, last);
            assert_eq!(phase(&pod, &state), expected, "{state:?}");
        }
    }

    #[test]
    fn the_status_of_a_restarted_container_shows_its_last_exit() {
        let running = State::Running { pid: 1, since: end(0).started };
        let (pod, mut state) = states(State::Terminated(end(0)), running, Some(end(137)));
        state.containers[0].restarts = 2;
        let main = &status(&pod, &state)["containerStatuses"][0];
        assert_eq!(main["restartCount"], 2);
        assert_eq!(main["lastState"]["terminated"]["exitCode"], 137);
        assert!(main["state"]["running"]["startedAt"].is_string());
        assert!(main["state"]["terminated"].is_null());
    }

    #[test]
    fn a_mirror_pod_is_identified_by_the_hash_of_its_manifest() {
        let (pod, _) = states(State::waiting("", ""), State::waiting("", ""), None);
        let mirror = mirror_of(&pod, "uid-of-node");
        assert!(is_mirror_of(&mirror, &pod));
        assert_eq!(mirror.annotations()["mine"], "1");
        let changed =
            manifest::parse("a.yaml", POD.replace("image: x", "image: y").as_bytes(), "node-1").unwrap();
        assert!(!is_mirror_of(&mirror, &changed));
    }
}
