//! `keyward node-agent prepare` on files that kubeadm itself writes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test fails at the first error

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use keyward_core::api::{ClusterEncryption, ClusterEncryptionStatus};
use keyward_core::ids::Revision;
use keyward_core::names;
use keyward_test_cluster::{Binary, Cluster, REVISION_0, Seen, Tools, User, wait_until};
use keyward_test_e2e::{Audit, give, person};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{CustomResourceExt as _, ResourceExt as _};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_mins(1);
const MANIFEST: &str = "etc/kubernetes/manifests/kube-apiserver.yaml";
const CONFIG: &str = "etc/kubernetes/encryption/config.json";
const BACKUPS: &str = "etc/kubernetes/keyward/backups";
const INIT: &str = "\
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint: {advertiseAddress: 10.0.0.1, bindPort: 6443}
nodeRegistration: {name: cp-1, criSocket: unix:///run/containerd/containerd.sock}
---
";
const CLUSTER: &str = "\
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: v1.36.3
apiServer:
  extraArgs: [{name: audit-log-maxage, value: \"7\"}]
";

/// A node's root folder, with kubeadm on it.
struct Machine {
    root: PathBuf,
    tools: Tools,
    kubeconfig: PathBuf,
}

impl Machine {
    fn new(cluster: &Cluster, folder: &Path, kubeconfig: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self {
            root: folder.to_owned(),
            tools: cluster.tools().clone(),
            kubeconfig: kubeconfig.to_owned(),
        })
    }

    /// Runs kubeadm with this folder as its root: kubeadm writes only to `/etc/kubernetes`.
    fn kubeadm(&self, arguments: &str, configuration: &str) -> Result<String> {
        fs::write(self.root.join("kubeadm.yaml"), format!("{INIT}{configuration}"))?;
        let kubeadm = self.tools.control_plane()?.kubeadm.context("KUBEBUILDER_ASSETS has no kubeadm")?;
        let root = rustix::process::geteuid().is_root();
        let mut command = Command::new("unshare");
        if !root {
            command.args(["--user", "--map-root-user"]);
        }
        command.arg(&kubeadm.path).args(&kubeadm.args).args(arguments.split(' '));
        command.args(["--config", "/kubeadm.yaml", "--rootfs"]).arg(&self.root);
        let output = command.output().context("kubeadm")?;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "kubeadm {arguments}: {stderr}");
        Ok(String::from_utf8(output.stdout)?)
    }

    fn prepare(&self, arguments: &[&str]) -> Result<Answer> {
        let program = self.tools.binary(Binary::Keyward)?;
        let mut command = Command::new(program);
        command.args(["node-agent", "prepare", "--root"]).arg(&self.root);
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(arguments);
        Ok(Answer::of(&command.stdin(std::process::Stdio::null()).output()?))
    }

    fn read(&self, path: &str) -> Result<String> {
        fs::read_to_string(self.root.join(path)).with_context(|| path.to_owned())
    }
}

#[derive(Debug)]
struct Answer {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Answer {
    fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    /// Fails unless the exit code is this one, and each word is on standard output or standard error.
    fn must(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:#?}");
        for word in words {
            assert!(self.stdout.contains(word) || self.stderr.contains(word), "{word}: {self:#?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubeadm_manifest_is_prepared_and_stays_prepared_when_kubeadm_writes_it_again() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let audit = Audit::below(folder.path())?;
    let cluster = Cluster::builder().apiserver_args(audit.arguments()).start().await?;
    let admin = cluster.client(0).await?;
    let roles = give(&cluster, "prepare").await?;
    let kubeconfig = cluster.kubeconfig(0, &person("prepare"))?;
    let node = Machine::new(&cluster, &folder.path().join("node"), &kubeconfig)?;

    // The phases of `kubeadm init` that concern the API server.
    node.kubeadm("init phase control-plane apiserver", CLUSTER)?;
    fs::copy(cluster.kubeconfig(0, &User::Admin)?, node.root.join("admin.conf"))?;
    node.kubeadm("init phase upload-config kubeadm --kubeconfig /admin.conf", CLUSTER)?;
    let fresh = node.read(MANIFEST)?;
    let maps = Api::<ConfigMap>::namespaced(admin.clone(), "kube-system");
    let stored = async || -> Result<String> {
        let mut data = maps.get("kubeadm-config").await?.data.context("data")?;
        data.remove("ClusterConfiguration").context("ClusterConfiguration")
    };
    let uploaded = stored().await?;

    // Everything that is missing is named, and nothing changes without consent.
    node.prepare(&["--check"])?.must(
        2,
        &[
            "missing: /etc/kubernetes/encryption/config.json (a file of this node)",
            "missing: --encryption-provider-config=/etc/kubernetes/encryption/config.json (kube-apiserver.yaml)",
            "missing: --encryption-provider-config-automatic-reload=true (ClusterConfiguration",
            "missing: the mount of /var/run/kmsplugin (kube-apiserver.yaml)",
            "note: --request-timeout is 60s",
        ],
    );
    let shown =
        ["+    - --encryption-provider-config=", "+  extraVolumes:", "revision 0", "run it with --yes"];
    node.prepare(&[])?.must(1, &shown);
    assert_eq!((node.read(MANIFEST)?, stored().await?), (fresh.clone(), uploaded.clone()));
    assert!(!node.root.join(CONFIG).exists());

    node.prepare(&["--yes"])?.must(0, &["revision 0 is installed", "kept in", "the kubelet restarts"]);
    let made_ready = node.read(MANIFEST)?;
    assert_eq!(node.read(CONFIG)?, REVISION_0);
    for file in [MANIFEST, CONFIG] {
        assert_eq!(fs::metadata(node.root.join(file))?.permissions().mode() & 0o777, 0o600, "{file}");
    }
    let manifests = node.root.join(MANIFEST).parent().unwrap().to_owned();
    assert_eq!(fs::read_dir(manifests)?.count(), 1, "no other file that the kubelet would start");
    let kept: Vec<String> = fs::read_dir(node.root.join(BACKUPS))?
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    assert!(kept.len() == 2 && kept.contains(&fresh) && kept.contains(&uploaded));

    // A second run changes nothing.
    node.prepare(&["--check"])?.must(0, &["this node is prepared"]);
    let before = (made_ready.clone(), maps.get("kubeadm-config").await?.metadata.resource_version);
    node.prepare(&["--yes"])?.must(0, &["nothing to do"]);
    let after = (node.read(MANIFEST)?, maps.get("kubeadm-config").await?.metadata.resource_version);
    assert_eq!(before, after);

    // From the ConfigMap, an upgrade or another control-plane node gets the same manifest.
    let edited = stored().await?;
    let other = Machine::new(&cluster, &folder.path().join("other"), &kubeconfig)?;
    other.kubeadm("init phase control-plane apiserver", &edited)?;
    assert_eq!(other.read(MANIFEST)?, made_ready);
    // Its file is missing: `--check` reports it before its API server fails.
    other.prepare(&["--check"])?.must(2, &["missing: /etc/kubernetes/encryption/config.json"]);

    // An admin restores the old ClusterConfiguration, and upgrades.
    let patch = Patch::Merge(json!({"data": {"ClusterConfiguration": uploaded}}));
    maps.patch("kubeadm-config", &PatchParams::default(), &patch).await?;
    node.prepare(&["--check"])?
        .must(2, &["missing: the mount of /etc/kubernetes/encryption (ClusterConfiguration"]);
    node.kubeadm("init phase control-plane apiserver", &uploaded)?;
    node.prepare(&["--check"])?
        .must(2, &["missing: --encryption-provider-config-automatic-reload=true (kube-"]);
    node.prepare(&["--yes"])?.must(0, &[]);
    assert_eq!(node.read(MANIFEST)?, made_ready);
    node.prepare(&["--check"])?.must(0, &[]);

    mistakes(&node, &maps, &edited).await?;
    refusals(&admin, &node, &other).await?;
    audit.must_fit(&roles, |_| false)?;
    credential(&node)
}

/// Mistakes that only the admin can fix: `--check` names them, and `prepare` changes nothing while they
/// exist.
async fn mistakes(node: &Machine, maps: &Api<ConfigMap>, configuration: &str) -> Result<()> {
    let made_ready = node.read(MANIFEST)?;
    let manifests = node.root.join(MANIFEST).parent().unwrap().to_owned();
    let unchanged = || -> Result<()> {
        node.prepare(&["--yes"])?.must(1, &[]);
        Ok(())
    };

    // The kubelet also reads a copy in its folder, and of two pods with one name it runs the last.
    let copy = manifests.join("kube-apiserver.yaml.bak");
    fs::copy(node.root.join(MANIFEST), &copy)?;
    node.prepare(&["--check"])?.must(2, &["wrong: ", "kube-apiserver.yaml.bak also defines kube-apiserver"]);
    unchanged()?;
    fs::write(&copy, "kind: Pod\n\tno: YAML")?;
    node.prepare(&["--check"])?
        .must(2, &["it is not known whether ", "kube-apiserver.yaml.bak also defines kube-apiserver: "]);
    unchanged()?;
    fs::rename(&copy, manifests.join(".kube-apiserver.yaml.bak"))?;
    node.prepare(&["--check"])?.must(0, &["this node is prepared"]);

    // In the manifest: a subPath, a query in a probe's path, an addition that is not a change of lines.
    let write = |text: &str| fs::write(node.root.join(MANIFEST), text);
    let mount = "    - mountPath: /var/run/kmsplugin\n";
    write(&made_ready.replace(mount, &format!("{mount}      subPath: old\n")))?;
    node.prepare(&["--check"])?
        .must(2, &["wrong: /var/run/kmsplugin is mounted already, with subPath \"old\""]);
    unchanged()?;
    write(&made_ready.replace("path: /livez", "path: /healthz?verbose"))?;
    node.prepare(&["--check"])?
        .must(2, &["wrong: livenessProbe asks /healthz", "wrong: startupProbe asks /healthz"]);
    let value: Value = serde_saphyr::from_str(&made_ready)?;
    write(&value.to_string().replace("\"--encryption-provider-config-automatic-reload=true\"", "\"--v=2\""))?;
    node.prepare(&["--check"])?.must(
        2,
        &[
            "missing: --encryption-provider-config-automatic-reload=true (kube-apiserver.yaml)",
            "cannot be added automatically",
        ],
    );
    unchanged()?;
    write(&made_ready)?;

    // Only in ClusterConfiguration: the next upgrade would copy it into the manifest.
    let set = async |text: String| {
        let patch = Patch::Merge(json!({"data": {"ClusterConfiguration": text}}));
        maps.patch("kubeadm-config", &PatchParams::default(), &patch).await
    };
    let argument = "  extraArgs:\n";
    let timeout = "  - name: request-timeout\n    value: 90s\n";
    set(configuration.replacen(argument, &format!("{argument}{timeout}"), 1)).await?;
    node.prepare(&["--check"])?
        .must(2, &["wrong: --request-timeout is 60s in kube-apiserver.yaml and 90s in ClusterConfiguration"]);
    set(configuration.replace("value: /etc/kubernetes/encryption/config.json", "value: /etc/mine.yaml"))
        .await?;
    node.prepare(&["--check"])?.must(
        2,
        &[
            "wrong: the API server reads its encryption configuration from /etc/mine.yaml",
            "(ClusterConfiguration",
        ],
    );
    unchanged()?;
    set(configuration.to_owned()).await?;
    assert_eq!(node.read(MANIFEST)?, made_ready);
    node.prepare(&["--check"])?.must(0, &["this node is prepared"]);
    fs::remove_file(manifests.join(".kube-apiserver.yaml.bak"))?;
    Ok(())
}

/// What `prepare` refuses to change, with the reason.
async fn refusals(admin: &kube::Client, node: &Machine, other: &Machine) -> Result<()> {
    // Revisions exist: with revision 0, this server would write plain text while others encrypt.
    let crds = Api::<CustomResourceDefinition>::all(admin.clone());
    let crd = ClusterEncryption::crd();
    crds.patch(&crd.name_any(), &PatchParams::apply("admin"), &Patch::Apply(&crd)).await?;
    let clusters = Api::<ClusterEncryption>::all(admin.clone());
    let mut made = ClusterEncryption::new(names::CLUSTER, Default::default());
    made.spec.encryption.type_ = Some("identity".to_owned());
    made.spec.api_server.request_timeout = Some("5s".to_owned());
    let mut made = wait_until("the CRD to be served", PATIENCE, async || {
        Ok(match clusters.create(&PostParams::default(), &made).await {
            Ok(made) => Seen::Yes(made),
            Err(error) => Seen::NotYet(error.to_string()),
        })
    })
    .await?;
    made.status = Some(ClusterEncryptionStatus { highest_revision: Revision(3), ..Default::default() });
    clusters.replace_status(names::CLUSTER, &PostParams::default(), &made).await?;
    other.prepare(&["--yes"])?.must(1, &["the newest: 3", "node-agent prepare --join"]);
    // Without access to the cluster, the admin must confirm that nothing is encrypted.
    other
        .prepare(&["--yes", "--manifest-only"])?
        .must(1, &["is not known", "node-agent prepare --join", "--begin-unencrypted"]);
    assert!(!other.root.join(CONFIG).exists());
    other
        .prepare(&["--yes", "--manifest-only", "--begin-unencrypted"])?
        .must(0, &["was not checked", "revision 0 is installed"]);

    // What only the admin can fix.
    let timeouts = "--request-timeout is 60s and spec.apiServer.requestTimeout of ClusterEncryption is 5s";
    node.prepare(&["--check"])?.must(2, &[timeouts]);
    let made_ready = node.read(MANIFEST)?;
    let write = |text: &str| fs::write(node.root.join(MANIFEST), text);
    write(&made_ready.replace("path: /livez", "path: /healthz"))?;
    node.prepare(&["--check", "--manifest-only"])?
        .must(2, &["livenessProbe asks /healthz", "change it to /livez"]);

    // Another path of the configuration; an unknown configuration; a manifest that is not YAML; no cluster.
    write(&made_ready.replace("/etc/kubernetes/encryption/config.json", "/etc/mine.yaml"))?;
    node.prepare(&["--yes", "--manifest-only"])?.must(1, &["/etc/mine.yaml", "decrypt what it encrypted"]);
    write(&made_ready)?;
    fs::write(node.root.join(CONFIG), REVISION_0.replace("secrets", "configmaps"))?;
    node.prepare(&["--yes"])?.must(1, &["is not Keyward's", "decrypt what it encrypted"]);
    fs::write(node.root.join(CONFIG), REVISION_0)?;
    write("kind: Pod\n\tno: YAML")?;
    node.prepare(&["--yes"])?.must(1, &["kube-apiserver.yaml cannot be read"]);
    assert_eq!(node.read(MANIFEST)?, "kind: Pod\n\tno: YAML");
    write(&made_ready)?;
    let nowhere =
        Machine { kubeconfig: node.root.join("none"), root: node.root.clone(), tools: node.tools.clone() };
    nowhere.prepare(&["--check"])?.must(1, &["kubeconfig"]);
    nowhere.prepare(&["--check", "--manifest-only"])?.must(0, &["was not checked"]);
    Ok(())
}

/// The agent's kubeconfig, made as docs/install.md describes it.
fn credential(node: &Machine) -> Result<()> {
    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;
    node.kubeadm("init phase certs ca", CLUSTER)?;
    let arguments = "kubeconfig user --client-name keyward:node:cp-1 --org keyward:nodes";
    let kubeconfig: Value = serde_saphyr::from_str(&node.kubeadm(arguments, CLUSTER)?)?;
    let certificate = kubeconfig.pointer("/users/0/user/client-certificate-data").and_then(Value::as_str);
    let pem = String::from_utf8(BASE64_STANDARD.decode(certificate.context("a certificate")?)?)?;
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let der = BASE64_STANDARD.decode(body)?;
    for name in ["keyward:node:cp-1", "keyward:nodes"] {
        assert!(der.windows(name.len()).any(|part| part == name.as_bytes()), "{name}");
    }
    Ok(())
}
