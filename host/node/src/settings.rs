//! The settings of an agent, which its command line chooses.

use std::path::PathBuf;
use std::time::Duration;

use keyward_core::node::Policy;

use crate::paths::Paths;

/// The settings of one agent.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name of the node and of its `EncryptionNode`.
    pub node: String,
    /// The paths of all files.
    pub paths: Paths,
    /// Deadlines and pauses of decisions.
    pub policy: Policy,
    /// The kubeconfig with the node's own credential.
    pub kubeconfig: PathBuf,
    /// The local API server, whose `/metrics` the agent reads. If absent, the kubeconfig's server.
    pub metrics_url: Option<String>,
    /// The name in the local API server's certificate.
    pub server_name: String,
    /// Limit of one call to the API server.
    pub call_timeout: Duration,
    /// Limit of one call to a plugin.
    pub plugin_timeout: Duration,
    /// One in this many probes of a healthy plugin is full: it adds a round trip and the key check to Status.
    pub full_probe_every: u32,
    /// The pause between passes while something is in progress.
    pub busy: Duration,
    /// The user that plugins run as.
    pub owner: Owner,
}

impl Settings {
    /// The settings of a node, with defaults for the rest.
    pub fn new(node: impl Into<String>, kubeconfig: impl Into<PathBuf>) -> Self {
        Self {
            node: node.into(),
            paths: Paths::new("/"),
            policy: Policy::default(),
            kubeconfig: kubeconfig.into(),
            metrics_url: None,
            server_name: "kubernetes.default.svc".to_owned(),
            call_timeout: Duration::from_secs(5),
            plugin_timeout: Duration::from_secs(10),
            full_probe_every: 4,
            busy: Duration::from_secs(1),
            owner: Owner::here(),
        }
    }
}

/// The owner of a plugin's files and socket folder. The plugin runs as this user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Owner {
    /// The user `nonroot` of container images.
    const NOBODY: u32 = 65532;

    /// A user without rights if the agent can change the owner of files, else the agent's own user.
    pub fn here() -> Self {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        if uid == 0 && is_mapped(&map, Self::NOBODY) {
            return Self { uid: Self::NOBODY, gid: Self::NOBODY };
        }
        Self { uid, gid }
    }
}

/// Whether this user exists in the current user namespace. Each line of the map has the first user inside,
/// the first user outside, and their number.
fn is_mapped(map: &str, uid: u32) -> bool {
    map.lines().any(|line| {
        let mut fields = line.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(first)), Some(Ok(_)), Some(Ok(count))) = (fields.next(), fields.next(), fields.next())
        else {
            return false;
        };
        (first..first.saturating_add(count)).contains(&u64::from(uid))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_namespace_has_only_the_users_in_its_map() {
        assert!(is_mapped("         0          0 4294967295\n", 65532));
        assert!(!is_mapped("         0       1000          1\n", 65532));
        assert!(is_mapped("0 1000 1\n1 100000 65536\n", 65532));
        assert!(!is_mapped("", 65532));
    }
}
