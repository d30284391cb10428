//! `keyward node-agent recover`: replaces a credential of a plugin on this node, without the API
//! (decision 0048).

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use keyward_core::SecretBytes;
use keyward_core::ids::KeyId;
use keyward_operator::settings::duration;

use super::place::Place;

/// Maximum length of a file.
const LONGEST: u64 = 1 << 20;

#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Example:\n  keyward node-agent recover --key 1 --file secret-id=new-secret-id\n\nIt needs neither the operator nor the API. It replaces the file in this node's data, starts another plugin beside the\nrunning one, and switches the key's socket to it after it has answered, encrypted, decrypted, and decrypted the key\ncheck. If it fails, nothing changes. Afterwards update the object that the file comes from, so that all nodes use it:\nuntil then no key becomes a write key and no key is retired."
)]
pub(crate) struct Args {
    /// Number of the key whose plugin gets the credential
    #[arg(long, value_name = "N")]
    key: KeyId,
    /// File of the plugin (secret-NAME_KEY, NAME_KEY or KEY of its object), and path of the new content
    #[arg(long = "file", value_name = "NAME=PATH", required = true, value_parser = named)]
    files: Vec<(String, PathBuf)>,
    /// Time that the plugin has to pass its probes
    #[arg(long, value_name = "DURATION", default_value = "90s", value_parser = duration)]
    timeout: Duration,
    #[command(flatten)]
    place: Place,
}

fn named(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok((name.to_owned(), path.into())),
        _ => Err("expected NAME=PATH, for example secret-id=new-secret-id".to_owned()),
    }
}

pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    let place = args.place.find()?;
    let mut files = Vec::new();
    for (name, path) in args.files {
        files.push((name, read(&path).with_context(|| format!("--file {}", path.display()))?));
    }
    let report = |what: &str| crate::output::print(&format!("{what}\n")).unwrap_or_default();
    let done = keyward_node::recover(&place, args.key, files, args.timeout, report).await?;
    let mut verb = "is served by";
    if let Some(why) = &done.warning {
        verb = "leads to";
        crate::output::print(&format!(
            "warning: the socket link of key {} now leads to {} and is not switched back, but the plugin was not seen to serve: {why}\n",
            args.key, done.instance
        ))?;
    }
    crate::output::print(&format!(
        "key {} {verb} {} after {:.1} s\nnow update {} in {}, so that all nodes use it: until then no key becomes a write key and no key is retired\n",
        args.key,
        done.instance,
        done.took.as_secs_f64(),
        done.objects.join(", "),
        keyward_core::names::NAMESPACE,
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn read(path: &std::path::Path) -> Result<SecretBytes> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(LONGEST + 1).read_to_end(&mut bytes)?;
    let bytes = SecretBytes::new(bytes);
    ensure!(bytes.len() as u64 <= LONGEST, "it is longer than 1 MiB, the maximum of a Secret");
    Ok(bytes)
}
