//! Static pod manifests: which files count, and the pod of each one.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Volume};
use sha2::{Digest, Sha256};

use super::environment::Fields;

/// A pod from a manifest, named as the kubelet names it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StaticPod {
    pub(crate) manifest: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) spec: PodSpec,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
}

impl StaticPod {
    /// The folder of its logs below /var/log/pods.
    pub(crate) fn log_folder(&self) -> String {
        format!("{}_{}_{}", self.namespace, self.name, self.uid)
    }

    /// The fields that its containers may request.
    pub(crate) fn fields(&self) -> Fields {
        let node = self.spec.node_name.clone().unwrap_or_default();
        Fields::from([
            ("metadata.name", self.name.clone()),
            ("metadata.namespace", self.namespace.clone()),
            ("metadata.uid", self.uid.clone()),
            ("spec.nodeName", node),
            ("status.hostIP", HOST_IP.to_owned()),
            ("status.podIP", HOST_IP.to_owned()),
        ])
    }
}

/// Every test node is this machine.
pub(crate) const HOST_IP: &str = "127.0.0.1";

/// The manifests of a folder by file name: the pod, or why the file is not a manifest.
/// Like the kubelet, it reads every file whose name does not begin with a dot, with any extension.
pub(crate) fn scan(folder: &Path, node: &str) -> BTreeMap<String, Result<StaticPod, String>> {
    let Ok(entries) = fs::read_dir(folder) else { return BTreeMap::new() };
    let mut found = BTreeMap::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') || !entry.path().is_file() {
            continue;
        }
        // A file that is removed while it is read is not a manifest any more.
        if let Ok(bytes) = fs::read(entry.path()) {
            let pod = parse(&name, &bytes, node);
            found.insert(name, pod);
        }
    }
    found
}

/// One manifest. The pod's uid is a hash of its bytes, so that a changed manifest is another pod.
pub(crate) fn parse(manifest: &str, bytes: &[u8], node: &str) -> Result<StaticPod, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "not UTF-8".to_owned())?;
    let pod: Pod = serde_saphyr::from_str(text).map_err(|error| format!("not a Pod: {error}"))?;
    let own = pod.metadata.name.filter(|name| !name.is_empty()).ok_or("metadata.name is missing")?;
    let mut spec = pod.spec.ok_or("spec is missing")?;
    if spec.containers.is_empty() {
        return Err("spec.containers is empty".to_owned());
    }
    if spec.host_network != Some(true) {
        return Err("spec.hostNetwork must be true: a test node has no network of its own".to_owned());
    }
    spec.node_name = Some(node.to_owned());
    let digest = Sha256::new().chain_update(node).chain_update([0]).chain_update(bytes).finalize();
    Ok(StaticPod {
        manifest: manifest.to_owned(),
        namespace: pod.metadata.namespace.unwrap_or_else(|| "default".to_owned()),
        name: format!("{own}-{node}"),
        uid: digest.iter().take(16).fold(String::new(), |hex, byte| hex + &format!("{byte:02x}")),
        spec,
        labels: pod.metadata.labels.unwrap_or_default(),
        annotations: pod.metadata.annotations.unwrap_or_default(),
    })
}

/// Checks that each of a container's mounts is a host path at the same path: then there is nothing to mount.
///
/// # Errors
/// The mount that would have to be made, with the container's name.
pub(crate) fn check_mounts(container: &Container, spec: &PodSpec) -> Result<(), String> {
    for mount in container.volume_mounts.iter().flatten() {
        let refuse = |why: &str| {
            Err(format!(
                "container {} mounts volume {} at {}: {why}; on a test node, mount only host paths, at the same \
                 path",
                container.name, mount.name, mount.mount_path
            ))
        };
        let volume = spec.volumes.iter().flatten().find(|volume| volume.name == mount.name);
        let Some(Volume { host_path: Some(host), .. }) = volume else {
            return refuse(if volume.is_some() {
                "it is not a hostPath"
            } else {
                "the pod has no such volume"
            });
        };
        if trimmed(&host.path) != trimmed(&mount.mount_path) {
            return refuse(&format!("it is the host's {}", host.path));
        }
        if mount.sub_path.is_some() || mount.sub_path_expr.is_some() {
            return refuse("it has a subPath");
        }
        let path = Path::new(&host.path);
        let exists = match host.type_.as_deref().unwrap_or_default() {
            "" => true,
            "DirectoryOrCreate" => fs::create_dir_all(path).is_ok(),
            "Directory" => path.is_dir(),
            "File" => path.is_file(),
            _ => path.exists(),
        };
        if !exists {
            return refuse(&format!("the node has no {} there", host.type_.as_deref().unwrap_or_default()));
        }
    }
    Ok(())
}

fn trimmed(path: &str) -> &str {
    path.trim_end_matches('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = r"
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: kube-system}
spec:
  hostNetwork: true
  volumes:
  - {name: run, hostPath: {path: /tmp/}}
  - {name: other, hostPath: {path: /tmp}}
  - {name: gone, hostPath: {path: /nonexistent/folder, type: Directory}}
  - {name: scratch, emptyDir: {}}
  containers:
  - name: main
    image: example.com/web
    volumeMounts: [MOUNT]
";

    fn with_mount(mount: &str) -> Result<(), String> {
        let pod = parse("web.yaml", POD.replace("MOUNT", mount).as_bytes(), "node-1").unwrap();
        check_mounts(&pod.spec.containers[0], &pod.spec)
    }

    #[test]
    fn another_byte_or_another_node_is_another_pod() {
        let uid = |text: &str, node: &str| parse("web.yaml", text.as_bytes(), node).unwrap().uid;
        let text = POD.replace("MOUNT", "");
        assert_eq!(uid(&text, "node-1"), uid(&text, "node-1"));
        assert_ne!(uid(&text, "node-1"), uid(&format!("{text}\n"), "node-1"));
        assert_ne!(uid(&text, "node-1"), uid(&text, "node-2"));
        assert_eq!(parse("web.yaml", text.as_bytes(), "node-1").unwrap().name, "web-node-1");
    }

    #[test]
    fn files_whose_names_do_not_begin_with_a_dot_are_manifests() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.yaml", ".b.yaml", "c.yaml.bak", "d", "e.json"] {
            fs::write(folder.path().join(name), POD.replace("MOUNT", "")).unwrap();
        }
        fs::create_dir(folder.path().join("folder")).unwrap();
        let found: Vec<_> = scan(folder.path(), "node-1").into_keys().collect();
        assert_eq!(found, ["a.yaml", "c.yaml.bak", "d", "e.json"]);
        assert!(scan(Path::new("/nonexistent"), "node-1").is_empty());
    }

    #[test]
    fn the_error_shows_why_a_pod_cannot_run() {
        for (text, expected) in [
            ("kind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c}]}", "hostNetwork must be true"),
            (
                "kind: Pod\nmetadata: {name: a}\nspec: {hostNetwork: true, containers: []}",
                "containers is empty",
            ),
            ("kind: Pod\nspec: {containers: [{name: c}]}", "metadata.name is missing"),
            ("{", "not a Pod"),
        ] {
            let error = parse("x.yaml", text.as_bytes(), "node-1").unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn only_host_paths_at_the_same_path_are_accepted() {
        assert_eq!(with_mount("{name: run, mountPath: /tmp}"), Ok(()));
        for (mount, expected) in [
            (
                "{name: other, mountPath: /elsewhere}",
                "container main mounts volume other at /elsewhere: it is the host's /tmp",
            ),
            ("{name: run, mountPath: /tmp, subPath: a}", "it has a subPath"),
            ("{name: scratch, mountPath: /scratch}", "it is not a hostPath"),
            ("{name: missing, mountPath: /x}", "the pod has no such volume"),
            ("{name: gone, mountPath: /nonexistent/folder}", "the node has no Directory there"),
        ] {
            let error = with_mount(mount).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
