//! Faults of a node's disk: it is lost or full, or its files are edited.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use keyward_test_cluster::Node;
use serde_json::Value;

const MANIFESTS: &str = "/etc/kubernetes/manifests";
const FILLER: &str = "keyward-test-filler";

/// Removes everything of Keyward on a node: configuration, plugins, the agent's memory. The agent's
/// kubeconfig stays.
pub fn wipe(node: &Node) -> Result<()> {
    for folder in ["/etc/kubernetes/encryption", "/etc/kubernetes/keyward/plugins", "/var/lib/keyward"] {
        let folder = node.path(folder);
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
        }
    }
    manifests(node, "keyward-kms-")?.into_iter().try_for_each(|path| Ok(fs::remove_file(path)?))
}

/// Fills a folder of a node, which becomes a file system of its own, to the last byte.
pub async fn fill(node: &Node, folder: &str) -> Result<()> {
    const SCRIPT: &str = r#"set -e; cd /; folder=$1 copy=$(mktemp -d)
        cp -a "$folder/." "$copy/"
        mount -t tmpfs -o size=1m,mode=$(stat -c %a "$folder") none "$folder"
        cp -a "$copy/." "$folder/"; rm -r "$copy"
        dd if=/dev/zero of="$folder/$2" bs=4k 2>/dev/null || true
        df "$folder" | tail -1"#;
    run(node, &["sh", "-c", SCRIPT, "sh", folder, FILLER]).await
}

/// Frees the bytes again.
pub async fn empty(node: &Node, folder: &str) -> Result<()> {
    run(node, &["rm", &format!("{folder}/{FILLER}")]).await
}

async fn run(node: &Node, command: &[&str]) -> Result<()> {
    let done = node.exec(command).await?;
    ensure!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// The only manifest of a key's plugin on a node.
pub fn manifest_of(node: &Node, key: u64) -> Result<PathBuf> {
    let found = manifests(node, &format!("keyward-kms-{key}-"))?;
    let [path] = found.as_slice() else {
        anyhow::bail!("key {key} does not have exactly one manifest on {}: {found:?}", node.name())
    };
    Ok(path.clone())
}

/// The pod of a manifest.
pub fn pod_in(manifest: &Path) -> Result<Value> {
    Ok(serde_saphyr::from_str(&fs::read_to_string(manifest)?)?)
}

/// The files of a key's plugins on a node.
pub fn files_of(node: &Node, key: u64) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for folder in fs::read_dir(node.path("/etc/kubernetes/keyward/plugins"))? {
        let folder = folder?;
        if folder.file_name().to_string_lossy().starts_with(&format!("kms-{key}-")) {
            for file in fs::read_dir(folder.path())? {
                found.push(file?.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

fn manifests(node: &Node, prefix: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(node.path(MANIFESTS))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            found.push(entry.path());
        }
    }
    Ok(found)
}
