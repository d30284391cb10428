//! What stands in for a node's kubelet: static pods become local processes inside the node's namespaces.
//!
//! What may come in: what a kubelet does with static pods as others observe it (processes, restarts, logs, mirror
//! Pods, the Node object). What never does: Keyward's own logic, and the isolation of a real container. A container
//! here shares its node's file system, network and capabilities; host paths mounted where they are cost nothing and
//! any other mount is refused; probes and resource limits are not carried out. `runAsUser` is.

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

/// The line on standard output by which a node says that its namespaces are made.
pub(crate) const READY: &str = "ready";

/// What a node is started with, as JSON in a file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NodeConfig {
    /// The node's name, and its hostname.
    pub(crate) name: String,
    /// The node's folder on the host; what stands below `rootfs` in it appears at the same path in the node.
    pub(crate) folder: PathBuf,
    /// Node paths that are the node's own.
    pub(crate) mounts: Vec<PathBuf>,
    /// Started in a user namespace: only one uid exists, so `runAsUser` cannot be followed.
    pub(crate) rootless: bool,
    /// The first wait before a container is restarted; it doubles up to `restart_wait_max`.
    pub(crate) restart_wait: Duration,
    pub(crate) restart_wait_max: Duration,
    /// How long everything together has to end after SIGTERM when the node stops.
    pub(crate) grace: Duration,
}

impl NodeConfig {
    /// Which image is which binary.
    pub(crate) fn images_file(&self) -> PathBuf {
        self.folder.join("images.json")
    }

    /// What the supervisor says of its pods, for a harness whose API server may be down.
    pub(crate) fn state_file(&self) -> PathBuf {
        self.folder.join("pods.json")
    }

    /// The kubeconfig by which the node reports to the API server.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubelet.kubeconfig")
    }

    /// A node path as the host sees it.
    pub(crate) fn on_host(&self, path: &std::path::Path) -> PathBuf {
        self.folder.join("rootfs").join(path.strip_prefix("/").unwrap_or(path))
    }
}
