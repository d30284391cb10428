use keyward_core::provider::{EnvVar, HttpProbe, RenderedFile};
use serde_json::json;

use super::*;

fn key(name: &str) -> KeyRef {
    KeyRef { kind: ReferenceKind::Secret, name: "creds".to_owned(), key: name.to_owned() }
}

fn reference(name: &str, exposure: Exposure) -> Reference {
    Reference { source: key(name), exposure, required: true, field: "auth".to_owned() }
}

fn known() -> Vec<Reference> {
    vec![
        reference("token", Exposure::File),
        reference("role", Exposure::PublicValue),
        reference("pin", Exposure::SecretValue),
    ]
}

fn sound() -> Container {
    Container {
        command: Vec::new(),
        args: vec![
            vec![Part::Text("--listen=".to_owned()), Part::Host("socket-uri".to_owned())],
            vec![Part::Path(key("token"))],
            vec![Part::Value(key("role"))],
            vec![Part::Host("port:health".to_owned()), Part::Rendered("plugin.conf".to_owned())],
        ],
        env: vec![EnvVar { name: "ROLE".to_owned(), value: vec![Part::Value(key("role"))] }],
        files: vec![RenderedFile { name: "plugin.conf".to_owned(), content: vec![Part::Value(key("pin"))] }],
        ports: vec!["health".to_owned()],
        health: Some(HttpProbe { port: "health".to_owned(), path: "/healthz".to_owned() }),
        cpu_request_millis: 10,
        memory_request_mib: 32,
        settings: std::collections::BTreeMap::new(),
    }
}

fn refused(change: impl FnOnce(&mut Container)) -> String {
    let mut c = sound();
    change(&mut c);
    container(&c, &known()).unwrap_err().to_string()
}

#[test]
fn a_sound_container_passes() {
    container(&sound(), &known()).unwrap();
    assert!(readable_secrets(&sound(), &known()).is_empty());
}

#[test]
fn each_fault_of_a_container_is_named() {
    let arg = |part: Part| move |c: &mut Container| c.args.push(vec![part]);
    assert!(refused(arg(Part::Host("uid".to_owned()))).contains("the host does not provide"));
    assert!(refused(arg(Part::Host("port:other".to_owned()))).contains("not in `ports`"));
    assert!(refused(arg(Part::Rendered("x".to_owned()))).contains("not rendered"));
    assert!(refused(arg(Part::Path(key("other")))).contains("not in `references`"));
    assert!(refused(arg(Part::Path(key("role")))).contains("exposure of that reference forbids"));
    assert!(refused(arg(Part::Value(key("pin")))).contains("in an argument"));
    assert!(refused(arg(Part::Value(key("token")))).contains("in an argument"));
    assert!(refused(arg(Part::Text("a\0b".to_owned()))).contains("zero byte"));
    assert!(
        refused(|c| c.env[0].value = vec![Part::Value(key("token"))])
            .contains("exposure of that reference forbids")
    );
    assert!(refused(|c| c.env[0].name = "A-B".to_owned()).contains("valid environment variable name"));
    assert!(refused(|c| c.env.push(c.env[0].clone())).contains("is given twice"));
    for name in ["a/b", "..", "..x", ".", ""] {
        assert!(refused(|c| c.files[0].name = name.to_owned()).contains("valid file name"), "{name:?}");
    }
    assert!(refused(|c| c.ports.push("Health".to_owned())).contains("valid port name"));
    assert!(refused(|c| c.health.as_mut().unwrap().port = "x".to_owned()).contains("health probe"));
    assert!(refused(|c| c.health.as_mut().unwrap().path = "x".to_owned()).contains("slash"));
    assert!(refused(|c| c.cpu_request_millis = 0).contains("cpu-request-millis"));
    assert!(refused(|c| c.memory_request_mib = 1 << 20).contains("memory-request-mib"));
}

#[test]
fn a_secret_value_in_the_environment_is_a_violation_of_its_field() {
    let mut c = sound();
    c.env[0].value = vec![Part::Value(key("pin"))];
    container(&c, &known()).unwrap();
    let found = readable_secrets(&c, &known());
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].field, "auth");
    assert!(found[0].message.contains("key pin of secret creds"));
}

#[test]
fn references_name_objects_and_keys_that_can_exist() {
    let schema =
        Schema::read(&json!({"type": "object", "properties": {"auth": {"type": "string"}}})).unwrap();
    let config = json!({"auth": "creds"});
    let refused = |change: &dyn Fn(&mut Reference)| {
        let mut r = reference("token", Exposure::File);
        change(&mut r);
        references(&[r], &schema, &config, &config).unwrap_err().to_string()
    };
    references(&known(), &schema, &config, &config).unwrap();
    for name in ["", "a_b", "A", "-a", "a..b", "a/b", &"a".repeat(254)] {
        assert!(
            refused(&|r| r.source.name = name.to_owned()).contains("not a valid object name"),
            "{name:?}"
        );
    }
    for name in ["", "a/b", "..", "a b"] {
        assert!(refused(&|r| r.source.key = name.to_owned()).contains("not a valid data key"), "{name:?}");
    }
    assert!(refused(&|r| r.field = "other".to_owned()).contains("not a field of the schema"));
}

#[test]
fn references_name_only_objects_that_the_admin_named() {
    let schema = Schema::read(&json!({"type": "object", "properties": {
        "auth": {"type": "object", "properties": {"name": {"type": "string"}}},
        "old": {"type": "string"},
        "cas": {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string"}}}},
        "files": {"type": "object", "additionalProperties": {"type": "string"}},
    }}))
    .unwrap();
    let check = |field: &str, normalized: &Value, written: &Value| {
        let r = Reference { field: field.to_owned(), ..reference("token", Exposure::File) };
        references(&[r], &schema, normalized, written)
    };
    let normalized = json!({"auth": {"name": "creds"}, "cas": [{"name": "ca"}, {"name": "creds"}],
        "files": {"a": "creds", "b": "x"}});
    for field in ["auth.name", "cas[1].name", "cas[].name", "files.a", "files.*"] {
        check(field, &normalized, &normalized).unwrap();
    }
    // The normal form can have the name in another field, if it is from the written configuration.
    check("auth.name", &normalized, &json!({"old": "creds"})).unwrap();
    for field in ["cas[0].name", "cas[7].name", "files.b", "files.c", "auth", "old"] {
        let error = check(field, &normalized, &normalized).unwrap_err();
        assert_eq!(error.category(), "contract");
        assert!(error.to_string().contains(&format!("from the field {field:?}")), "{error}");
    }
    // A module that writes the name into the normal form itself.
    for written in [json!({}), json!({"auth": {"name": "creds2"}}), json!({"creds": 1})] {
        let error = check("auth.name", &normalized, &written).unwrap_err().to_string();
        assert!(error.contains("does not name \"creds\" there"), "{error}");
    }
}

#[test]
fn own_secrets_are_violations_of_the_fields_that_name_them() {
    let own = |kind: ReferenceKind, name: &str| {
        let mut r = reference("token", Exposure::PublicValue);
        (r.source.kind, r.source.name) = (kind, name.to_owned());
        own_secrets(&[r])
    };
    for name in [
        "encryption-key-kube-apiserver-3",
        "encryption-config-1",
        "encryption-preflight",
        "encryption-preflight-2",
        "encryption-foreign-master-1",
    ] {
        let found = own(ReferenceKind::Secret, name);
        assert_eq!((found.len(), found[0].field.as_str()), (1, "auth"), "{name}");
        assert!(found[0].message.contains(name) && found[0].message.contains("Keyward's own"));
        assert_eq!(own(ReferenceKind::ConfigMap, name), []);
    }
    for name in ["encryption", "my-encryption-key-1", "encryption-keys"] {
        assert_eq!(own(ReferenceKind::Secret, name), [], "{name}");
    }
}

#[test]
fn an_identity_names_each_part_once() {
    let part = |name: &str| (name.to_owned(), "x".to_owned());
    let good = kek(RawKek { key: vec![part("b"), part("a")], version: vec![] }).unwrap();
    assert_eq!(good.key.keys().collect::<Vec<_>>(), ["a", "b"]);
    assert!(kek(RawKek { key: vec![part("a"), part("a")], version: vec![] }).is_err());
    assert!(kek(RawKek { key: vec![], version: vec![part("")] }).is_err());
    for hidden in ["a\nb", "\u{1b}[31m", "\u{2066}"] {
        let value = vec![("a".to_owned(), hidden.to_owned())];
        for raw in [RawKek { key: value.clone(), version: vec![] }, RawKek { key: vec![], version: value }] {
            assert!(kek(raw).unwrap_err().to_string().contains("non-printable"), "{hidden:?}");
        }
        assert!(kek(RawKek { key: vec![part(hidden)], version: vec![] }).is_err());
    }
}

#[test]
fn images_are_pinned_and_endpoints_are_sockets() {
    let digest = "a".repeat(64);
    assert!(image(Some(&format!("example.com/kms@sha256:{digest}")), "image").is_ok());
    for bad in
        ["example.com/kms:latest", "@sha256:", &format!("@sha256:{digest}"), &format!("x@sha256:{digest}0")]
    {
        assert_eq!(image(Some(bad), "image").unwrap_err().field, "image", "{bad}");
    }
    assert!(image(None, "image").is_err());
    assert!(endpoint("unix:///var/run/kms.sock").is_ok());
    for bad in ["", "tcp://x", "unix://x", "/x", &format!("unix:///{}", "x".repeat(108))] {
        assert!(endpoint(bad).is_err(), "{bad}");
    }
}
