//! `keyward health-reporter` with real plugins, against a real API server that validates like OpenShift's CRD
//! (openshift: health-report): failures are reported, and a bad plugin does not hide a good one. The reporter
//! runs with its shipped role.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use keyward_core::names;
use keyward_core::platform::openshift::{COMPONENTS, Component};
use keyward_test_cluster::{AGENT_IMAGE, AppRole, Bao, Binary, Cluster, Image, Seen, State, wait_until};
use keyward_test_e2e::{Audit, give, person};
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_mins(1);
const PLUGIN_IMAGE: &str = "example.com/test/kms-plugin";
/// Any digest works: the image map goes by repository.
const DIGEST: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
const FILES: &str = "/etc/kubernetes/test";

/// The component whose `--resource` is the default.
const KUBE_APISERVER: &Component = &COMPONENTS[0];

fn resource(component: &Component) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("operator.openshift.io", "v1", component.operator))
}

/// The CRD of an operator's CR, with only its encryption status (openshift: encryption-status).
fn crd(component: &Component) -> Value {
    let text = |most: u32| json!({"type": "string", "minLength": 1, "maxLength": most});
    let report = json!({
        "type": "object",
        "required": ["nodeName", "keyID", "status", "lastCheckedTime", "remoteKeyID"],
        "properties": {
            "nodeName": {
                "type": "string", "minLength": 1, "maxLength": 253,
                "pattern": "^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$",
            },
            "keyID": text(512),
            "status": {"type": "string", "enum": ["Healthy", "Unhealthy", "Error"]},
            "lastCheckedTime": {"type": "string", "format": "date-time"},
            "remoteKeyID": text(1024),
            "detail": text(1024),
        },
    });
    let encryption_status = json!({
        "type": "object", "minProperties": 1,
        "properties": {"healthReports": {
            "type": "array", "minItems": 1, "maxItems": 200, "items": report,
            "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["nodeName", "keyID"],
        }},
    });
    // From the inside out.
    let fields = component.status.split('/').filter(|field| !field.is_empty()).rev();
    let schema = fields
        .fold(encryption_status, |inner, field| json!({"type": "object", "properties": {field: inner}}));
    let ApiResource { group, kind, plural, .. } = resource(component);
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group, "scope": "Cluster",
            "names": {"kind": kind, "plural": plural},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": schema}, "subresources": {"status": {}},
            }],
        },
    })
}

struct Setup {
    cluster: Cluster,
    bao: Bao,
    client: Client,
}

impl Setup {
    async fn start(audit: &Audit) -> Result<Self> {
        let tools = keyward_test_cluster::Tools::here();
        let for_build = tools.clone();
        let (keyward, plugin) = tokio::task::spawn_blocking(move || -> Result<_> {
            Ok((for_build.binary(Binary::Keyward)?, for_build.binary(Binary::KmsPlugin)?))
        })
        .await??;
        let images = [Image::repository(AGENT_IMAGE, keyward), Image::repository(PLUGIN_IMAGE, plugin)];
        let builder = Cluster::builder().images(images).apiserver_args(audit.arguments());
        let (cluster, bao) = tokio::try_join!(builder.start(), Bao::start(&tools))?;
        bao.mount_transit("", "transit").await?;
        for key in ["a", "b"] {
            bao.create_key("", "transit", key).await?;
        }
        let client = cluster.client(0).await?;
        let setup = Self { cluster, bao, client };
        let crds = Api::<CustomResourceDefinition>::all(setup.client.clone());
        for component in &COMPONENTS {
            crds.create(&PostParams::default(), &serde_json::from_value(crd(component))?).await?;
            let operator = setup.operator(component);
            let object = DynamicObject::new(names::CLUSTER, &resource(component)).data(json!({}));
            wait_until("the CRD to be served", PATIENCE, async || {
                match operator.create(&PostParams::default(), &object).await {
                    Ok(_) => Ok(Seen::Yes(())),
                    Err(error) => Ok(Seen::NotYet(error.to_string())),
                }
            })
            .await?;
        }
        Ok(setup)
    }

    fn operator(&self, component: &Component) -> Api<DynamicObject> {
        Api::all_with(self.client.clone(), &resource(component))
    }

    /// Starts a static pod of the node, with its folders at their own paths.
    fn run(&self, name: &str, image: &str, command: &str, args: &[String]) -> Result<()> {
        let folders = [("files", "/etc/kubernetes"), ("sockets", "/var/run/kmsplugin")];
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "kube-system"},
            "spec": {
                "hostNetwork": true, "terminationGracePeriodSeconds": 2,
                "containers": [{
                    "name": "main", "image": format!("{image}@{DIGEST}"), "command": [command], "args": args,
                    "volumeMounts": folders.map(|(name, path)| json!({"name": name, "mountPath": path})),
                }],
                "volumes": folders.map(|(name, path)| json!({"name": name, "hostPath": {"path": path}})),
            },
        });
        self.cluster.node(0)?.write_manifest(name, &pod)
    }

    /// Starts the plugin of a key that uses this Transit key.
    fn plugin(&self, number: u32, transit: &str, role: &AppRole) -> Result<()> {
        let args = [
            format!("-listen-address=unix:///var/run/kmsplugin/kms-{number}.sock"),
            format!("-vault-address={}", self.bao.address()),
            format!("-tls-ca-file={FILES}/ca.crt"),
            format!("-vault-key-path=transit/keys/{transit}"),
            format!("-approle-role-id={}", role.role_id),
            format!("-approle-secret-id-path={FILES}/secret-id"),
            "-health-port=0".to_owned(),
            "-metrics-port=0".to_owned(),
        ];
        self.run(&format!("kms-{number}"), PLUGIN_IMAGE, "kms-plugin", &args)
    }

    /// Starts a reporter with its shipped role; without a kind it reports to `KubeAPIServer`.
    fn reporter(&self, name: &str, sockets: &str, kind: Option<&str>) -> Result<()> {
        let kubeconfig = self.cluster.kubeconfig(0, &person("health-reporter"))?;
        let mut args = vec![
            "health-reporter".to_owned(),
            format!("--kms-sockets={sockets}"),
            "--node-name=node-1".to_owned(),
            "--interval=1s".to_owned(),
            "--read-timeout=1s".to_owned(),
            format!("--kubeconfig={}", kubeconfig.display()),
        ];
        args.extend(kind.map(|kind| format!("--resource={kind}")));
        self.run(name, AGENT_IMAGE, "keyward", &args)
    }

    async fn signal(&self, plugin: &str, signal: &str) -> Result<()> {
        let pod = self.cluster.node(0)?.pod(plugin)?.context("no such plugin")?;
        let Some(State::Running { pid, .. }) = pod.container("main").map(|container| &container.state) else {
            anyhow::bail!("{plugin} does not run: {pod:?}");
        };
        let sent = self.cluster.node(0)?.exec(&["kill", signal, &pid.to_string()]).await?;
        ensure!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
        Ok(())
    }

    async fn reports(&self, component: &Component) -> Result<Vec<Value>> {
        let object = self.operator(component).get(names::CLUSTER).await?;
        let reports = object.data.pointer(&format!("{}/healthReports", component.status));
        Ok(reports.and_then(Value::as_array).cloned().unwrap_or_default())
    }

    /// Waits until new reports show each plugin with its status, and with a detail that contains this text.
    async fn shows(&self, expected: [(&str, &str); 2]) -> Result<Vec<Value>> {
        let after: jiff::Timestamp = whole(jiff::Timestamp::now())?;
        wait_until(&format!("reports with {expected:?}"), PATIENCE, async || {
            let reports = self.reports(KUBE_APISERVER).await?;
            let all = expected.iter().zip(["1", "2"]).all(|((status, detail), key)| {
                reports.iter().any(|report| {
                    let at = report["lastCheckedTime"].as_str().and_then(|at| at.parse().ok());
                    report["nodeName"] == "node-1"
                        && report["keyID"] == key
                        && report["status"] == *status
                        && report["detail"].as_str().unwrap_or_default().contains(detail)
                        && at.is_some_and(|at: jiff::Timestamp| at >= after)
                })
            });
            let log = self.cluster.node(0)?.logs("reporter", "main").unwrap_or_default();
            Ok(if all {
                Seen::Yes(reports)
            } else {
                Seen::NotYet(format!("{reports:?}\n{}", log.lines().last().unwrap_or_default()))
            })
        })
        .await
    }
}

fn whole(at: jiff::Timestamp) -> Result<jiff::Timestamp> {
    Ok(jiff::Timestamp::from_second(at.as_second())?)
}

fn remote_key_id<'r>(reports: &'r [Value], key: &str) -> &'r str {
    let report = reports.iter().find(|report| report["nodeName"] == "node-1" && report["keyID"] == key);
    report.and_then(|report| report["remoteKeyID"].as_str()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_state_is_reported_and_a_bad_plugin_does_not_hide_a_good_one() -> Result<()> {
    let audited = tempfile::tempdir()?;
    let audit = Audit::below(audited.path())?;
    let setup = Setup::start(&audit).await?;
    let roles = give(&setup.cluster, "health-reporter").await?;
    let role = setup.bao.policy_and_approle("", "keyward", &["transit/keys/a", "transit/keys/b"]).await?;
    let folder = setup.cluster.node(0)?.path(FILES);
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("ca.crt"), setup.bao.ca_pem())?;
    std::fs::write(folder.join("secret-id"), role.secret_id.reveal())?;

    // Another node's reporter has written a report.
    let other = json!({
        "apiVersion": "operator.openshift.io/v1", "kind": "KubeAPIServer", "metadata": {"name": "cluster"},
        "status": {"encryptionStatus": {"healthReports": [{
            "nodeName": "node-9", "keyID": "1", "status": "Healthy", "remoteKeyID": "k",
            "lastCheckedTime": "2026-05-08T12:34:56Z",
        }]}},
    });
    let params = PatchParams::apply("kms-health-reporter-9").force();
    setup.operator(KUBE_APISERVER).patch_status(names::CLUSTER, &params, &Patch::Apply(&other)).await?;

    // At first, one of the plugins does not exist and has never answered.
    setup.plugin(1, "a", &role)?;
    let sockets = "unix:///var/run/kmsplugin/kms-2.sock,unix:///var/run/kmsplugin/kms-1.sock";
    setup.reporter("reporter", sockets, None)?;
    let reports = setup.shows([("Healthy", ""), ("Error", "no KMS plugin answers")]).await?;
    ensure!(remote_key_id(&reports, "1").starts_with("transit/keys/a@v1#"), "{reports:?}");
    ensure!(remote_key_id(&reports, "2") == "unknown", "{reports:?}");

    setup.plugin(2, "b", &role)?;
    let reports = setup.shows([("Healthy", ""), ("Healthy", "")]).await?;
    let second = remote_key_id(&reports, "2").to_owned();
    ensure!(second.starts_with("transit/keys/b@v1#"), "{reports:?}");

    // The plugin hangs.
    setup.signal("kms-2", "-STOP").await?;
    let reports =
        setup.shows([("Healthy", ""), ("Error", "no answer from the KMS plugin within 1s")]).await?;
    ensure!(remote_key_id(&reports, "2") == second, "the last known id: {reports:?}");
    setup.signal("kms-2", "-CONT").await?;
    setup.shows([("Healthy", ""), ("Healthy", "")]).await?;

    // The plugin reports that it is unhealthy.
    setup.bao.delete_key("", "transit", "b").await?;
    let reports = setup.shows([("Healthy", ""), ("Unhealthy", "transit/keys/b")]).await?;
    ensure!(!remote_key_id(&reports, "2").is_empty(), "{reports:?}");

    // The plugin is removed.
    setup.cluster.node(0)?.remove_manifest("kms-2")?;
    let reports = setup.shows([("Healthy", ""), ("Error", "no KMS plugin answers")]).await?;
    ensure!(reports.len() == 3 && reports.iter().any(|report| report["nodeName"] == "node-9"), "{reports:?}");

    let log = setup.cluster.node(0)?.logs("reporter", "main")?;
    ensure!(!log.contains("cannot be written"), "{log}");

    // For the other API servers it reports to their operators' CRs.
    for component in COMPONENTS.iter().filter(|component| component.name != KUBE_APISERVER.name) {
        let kind = component.operator;
        let name = format!("reporter-{}", kind.to_lowercase());
        setup.reporter(&name, "unix:///var/run/kmsplugin/kms-1.sock", Some(kind))?;
        wait_until(&format!("a report in {kind}"), PATIENCE, async || {
            let reports = setup.reports(component).await?;
            Ok(Seen::when(reports.len() == 1, format!("{reports:?}")))
        })
        .await?;
    }
    audit.must_fit(&roles, |_| false)?;
    Ok(())
}
