//! `keyward crds`: the CRDs, from the Rust types and the loaded provider modules.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args as ClapArgs;
use keyward_core::api::{ClusterEncryption, EncryptionMigration, EncryptionNode, validation};
use keyward_core::provider::{Descriptor, Evaluator as _};
use kube::CustomResourceExt as _;
use serde_json::{Value, json};

use crate::output::print;
use crate::providers::Providers;

/// Prints the CRDs as YAML: JSON documents, which are valid YAML.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  keyward crds | kubectl apply --server-side -f -")]
pub(crate) struct Args {
    /// Leave out the provider modules' schemas: the API server accepts any configuration, and only the
    /// operator checks it
    #[arg(long)]
    plain: bool,
    #[command(flatten)]
    providers: Providers,
}

/// Prints the CRDs.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let descriptors = if args.plain { Vec::new() } else { args.providers.load()?.descriptors() };
    let documents = all(&descriptors)?
        .iter()
        .map(|crd| Ok(format!("---\n{}\n", serde_json::to_string_pretty(crd)?)))
        .collect::<Result<String>>()?;
    print(&documents)?;
    Ok(ExitCode::SUCCESS)
}

/// The CRDs, with the provider modules' schemas in `spec.encryption.kms`.
pub(crate) fn all(descriptors: &[Descriptor]) -> Result<Vec<Value>> {
    let mut cluster = serde_json::to_value(ClusterEncryption::crd())?;
    let schema = "/spec/versions/0/schema/openAPIV3Schema";
    if let Some(root) = cluster.pointer_mut(schema).and_then(Value::as_object_mut) {
        root.insert("x-kubernetes-validations".to_owned(), validation::object());
    }
    let kms = format!("{schema}/properties/spec/properties/encryption/properties/kms");
    if let Some(kms) = cluster.pointer_mut(&kms) {
        overlay(kms, descriptors);
    }
    Ok(vec![
        cluster,
        serde_json::to_value(EncryptionNode::crd())?,
        serde_json::to_value(EncryptionMigration::crd())?,
    ])
}

/// Adds the schema and the rules of each loaded module, for early errors and `kubectl explain`. Unknown
/// fields are preserved, so that a module that is loaded later needs no new CRD.
fn overlay(kms: &mut Value, descriptors: &[Descriptor]) {
    for descriptor in descriptors {
        if let Some(properties) = kms.get_mut("properties").and_then(Value::as_object_mut) {
            properties.insert(descriptor.config_field.clone(), descriptor.config_schema.clone());
        }
        let (field, kind) = (&descriptor.config_field, &descriptor.provider_type);
        let other_case =
            format!("self.type.lowerAscii() == '{}' && self.type != '{kind}'", kind.to_lowercase());
        let spelled = json!({
            "rule": format!("!({other_case})"),
            "message": format!("unsupported KMS provider type; did you mean {kind:?}?"),
            "fieldPath": ".type",
        });
        // Each mistake gives one message only.
        let union = json!({
            "rule": format!("{other_case} || (self.type == '{kind}' ? has(self.{field}) : !has(self.{field}))"),
            "message": format!("{field} config is required when kms provider type is {kind}, and forbidden otherwise"),
        });
        if let Some(kms) = kms.as_object_mut() {
            let rules = kms.entry("x-kubernetes-validations").or_insert_with(|| json!([]));
            if let Some(rules) = rules.as_array_mut() {
                rules.extend([spelled, union]);
            }
        }
    }
}
