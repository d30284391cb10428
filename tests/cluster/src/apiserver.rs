//! kube-apiserver as a static pod like kubeadm's, with the folder of its encryption configuration mounted.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use crate::files;
use crate::pki::{Authority, SigningKey};

/// The image that runs as the control plane's binary.
pub(crate) const IMAGE: &str = "example.com/kube-apiserver";
/// The name of its manifest.
pub(crate) const NAME: &str = "kube-apiserver";
/// The EncryptionConfiguration that a node's API server loads, as a path on the node.
pub const ENCRYPTION_CONFIG: &str = "/etc/kubernetes/encryption/config.json";
/// Its content before the first decision, byte for byte (objects: revision-zero).
pub const REVISION_0: &str = "{\"kind\":\"EncryptionConfiguration\",\"apiVersion\":\"apiserver.config.k8s.io/v1\",\
    \"resources\":[{\"resources\":[\"secrets\"],\"providers\":[{\"identity\":{}}]}]}\n";
/// Sets how often an API server built from tests/control-plane polls that file.
const FILE_POLL: &str = "KEYWARD_TEST_ENCRYPTION_CONFIG_POLL";
const PKI: &str = "/etc/kubernetes/pki";

/// How the API servers of a cluster are started.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) request_timeout: Duration,
    pub(crate) file_poll: Duration,
    pub(crate) more_args: Vec<String>,
}

/// Writes the files that a node's API server reads, below the node's root folder on the host.
pub(crate) fn write_files(root: &Path, node: &str, authority: &Authority, tokens: &SigningKey) -> Result<()> {
    let serving = authority.server(&["kubernetes.default.svc", "localhost", "127.0.0.1", node])?;
    let on_host = |path: &str| root.join(path.trim_start_matches('/'));
    for (name, text, mode) in [
        ("ca.crt", authority.pem(), 0o644),
        ("apiserver.crt", &serving.certificate, 0o644),
        ("apiserver.key", serving.key.reveal(), 0o600),
        ("sa.pub", &tokens.public, 0o644),
        ("sa.key", tokens.private.reveal(), 0o600),
    ] {
        files::replace(&on_host(&format!("{PKI}/{name}")), text.as_bytes(), mode)?;
    }
    files::replace(&on_host(ENCRYPTION_CONFIG), REVISION_0.as_bytes(), 0o600)
}

/// The static pod.
pub(crate) fn manifest(settings: &Settings, port: u16, etcd: &str) -> Value {
    let mut command = vec!["kube-apiserver".to_owned()];
    let flags = [
        ("etcd-servers", etcd.to_owned()),
        ("secure-port", port.to_string()),
        ("bind-address", "127.0.0.1".to_owned()),
        ("advertise-address", "127.0.0.1".to_owned()),
        // Several servers share this address; none of them is allowed to remove the others as dead.
        ("endpoint-reconciler-type", "none".to_owned()),
        ("tls-cert-file", format!("{PKI}/apiserver.crt")),
        ("tls-private-key-file", format!("{PKI}/apiserver.key")),
        ("client-ca-file", format!("{PKI}/ca.crt")),
        ("service-account-key-file", format!("{PKI}/sa.pub")),
        ("service-account-signing-key-file", format!("{PKI}/sa.key")),
        ("service-account-issuer", "https://kubernetes.default.svc".to_owned()),
        ("service-cluster-ip-range", "10.96.0.0/24".to_owned()),
        ("authorization-mode", "RBAC".to_owned()),
        ("disable-admission-plugins", "ServiceAccount".to_owned()),
        ("encryption-provider-config", ENCRYPTION_CONFIG.to_owned()),
        ("encryption-provider-config-automatic-reload", "true".to_owned()),
        ("request-timeout", format!("{}s", settings.request_timeout.as_secs())),
    ];
    command.extend(flags.map(|(name, value)| format!("--{name}={value}")));
    command.extend(settings.more_args.clone());
    let poll = format!("{}ms", settings.file_poll.as_millis());
    let folder = |name: &str, path: &str| json!({"name": name, "hostPath": {"path": path, "type": "DirectoryOrCreate"}});
    let mount = |name: &str, path: &str| json!({"name": name, "mountPath": path, "readOnly": true});
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": NAME,
            "namespace": "kube-system",
            "labels": {"component": "kube-apiserver", "tier": "control-plane"},
        },
        "spec": {
            "hostNetwork": true,
            "priorityClassName": "system-node-critical",
            // A server that stops waits only for its watchers, and all of those belong to tests.
            "terminationGracePeriodSeconds": 5,
            "containers": [{
                "name": "kube-apiserver",
                "image": format!("{IMAGE}:v1.36.3"),
                "command": command,
                "env": [
                    {"name": FILE_POLL, "value": poll},
                    // Fewer garbage collections: an API server starts with a fifth less processor time.
                    {"name": "GOGC", "value": "400"},
                ],
                "volumeMounts": [
                    mount("pki", PKI),
                    mount("encryption", "/etc/kubernetes/encryption"),
                    mount("kmsplugin", "/var/run/kmsplugin"),
                ],
            }],
            "volumes": [
                folder("pki", PKI),
                folder("encryption", "/etc/kubernetes/encryption"),
                folder("kmsplugin", "/var/run/kmsplugin"),
            ],
        },
    })
}
