//! The agent of a node without an operator: the test writes the node's spec.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::rbac::v1::Role;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keyward_core::SecretBytes;
use keyward_core::api::{
    EncryptionNode, EncryptionNodeStatus, PreflightAnswer, PreflightPurpose, PreflightRequest,
    PreflightResult,
};
use keyward_core::formats::encryption_config::{
    EncryptionConfiguration, KeysConfiguration, NamedKey, ProviderConfiguration,
};
use keyward_core::formats::revision::{
    PluginRecord, RevisionContent, SecretData, decode_plugins, encode_plugins,
};
use keyward_core::ids::{ConfigHash, KeyId, Revision};
use keyward_core::names;
use keyward_core::node::Instance;
use keyward_test_cluster::{PodState, Seen, State, wait_until};
use keyward_test_e2e::{IMAGE, Install, Keyward, vault_spec};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;

const PATIENCE: Duration = Duration::from_mins(2);
const CONFIG: &str = "/etc/kubernetes/encryption/config.json";

/// Starts Keyward, waits until key 1 is in use, and stops the operator.
async fn without_operator() -> Result<Keyward> {
    let mut keyward = Keyward::start(Install::default()).await?;
    keyward.apply(&vault_spec(&keyward, "a", &IMAGE(1))).await?;
    keyward.wait_settled(1, PATIENCE).await?;
    drop(keyward.operator.take());
    Ok(keyward)
}

fn nodes(keyward: &Keyward) -> Api<EncryptionNode> {
    Api::all(keyward.client.clone())
}

async fn status(keyward: &Keyward) -> Result<EncryptionNodeStatus> {
    nodes(keyward).get("node-1").await?.status.context("the agent has not reported")
}

/// Waits until the agent's status is about the current spec and meets this condition.
async fn shows(
    keyward: &Keyward,
    what: &str,
    condition: impl Fn(&EncryptionNodeStatus) -> bool,
) -> Result<EncryptionNodeStatus> {
    wait_until(what, PATIENCE, async || {
        let node = nodes(keyward).get("node-1").await?;
        let status = node.status.unwrap_or_default();
        let current = Some(status.observed_generation) == node.metadata.generation;
        Ok(if current && condition(&status) {
            Seen::Yes(status)
        } else {
            Seen::NotYet(format!("{status:?}"))
        })
    })
    .await
    .with_context(|| {
        let log = keyward.cluster.node(0).and_then(|node| node.logs("keyward-agent", "agent"));
        let log = log.unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(30).collect();
        format!("the end of the agent's log:\n{}", last.into_iter().rev().collect::<Vec<_>>().join("\n"))
    })
}

/// Changes the node's spec, as the operator does.
async fn change_spec(keyward: &Keyward, change: impl Fn(&mut EncryptionNode)) -> Result<()> {
    let api = nodes(keyward);
    wait_until("the spec to be written", PATIENCE, async || {
        let mut node = api.get("node-1").await?;
        change(&mut node);
        Ok(match api.replace("node-1", &PostParams::default(), &node).await {
            Ok(_) => Seen::Yes(()),
            Err(error) => Seen::NotYet(error.to_string()),
        })
    })
    .await
}

async fn stored(keyward: &Keyward, name: &str) -> Result<SecretData> {
    let secret = keyward.secrets().get(name).await?;
    Ok(secret
        .data
        .unwrap_or_default()
        .into_iter()
        .map(|(key, value)| (key, SecretBytes::new(value.0)))
        .collect())
}

async fn store(keyward: &Keyward, name: &str, data: &SecretData) -> Result<()> {
    let data: BTreeMap<String, ByteString> =
        data.iter().map(|(key, value)| (key.clone(), ByteString(value.expose().to_vec()))).collect();
    let secret = Secret {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..Default::default() },
        data: Some(data),
        ..Default::default()
    };
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": secret.metadata, "data": secret.data});
    keyward.secrets().patch(name, &PatchParams::apply("test").force(), &Patch::Apply(&secret)).await?;
    Ok(())
}

fn pid(pod: &PodState, container: &str) -> Result<u32> {
    match pod.container(container).map(|container| &container.state) {
        Some(State::Running { pid, .. }) => Ok(*pid),
        other => anyhow::bail!("{} does not run: {other:?}", pod.name),
    }
}

/// Waits until a Secret that is stored encrypted can be read.
async fn wait_readable(keyward: &Keyward) -> Result<()> {
    wait_until("an encrypted Secret to be read", PATIENCE, async || {
        let client = keyward.cluster.client(0).await?;
        let api: Api<Secret> = Api::namespaced(client, names::NAMESPACE);
        let secret = api.get(&names::key_secret(names::KUBE_APISERVER, KeyId(1))).await?;
        Ok(Seen::when(secret.data.is_some(), "a Secret without data"))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_works_without_an_operator_and_survives_reboots_and_kills() -> Result<()> {
    let mut keyward = without_operator().await?;
    let before = status(&keyward).await?;
    ensure!(before.revision.0 > 0 && before.error.is_none(), "{before:?}");
    ensure!(before.api_server_id.as_deref().is_some_and(|id| id.starts_with("apiserver-")), "{before:?}");
    let [plugin] = before.plugins.as_slice() else { anyhow::bail!("{:?}", before.plugins) };
    let instance = Instance::new(plugin.key_id, &plugin.digest);

    // A killed agent continues where it was; the plugin is not restarted.
    let plugin_pid = pid(&keyward.plugins()?[0], "kms-plugin")?;
    let node = keyward.cluster.node(0)?;
    for _ in 0..3 {
        let agent = node.pod("keyward-agent")?.context("no agent")?;
        let killed = pid(&agent, "agent")?;
        node.exec(&["kill", "-9", &killed.to_string()]).await?;
        wait_until("another agent", PATIENCE, async || {
            let now = node.pod("keyward-agent")?.context("no agent")?;
            Ok(Seen::when(pid(&now, "agent")? != killed, "the killed one"))
        })
        .await?;
        let last = status(&keyward).await?.plugins[0].health.last_checked_time.clone();
        let after = shows(&keyward, "a newer report", |status| {
            status.plugins.iter().any(|plugin| plugin.health.last_checked_time > last)
        })
        .await?;
        ensure!(after.revision == before.revision && after.plugins[0].ready, "{after:?}");
    }
    ensure!(pid(&keyward.plugins()?[0], "kms-plugin")? == plugin_pid, "the plugin was restarted");

    // After a shutdown and after a power failure, with an empty /var/run: links and folders are restored, and
    // the API server starts.
    for crash in [false, true] {
        if crash {
            keyward.cluster.crash_node(0)?;
        } else {
            keyward.cluster.stop_node(0)?;
        }
        keyward.cluster.start_node(0)?;
        keyward.cluster.wait_ready(0).await?;
        wait_readable(&keyward).await?;
        let last = before.plugins[0].health.last_checked_time.clone();
        let after = shows(&keyward, "the same revision and plugins", |status| {
            status.revision == before.revision
                && status.plugins.iter().all(|plugin| plugin.ready && plugin.health.last_checked_time > last)
        })
        .await?;
        ensure!(after.loaded_hash == before.loaded_hash && after.plugins.len() == 1, "{after:?}");
        let link =
            keyward.cluster.node(0)?.path(format!("/var/run/kmsplugin/kms-{}/kms.sock", plugin.key_id));
        ensure!(std::fs::read_link(&link)?.to_str() == Some(&instance.link_target()), "{}", link.display());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_configuration_is_replaced_by_the_previous_one_and_bad_candidates_change_nothing()
-> Result<()> {
    let keyward = without_operator().await?;
    let before = status(&keyward).await?;
    let name = names::revision_secret(before.revision);
    let good = RevisionContent::decode(&name, &stored(&keyward, &name).await?)?.context("a configuration")?;
    let config = keyward.cluster.node(0)?.path(CONFIG);
    let installed = std::fs::read(&config)?;
    ensure!(installed == good.bytes.expose());

    // A key of three bytes: no API server loads it, so the agent does not install it.
    let key = NamedKey { name: "90".to_owned(), secret: "AAAA".to_owned() };
    let bad_key =
        ProviderConfiguration { aesgcm: Some(KeysConfiguration { keys: vec![key] }), ..Default::default() };
    changed(&keyward, &good, 90, |config| {
        config.resources.iter_mut().take(1).for_each(|entry| entry.providers.push(bad_key.clone()));
    })
    .await?;
    let invalid = shows(&keyward, "the error in the target", |status| {
        status.error.as_ref().is_some_and(|error| error.reason == "TargetInvalid")
    })
    .await?;
    let message = invalid.error.map(|error| error.message).unwrap_or_default();
    ensure!(message.contains("aesgcm.keys[0].secret: it has 3 bytes"), "{message}");
    ensure!(std::fs::read(&config)? == installed, "something was installed");

    // A timeout in which no plugin answers the API server: the API server does not load the configuration.
    // The agent has a timeout of its own, and cannot find the mistake before.
    changed(&keyward, &good, 91, |config| {
        let providers = config.resources.iter_mut().flat_map(|entry| &mut entry.providers);
        for kms in providers.filter_map(|provider| provider.kms.as_mut()) {
            "1ns".clone_into(&mut kms.timeout);
        }
    })
    .await?;
    let refused = shows(&keyward, "the refusal", |status| {
        status.error.as_ref().is_some_and(|error| error.reason == "ConfigurationRefused" && error.put_back)
    })
    .await?;
    ensure!(refused.loaded_hash == before.loaded_hash && refused.revision == before.revision, "{refused:?}");
    ensure!(std::fs::read(&config)? == installed, "the file is not the previous one");
    wait_readable(&keyward).await?;

    // With the previous target, no error is left.
    change_spec(&keyward, |node| {
        node.spec.revision = before.revision;
        node.spec.config_hash = Some(good.hash());
    })
    .await?;
    let back = shows(&keyward, "no error", |status| status.error.is_none()).await?;
    ensure!(back.revision == before.revision, "{back:?}");

    // Candidates: an unknown image; a refused login; then a good one, which runs beside the serving instance.
    let record = good.plugins.get(&KeyId(1)).context("key 1")?;
    let key_check = nodes(&keyward)
        .get("node-1")
        .await?
        .spec
        .key_checks
        .first()
        .context("a key check")?
        .key_check
        .clone();
    let running = keyward.plugins()?;
    let answer = async |candidate: PluginRecord, wanted: PreflightResult| -> Result<PreflightAnswer> {
        let hash = candidate.digest(KeyId(1)).context("a digest")?;
        let data = encode_plugins(&[(KeyId(1), candidate)].into());
        ensure!(decode_plugins("candidate", &data).is_ok());
        store(&keyward, names::PREFLIGHT_SECRET, &data).await?;
        change_spec(&keyward, |node| {
            node.spec.preflight = Some(PreflightRequest {
                key_id: KeyId(1),
                hash: hash.clone(),
                purpose: PreflightPurpose::InPlace,
                key_check: Some(key_check.clone()),
            });
        })
        .await?;
        let status = shows(&keyward, &format!("a preflight that is {wanted:?}"), |status| {
            status.preflight.as_ref().is_some_and(|answer| answer.hash == hash && answer.result == wanted)
        })
        .await?;
        ensure!(status.revision == before.revision, "{status:?}");
        status.preflight.context("a preflight")
    };
    let nowhere = with_image(record, "nowhere.example.com/kms@sha256:00");
    let failed = answer(nowhere, PreflightResult::Failed).await?;
    let failure = failed.failure.context("a failure")?;
    ensure!(failure.phase == "image" && failure.message.contains("nowhere.example.com"), "{failure:?}");
    let mut locked_out = with_image(record, &IMAGE(6));
    for (source, value) in &mut locked_out.referenced {
        if source.key == "secret-id" {
            *value = SecretBytes::new(b"00000000-0000-0000-0000-000000000000".to_vec());
        }
    }
    let failed = answer(locked_out, PreflightResult::Failed).await?.failure.context("a failure")?;
    ensure!(failed.phase == "start" && failed.exit_code == Some(1), "{failed:?}");
    let its_pods: Vec<PodState> =
        keyward.plugins()?.into_iter().filter(|pod| pod.uid != running[0].uid).collect();
    let [trial] = its_pods.as_slice() else { anyhow::bail!("{its_pods:?}") };
    let once = matches!(trial.containers[0].state, State::Terminated(_)) && trial.containers[0].restarts == 0;
    ensure!(once, "exactly one login: {trial:?}");
    let passed = answer(with_image(record, &IMAGE(7)), PreflightResult::Succeeded).await?;
    ensure!(passed.key_check.as_ref() == Some(&key_check) && passed.latency_millis.is_some(), "{passed:?}");
    let now = keyward.plugins()?;
    let serving = now.iter().find(|pod| pod.uid == running[0].uid).context("the serving instance runs")?;
    ensure!(serving.containers == running[0].containers);
    ensure!(std::fs::read(&config)? == installed);
    ensure!(ConfigHash::of(&installed) == good.hash());
    Ok(())
}

/// Makes a revision with a changed configuration the node's target.
async fn changed(
    keyward: &Keyward,
    good: &RevisionContent,
    number: u64,
    change: impl FnOnce(&mut EncryptionConfiguration),
) -> Result<()> {
    let mut config = good.config.clone();
    change(&mut config);
    let content = RevisionContent::new(config, good.plugins.clone());
    let (revision, hash) = (Revision(number), content.hash());
    let name = names::revision_secret(revision);
    store(keyward, &name, &content.encode()).await?;
    let roles: Api<Role> = Api::namespaced(keyward.client.clone(), names::NAMESPACE);
    let rule = json!([{"op": "add", "path": "/rules/0/resourceNames/-", "value": name}]);
    let patch = Patch::Json::<()>(serde_json::from_value(rule)?);
    roles.patch("keyward-node-agent", &PatchParams::default(), &patch).await?;
    change_spec(keyward, |node| {
        node.spec.revision = revision;
        node.spec.config_hash = Some(hash.clone());
    })
    .await
}

fn with_image(record: &PluginRecord, image: &str) -> PluginRecord {
    let mut record = record.clone();
    if let Some(accepted) = &mut record.accepted {
        accepted.image = Some(image.to_owned());
    }
    record
}
