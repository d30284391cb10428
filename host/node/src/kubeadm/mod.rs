//! What kubeadm makes, and what `prepare` changes of it (DESIGN.md, "Joining and returning"): the API server's static pod,
//! and `ClusterConfiguration`, from which `kubeadm upgrade` and `kubeadm join` make that pod again.
//!
//! [`manifest`] and [`cluster_configuration`] are pure: a text comes in, the same text with what was missing comes out,
//! and every other byte of it is as it was. What has been written is read again before it is handed out; where it does
//! not say exactly what was meant, it is refused. What an admin set to something else is never changed. [`Files`] is the
//! node's disk.

mod arguments;
pub mod cluster_configuration;
mod files;
mod folders;
mod lines;
pub mod manifest;
#[cfg(test)]
mod tests;

use std::fmt;

pub use files::{Files, Installed};

/// The file that the API server is told to read, as it stands in its arguments.
pub const CONFIG: &str = "/etc/kubernetes/encryption/config.json";
/// Servers before this one do not tell which configuration they have loaded (the metric `last_config_info`).
pub const OLDEST: (u32, u32) = (1, 34);

/// A text with all that Keyward needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edited {
    /// The text as it is to be.
    pub text: String,
    /// What it lacked. Nothing: it is as it was.
    pub missing: Vec<Missing>,
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
    #[error("{what} cannot be read: {why}; mend it first")]
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
    /// Somebody encrypts already.
    #[error(
        "the API server reads its encryption configuration from {path}, which is not Keyward's, and Keyward does not take \
         it over: decrypt what is stored by it, then take the flag away (docs/install.md, \"Where somebody encrypts already\")"
    )]
    Foreign {
        /// The flag's value.
        path: String,
    },
    /// Keyward cannot work with what a flag says.
    #[error("--{name} is {value:?} and must be {wanted:?}; take it away or change it")]
    Flag {
        /// Without the dashes.
        name: &'static str,
        /// As it is.
        value: String,
        /// As it must be.
        wanted: &'static str,
    },
    /// Of two, one would be changed and the other count.
    #[error("--{name} is given twice; leave one of them")]
    Twice {
        /// Without the dashes.
        name: &'static str,
    },
    /// Something else is mounted where Keyward's folders must be.
    #[error("{path} is mounted already, {why}; take that mount away")]
    Mounted {
        /// In the container.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// A volume of ours would have the name of another.
    #[error("a volume is called {name} and is not Keyward's; give it another name")]
    NameTaken {
        /// Of the volume.
        name: &'static str,
    },
    /// It does not tell what it has loaded.
    #[error("kube-apiserver {}.{} does not tell which configuration it has loaded; Keyward needs {}.{} or later", version.0, version.1, OLDEST.0, OLDEST.1)]
    TooOld {
        /// Major and minor.
        version: (u32, u32),
    },
}
