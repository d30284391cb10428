//! The main job, from nothing: a real kube-apiserver stores Secrets that a real KMS encrypted, because a provider
//! module said so. Run by `cargo xtask demo`.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use keyward_test_cluster::{Binary, User};
use keyward_test_e2e::{
    Contents, IMAGE, Install, Keyward, Load, Narrator, Reader, evidence, sightings, vault_spec,
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
    println!("== Starting etcd, kube-apiserver, OpenBao (TLS), Keyward's operator and a node agent");
    println!(
        "   short waits for a demo: request timeout {:?} (default 60s), the API server looks at its file each {:?} (default 1m)",
        install.request_timeout, install.file_poll
    );
    let keyward = Keyward::start(install).await?;
    println!("   up after {:.1} s; OpenBao at {}", began.elapsed().as_secs_f64(), keyward.bao.address());

    println!("\n== Storing {SECRETS} Secrets and {CONFIGMAPS} ConfigMaps");
    let load = Load::create(&keyward.client, SECRETS, CONFIGMAPS).await?;
    let before = load.contents().await?;
    let found = evidence(&keyward.cluster, &load, &before).await?;
    println!("{found}");
    found.expect(|_| "plain".to_owned())?;

    let narrator = Narrator::start(keyward.client.clone());
    let reader = Reader::start(load.clone(), before.clone(), Duration::from_millis(4));
    let demo = Demo { keyward: &keyward, load: &load, before: &before };

    demo.step("Encrypt with Transit key a", &vault_spec(&keyward, "a", &IMAGE(1)), 1, Some(1)).await?;
    demo.step("Another image of the plugin", &vault_spec(&keyward, "a", &IMAGE(2)), 1, Some(1)).await?;
    demo.step("Another KEK: Transit key b", &vault_spec(&keyward, "b", &IMAGE(2)), 2, Some(2)).await?;
    demo.plugins_run(&[1, 2])?;
    demo.step("Back to plain text", &json!({"type": "identity"}), 3, None).await?;

    let report = reader.finish().await?;
    drop(narrator);
    println!(
        "\n== A reader went on all the while: {} lists, {} gets, {} failed",
        report.lists,
        report.gets,
        report.failures.len()
    );
    ensure!(report.failures.is_empty(), "reads failed: {:?}", report.failures);
    let (seen, places) = sightings(&keyward, keyward.role.secret_id.reveal()).await?;
    println!(
        "== The secret-id was looked for in {places} logs, manifests and kinds of objects: seen in {}",
        seen.len()
    );
    ensure!(seen.is_empty(), "the secret-id stands in {seen:?}");
    println!("\n== Done in {:.0} s", began.elapsed().as_secs_f64());
    if arguments.keep {
        keep(&keyward).await?;
    }
    Ok(())
}

struct Demo<'a> {
    keyward: &'a Keyward,
    load: &'a Load,
    before: &'a Contents,
}

impl Demo<'_> {
    /// Plans, applies, waits, and looks into etcd.
    async fn step(&self, title: &str, encryption: &Value, key: u64, kms: Option<u64>) -> Result<()> {
        println!("\n== {title}");
        self.plan(encryption).await?;
        let began = Instant::now();
        self.keyward.apply(encryption).await?;
        self.keyward.wait_settled(key, PATIENCE).await?;
        println!("   done in {:.1} s", began.elapsed().as_secs_f64());
        let found = evidence(&self.keyward.cluster, self.load, self.before).await?;
        println!("{found}");
        found.expect(|resource| {
            kms.map_or_else(|| "plain".to_owned(), |id| format!("k8s:enc:kms:v2:{id}_{resource}:"))
        })
    }

    /// What `keyward plan -f` says of the change.
    async fn plan(&self, encryption: &Value) -> Result<()> {
        let file = self.keyward.cluster.folder().join("new.yaml");
        std::fs::write(&file, serde_json::to_string_pretty(&self.keyward.object(encryption))?)?;
        let tools = self.keyward.cluster.tools().clone();
        let program = tokio::task::spawn_blocking(move || tools.binary(Binary::Keyward)).await??;
        let kubeconfig = self.keyward.cluster.kubeconfig(0, &User::Admin)?;
        println!("$ keyward plan -f new.yaml");
        let output = tokio::process::Command::new(program)
            .args(["plan", "-f"])
            .arg(&file)
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .arg("--providers")
            .arg(self.keyward.cluster.tools().modules())
            .output()
            .await?;
        print!("{}", String::from_utf8_lossy(&output.stdout));
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        ensure!(
            output.status.code() == Some(2),
            "the plan should say that something changes: {}",
            output.status
        );
        Ok(())
    }

    fn plugins_run(&self, keys: &[u64]) -> Result<()> {
        for node in self.keyward.cluster.nodes() {
            let pods = node.pods()?;
            for key in keys {
                let prefix = format!("keyward-kms-{key}-");
                let pod = pods.iter().find(|pod| pod.name.starts_with(&prefix));
                let pod = pod.with_context(|| format!("{} runs no plugin of key {key}", node.name()))?;
                println!("  {}: {} runs", node.name(), pod.name);
            }
        }
        Ok(())
    }
}

async fn keep(keyward: &Keyward) -> Result<()> {
    let kubeconfig = keyward.cluster.kubeconfig(0, &User::Admin)?;
    println!("\nEverything stays up until Ctrl-C. To connect:");
    println!("  export KUBECONFIG={}", shown(&kubeconfig));
    println!("  kubectl get clusterencryption,encryptionnodes,encryptionmigrations");
    println!(
        "  OpenBao: {} (its CA and token are in {})",
        keyward.bao.address(),
        shown(keyward.cluster.folder())
    );
    tokio::signal::ctrl_c().await?;
    Ok(())
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
