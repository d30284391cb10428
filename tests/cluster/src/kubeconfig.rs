//! The users of the API server, and their kubeconfigs.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use crate::files;
use crate::pki::{Authority, Identity};

/// The user name that a token of the ServiceAccount would have.
const OPERATOR: &str = "system:serviceaccount:keyward-system:keyward-operator";

/// A user of the API server, authenticated with a client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum User {
    /// Is allowed to do everything (group `system:masters`).
    Admin,
    /// The ServiceAccount `keyward-operator` of `keyward-system`, with only the permissions that RBAC grants
    /// it.
    Operator,
    /// The agent of a node: `keyward:node:NAME` in the group `keyward:nodes`.
    Agent(String),
    /// The supervisor in place of a node's kubelet: `system:node:NAME`, with all permissions.
    Kubelet(String),
    /// Any other user.
    Other {
        /// The user's name.
        name: String,
        /// The user's groups.
        groups: Vec<String>,
    },
}

impl User {
    /// The name that the API server knows.
    pub fn name(&self) -> String {
        match self {
            Self::Admin => "admin".to_owned(),
            Self::Operator => OPERATOR.to_owned(),
            Self::Agent(node) => format!("keyward:node:{node}"),
            Self::Kubelet(node) => format!("system:node:{node}"),
            Self::Other { name, .. } => name.clone(),
        }
    }

    /// The groups that the API server knows.
    pub fn groups(&self) -> Vec<&str> {
        match self {
            Self::Admin => vec!["system:masters"],
            Self::Operator => vec!["system:serviceaccounts:keyward-system"],
            Self::Agent(_) => vec!["keyward:nodes"],
            Self::Kubelet(_) => vec!["system:nodes", "system:masters"],
            Self::Other { groups, .. } => groups.iter().map(String::as_str).collect(),
        }
    }
}

/// Writes a kubeconfig with a new certificate; only its owner can read the file.
pub(crate) fn write(path: &Path, server: &str, authority: &Authority, user: &User) -> Result<()> {
    write_with(path, server, authority, user, &authority.client(&user.name(), &user.groups())?)
}

/// The same with a certificate that expires after `valid`.
pub(crate) fn write_for(
    path: &Path,
    server: &str,
    authority: &Authority,
    user: &User,
    valid: Duration,
) -> Result<()> {
    let identity = authority.client_for(&user.name(), &user.groups(), valid)?;
    write_with(path, server, authority, user, &identity)
}

fn write_with(
    path: &Path,
    server: &str,
    authority: &Authority,
    user: &User,
    identity: &Identity,
) -> Result<()> {
    let name = user.name();
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": name}}],
        "clusters": [{"name": "test", "cluster": {
            "server": server,
            "certificate-authority-data": BASE64_STANDARD.encode(authority.pem()),
        }}],
        "users": [{"name": name, "user": {
            "client-certificate-data": BASE64_STANDARD.encode(&identity.certificate),
            "client-key-data": BASE64_STANDARD.encode(identity.key.reveal()),
        }}],
    });
    let text = serde_saphyr::to_string(&kubeconfig).context("a kubeconfig as YAML")?;
    files::replace(path, text.as_bytes(), 0o600)
}
