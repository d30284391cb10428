//! The files of kubeadm that `prepare` changes: the API server's static pod, and `ClusterConfiguration`, from
//! which `kubeadm upgrade` and `kubeadm join` create that pod again
//! (kubernetes: kubeadm-makes-the-manifest-again).
//!
//! [`manifest`] and [`cluster_configuration`] do no I/O. They read a text, list what it lacks and its
//! mistakes, and return the text with the missing parts. Every other byte stays (decision 0072). The new text
//! is parsed again, and is refused if the result is not exactly the intended one. A different value that an
//! admin set is never changed. [`Files`] reads and writes the node's disk.

mod arguments;
pub mod cluster_configuration;
mod files;
mod folders;
mod lines;
pub mod manifest;
mod pod;
#[cfg(test)]
mod tests;
mod words;

use std::fmt;

pub use files::{Files, Installed};
pub use folders::Mount;
pub use pod::defines_api_server;
pub use words::{Flags, SWITCHES, parse as parse_words};

/// The file that the API server reads, as its arguments name it.
pub const CONFIG: &str = "/etc/kubernetes/encryption/config.json";
/// Older servers do not report which configuration they have loaded (the metric `last_config_info`).
pub const OLDEST: (u32, u32) = (1, 34);

/// The result of examining a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examined {
    /// The parts that it lacks.
    pub missing: Vec<Missing>,
    /// The parts that are wrong, and that Keyward must not change.
    pub refusals: Vec<Refusal>,
    /// The text with the missing parts, or why they cannot be added automatically.
    pub edited: Result<String, Refusal>,
}

impl Examined {
    /// The result for a text that cannot be understood.
    fn not_understood(refusal: Refusal) -> Self {
        Self { missing: Vec::new(), refusals: vec![refusal.clone()], edited: Err(refusal) }
    }
}

/// A part that Keyward needs and that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// A flag of the API server.
    Flag {
        /// Its name, without the dashes.
        name: &'static str,
        /// The value that it must have.
        value: &'static str,
    },
    /// A folder of the node that is mounted in the API server's container at the same path.
    Folder {
        /// The name of the volume and of the mount.
        name: &'static str,
        /// The path on the node and in the container.
        path: &'static str,
    },
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag { name, value } => write!(f, "--{name}={value}"),
            Self::Folder { path, .. } => write!(f, "the mount of {path}"),
        }
    }
}

/// Why a text is not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The text is not YAML.
    #[error("{what} cannot be read: {why}; fix it first")]
    Unparsable {
        /// The text.
        what: &'static str,
        /// The position and the reason.
        why: String,
    },
    /// The text is YAML, but does not have the form that kubeadm writes.
    #[error("{what} is not as kubeadm writes it: {why}; make the change manually (docs/install.md)")]
    Shape {
        /// The text.
        what: &'static str,
        /// The difference.
        why: String,
    },
    /// Another encryption configuration is in use.
    #[error(
        "the API server reads its encryption configuration from {path}, which is not Keyward's. Keyward does not adopt it: \
         decrypt what it encrypted, then remove the flag (docs/install.md, \"Where somebody encrypts already\")"
    )]
    Foreign {
        /// The flag's value.
        path: String,
    },
    /// Keyward cannot work with the value of a flag.
    #[error("--{name} is {value:?} and must be {wanted:?}; remove it or change it")]
    Flag {
        /// Its name, without the dashes.
        name: &'static str,
        /// Its value.
        value: String,
        /// The value that it must have.
        wanted: &'static str,
    },
    /// A flag has two values, of which versions of kubeadm choose different ones.
    #[error("--{name} is given twice with different values; keep only one")]
    Twice {
        /// Its name, without the dashes.
        name: &'static str,
    },
    /// Something else is mounted at the path of a folder of Keyward.
    #[error("{path} is mounted already, {why}; remove that mount")]
    Mounted {
        /// The path in the container.
        path: String,
        /// The mistake.
        why: String,
    },
    /// The kubelet reads another file that defines the API server.
    #[error(
        "{path} also defines kube-apiserver; move it out of the folder. The kubelet reads every file of this folder whose \
         name does not begin with a dot, and of two Pods with the same name it runs the last"
    )]
    SecondDefinition {
        /// The path on the node.
        path: String,
    },
    /// Another file that the kubelet reads may define the API server.
    #[error(
        "it is not known whether {path} also defines kube-apiserver: {why}; fix it, or move it out of the folder. The \
         kubelet reads every file of this folder whose name does not begin with a dot"
    )]
    Neighbour {
        /// The path on the node.
        path: String,
        /// Why it cannot be understood.
        why: String,
    },
    /// Another volume has the name of a volume of Keyward.
    #[error("a volume is named {name} but is not mounted as Keyward needs it; rename it")]
    NameTaken {
        /// The name of the volume.
        name: &'static str,
    },
    /// The API server does not report which configuration it has loaded.
    #[error("kube-apiserver {}.{} does not report which configuration it has loaded; Keyward needs {}.{} or later", version.0, version.1, OLDEST.0, OLDEST.1)]
    TooOld {
        /// Major and minor.
        version: (u32, u32),
    },
}
