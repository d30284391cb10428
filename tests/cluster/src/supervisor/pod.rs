//! One static pod, from the start of its first container to the exit of its last one: order, restarts,
//! back-off, sidecars.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::NodeConfig;
use super::container;
use super::manifest::StaticPod;
use super::state::{ContainerState, PodState, State, Terminated};

/// Kubernetes' default `terminationGracePeriodSeconds`.
const GRACE: Duration = Duration::from_secs(30);

/// When a container that exited is restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Restart {
    Always,
    OnFailure,
    Never,
}

impl Restart {
    fn of(word: Option<&str>) -> Self {
        match word {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            _ => Self::Always,
        }
    }

    fn again(self, exit_code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => exit_code != 0,
            Self::Never => false,
        }
    }
}

/// The initial state of a pod.
pub(crate) fn initial(pod: &StaticPod) -> PodState {
    let containers = |list: Option<&[Container]>| {
        let waiting = |container: &Container| ContainerState {
            name: container.name.clone(),
            image: container.image.clone().unwrap_or_default(),
            restarts: 0,
            state: State::waiting("PodInitializing", ""),
            last: None,
        };
        list.unwrap_or_default().iter().map(waiting).collect()
    };
    PodState {
        manifest: pod.manifest.clone(),
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        started: Timestamp::now(),
        init_containers: containers(pod.spec.init_containers.as_deref()),
        containers: containers(Some(&pod.spec.containers)),
    }
}

/// A running pod.
struct Running {
    config: Arc<NodeConfig>,
    pod: Arc<StaticPod>,
    state: watch::Sender<PodState>,
}

/// Runs a pod until `stop`; returns when none of its containers runs any more.
pub(crate) async fn run(
    config: Arc<NodeConfig>,
    pod: Arc<StaticPod>,
    state: watch::Sender<PodState>,
    stop: CancellationToken,
) {
    let policy = Restart::of(pod.spec.restart_policy.as_deref());
    let pod = Arc::new(Running { config, pod, state });
    // Sidecars outlive the other containers, so each has its own signal.
    let mut sidecars: Vec<(CancellationToken, JoinHandle<i32>)> = Vec::new();
    let mut ready = true;
    for init in pod.pod.spec.init_containers.iter().flatten() {
        if Restart::of(init.restart_policy.as_deref()) == Restart::Always && init.restart_policy.is_some() {
            let own = CancellationToken::new();
            sidecars.push((own.clone(), pod.clone().spawn(init.clone(), Restart::Always, own)));
            ready = pod.started(&init.name, &stop).await;
        } else {
            // An init container that fails is restarted, unless the pod restarts nothing.
            let policy = if policy == Restart::Never { Restart::Never } else { Restart::OnFailure };
            ready = pod.keep(init, policy, &stop).await == 0;
        }
        if !ready || stop.is_cancelled() {
            break;
        }
    }
    if ready && !stop.is_cancelled() {
        let spawn = |container: &Container| pod.clone().spawn(container.clone(), policy, stop.clone());
        let main: Vec<_> = pod.pod.spec.containers.iter().map(spawn).collect();
        for container in main {
            let _ = container.await;
        }
    } else {
        stop.cancelled().await;
    }
    for (own, sidecar) in sidecars.into_iter().rev() {
        own.cancel();
        let _ = sidecar.await;
    }
    // A completed pod stays until its manifest is removed.
    stop.cancelled().await;
}

impl Running {
    fn spawn(
        self: Arc<Self>,
        container: Container,
        policy: Restart,
        stop: CancellationToken,
    ) -> JoinHandle<i32> {
        tokio::spawn(async move { self.keep(&container, policy, &stop).await })
    }

    /// Keeps a container running according to its policy. Returns its last exit code.
    async fn keep(&self, container: &Container, policy: Restart, stop: &CancellationToken) -> i32 {
        let grace =
            self.pod.spec.termination_grace_period_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let grace = grace.map_or(GRACE, Duration::from_secs);
        let mut wait = self.config.restart_wait;
        let mut restarts = 0;
        loop {
            match container::start(&self.config, &self.pod, container, restarts) {
                Err(cannot) => self.update(&container.name, |state| {
                    state.state = State::waiting(cannot.reason, cannot.message.clone());
                }),
                Ok(child) => {
                    let since = Timestamp::now();
                    let pid = child.id().unwrap_or_default();
                    self.update(&container.name, |state| {
                        state.state = State::Running { pid, since };
                        state.restarts = restarts;
                    });
                    let (exit_code, stopped) = container::wait(child, stop, grace).await;
                    let ended = Terminated { exit_code, started: since, finished: Timestamp::now() };
                    let again = !stopped && policy.again(exit_code);
                    self.update(&container.name, |state| {
                        if again {
                            let message =
                                format!("restarting failed container {} in {wait:?}", container.name);
                            state.state = State::waiting("CrashLoopBackOff", message);
                            state.last = Some(ended.clone());
                        } else {
                            state.state = State::Terminated(ended.clone());
                        }
                    });
                    if !again {
                        return exit_code;
                    }
                    restarts += 1;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stop.cancelled() => return -1,
            }
            wait = (wait * 2).min(self.config.restart_wait_max);
        }
    }

    /// Waits until a sidecar runs; false if `stop` is cancelled before.
    async fn started(&self, name: &str, stop: &CancellationToken) -> bool {
        let mut changes = self.state.subscribe();
        let runs = changes.wait_for(|pod| {
            pod.container(name).is_some_and(|container| matches!(container.state, State::Running { .. }))
        });
        tokio::select! {
            runs = runs => runs.is_ok(),
            () = stop.cancelled() => false,
        }
    }

    fn update(&self, name: &str, change: impl Fn(&mut ContainerState)) {
        self.state.send_modify(|pod| {
            let all = pod.init_containers.iter_mut().chain(&mut pod.containers);
            for container in all.filter(|container| container.name == name) {
                change(container);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_decides_whether_a_container_restarts() {
        for (word, after_success, after_failure) in [
            (None, true, true),
            (Some("Always"), true, true),
            (Some("OnFailure"), false, true),
            (Some("Never"), false, false),
        ] {
            let policy = Restart::of(word);
            assert_eq!((policy.again(0), policy.again(1)), (after_success, after_failure), "{word:?}");
        }
    }
}
