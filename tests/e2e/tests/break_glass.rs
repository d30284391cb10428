//! Commands of an admin on a node: `recover` replaces a revoked credential, `restore` sets up a lost disk
//! from an exported revision, and a node joins. No value is ever written in plain text.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test fails at the first error

use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::time::{Duration, Instant};

use age::secrecy::ExposeSecret as _;
use anyhow::{Context as _, Result, ensure};
use keyward_core::api::{EncryptionNode, EncryptionNodeStatus};
use keyward_core::ids::KeyId;
use keyward_test_cluster::{Binary, Cluster, ENCRYPTION_CONFIG, Node, Seen, User, wait_until};
use keyward_test_e2e::{IMAGE, Install, Keyward, Load, evidence, give, person, vault_spec, wipe};
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_mins(3);

/// Starts Keyward with key 1 in use, and objects stored under it.
async fn encrypted(nodes: usize) -> Result<(Keyward, Load)> {
    let keyward = Keyward::start(Install { nodes, ..Install::default() }).await?;
    let load = Load::create(&keyward.client, 40, 10).await?;
    keyward.apply(&vault_spec(&keyward, "a", &IMAGE(1))).await?;
    keyward.wait_settled(1, PATIENCE).await?;
    Ok((keyward, load))
}

/// The target of the key's link on a node.
fn link_target(node: &Node, key: u64) -> Result<String> {
    let link = node.path(format!("/var/run/kmsplugin/kms-{key}/kms.sock"));
    Ok(std::fs::read_link(&link)?.to_string_lossy().into_owned())
}

/// Writes a file on a node that only its owner can read. Returns its path on the node.
fn write_private(node: &Node, name: &str, value: &str) -> Result<String> {
    let path = format!("/etc/kubernetes/{name}");
    let file = node.path(&path);
    let mut options = std::fs::File::options();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(file)?;
    std::io::Write::write_all(&mut file, format!("{value}\n").as_bytes())?;
    Ok(path)
}

async fn node_status(keyward: &Keyward, node: &str) -> Result<EncryptionNodeStatus> {
    let api: Api<EncryptionNode> = Api::all(keyward.client.clone());
    api.get(node).await?.status.context("its agent has not reported")
}

async fn wait_unready(keyward: &Keyward, node: usize) -> Result<()> {
    let client = keyward.cluster.client(node).await?;
    wait_until("an API server that is not ready", PATIENCE, async || {
        let request = http::Request::get("/readyz").body(Vec::new())?;
        let response = client.request_text(request).await;
        let unready = matches!(&response, Err(kube::Error::Api(status)) if status.code == 500);
        Ok(Seen::when(unready, format!("{response:?}")))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_credential_is_replaced_on_each_node_and_then_in_its_secret() -> Result<()> {
    let (mut keyward, load) = encrypted(2).await?;
    let before = load.contents().await?;

    // The secret-id is destroyed, all of its tokens are revoked, and the API servers restart: no value can be
    // read.
    let role = keyward.bao.policy_and_approle("", "another", &["transit/keys/a", "transit/keys/b"]).await?;
    keyward.bao.revoke_secret_id("", "keyward", &keyward.role.secret_id).await?;
    keyward.bao.revoke_tokens("").await?;
    for node in keyward.cluster.nodes() {
        node.restart_apiserver().await?;
    }
    wait_unready(&keyward, 0).await?;
    ensure!(load.contents().await.is_err(), "objects that cannot be decrypted were read");

    // A credential that does not work changes nothing, and the error does not contain its value.
    let node = keyward.cluster.node(0)?;
    let failed = link_target(node, 1)?;
    let bogus = write_private(node, "bogus", "00000000-1111-2222-3333-444444444444")?;
    let answer = keyward
        .command_on(0, &["node-agent", "recover", "--key", "1", "--file", &format!("secret-id={bogus}")])
        .await?;
    println!("{}\n{}", answer.stdout, answer.stderr);
    ensure!(!answer.status.success() && answer.stderr.contains("was not recovered"), "{answer:?}");
    ensure!(answer.stderr.contains("The end of its log"), "{answer:?}");
    ensure!(!format!("{answer:?}").contains("00000000-1111"), "the value was printed");
    ensure!(link_target(node, 1)? == failed, "the link has changed");
    // Interrupted while the agent tries the credential, the command withdraws its request.
    interrupted(&keyward, 0, "TERM", &bogus, "the agent of this node carries it out").await?;
    ensure!(link_target(keyward.cluster.node(0)?, 1)? == failed, "the link has changed");
    let unknown = keyward
        .command_on(0, &["node-agent", "recover", "--key", "1", "--file", &format!("x={bogus}")])
        .await?;
    ensure!(
        unknown.stderr.contains("it has configmap-vault-ca-bundle_ca-bundle.crt, ")
            || unknown.stderr.contains("secret-vault-approle_secret-id"),
        "{unknown:?}"
    );

    // Another role, because the failed one is locked out by now. On the first node the agent replaces the
    // credential.
    let began = Instant::now();
    recover(&keyward, 0, &role.role_id, role.secret_id.reveal()).await?;
    keyward.cluster.wait_ready(0).await?;
    println!("node-1: from the command to a ready API server in {:.1} s", began.elapsed().as_secs_f64());
    ensure!(load.contents().await? == before, "an object has changed");
    let recovered = link_target(keyward.cluster.node(0)?, 1)?;
    ensure!(recovered != failed);

    // After a power failure the node uses the credential of `recover` again.
    keyward.cluster.crash_node(0)?;
    keyward.cluster.start_node(0)?;
    keyward.cluster.wait_ready(0).await?;
    ensure!(load.contents().await? == before);
    ensure!(
        link_target(keyward.cluster.node(0)?, 1)? == recovered,
        "the agent uses the failed credential again"
    );

    // On the second node no agent runs: the command itself replaces the credential.
    let node = keyward.cluster.node(1)?;
    node.stop_agent()?;
    wait_until("the agent's end", PATIENCE, async || {
        Ok(Seen::when(node.pod("keyward-agent")?.is_none(), "it runs"))
    })
    .await?;
    let failed = link_target(node, 1)?;
    let bogus = write_private(node, "bogus", "00000000-1111-2222-3333-444444444444")?;
    interrupted(&keyward, 1, "HUP", &bogus, "done: WritePod").await?;
    ensure!(link_target(keyward.cluster.node(1)?, 1)? == failed, "the link has changed");
    let began = Instant::now();
    recover(&keyward, 1, &role.role_id, role.secret_id.reveal()).await?;
    keyward.cluster.wait_ready(1).await?;
    println!("node-2: from the command to a ready API server in {:.1} s", began.elapsed().as_secs_f64());
    keyward.cluster.node(1)?.start_agent(&["--probe-interval", "2s"])?;

    // The operator reports which Secret to update.
    let status = keyward
        .wait("the Secret to update", PATIENCE, |status| {
            status.summary().contains("with a credential that `recover` replaced on this node")
                && status.summary().contains("update secret/vault-approle")
        })
        .await?;
    println!("{}", status.summary());
    let one = node_status(&keyward, "node-1").await?;
    ensure!(
        one.recovered.len() == 1 && one.recovered[0].key_id == KeyId(1) && one.error.is_none(),
        "{one:?}"
    );

    // An agent cannot write the status of another node: a false status could promote a key too early
    // (invariant: read-before-write).
    let agent = keyward.cluster.client_as(0, &User::Agent("node-1".to_owned())).await?;
    let lie = json!({"status": {"loadedHash": "sha256:0"}});
    let other = Api::<EncryptionNode>::all(agent);
    let refused = other.patch_status("node-2", &PatchParams::default(), &Patch::Merge(&lie)).await;
    ensure!(
        matches!(&refused, Err(kube::Error::Api(status)) if status.message.contains("may not write the EncryptionNode of node-2")),
        "{refused:?}"
    );

    // The Secret is updated: every node uses it, and nothing of `recover` is left.
    keyward.set_credentials(&role).await?;
    keyward.wait_settled(1, PATIENCE).await?;
    for (index, name) in ["node-1", "node-2"].into_iter().enumerate() {
        wait_until("the node to use the Secret", PATIENCE, async || {
            let status = node_status(&keyward, name).await?;
            Ok(Seen::when(status.recovered.is_empty() && status.error.is_none(), format!("{status:?}")))
        })
        .await?;
        let node = keyward.cluster.node(index)?;
        ensure!(link_target(node, 1)? != recovered);
        let left = std::fs::read_dir(node.path("/var/lib/keyward/recovered"))?.count();
        ensure!(left == 0, "{left} records are left on {name}");
        wait_until("the end of the replaced plugins", PATIENCE, async || {
            let of_key_1 = node.pods()?.iter().filter(|pod| pod.name.starts_with("keyward-kms-1-")).count();
            Ok(Seen::when(of_key_1 == 1, format!("{of_key_1} plugins of key 1 on {name}")))
        })
        .await?;
    }
    evidence(&keyward.cluster, &load, &before)
        .await?
        .expect(|resource| format!("k8s:enc:kms:v2:1_{resource}:"))
}

/// Signals `recover` as soon as it prints `at`. The command exits, and the plugin that it tried stops.
async fn interrupted(keyward: &Keyward, index: usize, signal: &str, file: &str, at: &str) -> Result<()> {
    const SCRIPT: &str = r#"
        signal=$1 at=$2; shift 2
        rm -f /etc/kubernetes/output && mkfifo /etc/kubernetes/output || exit 99
        "$@" >/etc/kubernetes/output & command=$!
        while read -r line; do
            echo "$line"
            case $line in *"$at"*) kill -s "$signal" $command ;; esac
        done </etc/kubernetes/output
        rm /etc/kubernetes/output
        wait $command"#;
    let node = keyward.cluster.node(index)?;
    let program = keyward.cluster.tools().binary(Binary::Keyward)?;
    let (program, file) = (program.to_string_lossy(), format!("secret-id={file}"));
    let output = node
        .exec(&[
            "sh",
            "-c",
            SCRIPT,
            "sh",
            signal,
            at,
            &program,
            "node-agent",
            "recover",
            "--key",
            "1",
            "--file",
            &file,
        ])
        .await?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    println!("{stdout}\n{stderr}");
    ensure!(output.status.code() == Some(1) && stdout.contains(at), "{output:?}");
    ensure!(stderr.contains("the command was interrupted"), "{stderr}");
    let node_name = node.name();
    wait_until("the end of the tried plugin", PATIENCE, async || {
        let of_key_1 = node.pods()?.iter().filter(|pod| pod.name.starts_with("keyward-kms-1-")).count();
        Ok(Seen::when(of_key_1 == 1, format!("{of_key_1} plugins of key 1 on {node_name}")))
    })
    .await
}

async fn recover(keyward: &Keyward, index: usize, role_id: &str, secret_id: &str) -> Result<()> {
    let node = keyward.cluster.node(index)?;
    let role = format!("role-id={}", write_private(node, "role-id", role_id)?);
    let secret = format!("secret-vault-approle_secret-id={}", write_private(node, "secret-id", secret_id)?);
    let command = ["node-agent", "recover", "--key", "1", "--file", &role, "--file", &secret];
    let answer = keyward.command_on(index, &command).await?;
    println!("{}\n{}", answer.stdout, answer.stderr);
    ensure!(answer.status.success() && answer.stdout.contains("key 1 is served by kms-1-"), "{answer:?}");
    ensure!(!format!("{answer:?}").contains(secret_id), "the credential was printed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_disk_is_restored_from_an_export_and_everything_is_readable() -> Result<()> {
    let (mut keyward, load) = encrypted(1).await?;
    give(&keyward.cluster, "export").await?;
    let exporter = person("export");
    let before = load.contents().await?;
    let identity = age::x25519::Identity::generate();
    let bundle = keyward.cluster.folder().join("bundle.age");
    let (out, to) = (bundle.to_string_lossy().into_owned(), identity.to_public().to_string());
    let unencrypted = keyward.command_as(&exporter, &["export", "--out", &out]).await?;
    ensure!(!unencrypted.status.success() && !bundle.exists(), "{unencrypted:?}");
    let export = ["export", "--out", &out, "--recipient", &to];
    let answer = keyward.command_as(&exporter, &export).await?;
    println!("{}", answer.stdout);
    ensure!(
        answer.status.success() && answer.stdout.contains("secret/vault-approle secret-id"),
        "{answer:?}"
    );
    let twice = keyward.command_as(&exporter, &export).await?;
    ensure!(!twice.status.success() && twice.stderr.contains("already exists"), "{twice:?}");
    ensure!(std::fs::metadata(&bundle)?.permissions().mode() & 0o777 == 0o600);
    let sealed = std::fs::read(&bundle)?;
    let secret = keyward.role.secret_id.reveal().as_bytes().to_vec();
    ensure!(
        !sealed.windows(secret.len()).any(|part| part == secret),
        "the credential is in the file in clear text"
    );

    // Everything of Keyward on the node is lost.
    keyward.stop_agents().await?;
    keyward.cluster.node(0)?.hold_apiserver()?;
    keyward.cluster.stop_node(0)?;
    wipe(keyward.cluster.node(0)?)?;
    keyward.cluster.start_node(0)?;
    let key = write_private(keyward.cluster.node(0)?, "key.txt", identity.to_string().expose_secret())?;
    let restore = ["node-agent", "restore", "--bundle", &out, "--identity", &key];
    let answer = keyward.command_on(0, &restore).await?;
    println!("{}\n{}", answer.stdout, answer.stderr);
    ensure!(answer.status.success(), "{answer:?}");
    writes_by_kms(keyward.cluster.node(0)?)?;
    let began = Instant::now();
    keyward.cluster.node(0)?.release_apiserver()?;
    keyward.start_agents()?;
    keyward.cluster.wait_ready(0).await?;
    println!("ready in {:.1} s", began.elapsed().as_secs_f64());
    ensure!(load.contents().await? == before, "an object has changed");
    keyward.wait_settled(1, PATIENCE).await?;
    // Further changes work.
    keyward.apply(&vault_spec(&keyward, "b", &IMAGE(1))).await?;
    keyward.wait_settled(2, PATIENCE).await?;
    evidence(&keyward.cluster, &load, &before)
        .await?
        .expect(|resource| format!("k8s:enc:kms:v2:2_{resource}:"))?;
    // `restore` refuses a node that already has a configuration.
    let again = keyward.command_on(0, &restore).await?;
    ensure!(!again.status.success(), "{again:?}");
    Ok(())
}

/// Checks that an API server with the installed file writes nothing in plain text.
fn writes_by_kms(node: &Node) -> Result<()> {
    let config: Value = serde_json::from_slice(&std::fs::read(node.path(ENCRYPTION_CONFIG))?)?;
    for entry in config["resources"].as_array().context("no entries")? {
        ensure!(entry["providers"][0]["kms"]["name"].is_string(), "{entry}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_joins_and_never_writes_in_plain_text() -> Result<()> {
    let (mut keyward, load) = encrypted(1).await?;
    let before = load.contents().await?;
    give(&keyward.cluster, "join").await?;
    keyward.cluster.add_bare_node()?;
    // With the name of a running node it is refused, and nothing is installed.
    let refused = keyward.join_as(1, "node-1").await?;
    println!("{}\n{}", refused.stdout, refused.stderr);
    ensure!(!refused.status.success() && refused.stderr.contains("node node-1 is alive"), "{refused:?}");
    ensure!(!keyward.cluster.node(1)?.path(ENCRYPTION_CONFIG).exists(), "something was installed");
    let answer = keyward.join(1).await?;
    println!("{}\n{}", answer.stdout, answer.stderr);
    ensure!(answer.status.success() && answer.stdout.contains("node-2 is registered"), "{answer:?}");
    writes_by_kms(keyward.cluster.node(1)?)?;
    // A second run of the command succeeds too.
    let again = keyward.join(1).await?;
    ensure!(again.status.success(), "{again:?}");

    // A requested change waits for the node, whose agent has not reported yet.
    keyward.apply(&vault_spec(&keyward, "b", &IMAGE(1))).await?;
    keyward
        .wait("the operator to wait for the node", PATIENCE, |status| status.summary().contains("node-2"))
        .await?;

    // Its API server starts, and gets write requests from the first moment.
    let node = keyward.cluster.node(1)?;
    node.release_apiserver()?;
    let client = keyward.cluster.client(1).await?;
    let write = async {
        let joined = wait_until("a namespace of its own", PATIENCE, async || {
            Ok(Seen::Yes(Load::empty(&client, "joined").await?))
        })
        .await?;
        wait_until("a Secret to be written through it", PATIENCE, async || {
            joined.add("secret/first", "content").await?;
            Ok(Seen::Yes(()))
        })
        .await
    };
    let start_agent = async {
        let first = wait_until("the hash that it has loaded", PATIENCE, async || {
            let hash = keyward.cluster.loaded_hash(1).await?;
            Ok(hash.map_or_else(|| Seen::NotYet("nothing".to_owned()), Seen::Yes))
        })
        .await?;
        let installed = std::fs::read(node.path(ENCRYPTION_CONFIG))?;
        ensure!(first == keyward_core::ids::ConfigHash::of(&installed).0, "it first loaded {first}");
        node.start_agent(&["--probe-interval", "2s"])?;
        keyward.cluster.wait_ready(1).await
    };
    tokio::try_join!(write, start_agent)?;
    let stored = keyward.cluster.etcd().count_by_prefix("secrets").await?;
    ensure!(stored.keys().all(|prefix| prefix.starts_with("k8s:enc:kms:v2:")), "{stored:?}");

    // The node counts: both nodes get the change.
    keyward.wait_settled(2, PATIENCE).await?;
    ensure!(read_by(&keyward.cluster, 1).await? == before.len(), "node-2 does not read everything");
    evidence(&keyward.cluster, &load, &before)
        .await?
        .expect(|resource| format!("k8s:enc:kms:v2:2_{resource}:"))
}

/// How many objects of the load an API server reads.
async fn read_by(cluster: &Cluster, node: usize) -> Result<usize> {
    Ok(Load::through(&cluster.client(node).await?).contents().await?.len())
}
