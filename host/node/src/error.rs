//! The one error type: what failed, on which object, and what to do.

use std::path::{Path, PathBuf};
use std::time::Duration;

use keyward_core::ids::KeyId;
use keyward_core::node::Instance;
use keyward_core::node::pod::RenderError;

/// Why something on this node could not be done or observed. No variant contains a secret byte.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The operating system refused.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// For example `writing`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// A file of the agent cannot be decoded.
    #[error(
        "{} cannot be understood ({why}); move it away, and the agent starts from what the API server shows", path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The reason; never its content.
        why: String,
    },
    /// The pod of a plugin cannot be rendered.
    #[error("the plugin of {instance}: {source}")]
    Render {
        /// The instance.
        instance: Instance,
        /// The reason.
        source: RenderError,
    },
    /// A step needs something that does not exist any more. The next pass decides again.
    #[error("{what} does not exist any more")]
    Gone {
        /// The missing object.
        what: String,
    },
    /// The same steps were decided again and again, because something undoes them.
    #[error("{step}: {why}")]
    Undone {
        /// The first step.
        step: String,
        /// How often, and what to do.
        why: String,
    },
    /// Every port of the range is taken.
    #[error("no free port for a plugin between {first} and {last}")]
    NoPort {
        /// First port of the range.
        first: u16,
        /// Last port of the range.
        last: u16,
    },
    /// Two agents on one node would undo each other's work.
    #[error("another node agent works on {}; stop it first", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The kubeconfig has no usable address or credential of the API server.
    #[error("kubeconfig {}: {why}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// The reason; never its content.
        why: String,
    },
    /// The kubeconfig cannot be used, so no API server can be called.
    #[error("the kubeconfig cannot be used")]
    NoConnection,
    /// The address of the metrics is invalid.
    #[error("--metrics-url {url:?} is not an address such as https://127.0.0.1:6443")]
    MetricsUrl {
        /// The value of the flag.
        url: String,
    },
    /// A call to the API server failed.
    #[error("{call}: {}", cause(source))]
    Call {
        /// For example `get EncryptionNode cp-1`.
        call: String,
        /// The reason.
        source: Box<kube::Error>,
    },
    /// A call to the API server took too long.
    #[error("{call}: no response within {after:?}")]
    Timeout {
        /// For example `get EncryptionNode cp-1`.
        call: String,
        /// The limit.
        after: Duration,
    },
    /// An object of the API cannot be used.
    #[error("{call}: {why}")]
    Unexpected {
        /// For example `get Secret encryption-config-3`.
        call: String,
        /// The reason; never its content.
        why: String,
    },
    /// No stored revision has this key, so nothing of its plugin can be replaced.
    #[error(
        "no revision that is stored on this node has a plugin of key {key_id}; keys with plugins: {}",
        listed(stored)
    )]
    NoSuchKey {
        /// The requested key.
        key_id: KeyId,
        /// The keys of the stored revisions that have plugins.
        stored: Vec<String>,
    },
    /// The key's plugin has no such file.
    #[error("the plugin of key {key_id} has no file {name:?}; it has {}", listed(names))]
    NoSuchFile {
        /// The key of the plugin.
        key_id: KeyId,
        /// The requested file.
        name: String,
        /// The plugin's files.
        names: Vec<String>,
    },
    /// The requested credential cannot be replaced.
    #[error("key {key_id}: {why}")]
    CannotRecover {
        /// The key.
        key_id: KeyId,
        /// The reason, and what to do.
        why: String,
    },
    /// The plugin with the replaced credential did not pass, and the replacement was rolled back.
    #[error("key {key_id} was not recovered: {why}; the previous plugin stays in use{}", quoted(log_tail))]
    NotRecovered {
        /// The key.
        key_id: KeyId,
        /// The failure of its plugin, without secrets.
        why: String,
        /// The last lines of its log, without secrets.
        log_tail: Vec<String>,
    },
    /// A revision cannot be installed on a node that has not started.
    #[error("nothing was installed: {why}")]
    NotInstallable {
        /// The reason, and what to do.
        why: String,
    },
    /// The Secret of a stored revision was not created.
    #[error("nothing was created: {why}")]
    NotRepublished {
        /// The reason, and what to do.
        why: String,
    },
    /// The node was registered, and the operator did not set its revision in time.
    #[error(
        "the operator set no revision for node {node} within {after:?} ({waiting}); nothing was installed. The node is registered and counts: run this command again, or remove the node: kubectl delete encryptionnode {node}"
    )]
    NoRevision {
        /// The node.
        node: String,
        /// How long the command waited.
        after: Duration,
        /// What it waited for last.
        waiting: String,
    },
    /// A task of the agent panicked.
    #[error("internal error: {what} panicked; please report this bug")]
    Panicked {
        /// The task.
        what: &'static str,
    },
}

/// Bounded label for logs and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Category {
    /// The node's disk.
    Disk,
    /// The configuration of the node or the arguments of a command.
    Setup,
    /// The API server.
    Api,
    /// A plugin's data.
    Plugin,
    /// A bug.
    Internal,
}

impl AgentError {
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }

    /// The kind of failure.
    pub fn category(&self) -> Category {
        match self {
            Self::Io { .. } | Self::Corrupt { .. } => Category::Disk,
            Self::Locked { .. }
            | Self::Kubeconfig { .. }
            | Self::NoConnection
            | Self::MetricsUrl { .. }
            | Self::NoSuchKey { .. }
            | Self::NoSuchFile { .. }
            | Self::CannotRecover { .. }
            | Self::NotInstallable { .. }
            | Self::NotRepublished { .. } => Category::Setup,
            Self::Call { .. } | Self::Timeout { .. } | Self::Unexpected { .. } | Self::NoRevision { .. } => {
                Category::Api
            }
            Self::Render { .. } | Self::NoPort { .. } | Self::NotRecovered { .. } => Category::Plugin,
            Self::Gone { .. } | Self::Undone { .. } | Self::Panicked { .. } => Category::Internal,
        }
    }

    /// The API server responded with an error.
    pub(crate) fn is_answer(&self) -> bool {
        matches!(self, Self::Call { source, .. }
            if matches!(source.as_ref(), kube::Error::Api(_) | kube::Error::ReadEvents(_)))
    }

    /// No API server was called, so the error is not about the API server.
    pub(crate) fn is_own_fault(&self) -> bool {
        matches!(self, Self::NoConnection)
    }

    /// The API server has an object of that name.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Call { source, .. }
            if matches!(source.as_ref(), kube::Error::Api(status) if status.code == 409))
    }

    /// The API server failed: for a get of a stored object, it cannot decrypt or decode it.
    pub(crate) fn is_unreadable(&self) -> bool {
        matches!(self, Self::Call { source, .. }
            if matches!(source.as_ref(), kube::Error::Api(status) if status.code == 500))
    }

    /// The API server has no such object.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Call { source, .. }
            if matches!(source.as_ref(), kube::Error::Api(status) if status.code == 404))
    }
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn quoted(lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let lines: String = lines.iter().map(|line| format!("\n  {line}")).collect();
    format!(". The end of its log:{lines}")
}

/// The API server's message, or the innermost cause. The outer layers only report that something failed.
fn cause(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return format!("{} ({})", status.message, status.code);
    }
    let chain = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    chain.last().map_or_else(|| error.to_string(), ToString::to_string)
}
