//! Where everything is on a node.

use std::path::{Path, PathBuf};

use keyward_core::ids::{ConfigHash, KeyId, Revision};
use keyward_core::node::{Instance, SOCKETS};

/// What the names of plugins' manifests begin with ([`Instance::pod_name`]).
pub(crate) const PLUGIN_MANIFEST: &str = "keyward-kms-";

/// The agent's paths. `--root` puts them all below a folder, but for the sockets: their paths stand inside
/// configurations whose hash must be the same on every node.
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

    /// For tests of the disk, which may not touch the machine's own sockets.
    #[cfg(test)]
    pub(crate) fn with_sockets(root: impl Into<PathBuf>, sockets: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), sockets: sockets.into() }
    }

    /// The file that the API server reads. Its folder is mounted, not the file: a mount would hold on to the old one.
    pub fn config(&self) -> PathBuf {
        self.root.join("etc/kubernetes/encryption/config.json")
    }

    /// Where the kubelet looks for static pods.
    pub fn manifests(&self) -> PathBuf {
        self.root.join("etc/kubernetes/manifests")
    }

    pub(crate) fn manifest(&self, instance: &Instance) -> PathBuf {
        self.manifests().join(format!("{}.yaml", instance.pod_name()))
    }

    /// Plugins' files, a folder for each instance.
    pub fn plugins(&self) -> PathBuf {
        self.root.join("etc/kubernetes/keyward/plugins")
    }

    pub(crate) fn plugin(&self, instance: &Instance) -> PathBuf {
        self.plugins().join(instance.name())
    }

    /// Pauses the agent while it exists.
    pub fn paused(&self) -> PathBuf {
        self.root.join("etc/kubernetes/keyward/paused")
    }

    /// Former versions of what `prepare` changed. Not among the manifests: the kubelet would start them.
    pub fn backups(&self) -> PathBuf {
        self.root.join("etc/kubernetes/keyward/backups")
    }

    /// What the agent remembers.
    pub fn state(&self) -> PathBuf {
        self.root.join("var/lib/keyward")
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.state().join("lock")
    }

    pub(crate) fn memory(&self) -> PathBuf {
        self.state().join("state.json")
    }

    /// Its copy, for when the first cannot be understood.
    pub(crate) fn memory_copy(&self) -> PathBuf {
        self.state().join("state.copy.json")
    }

    /// The first, as it was when it could not be understood.
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

    /// What was replaced by hand.
    pub(crate) fn recovered(&self) -> PathBuf {
        self.state().join("recovered")
    }

    pub(crate) fn recovery(&self, key_id: KeyId, number: u32) -> PathBuf {
        self.recovered().join(format!("{key_id}-{number}.json"))
    }

    pub(crate) fn recovered_lock(&self) -> PathBuf {
        self.state().join("recovered.lock")
    }

    /// Copies of configuration files that somebody edited by hand.
    pub fn edited(&self) -> PathBuf {
        self.state().join("edited")
    }

    pub(crate) fn edited_file(&self, hash: &ConfigHash) -> PathBuf {
        let digits = hash.0.strip_prefix("sha256:").unwrap_or(&hash.0);
        self.edited().join(format!("{digits}.json"))
    }

    /// Logs of containers, as the kubelet lays them out.
    pub fn logs(&self) -> PathBuf {
        self.root.join("var/log/pods")
    }

    pub(crate) fn sockets(&self) -> &Path {
        &self.sockets
    }

    pub(crate) fn key_folder(&self, key_id: KeyId) -> PathBuf {
        self.sockets.join(format!("kms-{key_id}"))
    }

    /// The key's socket, as the API server's configuration names it: a link.
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
    fn sockets_are_where_configurations_and_pods_say() {
        let paths = Paths::new("/elsewhere");
        let instance = Instance::parse("kms-7-0123456789abcdef").unwrap();
        assert_eq!(paths.link(KeyId(7)), Path::new(&Instance::link(KeyId(7))));
        assert_eq!(paths.socket_folder(&instance), Path::new(&instance.socket_folder()));
        assert_eq!(paths.socket(&instance), Path::new(&instance.socket()));
        assert!(paths.config().starts_with("/elsewhere"));
    }
}
