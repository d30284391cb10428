//! `keyward node-agent recover`: another credential for a plugin of this node, where the API can give none.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use keyward_core::SecretBytes;
use keyward_core::ids::KeyId;
use keyward_operator::settings::duration;

use super::place::Place;

/// The longest file that is taken.
const LONGEST: u64 = 1 << 20;

#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Example:\n  keyward node-agent recover --key 1 --file secret-id=new-secret-id\n\nIt needs neither operator nor API. It replaces the file in what this node keeps, starts another plugin beside the\nrunning one, and leads the API server to it once it answers, encrypts, decrypts, and decrypts the key check. Where it\ndoes not, nothing is changed. Afterwards the object that the file comes from has to be updated, so that all nodes follow:\nuntil then no key is promoted and nothing is retired."
)]
pub(crate) struct Args {
    /// Which key's plugin
    #[arg(long, value_name = "N")]
    key: KeyId,
    /// A file of the plugin (secret-NAME_KEY, NAME_KEY or KEY of the object that it comes from), and where the new one is
    #[arg(long = "file", value_name = "NAME=PATH", required = true, value_parser = named)]
    files: Vec<(String, PathBuf)>,
    /// How long the plugin may take until it has passed
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
    let said = |what: &str| crate::output::print(&format!("{what}\n")).unwrap_or_default();
    let done = keyward_node::recover(&place, args.key, files, args.timeout, said).await?;
    let mut led = "is served by";
    if let Some(why) = &done.warning {
        led = "is led to";
        crate::output::print(&format!(
            "warning: the link of key {} leads to {}, so it is not taken back, but it was not seen to serve: {why}\n",
            args.key, done.instance
        ))?;
    }
    crate::output::print(&format!(
        "key {} {led} {} after {:.1} s\nnow update {} in {}, so that all nodes follow: until then no key is promoted and nothing is retired\n",
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
    ensure!(bytes.len() as u64 <= LONGEST, "it is longer than a Secret may be");
    Ok(bytes)
}
