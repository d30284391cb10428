//! Encryption and decryption with Vault's Transit engine, and the remote key id of the KEK.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::{
    api::Call,
    auth::Session,
    error::BackendError,
    settings::{KeyPath, Settings},
};

/// One Transit key, through a session.
#[derive(Debug)]
pub(crate) struct Transit {
    session: Session,
    namespace: String,
    key: KeyPath,
}

/// Transit's information about the key: its versions and their creation times. Only an encrypt request shows
/// that a key cannot encrypt.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct KeyInfo {
    latest_version: u64,
    /// By version: a Unix time for symmetric keys, an object with a date for others.
    keys: BTreeMap<String, Value>,
}

/// Transit's ciphertext `vault:v{N}:…`, with the remote key id of that version.
pub(crate) struct Wrapped {
    pub(crate) ciphertext: String,
    pub(crate) key_id: String,
}

impl Transit {
    pub(crate) fn new(session: Session, settings: &Settings) -> Self {
        Self { session, namespace: settings.namespace.clone(), key: settings.key.clone() }
    }

    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    /// Reads the key. That shows that Vault responds, that the login is valid, and that the policy allows to
    /// read the key. Returns the remote key id of its latest version.
    pub(crate) async fn key_id(&self) -> Result<String, BackendError> {
        let info = self.read_key().await?;
        self.key_id_of(&info, info.latest_version)
    }

    /// Wraps `plaintext` under the key's latest version.
    pub(crate) async fn encrypt(&self, plaintext: &[u8]) -> Result<Wrapped, BackendError> {
        const WHAT: &str = "encrypt";
        // The key must exist first: Transit creates a key of that name if the policy allows `create`.
        let mut info = self.read_key().await?;
        let mut text = Zeroizing::new(STANDARD.encode(plaintext));
        let body = json!({ "plaintext": std::mem::take(&mut *text) });
        let answer = self.post(WHAT, "encrypt", &body).await?;
        let ciphertext = text_at(WHAT, &answer, "/data/ciphertext")?.to_owned();
        let version = version_of(&ciphertext).ok_or_else(|| BackendError::Unexpected {
            what: WHAT,
            reason: "no version in ciphertext".into(),
        })?;
        if !info.keys.contains_key(&version.to_string()) {
            // It was rotated between the two requests.
            info = self.read_key().await?;
        }
        Ok(Wrapped { ciphertext, key_id: self.key_id_of(&info, version)? })
    }

    /// Unwraps a ciphertext of [`encrypt`](Self::encrypt), under any version of the key.
    pub(crate) async fn decrypt(&self, ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>, BackendError> {
        const WHAT: &str = "decrypt";
        let text = str::from_utf8(ciphertext).ok().filter(|text| version_of(text).is_some());
        let text = text.ok_or_else(|| BackendError::Invalid {
            what: WHAT,
            reason: "invalid ciphertext: no prefix".into(),
        })?;
        let answer = self.post(WHAT, "decrypt", &json!({ "ciphertext": text })).await?;
        let plaintext = STANDARD.decode(text_at(WHAT, &answer, "/data/plaintext")?);
        let plaintext = plaintext
            .map_err(|_| BackendError::Unexpected { what: WHAT, reason: "plaintext is not base64".into() })?;
        Ok(Zeroizing::new(plaintext))
    }

    async fn read_key(&self) -> Result<KeyInfo, BackendError> {
        let what = "read the key";
        let path = self.key.to("keys");
        let read = Call { what, method: Method::GET, path: &path, namespace: &self.namespace, body: None };
        let answer = self.session.call(&read).await?;
        let info = answer.get("data").cloned().unwrap_or_default();
        serde_json::from_value(info)
            .map_err(|error| BackendError::Unexpected { what, reason: error.to_string() })
    }

    async fn post(&self, what: &'static str, action: &str, body: &Value) -> Result<Value, BackendError> {
        let path = self.key.to(action);
        let call =
            Call { what, method: Method::PUT, path: &path, namespace: &self.namespace, body: Some(body) };
        self.session.call(&call).await
    }

    fn key_id_of(&self, info: &KeyInfo, version: u64) -> Result<String, BackendError> {
        key_id(&self.namespace, &self.key, info, version).ok_or_else(|| BackendError::Unexpected {
            what: "read the key",
            reason: format!("the key has no version {version}"),
        })
    }
}

/// `{namespace}/{mount}/keys/{name}@v{version}#{creation time}`: the same from every instance on every node;
/// a different one after a rotation, and for a key that was deleted and created again under its name (unless
/// in the same second). It does not contain the address, because one Vault can have many.
fn key_id(namespace: &str, key: &KeyPath, info: &KeyInfo, version: u64) -> Option<String> {
    let made = match info.keys.get(&version.to_string())? {
        Value::Object(details) => details.get("creation_time")?.as_str()?.to_owned(),
        time => time.as_u64()?.to_string(),
    };
    let namespace = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
    Some(format!("{namespace}{}@v{version}#{made}", key.to("keys")))
}

/// The version that `vault:v{N}:…` names.
fn version_of(ciphertext: &str) -> Option<u64> {
    let (version, wrapped) = ciphertext.strip_prefix("vault:v")?.split_once(':')?;
    version.parse().ok().filter(|_| !wrapped.is_empty())
}

fn text_at<'a>(what: &'static str, answer: &'a Value, pointer: &str) -> Result<&'a str, BackendError> {
    answer
        .pointer(pointer)
        .and_then(Value::as_str)
        .ok_or_else(|| BackendError::Unexpected { what, reason: format!("the response has no {pointer}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(keys: Value) -> KeyInfo {
        let latest_version = keys.as_object().unwrap().len() as u64;
        KeyInfo { latest_version, keys: serde_json::from_value(keys).unwrap() }
    }

    #[test]
    fn a_key_id_names_kek_and_version() {
        let key = KeyPath { mount: "team/transit".into(), name: "k".into() };
        let rotated = info(json!({ "1": 1000, "2": 2000 }));
        assert_eq!(key_id("", &key, &rotated, 1).unwrap(), "team/transit/keys/k@v1#1000");
        assert_eq!(key_id("a/b", &key, &rotated, 2).unwrap(), "a/b/team/transit/keys/k@v2#2000");
        assert_eq!(key_id("", &key, &rotated, 3), None);

        let created_again = info(json!({ "1": 3000 }));
        assert_ne!(key_id("", &key, &rotated, 1), key_id("", &key, &created_again, 1));

        let asymmetric = info(json!({ "1": { "creation_time": "2026-01-01T00:00:00Z", "public_key": "…" } }));
        assert_eq!(key_id("", &key, &asymmetric, 1).unwrap(), "team/transit/keys/k@v1#2026-01-01T00:00:00Z");
    }

    #[test]
    fn a_ciphertext_names_its_version() {
        assert_eq!(version_of("vault:v12:AAAA"), Some(12));
        for wrong in ["vault:v1:", "vault:1:AAAA", "vault:vx:AAAA", "AAAA", "", "v1:AAAA"] {
            assert_eq!(version_of(wrong), None, "{wrong}");
        }
    }
}
