//! The mounts of Keyward's two folders in the API server's container. A mount of a single file would keep the
//! old file when another one is renamed over it.

use super::{Missing, Refusal};

const FOLDERS: [(&str, &str); 2] =
    [("keyward-encryption", "/etc/kubernetes/encryption"), ("keyward-plugins", "/var/run/kmsplugin")];

/// A mount of the API server's container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// The name of its volume.
    pub name: String,
    /// The path in the container.
    pub path: String,
    /// The part of the volume that is mounted. `None` for the whole volume.
    pub sub_path: Option<String>,
    /// The path on the node. `None` if the volume is not a path of the node.
    pub source: Option<String>,
    /// The type of a hostPath volume.
    pub kind: String,
}

/// The folders that are not among these mounts, and the paths at which something else is mounted. `names` are
/// the names of all volumes.
pub(super) fn examine(mounts: &[Mount], names: &[String]) -> (Vec<Missing>, Vec<Refusal>) {
    let (mut missing, mut refusals) = (Vec::new(), Vec::new());
    for (name, path) in FOLDERS {
        let below = format!("{path}/");
        let mut found = false;
        for mount in mounts {
            let at = clean(&mount.path);
            let why = if at.starts_with(&below) {
                Some(format!("a path inside {path}, which must be mounted as a whole folder"))
            } else if at == path {
                found = true;
                is_other(mount, path)
            } else {
                continue;
            };
            refusals.extend(why.map(|why| Refusal::Mounted { path: at, why }));
        }
        if found {
            continue;
        }
        if names.iter().any(|taken| taken == name) {
            refusals.push(Refusal::NameTaken { name });
        }
        missing.push(Missing::Folder { name, path });
    }
    (missing, refusals)
}

/// Why a mount is not the whole folder of the node.
fn is_other(mount: &Mount, path: &str) -> Option<String> {
    if let Some(sub_path) = &mount.sub_path {
        return Some(format!("with subPath {sub_path:?}, so the API server sees another folder"));
    }
    match mount.source.as_deref().map(clean) {
        Some(source) if source == path => {}
        Some(source) => return Some(format!("from the node's folder {source}")),
        None => return Some("from something other than a folder of the node".to_owned()),
    }
    let is_folder = matches!(mount.kind.as_str(), "" | "Directory" | "DirectoryOrCreate");
    (!is_folder).then(|| format!("as a {}", mount.kind))
}

/// A path as a container runtime reads it: absolute, without `.`, `..` and repeated slashes.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}
