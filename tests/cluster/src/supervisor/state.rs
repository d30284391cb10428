//! The state of the supervisor's pods, in a file that the harness reads.

use std::path::Path;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The state of a static pod on its node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodState {
    /// The manifest's file name.
    pub manifest: String,
    /// The namespace of the pod.
    pub namespace: String,
    /// `NAME-NODE`, as a kubelet names static pods.
    pub name: String,
    /// A hash of the manifest's bytes: another manifest is another pod.
    pub uid: String,
    /// When this pod started.
    pub started: Timestamp,
    /// Init containers, with native sidecars.
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

/// The state of a container on its node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    /// Its name.
    pub name: String,
    /// The image's reference from the manifest.
    pub image: String,
    /// The number of restarts.
    pub restarts: u32,
    /// Its current state.
    pub state: State,
    /// Its last exit before a restart.
    pub last: Option<Terminated>,
}

/// The current state of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Not running, and why; reasons are the kubelet's.
    Waiting {
        /// `PodInitializing`, `ImagePullBackOff`, `CreateContainerConfigError`, `RunContainerError`,
        /// `CrashLoopBackOff`
        reason: String,
        /// A text for people.
        message: String,
    },
    /// Running.
    Running {
        /// Its process id inside the node.
        pid: u32,
        /// When it started.
        since: Timestamp,
    },
    /// It has exited and is not restarted.
    Terminated(Terminated),
}

impl State {
    pub(crate) fn waiting(reason: &str, message: impl Into<String>) -> Self {
        Self::Waiting { reason: reason.to_owned(), message: message.into() }
    }
}

/// The exit of a container's process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminated {
    /// The exit code, or 128 plus the signal's number if a signal ended the process.
    pub exit_code: i32,
    /// When it started.
    pub started: Timestamp,
    /// When it exited.
    pub finished: Timestamp,
}

pub(crate) fn read(path: &Path) -> Result<Vec<PodState>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        // Nothing is published yet.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    serde_json::from_slice(&bytes).with_context(|| format!("{} is not a state of pods", path.display()))
}
