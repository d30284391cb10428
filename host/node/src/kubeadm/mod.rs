//! What kubeadm makes, and what `prepare` changes of it: the API server's static pod, and `ClusterConfiguration`, from which
//! `kubeadm upgrade` and `kubeadm join` make that pod again.
//!
//! [`manifest`] and [`cluster_configuration`] are pure: they read a text, name what it lacks and what is wrong with it, and
//! give the same text with what was missing; every other byte of it stays. The new text is read again before it is handed
//! out; where it does not say exactly what was meant, it is refused. What an admin set to something else is never changed.
//! [`Files`] is the node's disk.

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
/// Servers before this one do not report which configuration they have loaded (the metric `last_config_info`).
pub const OLDEST: (u32, u32) = (1, 34);

/// A text, looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examined {
    /// What it lacks.
    pub missing: Vec<Missing>,
    /// What is there and is not Keyward's to change.
    pub refusals: Vec<Refusal>,
    /// The text with what it lacked, or why that cannot be added automatically.
    pub edited: Result<String, Refusal>,
}

impl Examined {
    /// Nothing is known of a text that is not understood.
    fn not_understood(refusal: Refusal) -> Self {
        Self { missing: Vec::new(), refusals: vec![refusal.clone()], edited: Err(refusal) }
    }
}

/// Something that Keyward needs and that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// A flag of the API server.
    Flag {
        /// Without the dashes.
        name: &'static str,
        /// What it is to be.
        value: &'static str,
    },
    /// A folder of the node that the API server sees at its own path.
    Folder {
        /// Of volume and mount.
        name: &'static str,
        /// On the node, and in the container.
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

/// Why a text is not touched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not YAML.
    #[error("{what} cannot be read: {why}; fix it first")]
    Unparsable {
        /// Which text.
        what: &'static str,
        /// Where and why.
        why: String,
    },
    /// YAML, and not what kubeadm writes.
    #[error("{what} is not as kubeadm writes it: {why}; make the change by hand (docs/install.md)")]
    Shape {
        /// Which text.
        what: &'static str,
        /// What is otherwise.
        why: String,
    },
    /// Another encryption configuration is in use.
    #[error(
        "the API server reads its encryption configuration from {path}, which is not Keyward's, and Keyward does not take \
         it over: decrypt what is stored by it, then remove the flag (docs/install.md, \"Where somebody encrypts already\")"
    )]
    Foreign {
        /// The flag's value.
        path: String,
    },
    /// Keyward cannot work with what a flag says.
    #[error("--{name} is {value:?} and must be {wanted:?}; remove it or change it")]
    Flag {
        /// Without the dashes.
        name: &'static str,
        /// As it is.
        value: String,
        /// As it must be.
        wanted: &'static str,
    },
    /// Versions of kubeadm choose differently between two values.
    #[error("--{name} is given twice with different values; leave one of them")]
    Twice {
        /// Without the dashes.
        name: &'static str,
    },
    /// Something else is mounted where Keyward's folders must be.
    #[error("{path} is mounted already, {why}; remove that mount")]
    Mounted {
        /// In the container.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// The kubelet reads another file that defines the API server.
    #[error(
        "{path} also defines kube-apiserver: the kubelet reads every file of this folder whose name does not begin with a \
         dot, and of two pods of one name it runs the last; move it out of the folder"
    )]
    SecondDefinition {
        /// On the node.
        path: String,
    },
    /// Another file that the kubelet reads may define the API server.
    #[error(
        "whether {path} also defines kube-apiserver is not known: {why}; the kubelet reads every file of this folder whose \
         name does not begin with a dot; fix it, or move it out of the folder"
    )]
    Neighbour {
        /// On the node.
        path: String,
        /// Why it is not understood.
        why: String,
    },
    /// A volume of ours would have the name of another.
    #[error("a volume is called {name} and is not mounted as Keyward needs it; give it another name")]
    NameTaken {
        /// Of the volume.
        name: &'static str,
    },
    /// It does not report what it has loaded.
    #[error("kube-apiserver {}.{} does not report which configuration it has loaded; Keyward needs {}.{} or later", version.0, version.1, OLDEST.0, OLDEST.1)]
    TooOld {
        /// Major and minor.
        version: (u32, u32),
    },
}
