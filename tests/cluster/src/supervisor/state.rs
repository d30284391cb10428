//! What the supervisor says of its pods, in a file that the harness reads.

use std::path::Path;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A static pod as its node runs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodState {
    /// The manifest's file name.
    pub manifest: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// `NAME-NODE`, as a kubelet names static pods.
    pub name: String,
    /// Made from the manifest's bytes: another manifest is another pod.
    pub uid: String,
    /// When this pod was started.
    pub started: Timestamp,
    /// Init containers, native sidecars among them.
    pub init_containers: Vec<ContainerState>,
    /// The containers.
    pub containers: Vec<ContainerState>,
}

impl PodState {
    /// A container or init container by its name.
    pub fn container(&self, name: &str) -> Option<&ContainerState> {
        self.init_containers.iter().chain(&self.containers).find(|container| container.name == name)
    }

    /// Whether every container runs.
    pub fn is_running(&self) -> bool {
        self.containers.iter().all(|container| matches!(container.state, State::Running { .. }))
    }
}

/// A container as its node runs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    /// Its name.
    pub name: String,
    /// The image's reference, as the manifest has it.
    pub image: String,
    /// How often it was started again.
    pub restarts: u32,
    /// What it does now.
    pub state: State,
    /// How it ended the last time.
    pub last: Option<Terminated>,
}

/// What a container does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Not running, and why; reasons are the kubelet's.
    Waiting {
        /// `PodInitializing`, `ImagePullBackOff`, `CreateContainerConfigError`, `RunContainerError`, `CrashLoopBackOff`
        reason: String,
        /// For people.
        message: String,
    },
    /// Running.
    Running {
        /// Its process id inside the node.
        pid: u32,
        /// Since when.
        since: Timestamp,
    },
    /// It has ended for good.
    Terminated(Terminated),
}

impl State {
    pub(crate) fn waiting(reason: &str, message: impl Into<String>) -> Self {
        Self::Waiting { reason: reason.to_owned(), message: message.into() }
    }
}

/// How a container's process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminated {
    /// 128 plus the signal's number where a signal ended it.
    pub exit_code: i32,
    /// When it had started.
    pub started: Timestamp,
    /// When it had ended.
    pub finished: Timestamp,
}

pub(crate) fn read(path: &Path) -> Result<Vec<PodState>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        // Nothing was said yet.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    serde_json::from_slice(&bytes).with_context(|| format!("{} is no state of pods", path.display()))
}
