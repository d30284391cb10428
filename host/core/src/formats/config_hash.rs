//! CONTRACT 1.7: the eight characters that OpenShift's status carries. Not cryptographic; Keyward's own answers are
//! linked by the keyed [digest](super::digest).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use serde_json::Value;

use super::ReferencedData;
use crate::provider::ReferenceKind;

/// FNV-1 (not 1a), 32 bits, over the provider's configuration as Go would write it, then the referenced values.
pub fn config_hash(provider_config: &Value, referenced: &ReferencedData) -> String {
    let mut hash = Fnv1::default();
    hash.write(go_json(provider_config).as_bytes());
    hash.write(b"\n");
    for kind in [ReferenceKind::Secret, ReferenceKind::ConfigMap] {
        // The map is sorted by kind, name and key: within one referenced object that is "each key sorted by name".
        for (reference, value) in referenced.iter().filter(|(reference, _)| reference.kind == kind) {
            hash.write(reference.key.as_bytes());
            hash.write(value.expose());
        }
    }
    URL_SAFE.encode(hash.0.to_be_bytes())
}

/// Go's `encoding/json` escapes `<`, `>`, `&` and the two line separators; serde does not.
fn go_json(value: &Value) -> String {
    value
        .to_string()
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
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
    use super::*;

    #[test]
    fn fnv_1_of_known_vectors() {
        // Published test vectors of FNV-1 32 bits.
        for (text, expected) in [("", 0x811c_9dc5_u32), ("a", 0x050c_5d7e), ("foobar", 0x31f0_b262)] {
            let mut hash = Fnv1::default();
            hash.write(text.as_bytes());
            assert_eq!(hash.0, expected, "{text}");
        }
    }

    #[test]
    fn hash_has_eight_characters_and_follows_credentials() {
        let config = serde_json::json!({"address": "https://a.example.com"});
        let key = crate::provider::KeyRef {
            kind: ReferenceKind::Secret,
            name: "a".into(),
            key: "secret-id".into(),
        };
        let one = config_hash(&config, &[(key.clone(), crate::SecretBytes::new(b"1".to_vec()))].into());
        let two = config_hash(&config, &[(key, crate::SecretBytes::new(b"2".to_vec()))].into());
        assert_eq!(one.len(), 8);
        assert_ne!(one, two);
    }
}
