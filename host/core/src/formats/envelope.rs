//! Envelopes in key secrets: a KMS configuration in an EncryptionConfiguration (openshift: kms-configuration-envelope),
//! and a plugin's configuration in an `APIServer` object (openshift: plugin-configuration-envelope). OpenShift's
//! controllers can read both.

use serde::Serialize;
use serde_json::Value;

use super::FormatError;
use super::encryption_config::{
    EncryptionConfiguration, KmsConfiguration, ProviderConfiguration, ResourceConfiguration,
};
use crate::ids::KeyId;

/// Wraps a KMS configuration, whose name is only the keyID.
pub fn encode_kms(kms: &KmsConfiguration) -> Vec<u8> {
    EncryptionConfiguration::new(vec![ResourceConfiguration {
        resources: None,
        providers: vec![ProviderConfiguration { kms: Some(kms.clone()), ..Default::default() }],
    }])
    .encode()
}

/// The KMS configuration in an envelope: exactly one `resources` element that names no resource, with exactly one
/// provider `kms` whose name is only the keyID. Anything else is invalid.
pub fn decode_kms(bytes: &[u8]) -> Result<KmsConfiguration, FormatError> {
    let config = EncryptionConfiguration::decode(bytes).map_err(|_| FormatError::Envelope)?;
    let [ResourceConfiguration { resources: None, providers }] = config.resources.as_slice() else {
        return Err(FormatError::Envelope);
    };
    let [
        ProviderConfiguration { aesgcm: None, aescbc: None, secretbox: None, identity: None, kms: Some(kms) },
    ] = providers.as_slice()
    else {
        return Err(FormatError::Envelope);
    };
    if kms.name.parse::<KeyId>().is_err() {
        return Err(FormatError::Envelope);
    }
    Ok(kms.clone())
}

/// The envelope of a plugin's configuration, with its fields in this order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ApiServer<'a> {
    kind: &'static str,
    api_version: &'static str,
    metadata: Empty,
    spec: Spec<'a>,
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
struct Spec<'a> {
    encryption: Encryption<'a>,
}

#[derive(Serialize)]
struct Encryption<'a> {
    kms: &'a Value,
}

/// Wraps the `kms` object as the admin wrote it.
pub fn encode_plugin(kms: &Value) -> Vec<u8> {
    let envelope = ApiServer {
        kind: "APIServer",
        api_version: "config.openshift.io/v1",
        metadata: Empty {},
        spec: Spec { encryption: Encryption { kms } },
    };
    serde_json::to_vec(&envelope).unwrap_or_default()
}

/// The `kms` object of an envelope.
pub fn decode_plugin(bytes: &[u8]) -> Result<Value, FormatError> {
    let mut envelope: Value = serde_json::from_slice(bytes).map_err(|_| FormatError::Envelope)?;
    if envelope.get("kind").and_then(Value::as_str) != Some("APIServer") {
        return Err(FormatError::Envelope);
    }
    match envelope.pointer_mut("/spec/encryption/kms").map(Value::take) {
        Some(kms @ Value::Object(_)) => Ok(kms),
        _ => Err(FormatError::Envelope),
    }
}
