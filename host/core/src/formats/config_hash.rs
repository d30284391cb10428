//! The configuration hash of OpenShift: the eight characters in its status (openshift: config-hash). It is not
//! cryptographic; Keyward's own answers repeat the keyed [digest](super::digest).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use serde_json::Value;

use super::ReferencedData;
use crate::provider::ReferenceKind;

/// FNV-1 (not 1a), 32 bits, over the KMS configuration as Go would write it, then the referenced values. `order`
/// has the paths of the fields of the configuration, in the order in which its type declares them.
pub fn config_hash(provider_config: &Value, order: &[String], referenced: &ReferencedData) -> String {
    let mut hash = Fnv1::default();
    let mut json = String::new();
    go_json(provider_config, "", order, &mut json);
    hash.write(json.as_bytes());
    hash.write(b"\n");
    for kind in [ReferenceKind::Secret, ReferenceKind::ConfigMap] {
        // The map is sorted by kind, name and key, so the keys of each referenced object are sorted by name.
        for (reference, value) in referenced.iter().filter(|(reference, _)| reference.kind == kind) {
            hash.write(reference.key.as_bytes());
            hash.write(value.expose());
        }
    }
    URL_SAFE.encode(hash.0.to_be_bytes())
}

/// The JSON of a struct as Go's `encoding/json` writes it: fields in the order of their declaration, without empty
/// fields, and with `<`, `>`, `&` and the two line separators escaped. serde does not escape these.
fn go_json(value: &Value, path: &str, order: &[String], json: &mut String) {
    let Value::Object(fields) = value else {
        let text = value
            .to_string()
            .replace('<', "\\u003c")
            .replace('>', "\\u003e")
            .replace('&', "\\u0026")
            .replace('\u{2028}', "\\u2028")
            .replace('\u{2029}', "\\u2029");
        json.push_str(&text);
        return;
    };
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    let mut sorted: Vec<(usize, &String, &Value)> = fields
        .iter()
        .filter(|(_, value)| !is_empty(value))
        .map(|(name, value)| {
            let own = below(name);
            let is_it = |declared: &String| {
                declared
                    .strip_prefix(own.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('.') || rest.starts_with('['))
            };
            (order.iter().position(is_it).unwrap_or(order.len()), name, value)
        })
        .collect();
    // Fields that are not declared are sorted by name.
    sorted.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
    json.push('{');
    for (index, (_, name, value)) in sorted.into_iter().enumerate() {
        if index > 0 {
            json.push(',');
        }
        go_json(&Value::String(name.clone()), "", &[], json);
        json.push(':');
        go_json(value, &below(name), order, json);
    }
    json.push('}');
}

/// Whether Go's `omitempty` and `omitzero` omit this value: empty texts, and structs of which all fields are empty.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Object(fields) => fields.values().all(is_empty),
        _ => false,
    }
}

struct Fnv1(u32);

impl Default for Fnv1 {
    fn default() -> Self {
        Self(0x811c_9dc5)
    }
}

impl Fnv1 {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.wrapping_mul(0x0100_0193) ^ u32::from(*byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fnv_1_matches_the_published_vectors() {
        // Published test vectors of FNV-1 32 bits.
        for (text, expected) in [("", 0x811c_9dc5_u32), ("a", 0x050c_5d7e), ("foobar", 0x31f0_b262)] {
            let mut hash = Fnv1::default();
            hash.write(text.as_bytes());
            assert_eq!(hash.0, expected, "{text}");
        }
    }

    #[test]
    fn hash_has_eight_characters_and_changes_with_credentials() {
        let config = json!({"address": "https://a.example.com"});
        let key = crate::provider::KeyRef {
            kind: ReferenceKind::Secret,
            name: "a".into(),
            key: "secret-id".into(),
        };
        let one = config_hash(&config, &[], &[(key.clone(), crate::SecretBytes::new(b"1".to_vec()))].into());
        let two = config_hash(&config, &[], &[(key, crate::SecretBytes::new(b"2".to_vec()))].into());
        assert_eq!(one.len(), 8);
        assert_ne!(one, two);
    }

    fn written(config: &Value) -> String {
        let order = ["image", "namespace", "tls.ca.name", "tls.server", "path"].map(ToOwned::to_owned);
        let mut json = String::new();
        go_json(config, "", &order, &mut json);
        json
    }

    #[test]
    fn configuration_is_written_as_go_writes_the_struct() {
        let config = json!({
            "path": "a/keys/b", "zz": 1, "tls": {"server": "s", "ca": {"name": "c"}}, "image": "i",
            "namespace": "", "aa": true,
        });
        let go = r#"{"image":"i","tls":{"ca":{"name":"c"},"server":"s"},"path":"a/keys/b","aa":true,"zz":1}"#;
        assert_eq!(written(&config), go);
        assert_eq!(written(&json!({"tls": {"ca": {"name": ""}}, "path": "p"})), r#"{"path":"p"}"#);
        assert_eq!(written(&json!({"path": "a<b>&\u{2028}"})), r#"{"path":"a\u003cb\u003e\u0026\u2028"}"#);
    }

    #[test]
    fn hash_does_not_depend_on_the_order_of_fields() {
        let order = ["image", "path"].map(ToOwned::to_owned);
        let hash = |config: Value| config_hash(&config, &order, &ReferencedData::new());
        let one = hash(json!({"image": "i", "path": "p"}));
        assert_eq!(one, hash(json!({"path": "p", "image": "i", "namespace": ""})));
        assert_ne!(one, hash(json!({"path": "i", "image": "p"})));
    }
}
