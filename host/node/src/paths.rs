//! The paths of a node's files.

use std::path::{Path, PathBuf};

use keyward_core::ids::{ConfigHash, KeyId, Revision};
use keyward_core::node::{Instance, SOCKETS};

/// The prefix of the names of plugins' manifests ([`Instance::pod_name`]).
pub(crate) const PLUGIN_MANIFEST: &str = "keyward-kms-";

/// The agent's paths. `--root` puts all of them below a folder, except the sockets: configurations contain
/// their paths, and a configuration's hash must be the same on every node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    root: PathBuf,
    sockets: PathBuf,
}

impl Paths {
    /// The paths below `root`, which is `/` on a real node.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), sockets: PathBuf::from(SOCKETS) }
    }

    /// For tests of the disk, which must not touch the machine's own sockets.
    #[cfg(test)]
    pub(crate) fn with_sockets(root: impl Into<PathBuf>, sockets: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), sockets: sockets.into() }
    }

    /// The file that the API server reads. Its folder is mounted, because a mount of the file would keep the
    /// replaced file.
    pub fn config(&self) -> PathBuf {
        self.root.join("etc/kubernetes/encryption/config.json")
    }

    /// The folder from which the kubelet runs static pods.
    pub fn manifests(&self) -> PathBuf {
        self.root.join("etc/kubernetes/manifests")
    }

    pub(crate) fn manifest(&self, instance: &Instance) -> PathBuf {
        self.manifests().join(format!("{}.yaml", instance.pod_name()))
    }

    /// The plugins' files, one folder for each instance.
    pub fn plugins(&self) -> PathBuf {
        self.root.join("etc/kubernetes/keyward/plugins")
    }

    pub(crate) fn plugin(&self, instance: &Instance) -> PathBuf {
        self.plugins().join(instance.name())
    }

    /// The file that pauses the agent while it exists.
    pub fn paused(&self) -> PathBuf {
        self.root.join("etc/kubernetes/keyward/paused")
    }

    /// The previous versions of files that `prepare` changed. They are not in the folder of manifests, where
    /// the kubelet would start them.
    pub fn backups(&self) -> PathBuf {
        self.root.join("etc/kubernetes/keyward/backups")
    }

    /// The agent's memory.
    pub fn state(&self) -> PathBuf {
        self.root.join("var/lib/keyward")
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.state().join("lock")
    }

    pub(crate) fn memory(&self) -> PathBuf {
        self.state().join("state.json")
    }

    /// The copy, for the case that the first file cannot be understood.
    pub(crate) fn memory_copy(&self) -> PathBuf {
        self.state().join("state.copy.json")
    }

    /// The first file, as it was when it could not be understood.
    pub(crate) fn memory_lost(&self) -> PathBuf {
        self.state().join("state.corrupt.json")
    }

    pub(crate) fn instances(&self) -> PathBuf {
        self.state().join("instances")
    }

    pub(crate) fn instance(&self, instance: &Instance) -> PathBuf {
        self.instances().join(format!("{}.json", instance.name()))
    }

    pub(crate) fn revisions(&self) -> PathBuf {
        self.state().join("revisions")
    }

    pub(crate) fn revision(&self, revision: Revision) -> PathBuf {
        self.revisions().join(format!("{revision}.json"))
    }

    pub(crate) fn configurations(&self) -> PathBuf {
        self.state().join("configurations")
    }

    pub(crate) fn configuration(&self, hash: &ConfigHash) -> PathBuf {
        let digits = hash.0.strip_prefix("sha256:").unwrap_or(&hash.0);
        self.configurations().join(format!("{digits}.json"))
    }

    /// The credentials that an admin replaced on this node.
    pub(crate) fn recovered(&self) -> PathBuf {
        self.state().join("recovered")
    }

    pub(crate) fn recovery(&self, key_id: KeyId, number: u32) -> PathBuf {
        self.recovered().join(format!("{key_id}-{number}.json"))
    }

    pub(crate) fn recovered_lock(&self) -> PathBuf {
        self.state().join("recovered.lock")
    }

    /// Copies of configuration files that were edited manually.
    pub fn edited(&self) -> PathBuf {
        self.state().join("edited")
    }

    pub(crate) fn edited_file(&self, hash: &ConfigHash) -> PathBuf {
        let digits = hash.0.strip_prefix("sha256:").unwrap_or(&hash.0);
        self.edited().join(format!("{digits}.json"))
    }

    /// The kubelet's folder of container logs.
    pub fn logs(&self) -> PathBuf {
        self.root.join("var/log/pods")
    }

    pub(crate) fn sockets(&self) -> &Path {
        &self.sockets
    }

    pub(crate) fn key_folder(&self, key_id: KeyId) -> PathBuf {
        self.sockets.join(format!("kms-{key_id}"))
    }

    /// The link that the API server's configuration names as the key's socket.
    pub(crate) fn link(&self, key_id: KeyId) -> PathBuf {
        self.key_folder(key_id).join("kms.sock")
    }

    pub(crate) fn socket_folder(&self, instance: &Instance) -> PathBuf {
        self.key_folder(instance.key_id).join(format!("g-{}", instance.generation))
    }

    pub(crate) fn socket(&self, instance: &Instance) -> PathBuf {
        self.socket_folder(instance).join("kms.sock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_and_pods_name_the_same_sockets() {
        let paths = Paths::new("/elsewhere");
        let instance = Instance::parse("kms-7-0123456789abcdef").unwrap();
        assert_eq!(paths.link(KeyId(7)), Path::new(&Instance::link(KeyId(7))));
        assert_eq!(paths.socket_folder(&instance), Path::new(&instance.socket_folder()));
        assert_eq!(paths.socket(&instance), Path::new(&instance.socket()));
        assert!(paths.config().starts_with("/elsewhere"));
    }
}
