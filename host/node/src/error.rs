//! The one error type: what failed, on which object, and what to do.

use std::path::{Path, PathBuf};
use std::time::Duration;

use keyward_core::ids::KeyId;
use keyward_core::node::Instance;
use keyward_core::node::pod::RenderError;

/// Why something on this node could not be done or seen. No variant holds a secret byte.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The operating system refused.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// For example `writing`.
        doing: &'static str,
        /// What.
        path: PathBuf,
        /// Its words.
        source: std::io::Error,
    },
    /// A file of the agent's own holds something else.
    #[error(
        "{} cannot be understood ({why}); move it away and the agent starts from what the API server shows", path.display()
    )]
    Corrupt {
        /// Which.
        path: PathBuf,
        /// Why; never its content.
        why: String,
    },
    /// No pod can be made of a plugin's data.
    #[error("the plugin of {instance}: {source}")]
    Render {
        /// Which.
        instance: Instance,
        /// Why.
        source: RenderError,
    },
    /// A step speaks of something that is no longer there: the next look decides again.
    #[error("{what} is not known any more")]
    Gone {
        /// What.
        what: String,
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
        /// The lock.
        path: PathBuf,
    },
    /// The kubeconfig does not say how to reach the API server.
    #[error("kubeconfig {}: {why}", path.display())]
    Kubeconfig {
        /// Which.
        path: PathBuf,
        /// Why; nothing of what stands in it.
        why: String,
    },
    /// The kubeconfig cannot be used, so that nobody can be asked.
    #[error("the kubeconfig cannot be used")]
    NoConnection,
    /// The address of the metrics is none.
    #[error("--metrics-url {url:?} is not an address such as https://127.0.0.1:6443")]
    MetricsUrl {
        /// As given.
        url: String,
    },
    /// A call to the API server failed.
    #[error("{call}: {}", cause(source))]
    Call {
        /// For example `get EncryptionNode cp-1`.
        call: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// A call to the API server took too long.
    #[error("{call}: no answer within {after:?}")]
    Timeout {
        /// For example `get EncryptionNode cp-1`.
        call: String,
        /// The limit.
        after: Duration,
    },
    /// An object of the API is not what it should be.
    #[error("{call}: {why}")]
    Unexpected {
        /// For example `get Secret encryption-config-3`.
        call: String,
        /// Why; never its content.
        why: String,
    },
    /// What is kept here has no such key, so nothing of its plugin can be replaced.
    #[error("no revision that is kept on this node has a plugin of key {key_id}; it has {}", listed(kept))]
    NoSuchKey {
        /// Which.
        key_id: KeyId,
        /// Those that there are.
        kept: Vec<String>,
    },
    /// The key's plugin has no such file.
    #[error("the plugin of key {key_id} has no file {name:?}; it has {}", listed(names))]
    NoSuchFile {
        /// Whose plugin.
        key_id: KeyId,
        /// As given.
        name: String,
        /// Those that there are.
        names: Vec<String>,
    },
    /// Something that is to be replaced by hand cannot be.
    #[error("key {key_id}: {why}")]
    CannotRecover {
        /// Which.
        key_id: KeyId,
        /// Why, and what to do.
        why: String,
    },
    /// What was replaced by hand did not pass, and was withdrawn.
    #[error(
        "key {key_id} was not recovered: {why}; what was there before is left as it was{}",
        quoted(log_tail)
    )]
    NotRecovered {
        /// Which.
        key_id: KeyId,
        /// What its plugin answered, cleaned of secrets.
        why: String,
        /// The last lines of its log, cleaned of secrets.
        log_tail: Vec<String>,
    },
    /// A revision cannot be installed on a node that has not started.
    #[error("nothing was installed: {why}")]
    NotInstallable {
        /// Why, and what to do.
        why: String,
    },
    /// The Secret of a kept revision was not created.
    #[error("nothing was created: {why}")]
    NotRepublished {
        /// Why, and what to do.
        why: String,
    },
    /// The node was registered, and the operator told it nothing in time.
    #[error(
        "the operator told node {node} no revision within {after:?} ({waiting}); nothing was installed. The node is registered and counts: run this again, or give the node up: kubectl delete encryptionnode {node}"
    )]
    NotTold {
        /// The node.
        node: String,
        /// How long was waited.
        after: Duration,
        /// What is known of why.
        waiting: String,
    },
    /// A task of the agent's ended by a panic.
    #[error("a bug: {what} panicked")]
    Panicked {
        /// Which.
        what: &'static str,
    },
}

/// Bounded label for logs and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Category {
    /// The node's disk.
    Disk,
    /// The node is not set up as it should be.
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

    /// What kind of failure this is.
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
            Self::Call { .. } | Self::Timeout { .. } | Self::Unexpected { .. } | Self::NotTold { .. } => {
                Category::Api
            }
            Self::Render { .. } | Self::NoPort { .. } | Self::NotRecovered { .. } => Category::Plugin,
            Self::Gone { .. } | Self::Panicked { .. } => Category::Internal,
        }
    }

    /// The API server answered, though not with what was asked for.
    pub(crate) fn is_answer(&self) -> bool {
        matches!(self, Self::Call { source, .. }
            if matches!(source.as_ref(), kube::Error::Api(_) | kube::Error::ReadEvents(_)))
    }

    /// Nobody was asked: that says nothing of the API server.
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

    /// The API server says that there is no such object.
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
    format!(". Its last words:{lines}")
}

/// The API server's message, or the innermost cause: the layers above only say that something failed.
fn cause(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return format!("{} ({})", status.message, status.code);
    }
    let chain = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    chain.last().map_or_else(|| error.to_string(), ToString::to_string)
}
