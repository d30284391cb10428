//! Reads etcd through its JSON gateway: raw values, as the API server wrote them.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

/// Keys in a page; even a thousand Secrets are far below the gateway's size limit.
const PAGE: usize = 500;

pub(super) struct Reader {
    url: String,
    http: reqwest::Client,
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The key: `/registry/secrets/NAMESPACE/NAME`.
    pub key: String,
    /// The value's raw bytes.
    pub value: Vec<u8>,
    /// The revision of its last write.
    pub mod_revision: i64,
}

/// The values below a prefix, at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredValues {
    /// That revision.
    pub revision: i64,
    /// Sorted by key.
    pub values: Vec<Stored>,
}

impl StoredValues {
    /// How many values are stored with each encryption prefix.
    pub fn by_prefix(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for stored in &self.values {
            *counts.entry(storage_prefix(&stored.value).to_owned()).or_default() += 1;
        }
        counts
    }
}

/// The prefix that shows how a value is encrypted: `k8s:enc:kms:v2:1_secrets:`, `k8s:enc:aescbc:v1:1:`
/// (kubernetes: etcd-value-format), or `plain` if it is not encrypted.
pub fn storage_prefix(value: &[u8]) -> &str {
    if !value.starts_with(b"k8s:enc:") {
        return "plain";
    }
    // k8s, enc, provider, version, name
    let end = value.iter().enumerate().filter(|(_, byte)| **byte == b':').nth(4).map(|(at, _)| at);
    let prefix = end.and_then(|end| value.get(..=end)).and_then(|prefix| std::str::from_utf8(prefix).ok());
    prefix.unwrap_or("k8s:enc: without a key's name")
}

impl Reader {
    pub(super) fn new(url: String, http: reqwest::Client) -> Self {
        Self { url, http }
    }

    pub(super) async fn values(&self, prefix: &str) -> Result<StoredValues> {
        let end = BASE64_STANDARD.encode(after(prefix));
        let mut found = StoredValues { revision: 0, values: Vec::new() };
        let mut from = prefix.as_bytes().to_vec();
        loop {
            let mut request = json!({"key": BASE64_STANDARD.encode(&from), "range_end": end, "limit": PAGE});
            if found.revision > 0 {
                merge(&mut request, json!({"revision": found.revision}));
            }
            let answer = self.post("range", &request).await?;
            if found.revision == 0 {
                found.revision =
                    number(answer.pointer("/header/revision")).context("no revision in etcd's response")?;
            }
            let page = kvs(&answer)?;
            let last = page.last().map(|stored| stored.key.clone());
            found.values.extend(page);
            match (answer.get("more").and_then(Value::as_bool), last) {
                (Some(true), Some(last)) => from = [last.as_bytes(), b"\0"].concat(),
                _ => return Ok(found),
            }
        }
    }

    pub(super) async fn value(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let answer = self.post("range", &json!({"key": BASE64_STANDARD.encode(key)})).await?;
        Ok(kvs(&answer)?.pop().map(|stored| stored.value))
    }

    pub(super) async fn delete(&self, key: &str) -> Result<()> {
        let answer = self.post("deleterange", &json!({"key": BASE64_STANDARD.encode(key)})).await?;
        anyhow::ensure!(number(answer.get("deleted")) == Some(1), "etcd has no {key}");
        Ok(())
    }

    pub(super) async fn compact(&self) -> Result<()> {
        let answer =
            self.post("range", &json!({"key": BASE64_STANDARD.encode("/"), "count_only": true})).await?;
        let revision =
            number(answer.pointer("/header/revision")).context("no revision in etcd's response")?;
        match self.post("compaction", &json!({"revision": revision, "physical": true})).await {
            // Nothing was written since the last compaction.
            Err(error) if error.to_string().contains("has been compacted") => Ok(()),
            other => other.map(drop),
        }
    }

    async fn post(&self, call: &str, body: &Value) -> Result<Value> {
        let url = format!("{}/v3/kv/{call}", self.url);
        let answer = self.http.post(&url).json(body).send().await.context("sending a request to etcd")?;
        let status = answer.status();
        let text = answer.text().await.context("reading etcd's response")?;
        if !status.is_success() {
            bail!("etcd's {call}: {status} {text}");
        }
        serde_json::from_str(&text).with_context(|| format!("etcd's response to {call} is not JSON"))
    }
}

fn merge(into: &mut Value, more: Value) {
    if let (Value::Object(into), Value::Object(more)) = (into, more) {
        into.extend(more);
    }
}

/// The first key after all keys with this prefix.
fn after(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    // For etcd, a single zero byte means all keys.
    vec![0]
}

fn kvs(answer: &Value) -> Result<Vec<Stored>> {
    let list = answer.get("kvs").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    list.iter()
        .map(|kv| {
            let bytes = |name: &str| {
                let text = kv.get(name).and_then(Value::as_str).unwrap_or_default();
                BASE64_STANDARD.decode(text).with_context(|| format!("etcd's {name}"))
            };
            let key = String::from_utf8(bytes("key")?).context("a key is not UTF-8")?;
            let mod_revision = number(kv.get("mod_revision")).unwrap_or_default();
            Ok(Stored { key, value: bytes("value")?, mod_revision })
        })
        .collect()
}

/// The gateway writes 64-bit numbers as strings.
fn number(value: Option<&Value>) -> Option<i64> {
    let value = value?;
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_names_provider_and_key() {
        for (value, expected) in [
            (&b"k8s:enc:kms:v2:1_secrets:\x0a\x10:x"[..], "k8s:enc:kms:v2:1_secrets:"),
            (b"k8s:enc:aescbc:v1:2:\xff\xff", "k8s:enc:aescbc:v1:2:"),
            (b"k8s\0\x0a:::::", "plain"),
            (b"{\"kind\":\"Secret\"}", "plain"),
            (b"", "plain"),
            (b"k8s:enc:kms", "k8s:enc: without a key's name"),
        ] {
            assert_eq!(storage_prefix(value), expected);
        }
    }

    #[test]
    fn a_range_ends_after_the_last_key_with_the_prefix() {
        assert_eq!(after("/registry/secrets/"), b"/registry/secrets0");
        assert_eq!(after(""), [0]);
    }
}
