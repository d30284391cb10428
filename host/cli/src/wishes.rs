//! What is asked for by a verb: `keyward reencrypt`, `keyward forget-key`. Each writes one field of the spec, on the
//! version that was read; what becomes of it is the operator's.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args as ClapArgs;
use keyward_core::api::{ClusterEncryption, ClusterEncryptionStatus};
use keyward_core::ids::KeyId;
use keyward_core::names;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::runtime::wait::{Condition, await_condition};
use serde_json::{Value, json};

use crate::connection::Connection;
use crate::output::print;

/// Who writes, in `managedFields`.
const FIELD_MANAGER: &str = "keyward-cli";

/// Re-encrypt.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "For a KMS that rotates its key without telling. A new key with the same KEK is made, and everything is\nrewritten under it.\n\nExample:\n  keyward reencrypt --wait"
)]
pub(crate) struct Reencrypt {
    /// Until everything is stored under the new key
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    connection: Connection,
}

/// Give up a key.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Without --accept-loss it is told what would be lost, and nothing is done.\n\nExample:\n  keyward forget-key 3 --accept-loss"
)]
pub(crate) struct ForgetKey {
    /// The key's number
    #[arg(value_name = "N")]
    key: u64,
    /// What is stored under the key need never be read again
    #[arg(long)]
    accept_loss: bool,
    #[command(flatten)]
    connection: Connection,
}

/// Raises `spec.reencrypt`.
pub(crate) async fn reencrypt(args: Reencrypt) -> Result<ExitCode> {
    let client = args.connection.client().await?;
    let found = wanted(&client).await?;
    let mode = found.spec.encryption.type_.as_deref().unwrap_or_default();
    ensure!(
        !matches!(mode, "" | "identity"),
        "encryption is off (spec.encryption.type is {mode:?}); nothing can be re-encrypted"
    );
    let token = jiff::Timestamp::now().to_string();
    write(&client, &found, json!({"reencrypt": token})).await?;
    print(&format!("asked for: spec.reencrypt is {token}\n"))?;
    if args.wait {
        let api = Api::<ClusterEncryption>::all(client);
        await_condition(api, names::CLUSTER, carried_out(token)).await.context("waiting for it")?;
        print("done: everything is stored under a new key\n")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn carried_out(token: String) -> impl Condition<ClusterEncryption> {
    move |found: Option<&ClusterEncryption>| {
        let status = found.and_then(|found| found.status.as_ref());
        status.is_some_and(|status| status.reencrypt.token.as_ref() == Some(&token))
    }
}

/// Adds to `spec.forget`, after telling what that means.
pub(crate) async fn forget_key(args: ForgetKey) -> Result<ExitCode> {
    let client = args.connection.client().await?;
    let found = wanted(&client).await?;
    let key = KeyId(args.key);
    if found.spec.forget.contains(&key) {
        print(&format!("key {key} is given up already\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let status = found.status.clone().unwrap_or_default();
    ensure!(
        key.0 > 0 && key <= status.highest_key_id,
        "key {key} was never made; the highest is {}",
        status.highest_key_id
    );
    print(&meaning(&status, key))?;
    if !args.accept_loss {
        bail!("nothing was done; say --accept-loss to give key {key} up");
    }
    let all: BTreeSet<KeyId> = found.spec.forget.iter().copied().chain([key]).collect();
    write(&client, &found, json!({"forget": all})).await?;
    print(&format!("key {key} is given up\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// What giving this key up means, as far as the status tells.
fn meaning(status: &ClusterEncryptionStatus, key: KeyId) -> String {
    let mut text = String::new();
    match status.keys.iter().find(|known| known.key_id == key) {
        Some(known) => {
            let _ = write!(text, "key {key}: {}, {}", known.mode, known.role);
            for (name, value) in known.kek.iter().flatten() {
                let _ = write!(text, ", {name} {value}");
            }
            text.push('\n');
        }
        None => {
            let _ = writeln!(text, "key {key}: its secret is gone");
        }
    }
    let newest = status.revisions.iter().max_by_key(|told| told.n);
    let (mut written, mut read) = (Vec::new(), Vec::new());
    for (resource, providers) in newest.iter().flat_map(|told| &told.lists) {
        let at = providers
            .iter()
            .position(|name| name.split_once(':').is_some_and(|(_, id)| *id == key.to_string()));
        match at {
            Some(0) => written.push(resource.as_str()),
            Some(_) => read.push(resource.as_str()),
            None => {}
        }
    }
    // A resource that the writer claims is stored under that one alone.
    let claimed = |resource: &&str| {
        let writer = newest.and_then(|told| told.lists.get(*resource)?.first()?.split_once(':'));
        let writer =
            writer.and_then(|(_, id)| status.keys.iter().find(|known| known.key_id.to_string() == id));
        writer.is_some_and(|writer| writer.migrated.iter().any(|other| other == resource))
    };
    let (clean, perhaps): (Vec<&str>, Vec<&str>) = read.into_iter().partition(claimed);
    if !written.is_empty() {
        let _ = writeln!(
            text,
            "  it writes {}: what is stored under it can never be read again",
            written.join(", ")
        );
    }
    if !perhaps.is_empty() {
        let _ = writeln!(
            text,
            "  {} are not re-encrypted yet: what is still stored under it can never be read again",
            perhaps.join(", ")
        );
    }
    if !clean.is_empty() {
        let _ =
            writeln!(text, "  {} are stored under a later key: nothing of them is lost", clean.join(", "));
    }
    if written.is_empty() && perhaps.is_empty() && clean.is_empty() {
        text.push_str("  the newest revision does not have it: nothing is lost that could be read now\n");
    }
    text.push_str("  backups of etcd may need it\n");
    text
}

async fn wanted(client: &kube::Client) -> Result<ClusterEncryption> {
    crate::live::current(client).await?.context("there is no ClusterEncryption/cluster; nothing is asked for")
}

/// On the version that was read: what it was decided from must still be so.
async fn write(client: &kube::Client, found: &ClusterEncryption, spec: Value) -> Result<()> {
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..Default::default() };
    let patch = json!({"metadata": {"resourceVersion": found.metadata.resource_version}, "spec": spec});
    let api = Api::<ClusterEncryption>::all(client.clone());
    match api.patch(names::CLUSTER, &params, &Patch::Merge(&patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => {
            bail!("somebody else changed ClusterEncryption/cluster meanwhile; look at it, and say it again")
        }
        Err(error) => Err(error).context("writing ClusterEncryption/cluster"),
    }
}

#[cfg(test)]
mod tests {
    use keyward_core::api::{KeyStatus, RevisionStatus};
    use keyward_core::ids::{ConfigHash, Mode, Revision};

    use super::*;

    fn key(id: u64, role: &str, migrated: &[&str]) -> KeyStatus {
        KeyStatus {
            key_id: KeyId(id),
            mode: Mode::Kms,
            role: role.into(),
            provider: None,
            kek: Some([("vaultKeyPath".to_owned(), format!("transit/keys/{id}"))].into()),
            remote_key_id: None,
            reason: String::new(),
            migrated: migrated.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn what_is_lost_is_told_by_resource() {
        let lists = [
            ("configmaps".to_owned(), vec!["kms:2".to_owned(), "kms:1".to_owned(), "identity".to_owned()]),
            ("secrets".to_owned(), vec!["kms:2".to_owned(), "kms:1".to_owned(), "identity".to_owned()]),
        ];
        let revision =
            RevisionStatus { n: Revision(4), config_hash: ConfigHash::of(b"x"), lists: lists.into() };
        let status = ClusterEncryptionStatus {
            keys: vec![key(2, "write", &["secrets"]), key(1, "read", &[])],
            revisions: vec![revision],
            ..Default::default()
        };
        let expected = "key 1: KMS, read, vaultKeyPath transit/keys/1\n  configmaps are not re-encrypted yet: what is still stored under it can never be read again\n  secrets are stored under a later key: nothing of them is lost\n  backups of etcd may need it\n";
        assert_eq!(meaning(&status, KeyId(1)), expected);
        let said = meaning(&status, KeyId(2));
        assert!(said.contains("it writes configmaps, secrets: what is stored under it"), "{said}");
        let said = meaning(&status, KeyId(3));
        assert!(said.contains("its secret is gone") && said.contains("nothing is lost"), "{said}");
    }
}
