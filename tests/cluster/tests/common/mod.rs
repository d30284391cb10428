//! Helpers of these tests.
#![allow(dead_code, reason = "each test program uses a part of them")]

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use sha2::{Digest, Sha256};

/// The command lines of processes that contain this folder, except the test's own.
pub(crate) fn alive(folder: &Path) -> Vec<String> {
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains(&folder.display().to_string()) && entry.file_name() != *own {
            found.push(command);
        }
    }
    found
}

/// The hash, as in the API server's metrics.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

pub(crate) fn secret_key(name: &str) -> String {
    format!("/registry/secrets/default/{name}")
}

pub(crate) async fn write_secret(client: &Client, name: &str, value: &str) -> Result<()> {
    let secret = Secret {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        string_data: Some(BTreeMap::from([("value".to_owned(), value.to_owned())])),
        ..Secret::default()
    };
    Api::<Secret>::namespaced(client.clone(), "default").create(&PostParams::default(), &secret).await?;
    Ok(())
}
