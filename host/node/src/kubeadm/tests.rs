use super::*;

/// A manifest of kubeadm, shortened.
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

/// The text with the missing parts, and their number.
fn edit(examined: Examined) -> (String, usize) {
    assert_eq!(examined.refusals, []);
    (examined.edited.unwrap(), examined.missing.len())
}

fn added(old: &str, new: &str) -> Vec<String> {
    let mut rest = old.lines().peekable();
    let fresh = new.lines().filter(|line| rest.next_if_eq(line).is_none());
    let fresh: Vec<String> = fresh.map(|line| line.trim_start().to_owned()).collect();
    assert_eq!(rest.next(), None, "a line was removed or moved");
    fresh
}

#[test]
fn flags_are_added_to_a_manifest_at_the_end_and_folders_by_name() {
    let (edited, missing) = edit(manifest::examine(MANIFEST));
    assert_eq!(added(MANIFEST, &edited).len(), 16);
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
        assert!(edited.contains(part), "{part} is not in\n{edited}");
    }
    assert_eq!(missing, 4);
    assert_eq!(edit(manifest::examine(&edited)), (edited.clone(), 0));
}

#[test]
fn comments_and_quotes_of_an_admin_stay() {
    let theirs = MANIFEST
        .replace("    - --advertise", "    # the inner network\n    - --advertise")
        .replace("  hostNetwork: true\n", "  hostNetwork: true # always\n\n")
        .replace("namespace: kube-system", "namespace: 'kube-system'");
    let (edited, _) = edit(manifest::examine(&theirs));
    assert_eq!(added(&theirs, &edited).len(), 16);
}

#[test]
fn every_other_byte_of_a_manifest_stays() {
    let last = MANIFEST.trim_end_matches("status: {}\n");
    for theirs in [
        MANIFEST.replace('\n', "\r\n"),
        last.trim_end().to_owned(),
        last.replace('\n', "\r\n").trim_end().to_owned(),
        format!("{MANIFEST}# the end, with trailing spaces   \n\n\n"),
        MANIFEST.replace("  hostNetwork: true\n", "  hostNetwork: true\t# a tab\n"),
    ] {
        let (edited, missing) = edit(manifest::examine(&theirs));
        assert_eq!(missing, 4);
        let mut rest = theirs.as_bytes();
        let mut fresh = Vec::new();
        // The old bytes are a subsequence, taken line by line.
        for line in edited.split_inclusive('\n') {
            match rest.strip_prefix(line.as_bytes()) {
                Some(after) => rest = after,
                // The old last line had no ending.
                None if rest == line.trim_end().as_bytes() => rest = b"",
                None => fresh.push(line),
            }
        }
        assert_eq!(rest, b"", "{edited:?}");
        assert_eq!(fresh.len(), 16, "{edited:?}");
        assert_eq!(edited.ends_with('\n'), theirs.ends_with('\n'));
        assert_eq!(edited.contains('\n') && !edited.contains('\r'), !theirs.contains('\r'));
    }
}

#[test]
fn a_manifest_with_one_missing_flag_is_completed() {
    let (edited, _) = edit(manifest::examine(MANIFEST));
    for line in edited.lines().filter(|line| line.contains("--encryption")) {
        let without = edited.replace(&format!("{line}\n"), "");
        let (whole, missing) = edit(manifest::examine(&without));
        assert_eq!(missing, 1, "{line}");
        assert_eq!(edit(manifest::examine(&whole)).1, 0);
    }
}

fn with_flag(flag: &str) -> String {
    MANIFEST.replace("    - --tls", &format!("    - {flag}\n    - --tls"))
}

fn with_mount(mount: &str) -> String {
    MANIFEST.replace("    - mountPath: /etc/ssl/certs", mount)
}

#[test]
fn a_foreign_or_unsupported_manifest_is_refused_with_what_to_do() {
    let ours = edit(manifest::examine(MANIFEST)).0;
    let with_sub_path = |path: &str, key: &str| {
        ours.replace(
            &format!("    - mountPath: {path}\n"),
            &format!("    - {key}: old\n      mountPath: {path}\n"),
        )
    };
    for (text, expected) in [
        (with_flag("--encryption-provider-config=/etc/enc.yaml"), "decrypt what it encrypted"),
        (
            with_flag("--encryption-provider-config\n    - /etc/enc.yaml"),
            "from /etc/enc.yaml, which is not Keyward's",
        ),
        (
            with_flag("--encryption_provider_config=/etc/enc.yaml"),
            "from /etc/enc.yaml, which is not Keyward's",
        ),
        // The parser takes any next argument as the value.
        (
            with_flag("--encryption-provider-config"),
            "from --tls-private-key-file=/etc/kubernetes/pki/apiserver.key",
        ),
        (with_flag("--encryption-provider-config=$(FILE)"), "write the value itself"),
        (with_flag("--encryption-provider-config-automatic-reload=false"), "must be \"true\""),
        (with_flag("$(MORE)"), "kube-apiserver takes only flags"),
        (with_mount("    - mountPath: /etc/kubernetes/encryption"), "from the node's folder /etc/ssl/certs"),
        (
            with_mount("    - mountPath: /etc/kubernetes//encryption/."),
            "from the node's folder /etc/ssl/certs",
        ),
        (with_mount("    - mountPath: /etc/kubernetes/encryption/config.json"), "remove that mount"),
        (with_sub_path("/etc/kubernetes/encryption", "subPath"), "with subPath \"old\""),
        (with_sub_path("/var/run/kmsplugin", "subPathExpr"), "with subPath \"old\""),
        (MANIFEST.replace("usr-share-ca-certificates", "keyward-plugins"), "rename it"),
        (MANIFEST.replace("v1.36.3", "v1.33.9"), "1.34 or later"),
        (MANIFEST.replace("kind: Pod", "kind: Pod\nkind: Pod"), "cannot be read"),
        (MANIFEST.replace("kind: Pod", "kind: List"), "not a Pod"),
        (format!("{MANIFEST}---\n{MANIFEST}"), "several documents"),
        (MANIFEST.replace("    - kube-apiserver\n", "    - sh\n"), "not kube-apiserver"),
        (MANIFEST.replace("--advertise-address=10.0.0.1", "yes"), "command[1] is not a string"),
        (
            MANIFEST.replace(
                "  hostNetwork",
                "  - name: other\n    command: [/bin/kube-apiserver]\n  hostNetwork",
            ),
            "2 of its containers run kube-apiserver",
        ),
    ] {
        let examined = manifest::examine(&text);
        let refusals: Vec<String> = examined.refusals.iter().map(ToString::to_string).collect();
        assert!(refusals.iter().any(|refusal| refusal.contains(expected)), "{expected}: {refusals:?}");
    }
}

#[test]
fn every_mistake_is_named_at_once() {
    let text =
        with_flag("--encryption-provider-config=/a\n    - --encryption-provider-config-automatic-reload=0")
            .replace("    - mountPath: /etc/ssl/certs", "    - mountPath: /var/run/kmsplugin");
    let examined = manifest::examine(&text);
    assert_eq!(examined.refusals.len(), 3, "{:?}", examined.refusals);
    assert_eq!(examined.missing.len(), 1, "{:?}", examined.missing);
}

/// The admin makes these additions.
#[test]
fn missing_parts_that_cannot_be_added_by_line_are_named() {
    let flow = MANIFEST.replace(
        "  - command:\n    - kube-apiserver\n    - --advertise-address=10.0.0.1\n    - --tls-private-key-file=/etc/kubernetes/pki/apiserver.key\n",
        "  - command: [kube-apiserver, --advertise-address=10.0.0.1]\n",
    );
    let other = "  initContainers:\n  - name: a\n    command: [a]\n    volumeMounts:\n    - name: ca-certs\n      mountPath: /a\n";
    let two = MANIFEST.replace("  hostNetwork: true\n", other);
    let json = serde_saphyr::from_str::<serde_json::Value>(MANIFEST).unwrap().to_string();
    for text in [flow, two, json] {
        let examined = manifest::examine(&text);
        assert_eq!((examined.missing.len(), examined.refusals), (4, vec![]));
        let error = examined.edited.unwrap_err().to_string();
        assert!(error.contains("does not have exactly one list"), "{error}");
    }
}

#[test]
fn flags_are_read_as_the_api_server_reads_them() {
    let value = |words: &[&str]| {
        parse_words(words).map(|flags| flags.get("encryption-provider-config").map(str::to_owned))
    };
    let given = |value: &str| Ok(Some(value.to_owned()));
    assert_eq!(value(&["--encryption-provider-config=/a"]), given("/a"));
    assert_eq!(value(&["--encryption-provider-config", "/a"]), given("/a"));
    assert_eq!(value(&["--encryption-provider-config", "--b=c"]), given("--b=c"));
    assert_eq!(value(&["--encryption_provider-config=/a"]), given("/a"));
    assert_eq!(value(&["--encryption-provider-config=/a", "--encryption-provider-config=/b"]), given("/b"));
    assert_eq!(value(&["--encryption-provider-config="]), given(""));
    assert_eq!(value(&["--etcd-prefix", "--encryption-provider-config", "/a"]).ok(), None);
    assert_eq!(value(&["--allow-privileged", "--encryption-provider-config=/a"]), given("/a"));
    assert_eq!(value(&["-v", "--encryption-provider-config=/a"]), Ok(None));
    assert_eq!(value(&["-v=4", "-v4", "-v", "4", "", "--encryption-provider-config=/a"]), given("/a"));
    assert_eq!(value(&["--", ""]), Ok(None));
    for words in [
        &["--encryption-provider-config-automatic-reload", "true"] as &[&str],
        &["-encryption-provider-config=/a"],
        &["--", "--encryption-provider-config=/a"],
        &["---encryption-provider-config=/a"],
        &["--=a"],
        &["-"],
        &["word"],
        &["--encryption-provider-config"],
    ] {
        assert!(parse_words(words).is_err(), "{words:?}");
    }
}

#[test]
fn a_probe_that_fails_while_any_kms_does_not_answer_is_a_fault() {
    let remarks = |text: &str| manifest::read(text).unwrap().remarks();
    let probed = |path: &str| remarks(&MANIFEST.replace("path: /livez", &format!("path: {path}")));
    for path in [
        "/healthz",
        "/healthz?verbose",
        "/readyz",
        "/healthz/",
        "\"/healthz?exclude=etcd#x\"",
        "/livez/kms-providers",
    ] {
        let found = probed(path);
        assert!(
            found.faults.len() == 1 && found.faults[0].starts_with("livenessProbe asks /"),
            "{path}: {found:?}"
        );
    }
    for path in ["/livez", "/livez?verbose", "/livez/ping", "/healthz?exclude=kms-providers", "/healthz/ping"]
    {
        assert_eq!(probed(path), manifest::Remarks::default(), "{path}");
    }
    let unknown = probed("/version");
    assert!(
        unknown.faults.is_empty() && unknown.notes[0].contains("livenessProbe asks /version"),
        "{unknown:?}"
    );
    let command = MANIFEST.replace(
        "      httpGet:\n        path: /livez\n",
        "      exec: {command: [curl, localhost/healthz]}\n",
    );
    assert!(remarks(&command).notes[0].contains("livenessProbe runs a command"));
    let startup = MANIFEST.replace("livenessProbe", "startupProbe").replace("/livez", "/healthz?verbose");
    assert!(remarks(&startup).faults[0].starts_with("startupProbe asks /healthz, "));
}

#[test]
fn version_and_timeout_are_read() {
    let timeout = with_flag("--request-timeout\n    - 30s");
    let server = manifest::read(&timeout).unwrap();
    assert_eq!(server.version, Some((1, 36)));
    assert_eq!(server.flags.get("request-timeout"), Some("30s"));
    let by_digest = MANIFEST.replace("v1.36.3", "v1.36.3@sha256:00");
    assert_eq!(manifest::read(&by_digest).unwrap().version, Some((1, 36)));
}

/// The kubelet reads every file whose name does not begin with a dot, with any extension.
#[test]
fn a_second_definition_of_the_api_server_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let files = Files::new(crate::Paths::new(folder.path()));
    let manifests = files.manifest_path().parent().unwrap().to_owned();
    std::fs::create_dir_all(manifests.join("folder")).unwrap();
    let write = |name: &str, text: &str| std::fs::write(manifests.join(name), text).unwrap();
    let named =
        || -> Vec<String> { files.other_definitions().unwrap().iter().map(ToString::to_string).collect() };
    write("kube-apiserver.yaml", MANIFEST);
    write(".kube-apiserver.yaml.swp", MANIFEST);
    write("folder/kube-apiserver.yaml", MANIFEST);
    write("etcd.yaml", &MANIFEST.replace("kube-apiserver", "etcd"));
    write("notes", "kube-apiserver.yaml is made by kubeadm\n");
    std::os::unix::fs::symlink("/nonexistent", manifests.join("nowhere")).unwrap();
    assert_eq!(named(), Vec::<String>::new());

    let other = MANIFEST.replace("name: kube-apiserver", "name: api");
    for (name, text) in [
        ("kube-apiserver.yaml.bak", MANIFEST.to_owned()),
        ("backup", other.replace("registry.k8s.io/kube-apiserver:", "mirror/kube-apiserver:")),
        ("z.json", serde_saphyr::from_str::<serde_json::Value>(&other).unwrap().to_string()),
        (
            "sh",
            MANIFEST
                .replace("kube-apiserver:v", "a:v")
                .replace("name: kube-apiserver", "name: a")
                .replace("- kube-apiserver\n", "- sh -c 'exec /bin/kube-apiserver'\n"),
        ),
    ] {
        write(name, &text);
        let found = named();
        assert!(
            found.len() == 1 && found[0].contains(&format!("/{name} also defines kube-apiserver")),
            "{name}: {found:?}"
        );
        std::fs::remove_file(manifests.join(name)).unwrap();
    }
    std::os::unix::fs::symlink(files.manifest_path(), manifests.join("link")).unwrap();
    assert_eq!(named().len(), 1);
    std::fs::remove_file(manifests.join("link")).unwrap();
    // A file that cannot be understood may define one.
    write("broken.yaml", "kind: Pod\n\tno: YAML");
    let found = named();
    assert!(found[0].starts_with("it is not known whether "), "{found:?}");
    assert!(found[0].contains("broken.yaml also defines kube-apiserver: line "), "{found:?}");
}

#[test]
fn both_versions_of_kubeadm_s_configuration_are_edited() {
    let (fresh, missing) = edit(cluster_configuration::examine(V1BETA4));
    assert_eq!(missing, 4);
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
    assert!(fresh.starts_with(expected), "{}", fresh);
    assert!(fresh.ends_with(V1BETA4.split_once("v1beta4\n").unwrap().1));
    assert_eq!(edit(cluster_configuration::examine(&fresh)).1, 0);

    let older = V1BETA4.replace("v1beta4", "v1beta3").replace(
        "apiServer: {}\n",
        "apiServer:\n  extraArgs:\n    authorization-mode: Node,RBAC\n  timeoutForControlPlane: 4m0s\n",
    );
    let (edited, _) = edit(cluster_configuration::examine(&older));
    for line in [
        "    authorization-mode: Node,RBAC",
        "    encryption-provider-config: /etc/kubernetes/encryption/config.json",
    ] {
        assert!(edited.lines().any(|found| found == line), "{line} is not in\n{edited}");
    }
    assert_eq!(edit(cluster_configuration::examine(&edited)).1, 0);

    let none = V1BETA4.replace("apiServer: {}\n", "");
    assert!(edit(cluster_configuration::examine(&none)).0.ends_with(&none));
}

#[test]
fn a_kubeadm_configuration_that_cannot_be_understood_is_refused() {
    for (text, expected) in [
        (V1BETA4.replace("v1beta4", "v1beta5"), "neither v1beta3 nor v1beta4"),
        (V1BETA4.replace("kind: Cluster", "kind: Init"), "not a ClusterConfiguration"),
        (V1BETA4.replace("apiServer: {}", "apiServer: {extraArgs: {a: b}}"), "form of another kubeadm version"),
        (
            V1BETA4.replace(
                "apiServer: {}",
                "apiServer: {extraArgs: [{name: encryption-provider-config, value: /x}]}",
            ),
            "decrypt what it encrypted",
        ),
        (
            V1BETA4.replace("apiServer: {}", "apiServer: {extraArgs: [{name: encryption_provider-config, value: /x}]}"),
            "decrypt what it encrypted",
        ),
        (
            V1BETA4.replace(
                "apiServer: {}",
                "apiServer: {extraArgs: [{name: encryption-provider-config, value: /x}, {name: encryption-provider-config, value: /etc/kubernetes/encryption/config.json}]}",
            ),
            "given twice",
        ),
        (V1BETA4.replace("apiServer: {}", "apiServer: ["), "cannot be read"),
    ] {
        let refusals = cluster_configuration::examine(&text).refusals;
        assert!(
            refusals.iter().any(|refusal| refusal.to_string().contains(expected)),
            "{expected}: {refusals:?}"
        );
    }
}
