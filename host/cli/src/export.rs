//! `keyward export`: writes an encrypted revision, for the recovery of lost nodes and a lost etcd.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::Secret;
use keyward_core::SecretBytes;
use keyward_core::api::{ClusterEncryptionStatus, EncryptionNode};
use keyward_core::formats::revision::{RevisionContent, SecretData};
use keyward_core::ids::Revision;
use keyward_core::names;
use kube::api::{GetParams, ListParams};
use kube::core::Request;
use kube::{Api, Client, ResourceExt as _};
use zeroize::Zeroizing;

use crate::bundle::{Bundle, Seal};
use crate::connection::Connection;

#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Example:\n  keyward export --out keyward-4.age --recipient age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p\n\nRestore the file with keyward node-agent restore. Its content is listed before it is written."
)]
pub(crate) struct Args {
    /// Path of the new file
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Number of the revision [default: the revision that every API server has loaded]
    #[arg(long, value_name = "N")]
    revision: Option<u64>,
    /// Who can open it: an age recipient (age1…); repeat for several
    #[arg(
        long,
        value_name = "AGE-KEY",
        required_unless_present = "passphrase_file",
        conflicts_with = "passphrase_file"
    )]
    recipient: Vec<String>,
    /// Encrypt with the passphrase in the first line of this file instead
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    let (seal, whom) = match &args.passphrase_file {
        Some(file) => (Seal::by_passphrase(file)?, "anyone who has the passphrase".to_owned()),
        None => (Seal::to(&args.recipient)?, args.recipient.join(", ")),
    };
    ensure!(!args.out.exists(), "{} already exists; choose another path for --out", args.out.display());
    let client = args.connection.client().await?;
    let cluster = crate::live::current(&client).await?.context("there is no ClusterEncryption/cluster")?;
    let status = cluster.status.unwrap_or_default();
    let revision = args.revision.map_or(status.converged_revision, Revision);
    ensure!(revision > Revision(0), "no revision is loaded by every API server; choose one with --revision");
    let bundle = Bundle {
        revision,
        created_at: jiff::Timestamp::now().to_string(),
        highest_key_id: status.highest_key_id,
        data: data(&client, revision).await?,
        key_checks: key_checks(&client).await?,
        keys: annotations(&client).await?,
    };
    let content = bundle.content()?;
    let recorded = status.revisions.iter().find(|recorded| recorded.n == revision);
    if let Some(recorded) = recorded.filter(|recorded| recorded.config_hash != content.hash()) {
        bail!(
            "revision {revision} has the hash {}, but the status records {}",
            content.hash(),
            recorded.config_hash
        );
    }
    let bundle = Bundle {
        key_checks: bundle
            .key_checks
            .into_iter()
            .filter(|(id, _)| content.plugins.contains_key(id))
            .collect(),
        ..bundle
    };
    crate::output::print(&listing(&bundle, &content, &status))?;
    let sealed = tokio::task::spawn_blocking(move || bundle.seal(&seal)).await??;
    write(&args.out, &sealed).with_context(|| format!("writing {}", args.out.display()))?;
    crate::output::print(&format!("written to {}, encrypted to {whom}\n", args.out.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// Lists what the bundle contains, and what it allows.
fn listing(bundle: &Bundle, content: &RevisionContent, status: &ClusterEncryptionStatus) -> String {
    let mut text = format!("revision {} ({})\n", bundle.revision, content.hash());
    let recorded = status.revisions.iter().find(|recorded| recorded.n == bundle.revision);
    for (resource, list) in recorded.iter().flat_map(|recorded| &recorded.lists) {
        let _ = writeln!(text, "  {resource}: {}", list.join(", "));
    }
    text.push_str("the bundle contains:\n");
    let local = content.key_ids().len() - content.kms_keys().len();
    if local > 0 {
        let _ =
            writeln!(text, "  local keys: {local}; anyone who opens the bundle can read what they encrypt");
    }
    for (key_id, plugin) in &content.plugins {
        let sources: Vec<String> = plugin
            .referenced
            .keys()
            .map(|source| format!("{}/{} {}", source.kind, source.name, source.key))
            .collect();
        let key_check = if bundle.key_checks.contains_key(key_id) { "" } else { ", without a key check" };
        let _ = writeln!(text, "  the plugin of key {key_id}, with {}{key_check}", sources.join(", "));
    }
    text.push_str(
        "the bundle contains neither the data in etcd nor a KEK; you need both as well. Anyone who opens the bundle has the permissions of these credentials at the KMS\n",
    );
    text
}

/// Reads the revision's Secret as text, because kube's typed calls log a response that they cannot parse.
async fn data(client: &Client, revision: Revision) -> Result<SecretData> {
    let name = names::revision_secret(revision);
    let path = <Secret as kube::Resource>::url_path(&(), Some(names::NAMESPACE));
    let request = Request::new(path).get(&name, &GetParams::default())?;
    let text = client.request_text(request).await.with_context(|| format!("reading Secret {name}"))?;
    let text = Zeroizing::new(text);
    let secret: Secret = serde_json::from_str(&text)
        .map_err(|_| anyhow::anyhow!("Secret {name}: the response is not a Secret"))?;
    let data = secret.data.into_iter().flatten();
    Ok(data.map(|(key, value)| (key, SecretBytes::new(value.0))).collect())
}

/// The key checks of all keys in use. The spec of every node has them.
async fn key_checks(
    client: &Client,
) -> Result<BTreeMap<keyward_core::ids::KeyId, keyward_core::api::KeyCheck>> {
    let nodes = Api::<EncryptionNode>::all(client.clone()).list(&ListParams::default()).await?;
    let all = nodes.items.into_iter().flat_map(|node| node.spec.key_checks);
    Ok(all.map(|listed| (listed.key_id, listed.key_check)).collect())
}

async fn annotations(client: &Client) -> Result<BTreeMap<String, BTreeMap<String, String>>> {
    let api = Api::<Secret>::namespaced(client.clone(), names::NAMESPACE);
    let params = ListParams::default().labels(names::LABEL_COMPONENT);
    let keys = api.list_metadata(&params).await.context("listing key secrets")?;
    Ok(keys
        .items
        .into_iter()
        .map(|key| (key.name_any(), key.metadata.annotations.unwrap_or_default()))
        .collect())
}

/// Writes a new file that only its owner can read. It never writes to an existing file, such as a terminal.
fn write(path: &Path, sealed: &[u8]) -> Result<()> {
    let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(path)?;
    let written = file.write_all(sealed).and_then(|()| file.sync_all());
    if written.is_err() {
        // An incomplete file would block the next attempt. The first error is the one to report.
        let _ = std::fs::remove_file(path);
    }
    Ok(written?)
}
