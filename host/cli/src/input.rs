//! Objects from files and standard input: YAML or JSON, of which an object's `spec.encryption` is read.

use std::io::Read as _;

use anyhow::{Context, Result, bail};
use keyward_core::api::ClusterEncryptionSpec;
use serde_json::Value;

/// The most that is read of one file: a cluster's objects are smaller by far.
const MOST: u64 = 64 * 1024 * 1024;

/// The text of a file, or of standard input for `-`.
pub(crate) fn read(path: &str) -> Result<String> {
    let mut text = String::new();
    if path == "-" {
        std::io::stdin().take(MOST).read_to_string(&mut text).context("standard input")?;
    } else {
        let file = std::fs::File::open(path).with_context(|| path.to_owned())?;
        file.take(MOST).read_to_string(&mut text).with_context(|| path.to_owned())?;
    }
    Ok(text)
}

/// One object of a file.
pub(crate) fn object(path: &str) -> Result<Value> {
    let text = read(path)?;
    // `no` and `on` are booleans here, as they are to kubectl: what is planned is what would be sent.
    serde_saphyr::from_str(&text).map_err(|error| anyhow::anyhow!("{path}: not YAML or JSON: {error}"))
}

/// What a `ClusterEncryption` or an OpenShift `APIServer` wants.
pub(crate) struct Wish {
    /// `ClusterEncryption` or `APIServer`.
    pub(crate) kind: String,
    /// The spec, as far as both have it.
    pub(crate) spec: ClusterEncryptionSpec,
}

/// Reads such an object.
pub(crate) fn wish(path: &str) -> Result<Wish> {
    let value = object(path)?;
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (kind, version) = (text("/kind"), text("/apiVersion"));
    let spec = value.get("spec").cloned().unwrap_or_else(|| Value::Object(serde_json::Map::new()));
    let spec = match (kind.as_str(), version.as_str()) {
        ("ClusterEncryption", "encryption.keyward.dev/v1alpha1") => {
            serde_json::from_value(spec).with_context(|| format!("{path}: spec"))?
        }
        ("APIServer", "config.openshift.io/v1") => {
            let encryption = spec.get("encryption").cloned().unwrap_or_default();
            ClusterEncryptionSpec {
                encryption: match encryption {
                    Value::Null => keyward_core::api::EncryptionSpec::default(),
                    other => {
                        serde_json::from_value(other).with_context(|| format!("{path}: spec.encryption"))?
                    }
                },
                ..Default::default()
            }
        }
        _ => bail!(
            "{path}: {version}/{kind} is neither a ClusterEncryption (encryption.keyward.dev/v1alpha1) nor an APIServer (config.openshift.io/v1)"
        ),
    };
    Ok(Wish { kind, spec })
}
