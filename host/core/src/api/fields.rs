//! Unknown fields. The API server prunes or refuses them. A file that is read without an API server is refused here,
//! because a field that is not understood would count as absent.

use kube_core::CustomResourceExt as _;
use serde_json::Value;

use super::ClusterEncryption;
use crate::provider::Violation;
use crate::spelling;

/// The unknown fields of a `ClusterEncryption`, by path, each with the spelling that was probably meant. The provider
/// module checks the configuration of the KMS.
pub fn unknown_in_cluster_encryption(object: &Value) -> Vec<Violation> {
    let mut found = Vec::new();
    walk(&root(), object, "", &mut found);
    found
}

/// The unknown fields of an OpenShift `APIServer` below `spec.encryption`, and fields of `spec` that may be a
/// misspelled `encryption`. The other fields do not concern encryption.
pub fn unknown_in_api_server(object: &Value) -> Vec<Violation> {
    let Some(spec) = object.get("spec").and_then(Value::as_object) else { return Vec::new() };
    let root = root();
    let schema = root.pointer("/properties/spec/properties/encryption").unwrap_or(&Value::Null);
    let mut found = Vec::new();
    for (name, value) in spec {
        if name == "encryption" {
            walk(schema, value, "spec.encryption", &mut found);
        } else if spelling::closest(name, ["encryption"]).is_some() {
            found.push(unknown(format!("spec.{name}"), name, ["encryption"]));
        }
    }
    found
}

fn unknown<'k>(field: String, name: &str, known: impl IntoIterator<Item = &'k str>) -> Violation {
    Violation { field, message: format!("unknown field{}", spelling::hint(name, known)) }
}

/// The schema of the CRD.
fn root() -> Value {
    let crd = ClusterEncryption::crd();
    let version = crd.spec.versions.into_iter().next();
    let schema = version.and_then(|version| version.schema?.open_api_v3_schema);
    schema.and_then(|schema| serde_json::to_value(schema).ok()).unwrap_or_default()
}

fn walk(schema: &Value, value: &Value, path: &str, found: &mut Vec<Violation>) {
    match value {
        Value::Object(fields) => {
            if schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) {
                return;
            }
            if let Some(values) = schema.get("additionalProperties") {
                for (name, value) in fields {
                    walk(values, value, &below(path, name), found);
                }
                return;
            }
            let Some(known) = schema.get("properties").and_then(Value::as_object) else { return };
            for (name, value) in fields {
                match known.get(name) {
                    Some(schema) => walk(schema, value, &below(path, name), found),
                    // Every object has these; the schema of a CRD does not list them.
                    None if path.is_empty()
                        && ["apiVersion", "kind", "metadata"].contains(&name.as_str()) => {}
                    None => {
                        found.push(unknown(below(path, name), name, known.keys().map(String::as_str)));
                    }
                }
            }
        }
        Value::Array(items) => {
            let Some(schema) = schema.get("items") else { return };
            for (index, item) in items.iter().enumerate() {
                walk(schema, item, &format!("{path}[{index}]"), found);
            }
        }
        _ => {}
    }
}

fn below(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn lines(found: &[Violation]) -> Vec<String> {
        found.iter().map(|violation| format!("{}: {}", violation.field, violation.message)).collect()
    }

    #[rstest]
    #[case::misspelled(json!({"spec": {"encrytion": {}}}), &["spec.encrytion: unknown field; did you mean \"encryption\"?"])]
    #[case::letter_case(json!({"spec": {"Encryption": {}}}), &["spec.Encryption: unknown field; did you mean \"encryption\"?"])]
    #[case::deeper(json!({"spec": {"encryption": {"typ": "KMS"}}}), &["spec.encryption.typ: unknown field; did you mean \"type\"?"])]
    #[case::in_a_list(json!({"spec": {"plugins": {"hostAliases": [{"ip": "::1", "hostname": []}]}}}),
        &["spec.plugins.hostAliases[0].hostname: unknown field; did you mean \"hostnames\"?"])]
    #[case::beside_spec(json!({"spce": {}}), &["spce: unknown field; did you mean \"spec\"?"])]
    #[case::nothing_is_close(json!({"spec": {"zzz": 1}}), &["spec.zzz: unknown field"])]
    #[case::map_of_quantities(json!({"spec": {"plugins": {"resources": {"requests": {"cpu": "1"}}}}}), &[])]
    #[case::provider(json!({"spec": {"encryption": {"type": "KMS", "kms": {"type": "Example", "any": {"thing": 1}}}}}), &[])]
    #[case::object(json!({"apiVersion": "v", "kind": "k", "metadata": {"name": "cluster", "x": 1}, "status": {}}), &[])]
    fn unknown_fields_are_reported_with_the_spelling_that_was_meant(
        #[case] object: Value,
        #[case] expected: &[&str],
    ) {
        assert_eq!(lines(&unknown_in_cluster_encryption(&object)), expected);
    }

    #[rstest]
    #[case::misspelled(json!({"spec": {"encrytion": {}}}), &["spec.encrytion: unknown field; did you mean \"encryption\"?"])]
    #[case::below(json!({"spec": {"encryption": {"Type": "x"}}}), &["spec.encryption.Type: unknown field; did you mean \"type\"?"])]
    #[case::others(json!({"spec": {"anythingNew": {}, "audit": {"profile": "Default"}, "clientCA": {"name": "x"}}}), &[])]
    fn unknown_encryption_fields_of_an_api_server_are_reported(
        #[case] object: Value,
        #[case] expected: &[&str],
    ) {
        assert_eq!(lines(&unknown_in_api_server(&object)), expected);
    }
}
