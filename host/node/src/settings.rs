//! What the command line decides.

use std::path::PathBuf;
use std::time::Duration;

use keyward_core::node::Policy;

use crate::paths::Paths;

/// How one agent works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The node's name, which is its `EncryptionNode`'s too.
    pub node: String,
    /// Where everything is.
    pub paths: Paths,
    /// Deadlines and pauses of decisions.
    pub policy: Policy,
    /// The kubeconfig with the node's own credential.
    pub kubeconfig: PathBuf,
    /// The local API server, where its `/metrics` are read; the kubeconfig's server where it is absent.
    pub metrics_url: Option<String>,
    /// The name in the local API server's certificate.
    pub server_name: String,
    /// Limit of one call to the API server.
    pub call_timeout: Duration,
    /// Limit of one call to a plugin.
    pub plugin_timeout: Duration,
    /// Every so many probes of a plugin that is well go beyond Status: a round trip and the key check.
    pub full_probe_every: u32,
    /// How soon the agent looks again while something is under way.
    pub busy: Duration,
    /// Who plugins run as.
    pub owner: Owner,
}

impl Settings {
    /// Those of a node, with defaults that fit an API server with its own.
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

/// Who owns a plugin's files and socket folder, and so who it runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Owner {
    /// What images call `nonroot`.
    const NOBODY: u32 = 65532;

    /// A user without rights, where the agent can give files away; else the agent's own.
    pub fn here() -> Self {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        if uid == 0 && is_mapped(&map, Self::NOBODY) {
            return Self { uid: Self::NOBODY, gid: Self::NOBODY };
        }
        Self { uid, gid }
    }
}

/// Whether this user exists in the present user namespace: lines of first user inside, first outside, how many.
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
    fn a_user_namespace_of_one_user_has_no_other() {
        assert!(is_mapped("         0          0 4294967295\n", 65532));
        assert!(!is_mapped("         0       1000          1\n", 65532));
        assert!(is_mapped("0 1000 1\n1 100000 65536\n", 65532));
        assert!(!is_mapped("", 65532));
    }
}
