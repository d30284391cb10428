//! Substitutes for provider modules: one with two fields, and one for external plugins.

use std::collections::BTreeMap;

use keyward_core::platform::DiagnosisRequest;
use keyward_core::provider::{
    Container, Diagnosis, Evaluation, EvaluationRequest, Exposure, Kek, KeyRef, ModuleDigest, Part, Plugin,
    ProviderError, Reference, ReferenceKind, Violation,
};
use serde_json::{Value, json};

/// An external plugin: its endpoint names the KEK. `None` for other types.
pub(super) fn external(request: &EvaluationRequest) -> Option<Result<Evaluation, ProviderError>> {
    let kms: Value = serde_json::from_str(&request.kms).unwrap();
    let endpoint = kms["external"]["endpoint"].as_str().unwrap_or("unix:///var/run/kmsplugin/kms.sock");
    (kms["type"] == "External").then(|| {
        Ok(Evaluation {
            provider_type: "External".into(),
            normalized: json!({"endpoint": endpoint}),
            warnings: vec![],
            kek: Kek {
                key: BTreeMap::from([("endpoint".into(), endpoint.into())]),
                version: BTreeMap::new(),
            },
            references: vec![],
            rendered: Plugin::External(endpoint.into()),
            image: None,
            requirements: vec![],
            facts: BTreeMap::new(),
            field_order: vec![],
            module: ModuleDigest("sha256:external".into()),
        })
    })
}

/// A provider with two fields: `key` names the KEK, `image` changes in place. It refers to Secret
/// `credentials`, key `token`.
pub(super) fn evaluate(request: &EvaluationRequest) -> Result<Evaluation, ProviderError> {
    let kms: Value = serde_json::from_str(&request.kms).unwrap();
    if kms["type"] != "Test" {
        return Err(ProviderError::NotLoaded {
            provider_type: kms["type"].as_str().unwrap_or_default().into(),
            loaded: vec!["Test".into()],
            refused: vec![],
        });
    }
    let config = &kms["test"];
    let Some(key) = config["key"].as_str() else {
        let violations = vec![Violation { field: "test.key".into(), message: "Required value".into() }];
        return Err(ProviderError::Invalid { violations });
    };
    let token = KeyRef { kind: ReferenceKind::Secret, name: "credentials".into(), key: "token".into() };
    Ok(Evaluation {
        provider_type: "Test".into(),
        normalized: config.clone(),
        warnings: vec![],
        kek: Kek { key: BTreeMap::from([("key".into(), key.to_lowercase())]), version: BTreeMap::new() },
        references: vec![Reference {
            source: token.clone(),
            exposure: Exposure::File,
            required: true,
            field: "credentials".into(),
        }],
        rendered: Plugin::Managed(Container {
            command: vec![],
            args: vec![vec![Part::Text("--token=".into()), Part::Path(token)]],
            env: vec![],
            files: vec![],
            ports: vec![],
            health: None,
            cpu_request_millis: 10,
            memory_request_mib: 64,
            settings: BTreeMap::new(),
        }),
        image: config["image"].as_str().map(ToOwned::to_owned),
        requirements: vec![],
        facts: BTreeMap::from([("one-line-data".into(), "token".into())]),
        field_order: vec![],
        module: ModuleDigest("sha256:test".into()),
    })
}

/// The module recognizes a plugin with wrong arguments, and its diagnosis names the configuration of the
/// request.
pub(super) fn diagnose((request, failure): &DiagnosisRequest) -> Option<Diagnosis> {
    let kms: Value = serde_json::from_str(&request.kms).unwrap();
    (failure.exit_code == Some(2)).then(|| Diagnosis {
        cause: "ended".into(),
        summary: format!("the plugin of {} cannot run", kms["test"]["key"].as_str().unwrap()),
        remedy: "correct it".into(),
        retryable: false,
    })
}
