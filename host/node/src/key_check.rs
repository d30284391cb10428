//! Converts key checks between their form in objects (base64, hex) and the probe's form (bytes).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keyward_core::api::KeyCheck;
use keyward_core::ids::{RemoteKeyId, hex};

/// `None` if it cannot be decoded.
pub(crate) fn to_probe(key_check: &KeyCheck) -> Option<keyward_kms::KeyCheck> {
    let decode = |text: &String| STANDARD.decode(text).ok();
    Some(keyward_kms::KeyCheck {
        ciphertext: decode(&key_check.ciphertext)?,
        remote_key_id: key_check.remote_key_id.0.clone(),
        annotations: key_check
            .annotations
            .iter()
            .map(|(name, value)| Some((name.clone(), decode(value)?)))
            .collect::<Option<_>>()?,
        plaintext_sha256: unhex(&key_check.plaintext_sha256)?,
    })
}

pub(crate) fn from_probe(key_check: &keyward_kms::KeyCheck) -> KeyCheck {
    KeyCheck {
        ciphertext: STANDARD.encode(&key_check.ciphertext),
        remote_key_id: RemoteKeyId(key_check.remote_key_id.clone()),
        annotations: key_check
            .annotations
            .iter()
            .map(|(name, value)| (name.clone(), STANDARD.encode(value)))
            .collect(),
        plaintext_sha256: hex(&key_check.plaintext_sha256),
    }
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    // `from_str_radix` accepts a sign.
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let bytes: Vec<u8> = text
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect::<Option<_>>()?;
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_check_is_the_same_after_a_round_trip() {
        let made = keyward_kms::KeyCheck {
            ciphertext: vec![0, 255, 7],
            remote_key_id: "k".into(),
            annotations: [("a.example.com".to_owned(), vec![1, 2])].into(),
            plaintext_sha256: [0xab; 32],
        };
        assert_eq!(to_probe(&from_probe(&made)), Some(made));
    }

    #[test]
    fn a_key_check_with_an_invalid_field_is_not_decoded() {
        let good = KeyCheck {
            ciphertext: "AP8H".into(),
            remote_key_id: RemoteKeyId("k".into()),
            annotations: [("a.example.com".to_owned(), "AQI=".to_owned())].into(),
            plaintext_sha256: "ab".repeat(32),
        };
        assert!(to_probe(&good).is_some());
        for change in [
            |c: &mut KeyCheck| c.ciphertext.push('!'),
            |c: &mut KeyCheck| c.plaintext_sha256.truncate(62),
            |c: &mut KeyCheck| c.plaintext_sha256.replace_range(0..2, "+1"),
            |c: &mut KeyCheck| drop(c.annotations.insert("b.example.com".into(), "?".into())),
        ] {
            let mut bad = good.clone();
            change(&mut bad);
            assert_eq!(to_probe(&bad), None, "{bad:?}");
        }
    }
}
