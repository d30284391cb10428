//! Reads objects from files and standard input, as YAML or JSON.

use std::io::Read as _;

use anyhow::{Context, Result, bail, ensure};
use keyward_core::api::{ClusterEncryptionSpec, fields};
use keyward_core::ids::GroupResource;
use keyward_core::platform::kubernetes;
use keyward_core::platform::openshift::COMPONENTS;
use keyward_core::provider::Violation;
use keyward_core::snapshot::Wanted;
use serde_json::Value;

/// At most this many bytes of a file are read. The objects of a cluster are much smaller.
const MOST: u64 = 64 * 1024 * 1024;

/// The text of a file, or of standard input for `-`.
pub(crate) fn read(path: &str) -> Result<String> {
    if path == "-" {
        return at_most(std::io::stdin(), MOST).context("standard input");
    }
    let file = std::fs::File::open(path).with_context(|| path.to_owned())?;
    at_most(file, MOST).with_context(|| path.to_owned())
}

/// Reads at most `most` bytes. Longer input is an error: its first part could be read as the whole.
fn at_most(reader: impl std::io::Read, most: u64) -> Result<String> {
    let mut text = String::new();
    reader.take(most.saturating_add(1)).read_to_string(&mut text)?;
    ensure!(u64::try_from(text.len())? <= most, "it has more than {most} bytes");
    Ok(text)
}

/// The one object in a file.
pub(crate) fn object(path: &str) -> Result<Value> {
    let text = read(path)?;
    // `no` and `on` are booleans, as in kubectl: the plan is about the object that kubectl would send.
    serde_saphyr::from_str(&text).map_err(|error| anyhow::anyhow!("{path}: not YAML or JSON: {error}"))
}

/// The spec of a `ClusterEncryption` or an OpenShift `APIServer`.
pub(crate) struct ObjectSpec {
    /// `ClusterEncryption` or `APIServer`.
    pub(crate) kind: String,
    /// The spec. That of an `APIServer` has only `encryption`.
    pub(crate) spec: ClusterEncryptionSpec,
    /// Fields of the object that its kind does not have.
    pub(crate) unknown: Vec<Violation>,
}

impl ObjectSpec {
    /// The spec of a `ClusterEncryption`.
    pub(crate) fn of(spec: ClusterEncryptionSpec) -> Self {
        Self { kind: "ClusterEncryption".to_owned(), spec, unknown: Vec::new() }
    }

    /// Whether it is a `ClusterEncryption`.
    pub(crate) fn is_ours(&self) -> bool {
        self.kind == "ClusterEncryption"
    }

    /// The spec as the operator of its platform reads it.
    pub(crate) fn wanted(&self) -> Wanted {
        if self.is_ours() {
            return kubernetes::wanted(&self.spec);
        }
        // The components define the resources; the object has no field for them.
        let names = COMPONENTS.iter().flat_map(|component| component.resources);
        let mut wanted = kubernetes::read(&self.spec);
        wanted.resources = names.map(|name| GroupResource::parse(name)).collect();
        wanted.resources.sort();
        wanted
    }
}

/// Reads the spec of the object in a file.
pub(crate) fn read_spec(path: &str) -> Result<ObjectSpec> {
    let value = object(path)?;
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (kind, version) = (text("/kind"), text("/apiVersion"));
    let spec = value.get("spec").cloned().unwrap_or_else(|| Value::Object(serde_json::Map::new()));
    let (spec, unknown) = match (kind.as_str(), version.as_str()) {
        ("ClusterEncryption", "encryption.keyward.dev/v1alpha1") => (
            serde_json::from_value(spec).with_context(|| format!("{path}: spec"))?,
            fields::unknown_in_cluster_encryption(&value),
        ),
        ("APIServer", "config.openshift.io/v1") => {
            let encryption = spec.get("encryption").cloned().unwrap_or_default();
            let encryption = match encryption {
                Value::Null => keyward_core::api::EncryptionSpec::default(),
                other => serde_json::from_value(other).with_context(|| format!("{path}: spec.encryption"))?,
            };
            let spec = ClusterEncryptionSpec { encryption, ..Default::default() };
            (spec, fields::unknown_in_api_server(&value))
        }
        _ => bail!(
            "{path}: {version}/{kind} is not supported; use a ClusterEncryption (encryption.keyward.dev/v1alpha1) or an APIServer (config.openshift.io/v1)"
        ),
    };
    Ok(ObjectSpec { kind, spec, unknown })
}

#[cfg(test)]
mod tests {
    use super::at_most;

    #[test]
    fn longer_input_is_an_error_and_is_not_cut_off() {
        assert_eq!(at_most(&b"a: 1"[..], 4).unwrap(), "a: 1");
        assert_eq!(at_most(&b"a: 12"[..], 4).unwrap_err().to_string(), "it has more than 4 bytes");
    }
}
