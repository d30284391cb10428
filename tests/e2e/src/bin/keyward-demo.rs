//! The main job, from nothing: a real kube-apiserver stores Secrets that a real KMS encrypted, because a provider
//! module said so. Run by `cargo xtask demo`.

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
    let told = Transcript::default();
    told.say("== Starting etcd, kube-apiserver, OpenBao (TLS), Keyward's operator and a node agent");
    told.say(format_args!(
        "   short waits for a demo: request timeout {:?} (default 60s), the API server looks at its file each {:?} (default 1m)",
        install.request_timeout, install.file_poll
    ));
    let keyward = Keyward::start(install).await?;
    told.keep_in(keyward.cluster.folder())?;
    told.say(format_args!(
        "   up after {:.1} s; OpenBao at {}",
        began.elapsed().as_secs_f64(),
        keyward.bao.address()
    ));
    let mut search = Search::begin(&keyward, &keyward.role.secret_id, &told).await?;

    told.say(format_args!("\n== Storing {SECRETS} Secrets and {CONFIGMAPS} ConfigMaps"));
    let load = Load::create(&keyward.client, SECRETS, CONFIGMAPS).await?;
    let before = load.contents().await?;
    let found = evidence(&keyward.cluster, &load, &before).await?;
    told.say(&found);
    found.expect(|_| "plain".to_owned())?;

    let narrator = Narrator::start(keyward.client.clone(), told.clone());
    let reader = Reader::start(&keyward.cluster, before.clone(), Duration::from_millis(4)).await?;
    let gap = Gap::watch(&keyward.cluster, 1).await?;
    let demo = Demo { keyward: &keyward, load: &load, before: &before, told: &told, gap: &gap };

    demo.step("Encrypt with Transit key a", &vault_spec(&keyward, "a", &IMAGE(1)), 1, Some(1)).await?;
    let replaced =
        demo.step("Another image of the plugin", &vault_spec(&keyward, "a", &IMAGE(2)), 1, Some(1)).await?;
    ensure!(replaced.served_by.len() == 2, "one plugin gave way to another: {replaced:?}");
    demo.step("Another KEK: Transit key b", &vault_spec(&keyward, "b", &IMAGE(2)), 2, Some(2)).await?;
    demo.plugins_run(&[1, 2])?;
    // While they run: what they are started with goes with them.
    search.look().await?;
    demo.step("Back to plain text", &json!({"type": "identity"}), 3, None).await?;

    let report = reader.finish().await?;
    let watched = gap.finish().await?;
    drop(narrator);
    told.say(format_args!(
        "\n== A reader went on all the while: {} lists, {} gets, {} failed",
        report.lists,
        report.gets,
        report.failures.len()
    ));
    ensure!(report.failures.is_empty(), "reads failed: {:?}", report.failures);
    told.say(format_args!(
        "== A watcher asked key 1's plugin until the key had left the configuration: {} round trips (Encrypt, \
         Decrypt)\n   and {} looks at /readyz, {} failed; at most {} ms from one answer to the next\n   served by {}",
        watched.probes,
        watched.looks,
        watched.failures.len(),
        watched.longest.as_millis(),
        watched.instances()
    ));
    ensure!(watched.failures.is_empty(), "the plugin was away: {:?}", watched.failures);
    search.look().await?;
    told.say(format_args!("== The secret-id was looked for {search}"));
    search.verdict()?;
    told.say(format_args!("\n== Done in {:.0} s", began.elapsed().as_secs_f64()));
    if arguments.keep {
        keep(&keyward, &told).await?;
    }
    Ok(())
}

struct Demo<'a> {
    keyward: &'a Keyward,
    load: &'a Load,
    before: &'a Contents,
    told: &'a Transcript,
    gap: &'a Gap,
}

impl Demo<'_> {
    /// Plans, applies, waits, and looks into etcd. Gives what was seen of key 1's plugin meanwhile.
    async fn step(&self, title: &str, encryption: &Value, key: u64, kms: Option<u64>) -> Result<Watched> {
        self.told.say(format_args!("\n== {title}"));
        plan(self.keyward, encryption, self.told).await?;
        let (began, earlier) = (Instant::now(), self.gap.so_far());
        self.keyward.apply(encryption).await?;
        self.keyward.wait_settled(key, PATIENCE).await?;
        self.told.say(format_args!("   done in {:.1} s", began.elapsed().as_secs_f64()));
        let found = evidence(&self.keyward.cluster, self.load, self.before).await?;
        self.told.say(&found);
        found.expect(|resource| {
            kms.map_or_else(|| "plain".to_owned(), |id| format!("k8s:enc:kms:v2:{id}_{resource}:"))
        })?;
        let watched = self.gap.so_far().since(&earlier);
        self.told.say(format_args!(
            "  key 1's socket: {} round trips meanwhile, {} failed; served by {}",
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
                self.told.say(format_args!("  {}: {} runs", node.name(), pod.name));
            }
        }
        Ok(())
    }
}

/// Tells how to look around, and waits. What is needed for that is written only here.
async fn keep(keyward: &Keyward, told: &Transcript) -> Result<()> {
    let folder = keyward.cluster.folder();
    let kubeconfig = shown(&keyward.cluster.kubeconfig(0, &User::Admin)?);
    let ca = private(folder, "openbao-ca.pem", keyward.bao.ca_pem())?;
    let token = private(folder, "openbao-token", keyward.bao.root_token().reveal())?;
    let tools = keyward.cluster.tools().clone();
    let (program, bao) =
        tokio::task::spawn_blocking(move || anyhow::Ok((tools.binary(Binary::Keyward)?, tools.bao()?)))
            .await??;
    told.say("\nEverything stays up until Ctrl-C, then all of it goes. To look around from another shell:");
    told.say(format_args!(
        "  kubectl --kubeconfig {kubeconfig} get clusterencryption,encryptionnodes,encryptionmigrations"
    ));
    told.say(format_args!("  {} status --kubeconfig {kubeconfig}", shown(&program)));
    told.say(format_args!(
        "  BAO_ADDR={} BAO_CACERT={} BAO_TOKEN=$(cat {}) \\\n    {} read transit/keys/a",
        keyward.bao.address(),
        shown(&ca),
        shown(&token),
        shown(&bao)
    ));
    told.say(format_args!("  logs, manifests and what the node has: {}", shown(folder)));
    tokio::signal::ctrl_c().await?;
    Ok(())
}

/// A file that only its owner may read.
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
