//! The supervisor in place of a node's kubelet: static pods become local processes inside the node's
//! namespaces.
//!
//! In scope: the observable behavior of a kubelet with static pods (processes, restarts, logs, mirror Pods,
//! the Node object). Never in scope: Keyward's own logic, and the isolation of a real container. A container
//! here shares its node's file system, network and capabilities. A host path mounted at the same path needs
//! no work; every other mount is refused. `runAsUser` is implemented; probes and resource limits are not.

mod changes;
mod container;
mod environment;
mod guard;
mod images;
mod logs;
mod manifest;
mod mirror;
mod namespace;
mod pod;
mod run;
mod state;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use guard::guard;
pub use images::{Image, Match};
pub use run::run;
pub use state::{ContainerState, PodState, State, Terminated};

pub(crate) use guard::KILL;
pub(crate) use images::write as write_images;
pub(crate) use logs::read as read_logs;
pub(crate) use run::own_paths;
pub(crate) use state::read as read_state;

/// The line that a node prints on standard output when its namespaces are made.
pub(crate) const READY: &str = "ready";

/// The configuration of a node, a JSON file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NodeConfig {
    /// The node's name, and its hostname.
    pub(crate) name: String,
    /// The node's folder on the host; a path below its `rootfs` appears at the same path in the node.
    pub(crate) folder: PathBuf,
    /// Node paths with content of this node alone.
    pub(crate) mounts: Vec<PathBuf>,
    /// Whether it runs in a user namespace: only one uid exists there, so `runAsUser` is ignored.
    pub(crate) rootless: bool,
    /// The first wait before a container restarts; it doubles up to `restart_wait_max`.
    pub(crate) restart_wait: Duration,
    pub(crate) restart_wait_max: Duration,
    /// How long all processes together may take to exit after SIGTERM when the node stops.
    pub(crate) grace: Duration,
}

impl NodeConfig {
    /// The image map: which binary runs for which image.
    pub(crate) fn images_file(&self) -> PathBuf {
        self.folder.join("images.json")
    }

    /// The state of the supervisor's pods, for a harness whose API server may be down.
    pub(crate) fn state_file(&self) -> PathBuf {
        self.folder.join("pods.json")
    }

    /// The kubeconfig with which the node reports to the API server.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubelet.kubeconfig")
    }

    /// The path on the host of a path on the node.
    pub(crate) fn on_host(&self, path: &std::path::Path) -> PathBuf {
        self.folder.join("rootfs").join(path.strip_prefix("/").unwrap_or(path))
    }
}
