use rstest::rstest;
use serde_json::json;

use super::*;
use crate::api::{HostAlias as Alias, ProxySettings};
use crate::formats::revision::AcceptedPlugin;
use crate::provider::{EnvVar as Variable, RenderedFile};

fn source(kind: ReferenceKind, name: &str, key: &str) -> KeyRef {
    KeyRef { kind, name: name.to_owned(), key: key.to_owned() }
}

fn secret(key: &str) -> KeyRef {
    source(ReferenceKind::Secret, "acme-login", key)
}

fn text(text: &str) -> Part {
    Part::Text(text.to_owned())
}

fn host(name: &str) -> Part {
    Part::Host(name.to_owned())
}

/// A record with one of each kind of part.
fn record() -> PluginRecord {
    let ca = source(ReferenceKind::ConfigMap, "acme-ca", "ca-bundle.crt");
    let container = Container {
        command: vec!["/acme-kms".into()],
        args: vec![
            vec![text("-listen-address="), host("socket-uri")],
            vec![text("-role-id="), Part::Value(secret("role-id"))],
            vec![text("-secret-id-path="), Part::Path(secret("secret-id"))],
            vec![text("-tls-ca-file="), Part::Path(ca.clone())],
            vec![text("-config="), Part::Rendered("acme.conf".into())],
            vec![text("-health-port="), host("port:health")],
            vec![text("-verbose")],
            vec![text("yes")],
        ],
        env: vec![
            Variable { name: "ACME_NODE".into(), value: vec![host("node-name"), text("/$(HOME)")] },
            Variable { name: "ACME_KEY".into(), value: vec![host("key-id")] },
            Variable { name: "HTTPS_PROXY".into(), value: vec![text("http://own.example.com")] },
        ],
        files: vec![RenderedFile {
            name: "acme.conf".into(),
            content: vec![
                text("socket = "),
                host("socket-path"),
                text("\npassword = "),
                Part::Value(secret("secret-id")),
            ],
        }],
        ports: vec!["health".into(), "metrics".into()],
        health: Some(HttpProbe { port: "health".into(), path: "/healthz".into() }),
        cpu_request_millis: 10,
        memory_request_mib: 64,
        settings: BTreeMap::new(),
    };
    let settings = PluginSettings {
        timeout: Some("5s".into()),
        proxy: Some(ProxySettings {
            http: Some("http://proxy.example.com:3128".into()),
            https: Some("http://proxy.example.com:3128".into()),
            no_proxy: Some("10.0.0.0/8".into()),
        }),
        host_aliases: vec![Alias { ip: "192.0.2.7".into(), hostnames: vec!["acme.example.com".into()] }],
        resources: Some(PluginResources {
            requests: [("memory".to_owned(), "96Mi".to_owned())].into(),
            limits: BTreeMap::new(),
        }),
    };
    PluginRecord {
        kms: json!({"type": "Acme"}),
        referenced: [
            (secret("role-id"), b"role-7".as_slice().into()),
            (secret("secret-id"), b"s3cr3t".as_slice().into()),
            (ca, b"-----BEGIN CERTIFICATE-----\n".as_slice().into()),
            (secret("unused"), b"never written".as_slice().into()),
        ]
        .into(),
        accepted: Some(AcceptedPlugin {
            image: Some("registry.example.com/acme-kms@sha256:0000".into()),
            template: Plugin::Managed(container),
            settings,
            module_digest: None,
        }),
        salt: Some(b"salt".as_slice().into()),
    }
}

fn container(record: &mut PluginRecord) -> &mut Container {
    match record.accepted.as_mut().map(|accepted| &mut accepted.template) {
        Some(Plugin::Managed(container)) => container,
        other => panic!("{other:?}"),
    }
}

fn rendered(record: &PluginRecord, uid: u32) -> Result<Rendered, RenderError> {
    let digest = PluginDigest("0123456789abcdef".repeat(4));
    let ports = [("health".to_owned(), 28100), ("metrics".to_owned(), 28101)].into();
    let files = "/etc/kubernetes/keyward/plugins/kms-7-0123456789abcdef";
    render(
        KeyId(7),
        &digest,
        record,
        &Place { node: "cp-1", files, ports: &ports, uid, gid: uid, trial: None },
    )
}

#[test]
fn pod_is_locked_down_and_has_what_its_template_asks_for() {
    let rendered = rendered(&record(), 65532).unwrap();
    let manifest = manifest(&rendered.pod).unwrap();
    assert_eq!(manifest, include_str!("pod_golden.yaml"));
    let read: Pod = serde_saphyr::from_str(&manifest).unwrap();
    assert_eq!(read, rendered.pod);
    assert_eq!(identify(&read).unwrap().0.name(), "kms-7-0123456789abcdef");
    assert!(!manifest.contains("s3cr3t"), "a mirror Pod shows no secret");
}

#[test]
fn trial_is_started_once_and_each_start_is_another_pod() {
    let digest = PluginDigest("0123456789abcdef".repeat(4));
    let ports = [("health".to_owned(), 28100), ("metrics".to_owned(), 28101)].into();
    let place = Place { node: "cp-1", files: "/files", ports: &ports, uid: 1, gid: 1, trial: Some(2) };
    let pod = |trial| render(KeyId(7), &digest, &record(), &Place { trial, ..place }).unwrap().pod;
    let stays = pod(None);
    assert!(!is_trial(&stays) && is_trial(&pod(Some(1))) && is_trial(&pod(Some(2))));
    assert_ne!(pod(Some(1)), pod(Some(2)));
    // The kubelet identifies a container by its spec, which is the same.
    let containers = |pod: &Pod| pod.spec.as_ref().unwrap().containers.clone();
    assert_eq!(containers(&stays), containers(&pod(Some(1))));
    assert_eq!(identify(&stays), identify(&pod(Some(2))));
    assert_eq!(containers(&stays)[0].liveness_probe, None, "a restart does not fix a KMS that is down");
    assert!(containers(&stays)[0].readiness_probe.is_some());
}

#[test]
fn only_files_that_the_template_names_are_written() {
    let rendered = rendered(&record(), 0).unwrap();
    let files: Vec<_> = rendered.files.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
    let conf = b"socket = /var/run/kmsplugin/kms-7/g-0123456789abcdef/kms.sock\npassword = s3cr3t";
    assert_eq!(
        files,
        [
            ("configmap-acme-ca_ca-bundle.crt", b"-----BEGIN CERTIFICATE-----\n".as_slice()),
            ("rendered_acme.conf", conf.as_slice()),
            ("secret-acme-login_secret-id", b"s3cr3t".as_slice()),
        ]
    );
    let security = rendered.pod.spec.unwrap().security_context.unwrap();
    assert_eq!((security.run_as_user, security.run_as_non_root), (Some(0), Some(false)));
}

#[rstest]
#[case::no_image(|r: &mut PluginRecord| r.accepted.as_mut().unwrap().image = None, RenderError::NoImage)]
#[case::nothing_accepted(|r: &mut PluginRecord| r.accepted = None, RenderError::NotManaged)]
#[case::external(|r: &mut PluginRecord| r.accepted.as_mut().unwrap().template = Plugin::External("unix:///x".into()), RenderError::NotManaged)]
#[case::secret_in_environment(|r: &mut PluginRecord| container(r).env[0].value = vec![Part::Value(secret("secret-id"))],
    RenderError::SecretInPod { variable: "ACME_NODE".into(), source_kind: ReferenceKind::Secret, name: "acme-login".into() })]
#[case::missing(|r: &mut PluginRecord| drop(r.referenced.remove(&secret("secret-id"))),
    RenderError::MissingValue { source_kind: ReferenceKind::Secret, name: "acme-login".into(), key: "secret-id".into() })]
#[case::not_text(|r: &mut PluginRecord| drop(r.referenced.insert(secret("role-id"), b"\xff".as_slice().into())),
    RenderError::NotText { what: "argument 2".into() })]
#[case::unknown_part(|r: &mut PluginRecord| container(r).args[0][1] = host("pod-ip"), RenderError::UnknownHostPart("pod-ip".into()))]
#[case::unknown_port(|r: &mut PluginRecord| container(r).args[0][1] = host("port:grpc"), RenderError::UnknownPort("grpc".into()))]
#[case::probe_of_unknown_port(|r: &mut PluginRecord| container(r).health.as_mut().unwrap().port = "x".into(), RenderError::UnknownPort("x".into()))]
#[case::unknown_file(|r: &mut PluginRecord| container(r).files.clear(), RenderError::UnknownFile("acme.conf".into()))]
#[case::outside_the_folder(|r: &mut PluginRecord| container(r).files[0].name = "../x".into(), RenderError::FileName("rendered_../x".into()))]
fn rendering_error_names_its_cause(#[case] change: fn(&mut PluginRecord), #[case] expected: RenderError) {
    let mut record = record();
    change(&mut record);
    assert_eq!(rendered(&record, 65532), Err(expected.clone()));
    let instance = Instance::new(KeyId(7), &PluginDigest("0123456789abcdef".repeat(4)));
    assert_eq!(check(&instance, &record), Err(expected));
}

#[rstest]
#[case("100m", Some("400m"))]
#[case("64Mi", Some("256Mi"))]
#[case("1", Some("4"))]
#[case("0.5", Some("2.0"))]
#[case("0.25Gi", Some("1.00Gi"))]
#[case("1e3", Some("4e3"))]
#[case("x", None)]
fn limits_are_four_times_the_requests(#[case] request: &str, #[case] limit: Option<&str>) {
    assert_eq!(four_times(request).as_deref(), limit);
}

/// The kubelet would refuse the pod, on every node.
#[test]
fn quantities_that_the_kubelet_refuses_are_named_with_their_field() {
    let map =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let resources = PluginResources {
        requests: map(&[("cpu", "10 m"), ("memory", "1Gi"), ("ephemeral-storage", "1")]),
        limits: map(&[("memory", "512Mi"), ("cpu", "-1"), ("ephemeral-storage", "1.0")]),
    };
    let wrong: Vec<String> =
        check_resources(&resources).into_iter().map(|(field, why)| format!("{field}: {why}")).collect();
    assert_eq!(
        wrong,
        [
            "requests.cpu: \"10 m\" is not a quantity such as 100m, 0.5 or 64Mi: its suffix is unknown",
            "requests.memory: 1Gi is above limits.memory",
            "limits.cpu: \"-1\" is not a quantity such as 100m, 0.5 or 64Mi: it is negative",
        ]
    );
    assert_eq!(check_resources(&PluginResources::default()), []);
}
