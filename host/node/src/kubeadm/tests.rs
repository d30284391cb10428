use super::*;

/// As kubeadm writes it, shortened.
const MANIFEST: &str = "\
apiVersion: v1
kind: Pod
metadata:
  annotations:
    kubeadm.kubernetes.io/kube-apiserver.advertise-address.endpoint: 10.0.0.1:6443
  name: kube-apiserver
  namespace: kube-system
spec:
  containers:
  - command:
    - kube-apiserver
    - --advertise-address=10.0.0.1
    - --tls-private-key-file=/etc/kubernetes/pki/apiserver.key
    image: registry.k8s.io/kube-apiserver:v1.36.3
    livenessProbe:
      httpGet:
        path: /livez
    name: kube-apiserver
    volumeMounts:
    - mountPath: /etc/ssl/certs
      name: ca-certs
      readOnly: true
    - mountPath: /etc/kubernetes/pki
      name: k8s-certs
      readOnly: true
    - mountPath: /usr/share/ca-certificates
      name: usr-share-ca-certificates
      readOnly: true
  hostNetwork: true
  volumes:
  - hostPath:
      path: /etc/ssl/certs
      type: DirectoryOrCreate
    name: ca-certs
  - hostPath:
      path: /etc/kubernetes/pki
      type: DirectoryOrCreate
    name: k8s-certs
  - hostPath:
      path: /usr/share/ca-certificates
      type: DirectoryOrCreate
    name: usr-share-ca-certificates
status: {}
";

const V1BETA4: &str = "\
apiServer: {}
apiVersion: kubeadm.k8s.io/v1beta4
clusterName: kubernetes
kind: ClusterConfiguration
kubernetesVersion: v1.36.3
networking:
  dnsDomain: cluster.local
";

fn added(old: &str, new: &str) -> Vec<String> {
    let mut rest = old.lines().peekable();
    let fresh = new.lines().filter(|line| rest.next_if_eq(line).is_none());
    let fresh: Vec<String> = fresh.map(|line| line.trim_start().to_owned()).collect();
    assert_eq!(rest.next(), None, "nothing was taken away or moved");
    fresh
}

#[test]
fn manifest_gets_flags_at_the_end_and_folders_in_their_places() {
    let edited = manifest::edit(MANIFEST).unwrap();
    assert_eq!(added(MANIFEST, &edited.text).len(), 16);
    let arguments = "\
    - --tls-private-key-file=/etc/kubernetes/pki/apiserver.key
    - --encryption-provider-config=/etc/kubernetes/encryption/config.json
    - --encryption-provider-config-automatic-reload=true
    image:";
    let mounts = "\
      name: k8s-certs
      readOnly: true
    - mountPath: /etc/kubernetes/encryption
      name: keyward-encryption
      readOnly: true
    - mountPath: /var/run/kmsplugin
      name: keyward-plugins
      readOnly: true
    - mountPath: /usr/share";
    let volumes = "\
    name: k8s-certs
  - hostPath:
      path: /etc/kubernetes/encryption
      type: DirectoryOrCreate
    name: keyward-encryption
  - hostPath:
      path: /var/run/kmsplugin
      type: DirectoryOrCreate
    name: keyward-plugins
  - hostPath:
      path: /usr/share";
    for part in [arguments, mounts, volumes] {
        assert!(edited.text.contains(part), "{part} is not in\n{}", edited.text);
    }
    assert_eq!(edited.missing.len(), 4);
    let again = manifest::edit(&edited.text).unwrap();
    assert_eq!(again, Edited { text: edited.text, missing: vec![] });
}

#[test]
fn comments_and_quotes_of_an_admin_stay() {
    let theirs = MANIFEST
        .replace("    - --advertise", "    # the inner network\n    - --advertise")
        .replace("  hostNetwork: true\n", "  hostNetwork: true # always\n\n")
        .replace("namespace: kube-system", "namespace: 'kube-system'");
    let edited = manifest::edit(&theirs).unwrap();
    assert_eq!(added(&theirs, &edited.text).len(), 16);
}

#[test]
fn what_half_of_is_there_is_made_whole() {
    let edited = manifest::edit(MANIFEST).unwrap().text;
    for line in edited.lines().filter(|line| line.contains("--encryption")) {
        let without = edited.replace(&format!("{line}\n"), "");
        let whole = manifest::edit(&without).unwrap();
        assert_eq!(whole.missing.len(), 1, "{line}");
        assert!(manifest::edit(&whole.text).unwrap().missing.is_empty());
    }
}

#[test]
fn what_is_another_s_is_refused_with_what_to_do() {
    let flag = |flag: &str| MANIFEST.replace("    - --tls", &format!("    - {flag}\n    - --tls"));
    let mount = |mount: &str| MANIFEST.replace("    - mountPath: /etc/ssl/certs", mount);
    for (text, says) in [
        (flag("--encryption-provider-config=/etc/enc.yaml"), "decrypt what is stored by it"),
        (flag("--encryption-provider-config"), "two words"),
        (flag("--encryption-provider-config-automatic-reload=false"), "must be \"true\""),
        (
            flag("--encryption-provider-config=/a").replace("--tls-private", "--encryption-provider-config=/b\n    - --tls-private"),
            "given twice",
        ),
        (mount("    - mountPath: /etc/kubernetes/encryption"), "from /etc/ssl/certs of the node"),
        (mount("    - mountPath: /etc/kubernetes/encryption/config.json"), "take that mount away"),
        (MANIFEST.replace("usr-share-ca-certificates", "keyward-plugins"), "give it another name"),
        (MANIFEST.replace("v1.36.3", "v1.33.9"), "1.34 or later"),
        (MANIFEST.replace("kind: Pod", "kind: Pod\nkind: Pod"), "cannot be read"),
        (MANIFEST.replace("kind: Pod", "kind: List"), "no Pod"),
        (MANIFEST.replace("    - kube-apiserver\n", "    - sh\n"), "not kube-apiserver"),
        (MANIFEST.replace("  hostNetwork: true\n", "  initContainers:\n  - name: a\n    command: [a]\n    volumeMounts:\n    - name: ca-certs\n      mountPath: /a\n"), "not one list `volumeMounts`"),
    ] {
        let error = manifest::edit(&text).unwrap_err().to_string();
        assert!(error.contains(says), "{says}: {error}");
    }
}

#[test]
fn flows_are_not_edited_by_line() {
    let flow = MANIFEST.replace(
        "  - command:\n    - kube-apiserver\n    - --advertise-address=10.0.0.1\n    - --tls-private-key-file=/etc/kubernetes/pki/apiserver.key\n",
        "  - command: [kube-apiserver, --advertise-address=10.0.0.1]\n",
    );
    let error = manifest::edit(&flow).unwrap_err();
    assert!(matches!(error, Refusal::Shape { .. }), "{error}");
}

#[test]
fn remarks_tell_version_probes_and_timeout() {
    let healthz = MANIFEST
        .replace("path: /livez", "path: /healthz")
        .replace("    - --tls", "    - --request-timeout=30s\n    - --tls");
    let told = manifest::remarks(&healthz).unwrap();
    assert_eq!(told.version, Some((1, 36)));
    assert_eq!(told.fatal_probes, ["livenessProbe"]);
    assert_eq!(told.request_timeout.as_deref(), Some("30s"));
    let by_digest = MANIFEST.replace("v1.36.3", "v1.36.3@sha256:00");
    assert_eq!(manifest::remarks(&by_digest).unwrap().version, Some((1, 36)));
    assert_eq!(manifest::remarks(MANIFEST).unwrap().fatal_probes, Vec::<&str>::new());
}

#[test]
fn both_versions_of_kubeadm_s_configuration_are_edited() {
    let fresh = cluster_configuration::edit(V1BETA4).unwrap();
    assert_eq!(fresh.missing.len(), 4);
    let expected = "\
apiServer:
  extraArgs:
  - name: encryption-provider-config
    value: /etc/kubernetes/encryption/config.json
  - name: encryption-provider-config-automatic-reload
    value: \"true\"
  extraVolumes:
  - name: keyward-encryption
    hostPath: /etc/kubernetes/encryption
    mountPath: /etc/kubernetes/encryption
    readOnly: true
    pathType: DirectoryOrCreate
  - name: keyward-plugins
    hostPath: /var/run/kmsplugin
    mountPath: /var/run/kmsplugin
    readOnly: true
    pathType: DirectoryOrCreate
apiVersion: kubeadm.k8s.io/v1beta4
";
    assert!(fresh.text.starts_with(expected), "{}", fresh.text);
    assert!(fresh.text.ends_with(V1BETA4.split_once("v1beta4\n").unwrap().1));
    assert!(cluster_configuration::edit(&fresh.text).unwrap().missing.is_empty());

    let older = V1BETA4.replace("v1beta4", "v1beta3").replace(
        "apiServer: {}\n",
        "apiServer:\n  extraArgs:\n    authorization-mode: Node,RBAC\n  timeoutForControlPlane: 4m0s\n",
    );
    let edited = cluster_configuration::edit(&older).unwrap().text;
    for line in [
        "    authorization-mode: Node,RBAC",
        "    encryption-provider-config: /etc/kubernetes/encryption/config.json",
    ] {
        assert!(edited.lines().any(|found| found == line), "{line} is not in\n{edited}");
    }
    assert!(cluster_configuration::edit(&edited).unwrap().missing.is_empty());

    let none = V1BETA4.replace("apiServer: {}\n", "");
    assert!(cluster_configuration::edit(&none).unwrap().text.ends_with(&none));
}

#[test]
fn kubeadm_s_configuration_is_refused_where_it_is_not_understood() {
    for (text, says) in [
        (V1BETA4.replace("v1beta4", "v1beta5"), "neither v1beta3 nor v1beta4"),
        (V1BETA4.replace("kind: Cluster", "kind: Init"), "another kind"),
        (V1BETA4.replace("apiServer: {}", "apiServer: {extraArgs: {a: b}}"), "another version's form"),
        (
            V1BETA4.replace(
                "apiServer: {}",
                "apiServer: {extraArgs: [{name: encryption-provider-config, value: /x}]}",
            ),
            "decrypt what is stored by it",
        ),
        (V1BETA4.replace("apiServer: {}", "apiServer: ["), "cannot be read"),
    ] {
        let error = cluster_configuration::edit(&text).unwrap_err().to_string();
        assert!(error.contains(says), "{says}: {error}");
    }
}
