//! The main job, from an empty folder: a real kube-apiserver stores Secrets that are encrypted with a KEK in
//! a real KMS, as a provider module configures it. `cargo xtask demo` runs this.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use keyward_test_cluster::{Binary, User};
use keyward_test_e2e::{
    Contents, Gap, IMAGE, Install, Keyward, Load, Narrator, Reader, Search, Transcript, Watched, evidence,
    plan, vault_spec,
};
use serde_json::{Value, json};

const SECRETS: usize = 1000;
const CONFIGMAPS: usize = 100;
const PATIENCE: Duration = Duration::from_mins(3);

#[derive(Parser)]
struct Arguments {
    /// Leave everything up at the end, and print how to connect
    #[arg(long)]
    keep: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let began = Instant::now();
    let install = Install::default();
    let transcript = Transcript::default();
    transcript.say("== Starting etcd, kube-apiserver, OpenBao (TLS), Keyward's operator and a node agent");
    transcript.say(format_args!(
        "   short waits for the demo: request timeout {:?} (default 60s), the API server polls its configuration each {:?} (default 1m)",
        install.request_timeout, install.file_poll
    ));
    let keyward = Keyward::start(install).await?;
    transcript.keep_in(keyward.cluster.folder())?;
    transcript.say(format_args!(
        "   up after {:.1} s; OpenBao at {}",
        began.elapsed().as_secs_f64(),
        keyward.bao.address()
    ));
    let mut search = Search::begin(&keyward, &keyward.role.secret_id, &transcript).await?;

    transcript.say(format_args!("\n== Storing {SECRETS} Secrets and {CONFIGMAPS} ConfigMaps"));
    let load = Load::create(&keyward.client, SECRETS, CONFIGMAPS).await?;
    let before = load.contents().await?;
    let found = evidence(&keyward.cluster, &load, &before).await?;
    transcript.say(&found);
    found.expect(|_| "plain".to_owned())?;

    let narrator = Narrator::start(keyward.client.clone(), transcript.clone());
    let reader = Reader::start(&keyward.cluster, before.clone(), Duration::from_millis(4)).await?;
    let gap = Gap::watch(&keyward.cluster, 1).await?;
    let demo = Demo { keyward: &keyward, load: &load, before: &before, transcript: &transcript, gap: &gap };

    demo.step("Encrypt with Transit key a", &vault_spec(&keyward, "a", &IMAGE(1)), 1, Some(1)).await?;
    let replaced =
        demo.step("Another image of the plugin", &vault_spec(&keyward, "a", &IMAGE(2)), 1, Some(1)).await?;
    ensure!(replaced.served_by.len() == 2, "the new plugin replaced the old one: {replaced:?}");
    demo.step("Another KEK: Transit key b", &vault_spec(&keyward, "b", &IMAGE(2)), 2, Some(2)).await?;
    demo.plugins_run(&[1, 2])?;
    // While the plugins run, because the files that they are started with are removed with them.
    search.run().await?;
    demo.step("Back to plain text", &json!({"type": "identity"}), 3, None).await?;

    let report = reader.finish().await?;
    let watched = gap.finish().await?;
    drop(narrator);
    transcript.say(format_args!(
        "\n== Reads during the whole demo: {} lists, {} gets, {} failed",
        report.lists,
        report.gets,
        report.failures.len()
    ));
    ensure!(report.failures.is_empty(), "reads failed: {:?}", report.failures);
    transcript.say(format_args!(
        "== Calls to the plugin of key 1 until the key left the configuration: {} round trips (Encrypt, \
         Decrypt)\n   and {} requests to /readyz, {} failed; at most {} ms between two successful calls\n   served by {}",
        watched.probes,
        watched.readyz_requests,
        watched.failures.len(),
        watched.longest.as_millis(),
        watched.instances()
    ));
    ensure!(watched.failures.is_empty(), "the plugin was unavailable: {:?}", watched.failures);
    search.run().await?;
    transcript.say(format_args!("== Search for the secret-id {search}"));
    search.verdict()?;
    transcript.say(format_args!("\n== Done in {:.0} s", began.elapsed().as_secs_f64()));
    if arguments.keep {
        keep(&keyward, &transcript).await?;
    }
    Ok(())
}

struct Demo<'a> {
    keyward: &'a Keyward,
    load: &'a Load,
    before: &'a Contents,
    transcript: &'a Transcript,
    gap: &'a Gap,
}

impl Demo<'_> {
    /// Plans, applies, waits, and checks the values in etcd. Returns the calls to key 1's plugin during this
    /// step.
    async fn step(&self, title: &str, encryption: &Value, key: u64, kms: Option<u64>) -> Result<Watched> {
        self.transcript.say(format_args!("\n== {title}"));
        plan(self.keyward, encryption, self.transcript).await?;
        let (began, earlier) = (Instant::now(), self.gap.so_far());
        self.keyward.apply(encryption).await?;
        self.keyward.wait_settled(key, PATIENCE).await?;
        self.transcript.say(format_args!("   done in {:.1} s", began.elapsed().as_secs_f64()));
        let found = evidence(&self.keyward.cluster, self.load, self.before).await?;
        self.transcript.say(&found);
        found.expect(|resource| {
            kms.map_or_else(|| "plain".to_owned(), |id| format!("k8s:enc:kms:v2:{id}_{resource}:"))
        })?;
        let watched = self.gap.so_far().since(&earlier);
        self.transcript.say(format_args!(
            "  socket of key 1: {} round trips in this step, {} failed; served by {}",
            watched.probes,
            watched.failures.len(),
            watched.instances()
        ));
        Ok(watched)
    }

    fn plugins_run(&self, keys: &[u64]) -> Result<()> {
        for node in self.keyward.cluster.nodes() {
            let pods = node.pods()?;
            for key in keys {
                let prefix = format!("keyward-kms-{key}-");
                let pod = pods.iter().find(|pod| pod.name.starts_with(&prefix));
                let pod = pod.with_context(|| format!("{} runs no plugin of key {key}", node.name()))?;
                self.transcript.say(format_args!("  {}: {} runs", node.name(), pod.name));
            }
        }
        Ok(())
    }
}

/// Prints how to inspect the cluster, and waits. Only this function writes the files that this needs.
async fn keep(keyward: &Keyward, transcript: &Transcript) -> Result<()> {
    let folder = keyward.cluster.folder();
    let kubeconfig = shown(&keyward.cluster.kubeconfig(0, &User::Admin)?);
    let ca = private(folder, "openbao-ca.pem", keyward.bao.ca_pem())?;
    let token = private(folder, "openbao-token", keyward.bao.root_token().reveal())?;
    let tools = keyward.cluster.tools().clone();
    let (program, bao) =
        tokio::task::spawn_blocking(move || anyhow::Ok((tools.binary(Binary::Keyward)?, tools.bao()?)))
            .await??;
    transcript.say("\nEverything runs until Ctrl-C, and is removed then. To inspect it from another shell:");
    transcript.say(format_args!(
        "  kubectl --kubeconfig {kubeconfig} get clusterencryption,encryptionnodes,encryptionmigrations"
    ));
    transcript.say(format_args!("  {} status --kubeconfig {kubeconfig}", shown(&program)));
    transcript.say(format_args!(
        "  BAO_ADDR={} BAO_CACERT={} BAO_TOKEN=$(cat {}) \\\n    {} read transit/keys/a",
        keyward.bao.address(),
        shown(&ca),
        shown(&token),
        shown(&bao)
    ));
    transcript.say(format_args!("  logs, manifests and files of the node: {}", shown(folder)));
    tokio::signal::ctrl_c().await?;
    Ok(())
}

/// Writes a file that only its owner can read.
fn private(folder: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| path.display().to_string())?;
    file.write_all(text.as_bytes())?;
    Ok(path)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
