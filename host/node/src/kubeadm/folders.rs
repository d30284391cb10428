//! The two folders. A folder is mounted and never a file: a mount of a file would hold on to the old one when another is
//! renamed over it.

use super::{Missing, Refusal};

const FOLDERS: [(&str, &str); 2] =
    [("keyward-encryption", "/etc/kubernetes/encryption"), ("keyward-plugins", "/var/run/kmsplugin")];

/// A mount as the API server's container has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// Of its volume.
    pub name: String,
    /// In the container.
    pub path: String,
    /// The part of the volume that is mounted, where it is not all of it.
    pub sub_path: Option<String>,
    /// On the node; `None` where it is something else than a path of the node.
    pub source: Option<String>,
    /// Kubernetes' word for what is at that path.
    pub kind: String,
}

/// Which of the folders are not among these mounts, and where something else is mounted instead. `names` are those of all
/// volumes.
pub(super) fn examine(mounts: &[Mount], names: &[String]) -> (Vec<Missing>, Vec<Refusal>) {
    let (mut missing, mut refusals) = (Vec::new(), Vec::new());
    for (name, path) in FOLDERS {
        let below = format!("{path}/");
        let mut found = false;
        for mount in mounts {
            let at = clean(&mount.path);
            let why = if at.starts_with(&below) {
                Some(format!("inside {path}, which is mounted as a whole"))
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
        return Some(format!("with subPath {sub_path:?}, so that the API server sees another folder"));
    }
    match mount.source.as_deref().map(clean) {
        Some(source) if source == path => {}
        Some(source) => return Some(format!("from {source} of the node")),
        None => return Some("from something else than a folder of the node".to_owned()),
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
