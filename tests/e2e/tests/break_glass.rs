//! What is done on a node by hand: a credential that died for good is replaced there, a lost disk gets an exported revision,
//! and a node joins, without a value ever being written in plain text.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test stops at its first surprise

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

/// Key 1 is in use, and something is stored under it.
async fn encrypted(nodes: usize) -> Result<(Keyward, Load)> {
    let keyward = Keyward::start(Install { nodes, ..Install::default() }).await?;
    let load = Load::create(&keyward.client, 40, 10).await?;
    keyward.apply(&vault_spec(&keyward, "a", &IMAGE(1))).await?;
    keyward.wait_settled(1, PATIENCE).await?;
    Ok((keyward, load))
}

/// Where the key's link leads on a node.
fn led_to(node: &Node, key: u64) -> Result<String> {
    let link = node.path(format!("/var/run/kmsplugin/kms-{key}/kms.sock"));
    Ok(std::fs::read_link(&link)?.to_string_lossy().into_owned())
}

/// A file on a node that only its admin reads; the path is the node's.
fn hand_over(node: &Node, name: &str, value: &str) -> Result<String> {
    let path = format!("/etc/kubernetes/{name}");
    let file = node.path(&path);
    let mut options = std::fs::File::options();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(file)?;
    std::io::Write::write_all(&mut file, format!("{value}\n").as_bytes())?;
    Ok(path)
}

async fn said_by(keyward: &Keyward, node: &str) -> Result<EncryptionNodeStatus> {
    let api: Api<EncryptionNode> = Api::all(keyward.client.clone());
    api.get(node).await?.status.context("its agent has said nothing")
}

async fn is_unready(keyward: &Keyward, node: usize) -> Result<()> {
    let client = keyward.cluster.client(node).await?;
    wait_until("an API server that is not ready", PATIENCE, async || {
        let request = http::Request::get("/readyz").body(Vec::new())?;
        let answer = client.request_text(request).await;
        let unready = matches!(&answer, Err(kube::Error::Api(status)) if status.code == 500);
        Ok(Seen::when(unready, format!("{answer:?}")))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_that_died_is_replaced_on_each_node_and_then_in_its_secret() -> Result<()> {
    let (mut keyward, load) = encrypted(2).await?;
    let before = load.contents().await?;

    // The secret-id is destroyed, every login with it is over, and the API servers begin anew: not one value can be read.
    let role = keyward.bao.policy_and_approle("", "another", &["transit/keys/a", "transit/keys/b"]).await?;
    keyward.bao.revoke_secret_id("", "keyward", &keyward.role.secret_id).await?;
    keyward.bao.revoke_tokens("").await?;
    for node in keyward.cluster.nodes() {
        node.restart_apiserver().await?;
    }
    is_unready(&keyward, 0).await?;
    ensure!(load.contents().await.is_err(), "what cannot be decrypted was read");

    // One that does not work changes nothing, and says so without its value.
    let node = keyward.cluster.node(0)?;
    let dead = led_to(node, 1)?;
    let bogus = hand_over(node, "bogus", "00000000-1111-2222-3333-444444444444")?;
    let answer = keyward
        .command_on(0, &["node-agent", "recover", "--key", "1", "--file", &format!("secret-id={bogus}")])
        .await?;
    println!("{}\n{}", answer.said, answer.complained);
    ensure!(!answer.status.success() && answer.complained.contains("was not recovered"), "{answer:?}");
    ensure!(answer.complained.contains("Its last words"), "{answer:?}");
    ensure!(!format!("{answer:?}").contains("00000000-1111"), "the value was told");
    ensure!(led_to(node, 1)? == dead, "the link was moved");
    // Told to end while the agent tries it, it takes back what it began.
    told_to_end(&keyward, 0, "TERM", &bogus, "the agent of this node does it").await?;
    ensure!(led_to(keyward.cluster.node(0)?, 1)? == dead, "the link was moved");
    let unknown = keyward
        .command_on(0, &["node-agent", "recover", "--key", "1", "--file", &format!("x={bogus}")])
        .await?;
    ensure!(
        unknown.complained.contains("it has configmap-vault-ca-bundle_ca-bundle.crt, ")
            || unknown.complained.contains("secret-vault-approle_secret-id"),
        "{unknown:?}"
    );

    // Another role altogether, since the dead one's is locked out by now; on the first node its agent does it.
    let began = Instant::now();
    recover(&keyward, 0, &role.role_id, role.secret_id.reveal()).await?;
    keyward.cluster.wait_ready(0).await?;
    println!("node-1: from the command to a ready API server in {:.1} s", began.elapsed().as_secs_f64());
    ensure!(load.contents().await? == before, "something says something else");
    let recovered = led_to(keyward.cluster.node(0)?, 1)?;
    ensure!(recovered != dead);

    // The power is cut; what comes back is what was given by hand.
    keyward.cluster.crash_node(0)?;
    keyward.cluster.start_node(0)?;
    keyward.cluster.wait_ready(0).await?;
    ensure!(load.contents().await? == before);
    ensure!(led_to(keyward.cluster.node(0)?, 1)? == recovered, "the agent went back to the dead one");

    // On the second node no agent runs: the command does it by itself.
    let node = keyward.cluster.node(1)?;
    node.stop_agent()?;
    wait_until("the agent's end", PATIENCE, async || {
        Ok(Seen::when(node.pod("keyward-agent")?.is_none(), "it runs"))
    })
    .await?;
    let before_it = led_to(node, 1)?;
    let bogus = hand_over(node, "bogus", "00000000-1111-2222-3333-444444444444")?;
    told_to_end(&keyward, 1, "HUP", &bogus, "done: WritePod").await?;
    ensure!(led_to(keyward.cluster.node(1)?, 1)? == before_it, "the link was moved");
    let began = Instant::now();
    recover(&keyward, 1, &role.role_id, role.secret_id.reveal()).await?;
    keyward.cluster.wait_ready(1).await?;
    println!("node-2: from the command to a ready API server in {:.1} s", began.elapsed().as_secs_f64());
    keyward.cluster.node(1)?.start_agent(&["--probe-interval", "2s"])?;

    // The operator says what is left to do.
    let told = keyward
        .wait("what is to be updated", PATIENCE, |status| {
            status.summary().contains("with a credential from `recover`")
                && status.summary().contains("update secret/vault-approle")
        })
        .await?;
    println!("{}", told.summary());
    let one = said_by(&keyward, "node-1").await?;
    ensure!(
        one.recovered.len() == 1 && one.recovered[0].key_id == KeyId(1) && one.error.is_none(),
        "{one:?}"
    );

    // Nobody speaks for another node, which would be believed (S2).
    let agent = keyward.cluster.client_as(0, &User::Agent("node-1".to_owned())).await?;
    let lie = json!({"status": {"loadedHash": "sha256:0"}});
    let other = Api::<EncryptionNode>::all(agent);
    let refused = other.patch_status("node-2", &PatchParams::default(), &Patch::Merge(&lie)).await;
    ensure!(
        matches!(&refused, Err(kube::Error::Api(status)) if status.message.contains("may not write the EncryptionNode of node-2")),
        "{refused:?}"
    );

    // It is done: all follow, and nothing is left of what was done by hand.
    keyward.set_credentials(&role).await?;
    keyward.wait_settled(1, PATIENCE).await?;
    for (index, name) in ["node-1", "node-2"].into_iter().enumerate() {
        wait_until("a node that follows its Secret", PATIENCE, async || {
            let said = said_by(&keyward, name).await?;
            Ok(Seen::when(said.recovered.is_empty() && said.error.is_none(), format!("{said:?}")))
        })
        .await?;
        let node = keyward.cluster.node(index)?;
        ensure!(led_to(node, 1)? != recovered);
        let left = std::fs::read_dir(node.path("/var/lib/keyward/recovered"))?.count();
        ensure!(left == 0, "{left} records are left on {name}");
        wait_until("the end of the plugins that gave way", PATIENCE, async || {
            let of_key_1 = node.pods()?.iter().filter(|pod| pod.name.starts_with("keyward-kms-1-")).count();
            Ok(Seen::when(of_key_1 == 1, format!("{of_key_1} plugins of key 1 on {name}")))
        })
        .await?;
    }
    evidence(&keyward.cluster, &load, &before)
        .await?
        .expect(|resource| format!("k8s:enc:kms:v2:1_{resource}:"))
}

/// Signals the command as soon as it has said this much. It ends, and nothing goes on of what it began.
async fn told_to_end(keyward: &Keyward, index: usize, signal: &str, file: &str, at: &str) -> Result<()> {
    const SCRIPT: &str = r#"
        signal=$1 at=$2; shift 2
        rm -f /etc/kubernetes/said && mkfifo /etc/kubernetes/said || exit 99
        "$@" >/etc/kubernetes/said & command=$!
        while read -r line; do
            echo "$line"
            case $line in *"$at"*) kill -s "$signal" $command ;; esac
        done </etc/kubernetes/said
        rm /etc/kubernetes/said
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
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    println!("{said}\n{complained}");
    ensure!(output.status.code() == Some(1) && said.contains(at), "{output:?}");
    ensure!(complained.contains("the command was told to end"), "{complained}");
    let node_name = node.name();
    wait_until("the end of what was tried", PATIENCE, async || {
        let of_key_1 = node.pods()?.iter().filter(|pod| pod.name.starts_with("keyward-kms-1-")).count();
        Ok(Seen::when(of_key_1 == 1, format!("{of_key_1} plugins of key 1 on {node_name}")))
    })
    .await
}

async fn recover(keyward: &Keyward, index: usize, role_id: &str, secret_id: &str) -> Result<()> {
    let node = keyward.cluster.node(index)?;
    let role = format!("role-id={}", hand_over(node, "role-id", role_id)?);
    let secret = format!("secret-vault-approle_secret-id={}", hand_over(node, "secret-id", secret_id)?);
    let command = ["node-agent", "recover", "--key", "1", "--file", &role, "--file", &secret];
    let answer = keyward.command_on(index, &command).await?;
    println!("{}\n{}", answer.said, answer.complained);
    ensure!(answer.status.success() && answer.said.contains("key 1 is served by kms-1-"), "{answer:?}");
    ensure!(!format!("{answer:?}").contains(secret_id), "the credential was told");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_disk_gets_what_was_exported_and_everything_is_readable() -> Result<()> {
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
    println!("{}", answer.said);
    ensure!(answer.status.success() && answer.said.contains("secret/vault-approle secret-id"), "{answer:?}");
    let twice = keyward.command_as(&exporter, &export).await?;
    ensure!(!twice.status.success() && twice.complained.contains("exists already"), "{twice:?}");
    ensure!(std::fs::metadata(&bundle)?.permissions().mode() & 0o777 == 0o600);
    let sealed = std::fs::read(&bundle)?;
    let secret = keyward.role.secret_id.reveal().as_bytes().to_vec();
    ensure!(!sealed.windows(secret.len()).any(|part| part == secret), "the credential stands in the file");

    // All that Keyward had on the node is gone.
    keyward.stop_agents().await?;
    keyward.cluster.node(0)?.hold_apiserver()?;
    keyward.cluster.stop_node(0)?;
    wipe(keyward.cluster.node(0)?)?;
    keyward.cluster.start_node(0)?;
    let key = hand_over(keyward.cluster.node(0)?, "key.txt", identity.to_string().expose_secret())?;
    let restore = ["node-agent", "restore", "--bundle", &out, "--identity", &key];
    let answer = keyward.command_on(0, &restore).await?;
    println!("{}\n{}", answer.said, answer.complained);
    ensure!(answer.status.success(), "{answer:?}");
    writes_by_kms(keyward.cluster.node(0)?)?;
    let began = Instant::now();
    keyward.cluster.node(0)?.release_apiserver()?;
    keyward.start_agents()?;
    keyward.cluster.wait_ready(0).await?;
    println!("ready in {:.1} s", began.elapsed().as_secs_f64());
    ensure!(load.contents().await? == before, "something says something else");
    keyward.wait_settled(1, PATIENCE).await?;
    // It goes on from there.
    keyward.apply(&vault_spec(&keyward, "b", &IMAGE(1))).await?;
    keyward.wait_settled(2, PATIENCE).await?;
    evidence(&keyward.cluster, &load, &before)
        .await?
        .expect(|resource| format!("k8s:enc:kms:v2:2_{resource}:"))?;
    // A node that has something is left alone.
    let again = keyward.command_on(0, &restore).await?;
    ensure!(!again.status.success(), "{again:?}");
    Ok(())
}

/// Whatever the API server starts with, it writes nothing in plain text.
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
    // By the name of a node that lives it is refused, and nothing is installed.
    let refused = keyward.join_as(1, "node-1").await?;
    println!("{}\n{}", refused.said, refused.complained);
    ensure!(!refused.status.success() && refused.complained.contains("node node-1 lives"), "{refused:?}");
    ensure!(!keyward.cluster.node(1)?.path(ENCRYPTION_CONFIG).exists(), "something was installed");
    let answer = keyward.join(1).await?;
    println!("{}\n{}", answer.said, answer.complained);
    ensure!(answer.status.success() && answer.said.contains("node-2 is registered"), "{answer:?}");
    writes_by_kms(keyward.cluster.node(1)?)?;
    // It may be said again.
    let again = keyward.join(1).await?;
    ensure!(again.status.success(), "{again:?}");

    // A change that was asked for waits for the node, whose agent has not said a word yet.
    keyward.apply(&vault_spec(&keyward, "b", &IMAGE(1))).await?;
    keyward
        .wait("the operator to wait for the node", PATIENCE, |status| status.summary().contains("node-2"))
        .await?;

    // Its API server starts, and is asked to write from the first moment.
    let node = keyward.cluster.node(1)?;
    node.release_apiserver()?;
    let client = keyward.cluster.client(1).await?;
    let write = async {
        let joined = wait_until("a namespace of its own", PATIENCE, async || {
            Ok(Seen::Yes(Load::empty(&client, "joined").await?))
        })
        .await?;
        wait_until("a Secret that was written through it", PATIENCE, async || {
            joined.add("secret/first", "content").await?;
            Ok(Seen::Yes(()))
        })
        .await
    };
    let go_on = async {
        let first = wait_until("what it has loaded", PATIENCE, async || {
            let hash = keyward.cluster.loaded_hash(1).await?;
            Ok(hash.map_or_else(|| Seen::NotYet("nothing".to_owned()), Seen::Yes))
        })
        .await?;
        let installed = std::fs::read(node.path(ENCRYPTION_CONFIG))?;
        ensure!(first == keyward_core::ids::ConfigHash::of(&installed).0, "it began with {first}");
        node.start_agent(&["--probe-interval", "2s"])?;
        keyward.cluster.wait_ready(1).await
    };
    tokio::try_join!(write, go_on)?;
    let stored = keyward.cluster.etcd().count_by_prefix("secrets").await?;
    ensure!(stored.keys().all(|prefix| prefix.starts_with("k8s:enc:kms:v2:")), "{stored:?}");

    // It counts: the change goes through both.
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
