//! The two folders. A folder is mounted and never a file: a mount of a file would hold on to the old one when another is
//! renamed over it.

use super::{Missing, Refusal};

const FOLDERS: [(&str, &str); 2] =
    [("keyward-encryption", "/etc/kubernetes/encryption"), ("keyward-plugins", "/var/run/kmsplugin")];

/// A mount as the API server's container has it.
#[derive(Debug)]
pub(super) struct Mount {
    /// Of its volume.
    pub(super) name: String,
    /// In the container.
    pub(super) path: String,
    /// On the node; `None` where it is something else than a path of the node.
    pub(super) source: Option<String>,
    /// Kubernetes' word for what is at that path.
    pub(super) kind: Option<String>,
}

/// Which of the folders are not among these mounts. `names` are those of all volumes.
pub(super) fn missing(mounts: &[Mount], names: &[String]) -> Result<Vec<Missing>, Refusal> {
    let mut missing = Vec::new();
    for (name, path) in FOLDERS {
        let below = format!("{path}/");
        if let Some(mount) = mounts.iter().find(|mount| mount.path.starts_with(&below)) {
            let why = format!("inside of {path}, which Keyward has mounted as a whole");
            return Err(Refusal::Mounted { path: mount.path.clone(), why });
        }
        match mounts.iter().find(|mount| mount.path.trim_end_matches('/') == path) {
            Some(mount) => is_ours(mount, path)?,
            None if names.iter().any(|taken| taken == name) => return Err(Refusal::NameTaken { name }),
            None => missing.push(Missing::Folder { name, path }),
        }
    }
    Ok(missing)
}

fn is_ours(mount: &Mount, path: &'static str) -> Result<(), Refusal> {
    let refuse = |why: String| Err(Refusal::Mounted { path: path.to_owned(), why });
    match mount.source.as_deref() {
        Some(source) if source.trim_end_matches('/') == path => {}
        Some(source) => return refuse(format!("from {source} of the node")),
        None => return refuse("from something else than a folder of the node".to_owned()),
    }
    match mount.kind.as_deref() {
        None | Some("" | "Directory" | "DirectoryOrCreate") => Ok(()),
        Some(kind) => refuse(format!("as a {kind}")),
    }
}
