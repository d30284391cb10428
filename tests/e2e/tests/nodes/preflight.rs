//! A failed candidate changes no file on any node.

use std::collections::BTreeMap;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use keyward_test_cluster::{Node, Policy, Seen, wait_until};
use keyward_test_e2e::{Encryption, InUse, Keyward, vault_spec};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{PATIENCE, three};

/// The folders of the agent and its plugins on a node.
const FOLDERS: [&str; 3] = ["/etc/kubernetes", "/var/lib/keyward", "/var/run/kmsplugin"];

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_preflight_leaves_every_node_unchanged() -> Result<()> {
    let cluster = InUse::start_with_history(three(), 100, 20).await?;
    let keyward = &cluster.keyward;
    let a = Encryption::Transit("a");
    cluster.change(a, 1, PATIENCE).await?;
    let policies = [
        ("transit/keys/a", Policy::FULL),
        ("transit/keys/b", Policy { encrypt: false, ..Policy::FULL }),
        ("transit/keys/nosuchkey", Policy::FULL),
    ];
    keyward.bao.set_policies("", "keyward", &policies).await?;
    let before = all(keyward)?;

    let nowhere = {
        let mut spec = vault_spec(keyward, "b", &keyward_test_e2e::IMAGE(1));
        spec["kms"]["vault"]["vaultAddress"] = json!("https://vault.invalid:8200");
        spec
    };
    let cases: [(&str, Value, &[&str]); 3] = [
        (
            "a name that no key has",
            Encryption::Transit("nosuchkey").spec(keyward),
            &["preflight of key 2", "transit/keys/nosuchkey does not exist"],
        ),
        (
            "a key that the role is not allowed to use",
            Encryption::Transit("b").spec(keyward),
            &["preflight of key", "transit/encrypt/b"],
        ),
        ("an address that does not exist", nowhere, &["preflight of key", "vault.invalid"]),
    ];
    for (what, spec, parts) in cases {
        keyward.apply_and_wait_degraded(&spec, parts, PATIENCE).await.context(what)?;
        for (node, files) in &all(keyward)? {
            let kept = before[node].iter().filter(|(path, _)| files.get(*path) != before[node].get(*path));
            let changed: Vec<&String> = kept.map(|(path, _)| path).collect();
            ensure!(changed.is_empty(), "{what}, during the preflight: {node}: {changed:?} changed");
        }
        keyward.apply(&a.spec(keyward)).await?;
        wait_until(&format!("{what}: every node unchanged"), PATIENCE, async || {
            let now = all(keyward)?;
            Ok(Seen::when(now == before, difference(&before, &now)))
        })
        .await?;
        cluster.settled(a, 1, PATIENCE).await.context(what)?;
    }
    cluster.finish().await.map(drop)
}

/// By node: every path with its content.
type Files = BTreeMap<String, BTreeMap<String, String>>;

fn all(keyward: &Keyward) -> Result<Files> {
    let files = keyward.cluster.nodes().iter().map(|node| Ok((node.name().to_owned(), files(node)?)));
    files.collect()
}

fn files(node: &Node) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for folder in FOLDERS {
        collect(&node.path(folder), folder, &mut found)?;
    }
    Ok(found)
}

fn collect(on_host: &Path, path: &str, found: &mut BTreeMap<String, String>) -> Result<()> {
    for entry in std::fs::read_dir(on_host)? {
        let entry = entry?;
        let path = format!("{path}/{}", entry.file_name().to_string_lossy());
        let kind = entry.file_type()?;
        let content = if kind.is_dir() {
            collect(&entry.path(), &path, found)?;
            "a folder".to_owned()
        } else if kind.is_symlink() {
            format!("a link to {}", std::fs::read_link(entry.path())?.display())
        } else if kind.is_socket() {
            "a socket".to_owned()
        } else {
            format!("{:x?}", Sha256::digest(std::fs::read(entry.path())?))
        };
        found.insert(path, content);
    }
    Ok(())
}

fn difference(before: &Files, now: &Files) -> String {
    let mut different = Vec::new();
    for (node, files) in now {
        let was = &before[node];
        let paths = files.keys().chain(was.keys()).filter(|path| files.get(*path) != was.get(*path));
        different.extend(paths.map(|path| format!("{node}: {path}")));
    }
    different.join(", ")
}
