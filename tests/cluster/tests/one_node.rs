//! The whole life of one node: what it stores, what it runs, and that it leaves nothing on the host.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails at the first error")]

mod common;

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use common::{alive, secret_key, sha256, write_secret};
use k8s_openapi::api::core::v1::{Node, Pod};
use keyward_test_cluster::{
    Cluster, ENCRYPTION_CONFIG, Image, REVISION_0, Seen, State, storage_prefix, wait_until,
};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);

/// A static pod whose containers are shell scripts.
fn pod(name: &str, spec: &Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "kube-system"},
        "spec": {"hostNetwork": true, "terminationGracePeriodSeconds": 1},
    });
    if let (Some(into), Value::Object(more)) = (pod["spec"].as_object_mut(), spec.clone()) {
        into.extend(more);
    }
    pod
}

fn script(name: &str, script: &str) -> Value {
    json!({"name": name, "image": "example.com/test/sh@sha256:1", "args": ["-c", script]})
}

#[tokio::test]
async fn a_node_stores_objects_runs_pods_and_leaves_nothing_behind() -> Result<()> {
    let images = [Image::repository("example.com/test/sh", "/bin/sh")];
    let mut cluster = Cluster::builder().images(images).start().await?;
    let folder = cluster.folder().to_owned();
    assert!(alive(&folder).len() >= 3, "etcd, supervisor and their guards: {:?}", alive(&folder));

    stored_values_follow_the_configuration_file(&cluster).await?;
    a_crashing_container_is_restarted(&cluster).await?;
    a_changed_manifest_is_another_pod(&cluster).await?;
    sidecars_start_before_and_stop_after(&cluster).await?;
    the_state_shows_why_a_container_cannot_run(&cluster).await?;
    commands_run_inside_the_node(&cluster).await?;
    containers_run_as_the_user_that_they_request(&mut cluster).await?;
    the_api_server_restarts(&cluster).await?;
    history_can_be_compacted(&cluster).await?;

    let api_server = cluster.node(0)?.api_port();
    drop(cluster);
    assert_eq!(alive(&folder), Vec::<String>::new());
    assert!(std::net::TcpStream::connect(("127.0.0.1", api_server)).is_err(), "an API server still runs");
    assert!(!folder.exists(), "{} still exists", folder.display());
    for path in ["/etc/kubernetes", "/var/run/kmsplugin", "/var/lib/keyward-test-binaries"] {
        let path = Path::new(path);
        assert!(!path.exists() || path.read_dir()?.next().is_none(), "{} is not empty", path.display());
    }
    Ok(())
}

async fn stored_values_follow_the_configuration_file(cluster: &Cluster) -> Result<()> {
    let client = cluster.client(0).await?;
    assert_eq!(cluster.loaded_hash(0).await?, Some(sha256(REVISION_0.as_bytes())));
    write_secret(&client, "before", "plain text").await?;
    let stored = cluster.etcd().value(&secret_key("before")).await?.unwrap_or_default();
    assert_eq!(storage_prefix(&stored), "plain");
    assert!(String::from_utf8_lossy(&stored).contains("plain text"));

    let config =
        json!({"kind": "EncryptionConfiguration", "apiVersion": "apiserver.config.k8s.io/v1", "resources": [
        {"resources": ["secrets"], "providers": [
            {"aescbc": {"keys": [{"name": "7", "secret": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}]}},
            {"identity": {}}]}]})
        .to_string();
    std::fs::write(cluster.node(0)?.path(ENCRYPTION_CONFIG), &config)?;
    wait_until("the new configuration", SOON, async || {
        let loaded = cluster.loaded_hash(0).await?;
        Ok(Seen::when(loaded == Some(sha256(config.as_bytes())), format!("{loaded:?}")))
    })
    .await?;
    write_secret(&client, "after", "cipher text").await?;
    let stored = cluster.etcd().value(&secret_key("after")).await?.unwrap_or_default();
    assert_eq!(storage_prefix(&stored), "k8s:enc:aescbc:v1:7:");
    assert!(!String::from_utf8_lossy(&stored).contains("cipher text"));
    let counts = cluster.etcd().count_by_prefix("secrets").await?;
    assert_eq!((counts["plain"], counts["k8s:enc:aescbc:v1:7:"]), (1, 1), "{counts:?}");
    Ok(())
}

async fn a_crashing_container_is_restarted(cluster: &Cluster) -> Result<()> {
    let node = cluster.node(0)?;
    let mut container = script("main", "echo $(GREETING) $0; echo problem >&2; exit 3");
    container["env"] = json!([{"name": "GREETING", "value": "hello"}]);
    node.write_manifest("crash", &pod("crash", &json!({"containers": [container]})))?;
    let crashed = wait_until("two restarts", SOON, async || {
        let pod = node.pod("crash")?;
        let restarts = pod.as_ref().map_or(0, |pod| pod.containers[0].restarts);
        Ok(if restarts >= 2 { Seen::Yes(pod.unwrap()) } else { Seen::NotYet(format!("{pod:?}")) })
    })
    .await?;
    assert_eq!(crashed.containers[0].last.as_ref().map(|end| end.exit_code), Some(3));
    let logs = node.logs("crash", "main")?;
    assert!(logs.matches("hello").count() >= 2 && logs.contains("problem"), "{logs}");

    let pods: Api<Pod> = Api::namespaced(cluster.client(0).await?, "kube-system");
    let mirror = wait_until("the mirror pod's restarts", SOON, async || {
        let mirror = pods.get("crash-node-1").await?;
        let status =
            mirror.status.as_ref().and_then(|status| status.container_statuses.as_ref()?.first().cloned());
        let restarts = status.map_or(0, |status| status.restart_count);
        Ok(if restarts >= 2 { Seen::Yes(mirror) } else { Seen::NotYet(format!("{restarts} restarts")) })
    })
    .await?;
    assert!(mirror.annotations().contains_key("kubernetes.io/config.mirror"));
    let status = mirror.status.unwrap();
    assert_eq!(status.phase.as_deref(), Some("Running"));
    let main = &status.container_statuses.unwrap()[0];
    assert_eq!(main.image, "example.com/test/sh@sha256:1");
    let last = main.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    assert_eq!(last.map(|end| end.exit_code), Some(3));

    node.remove_manifest("crash")?;
    wait_until("the end of the pod and its mirror pod", SOON, async || {
        let (pod, mirror) = (node.pod("crash")?.is_some(), pods.get_opt("crash-node-1").await?.is_some());
        Ok(Seen::when(!pod && !mirror, format!("pod {pod}, mirror {mirror}")))
    })
    .await?;
    let nodes: Api<Node> = Api::all(cluster.client(0).await?);
    assert!(nodes.get("node-1").await?.labels().contains_key("node-role.kubernetes.io/control-plane"));
    Ok(())
}

async fn a_changed_manifest_is_another_pod(cluster: &Cluster) -> Result<()> {
    let node = cluster.node(0)?;
    let mut uids = Vec::new();
    for word in ["one", "two"] {
        // It ignores SIGTERM, so that only the grace period ends it.
        let stubborn = format!("trap '' TERM; echo {word}; while :; do sleep 1; done");
        node.write_manifest("change", &pod("change", &json!({"containers": [script("main", &stubborn)]})))?;
        let uid = wait_until("the pod with the new script", SOON, async || {
            let pod = node.pod("change")?.filter(|pod| pod.is_running() && !uids.contains(&pod.uid));
            let logs = node.logs("change", "main").unwrap_or_default();
            Ok(match pod {
                Some(pod) if logs == format!("{word}\n") => Seen::Yes(pod.uid),
                pod => Seen::NotYet(format!("{pod:?} {logs}")),
            })
        });
        uids.push(uid.await?);
    }
    node.remove_manifest("change")?;
    wait_until("its end", SOON, async || Ok(Seen::when(node.pod("change")?.is_none(), "it runs"))).await
}

async fn sidecars_start_before_and_stop_after(cluster: &Cluster) -> Result<()> {
    let node = cluster.node(0)?;
    let file = "/var/lib/keyward/order";
    let append = |what: &str| format!("echo {what} >> {file}");
    let linger = |name: &str| {
        format!(
            "{}; trap '{}; exit 0' TERM; while :; do sleep 0.05; done",
            append(name),
            append(&format!("{name}-ends"))
        )
    };
    let mut sidecar = script("side", &linger("side"));
    sidecar["restartPolicy"] = json!("Always");
    let spec = json!({
        "initContainers": [sidecar, script("init", &append("init"))],
        "containers": [script("main", &linger("main"))],
        "terminationGracePeriodSeconds": 10,
    });
    node.write_manifest("order", &pod("order", &spec))?;
    let seen = || std::fs::read_to_string(node.path(file)).unwrap_or_default();
    wait_until("all three", SOON, async || {
        let all = ["side", "init", "main"].iter().all(|name| seen().contains(&format!("{name}\n")));
        Ok(Seen::when(all, seen()))
    })
    .await?;
    node.remove_manifest("order")?;
    wait_until("its end", SOON, async || Ok(Seen::when(node.pod("order")?.is_none(), seen()))).await?;
    let order = seen();
    let at = |word: &str| order.lines().position(|line| line == word).unwrap_or(usize::MAX);
    assert!(at("init") < at("main") && at("side") < at("main"), "{order}");
    assert!(at("main-ends") < at("side-ends") && at("side-ends") < usize::MAX, "{order}");
    Ok(())
}

async fn the_state_shows_why_a_container_cannot_run(cluster: &Cluster) -> Result<()> {
    let node = cluster.node(0)?;
    let mut mounts = script("main", "true");
    mounts["volumeMounts"] = json!([{"name": "scratch", "mountPath": "/scratch"}]);
    let with_mount = json!({"containers": [mounts], "volumes": [{"name": "scratch", "emptyDir": {}}]});
    let unknown = json!({"containers": [{"name": "main", "image": "example.com/unknown:1"}]});
    for (name, spec, reason, word) in [
        ("mounts", with_mount, "CreateContainerConfigError", "container main mounts volume scratch"),
        ("unknown", unknown, "ImagePullBackOff", "example.com/unknown:1"),
    ] {
        node.write_manifest(name, &pod(name, &spec))?;
        wait_until(reason, SOON, async || {
            let pod = node.pod(name)?;
            let state = pod.as_ref().map(|pod| &pod.containers[0].state);
            let shown = matches!(state, Some(State::Waiting { reason: given, message })
                if given == reason && message.contains(word));
            Ok(Seen::when(shown, format!("{state:?}")))
        })
        .await?;
        node.remove_manifest(name)?;
    }
    Ok(())
}

async fn commands_run_inside_the_node(cluster: &Cluster) -> Result<()> {
    let node = cluster.node(0)?;
    let output =
        node.exec(&["sh", "-c", "hostname; ls /etc/kubernetes; ls /etc/hostname; ps ax | wc -l"]).await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    assert!(text.starts_with("node-1\n"), "{text}");
    // /etc/kubernetes is the node's own folder, /etc/hostname is the host's file.
    assert!(text.contains("encryption\n") && text.contains("/etc/hostname\n"), "{text}");
    Ok(())
}

async fn containers_run_as_the_user_that_they_request(cluster: &mut Cluster) -> Result<()> {
    // A binary in a folder that no other user can access.
    let private = tempfile::tempdir()?;
    let shell = private.path().join("shell");
    std::fs::copy("/bin/sh", &shell)?;
    cluster.map_images([Image::exact("example.com/test/private:1", &shell)])?;
    let node = cluster.node(0)?;
    let container = json!({
        "name": "main", "image": "example.com/test/private:1", "args": ["-c", "id -u; id -g; sleep 60"],
        "securityContext": {"runAsUser": 12345},
    });
    node.write_manifest("user", &pod("user", &json!({"containers": [container]})))?;
    // A user namespace has only one user.
    let root = rustix::process::geteuid().is_root();
    let expected = if root { "12345\n12345\n" } else { "0\n0\n" };
    wait_until("its user", SOON, async || {
        let logs = node.logs("user", "main").unwrap_or_default();
        Ok(Seen::when(logs == expected, format!("{logs:?} {:?}", node.pod("user")?)))
    })
    .await?;
    node.remove_manifest("user")
}

async fn the_api_server_restarts(cluster: &Cluster) -> Result<()> {
    let node = cluster.node(0)?;
    let running = |pod: Option<keyward_test_cluster::PodState>| match pod?.containers.first()?.state {
        State::Running { pid, .. } => Some(pid),
        _ => None,
    };
    let before = running(node.pod("kube-apiserver")?);
    node.restart_apiserver().await?;
    cluster.wait_ready(0).await?;
    assert_ne!(running(node.pod("kube-apiserver")?), before);
    // It loads the same configuration again.
    write_secret(&cluster.client(0).await?, "restarted", "x").await?;
    let stored = cluster.etcd().value(&secret_key("restarted")).await?.unwrap_or_default();
    assert_eq!(storage_prefix(&stored), "k8s:enc:aescbc:v1:7:");
    Ok(())
}

async fn history_can_be_compacted(cluster: &Cluster) -> Result<()> {
    // More than one page of the reader.
    let client = cluster.client(0).await?;
    for number in 0..520 {
        write_secret(&client, &format!("many-{number:03}"), "x").await?;
    }
    let found = cluster.etcd().values("/registry/secrets/default/many-").await?;
    assert_eq!(found.values.len(), 520);
    assert!(found.values.is_sorted_by(|a, b| a.key < b.key));
    assert_eq!(found.by_prefix()["k8s:enc:aescbc:v1:7:"], 520);

    cluster.etcd().compact().await?;
    // A second compaction in a row is not an error.
    cluster.etcd().compact().await?;
    let old = json!({"key": "AA==", "range_end": "AA==", "count_only": true, "revision": found.revision - 1});
    let url = format!("{}/v3/kv/range", cluster.etcd().url());
    let answer = reqwest::Client::new().post(url).json(&old).send().await?;
    assert!(answer.text().await?.contains("compacted"));
    Ok(())
}
