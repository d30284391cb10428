use serde_json::json;

use super::*;

fn read(text: &str) -> Result<Dump, String> {
    let mut dump = Dump::default();
    dump.read("dump.yaml", text).map(|()| dump).map_err(|error| error.to_string())
}

const TWO: &str = "\
# from a cluster
---
apiVersion: v1
kind: Secret
metadata: {name: a, namespace: keyward-system, creationTimestamp: \"2026-05-08T10:00:00Z\"}
data:
  text: LS0tCg==
---
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Node
  metadata:
    name: cp
    labels: {node-role.kubernetes.io/control-plane: \"\"}
- apiVersion: v1
  kind: Service
  metadata: {name: s, namespace: default}
- apiVersion: encryption.keyward.dev/v1alpha1
  kind: ClusterEncryption
  metadata: {name: cluster}
  spec: {encryption: {type: aescbc}}
  status: {since: [{fact: f, value: v, at: \"2026-05-08T12:00:00Z\"}]}
--- # the end
";

#[test]
fn documents_and_lists_are_read() {
    let dump = read(TWO).unwrap();
    let objects = dump.kubernetes();
    assert_eq!((objects.secrets.len(), objects.nodes.len()), (1, 1));
    assert!(objects.cluster_encryption.is_some());
    assert_eq!(dump.ignored(), &BTreeMap::from([("v1/Service".to_owned(), 1)]));
    assert_eq!(dump.newest(), Some("2026-05-08T12:00:00Z".parse().unwrap()));
    assert_eq!(dump.lacks(&["Secret", "Lease"]), ["Lease"]);
}

/// A Node that lacks the label and has an agent is not gone.
#[test]
fn node_with_an_agent_is_kept_without_its_label() {
    let node = |name: &str| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
    let agent = json!({
        "apiVersion": "encryption.keyward.dev/v1alpha1", "kind": "EncryptionNode", "metadata": {"name": "a"}, "spec": {},
    });
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [node("a"), node("b"), agent]});
    let nodes = read(&list.to_string()).unwrap().kubernetes().nodes;
    assert_eq!(nodes.iter().map(|node| node.metadata.name.as_deref()).collect::<Vec<_>>(), [Some("a")]);
}

#[test]
fn typed_lists_from_the_api_are_read() {
    let list = json!({
        "apiVersion": "v1", "kind": "SecretList", "metadata": {},
        "items": [{"metadata": {"name": "a", "namespace": "keyward-system"}, "data": {}}],
    });
    assert_eq!(read(&list.to_string()).unwrap().kubernetes().secrets.len(), 1);
    let none = json!({"apiVersion": "v1", "kind": "SecretList", "items": null});
    assert_eq!(read(&none.to_string()).unwrap().lacks(&["Secret"]), ["Secret"]);
}

#[test]
fn equal_objects_count_once_and_two_versions_are_an_error() {
    let secret = |version: &str| {
        json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "a", "namespace": "keyward-system", "resourceVersion": version},
        })
        .to_string()
    };
    let both = |a: &str, b: &str| read(&format!("{}\n---\n{}", secret(a), secret(b)));
    assert_eq!(both("1", "1").unwrap().kubernetes().secrets.len(), 1);
    assert_eq!(
        both("1", "2").unwrap_err(),
        "dump.yaml: document 2: v1/Secret keyward-system/a: dump.yaml: document 1 has another version of it; remove one of them"
    );
}

#[test]
fn errors_name_file_and_document_but_quote_no_value() {
    for (text, error) in [
        ("a: 1", "dump.yaml: document 1: not a Kubernetes object: it has no apiVersion or no kind"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {}", "dump.yaml: document 1: v1/Pod : it has no name"),
        (
            "a: 1\n---\nkey: [hunter2\nother: }",
            "dump.yaml: document 1: not a Kubernetes object: it has no apiVersion or no kind",
        ),
        (
            "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ndata: {token: '@hunter2'}",
            "dump.yaml: document 1: v1/Secret a: its data.token cannot be read",
        ),
        (
            "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Secret, metadata: {name: a}, data: hunter2}",
            "dump.yaml: document 1, item 1: v1/Secret a: its data cannot be read",
        ),
    ] {
        assert_eq!(read(text).unwrap_err(), error);
    }
    let error = read("apiVersion: v1\nkind: List\nitems: []\n---\nkey: [hunter2\nother: }").unwrap_err();
    assert!(error.starts_with("dump.yaml: document 2: not YAML or JSON, at line 6"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
fn referenced_objects_are_read_from_the_given_namespace() {
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ca", "namespace": "openshift-config"},
        "data": {"a": "text"}, "binaryData": {"b": "AQ=="},
    });
    let dump = read(&map.to_string()).unwrap();
    let object = ObjectRef { kind: ReferenceKind::ConfigMap, name: "ca".to_owned() };
    let found = dump.referenced("openshift-config", &object).unwrap().unwrap();
    assert_eq!(found["a"].expose(), b"text");
    assert_eq!(found["b"].expose(), [1]);
    assert_eq!(dump.referenced("other", &object), Ok(None));
    let secret = ObjectRef { kind: ReferenceKind::Secret, name: "ca".to_owned() };
    assert_eq!(dump.referenced("openshift-config", &secret), Ok(None));
}
