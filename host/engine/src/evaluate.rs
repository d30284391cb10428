//! One evaluation: from a `kms` object to all results of its provider module.

use std::collections::BTreeMap;

use keyward_core::field::FieldPath;
use keyward_core::provider::{Evaluation, Origin, Plugin, ProviderError, Violation};
use keyward_core::spelling;
use serde_json::Value;

use crate::check;
use crate::error::EngineError;
use crate::module::{Checked, Module, Normalized};

/// Why there is no evaluation, before it becomes a [`ProviderError`].
pub(crate) enum Refusal {
    /// Violations, with paths below the configuration.
    Invalid(Vec<Violation>),
    /// A call that failed.
    Failed(&'static str, EngineError),
}

impl Refusal {
    /// Whether the same request can have another result later.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, Self::Failed(_, error) if error.is_transient())
    }

    /// With field paths below the `kms` object.
    pub(crate) fn into_error(self, module: &Module) -> ProviderError {
        match self {
            Self::Invalid(found) => {
                ProviderError::Invalid { violations: below(&module.descriptor.config_field, found) }
            }
            Self::Failed(function, error) => error.in_call(module.provider_type(), function),
        }
    }
}

/// Adds the function to a failure.
fn of<T>(function: &'static str, result: Result<T, EngineError>) -> Result<T, Refusal> {
    result.map_err(|error| Refusal::Failed(function, error))
}

fn accepted<T>(function: &'static str, result: Result<Checked<T>, EngineError>) -> Result<T, Refusal> {
    of(function, result)?.map_err(Refusal::Invalid)
}

/// The current form of a stored configuration.
pub(crate) fn upgraded(module: &Module, stored: &Value) -> Result<Value, Refusal> {
    accepted("upgrade", module.upgrade(stored))
}

/// The normal form of a configuration, written now or stored earlier.
fn normalized(module: &Module, origin: Origin, config: &Value) -> Result<Normalized, Refusal> {
    let today;
    let config = match origin {
        Origin::Desired => config,
        Origin::Stored => {
            today = upgraded(module, config)?;
            &today
        }
    };
    let normal = accepted("normalize", module.normalize(config))?;
    // A normal form that is not its own normal form would change with each evaluation.
    let again = of("normalize", module.normalize(&normal.config))?;
    if again.as_ref().is_ok_and(|again| again.config == normal.config) {
        return Ok(normal);
    }
    let what = match again {
        Ok(_) => "another configuration".to_owned(),
        Err(found) => {
            format!("violations ({})", found.first().map(|v| v.message.as_str()).unwrap_or_default())
        }
    };
    let message = format!("normalize, applied to its own result, returns {what}");
    Err(Refusal::Failed("normalize", EngineError::Contract { message }))
}

/// All results of a module for one configuration.
pub(crate) fn evaluate(module: &Module, origin: Origin, written: &Value) -> Result<Evaluation, Refusal> {
    let Normalized { config, warnings } = normalized(module, origin, written)?;
    let kek = of("kek-identity", module.kek_identity(&config))?;
    let references = accepted("references", module.references(&config, written))?;
    let rendered = accepted("render", module.render(&config, &references))?;
    let image = match &rendered {
        Plugin::External(_) => None,
        Plugin::Managed(_) => Some(image(module, &config)?),
    };
    let requirements = of("requirements", module.requirements(&config))?;
    Ok(Evaluation {
        provider_type: module.provider_type().to_owned(),
        normalized: config,
        warnings,
        kek,
        references,
        rendered,
        image,
        requirements,
        facts: module.descriptor.facts.clone(),
        field_order: module.descriptor.rules.iter().map(|rule| rule.field.clone()).collect(),
        module: module.descriptor.module.clone(),
    })
}

/// The image, only from the field that the descriptor names.
fn image(module: &Module, config: &Value) -> Result<String, Refusal> {
    let Some(field) = &module.descriptor.image_field else {
        let message = "it renders a container but declares no image-field".to_owned();
        return Err(Refusal::Failed("render", EngineError::Contract { message }));
    };
    let value = FieldPath::parse(field).ok().and_then(|path| path.get(config).and_then(Value::as_str));
    check::image(value, field).map_err(|violation| Refusal::Invalid(vec![violation]))
}

/// Field paths below the `kms` object.
fn below(config_field: &str, found: Vec<Violation>) -> Vec<Violation> {
    let join = |field: String| match field.as_str() {
        "" => config_field.to_owned(),
        field => format!("{config_field}.{field}"),
    };
    found.into_iter().map(|v| Violation { field: join(v.field), message: v.message }).collect()
}

/// The type of a `kms` object, and the configuration in the field of that type. `fields` maps each loaded type to its
/// config field. The messages are OpenShift's, for any provider type (openshift: kms-union).
pub(crate) fn union<'v>(
    kms: &'v Value,
    fields: &BTreeMap<&str, &str>,
) -> Result<(&'v str, &'v Value), ProviderError> {
    let violation = |field: &str, message: String| Violation { field: field.to_owned(), message };
    let invalid = |violations| Err(ProviderError::Invalid { violations });
    let loaded = || fields.keys().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let Some(object) = kms.as_object() else {
        return invalid(vec![violation("", "the kms configuration must be an object".to_owned())]);
    };
    let Some(kind) = object.get("type").and_then(Value::as_str) else {
        let message = format!("Required value; loaded providers: {}", loaded().join(", "));
        return invalid(vec![violation("type", message)]);
    };
    let Some(own) = fields.get(kind) else {
        let (provider_type, loaded) = (kind.to_owned(), loaded());
        return Err(ProviderError::NotLoaded { provider_type, loaded, refused: Vec::new() });
    };
    let union_rule = |field: &str, kind: &str| {
        format!("{field} config is required when kms provider type is {kind}, and forbidden otherwise")
    };
    let mut found = Vec::new();
    let config = object.get(*own).filter(|config| !config.is_null());
    // A misspelled field is reported below.
    let is_misspelled = |field: &String| {
        !fields.values().any(|known| known == field) && spelling::closest(field, [*own]).is_some()
    };
    if config.is_none() && !object.keys().any(is_misspelled) {
        found.push(violation(own, union_rule(own, kind)));
    }
    for (field, value) in object {
        if field == "type" || field == own || value.is_null() {
            continue;
        }
        found.push(match fields.iter().find(|(_, other)| *other == field) {
            Some((kind, field)) => violation(field, union_rule(field, kind)),
            None => {
                let hint = spelling::hint(field, fields.values().copied());
                violation(field, format!("unknown field{hint}"))
            }
        });
    }
    match config {
        Some(config) if found.is_empty() => Ok((kind, config)),
        _ => invalid(found),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn violations(kms: &Value) -> Vec<String> {
        let fields = [("Acme", "acme"), ("Other", "other")].into();
        match union(kms, &fields) {
            Err(ProviderError::Invalid { violations }) => {
                violations.into_iter().map(|v| format!("{}: {}", v.field, v.message)).collect()
            }
            other => vec![format!("{other:?}")],
        }
    }

    #[test]
    fn union_is_checked_for_any_provider_type() {
        let required =
            "acme: acme config is required when kms provider type is Acme, and forbidden otherwise";
        let forbidden =
            "other: other config is required when kms provider type is Other, and forbidden otherwise";
        assert_eq!(violations(&json!({"type": "Acme"})), [required]);
        assert_eq!(violations(&json!({"type": "Acme", "acme": null})), [required]);
        assert_eq!(violations(&json!({"type": "Acme", "other": {}})), [required, forbidden]);
        assert_eq!(
            violations(&json!({"type": "Acme", "acme": {}, "other": {}, "x": 1})),
            [forbidden, "x: unknown field"]
        );
        assert_eq!(
            violations(&json!({"type": "Acme", "Acme": {}})),
            ["Acme: unknown field; did you mean \"acme\"?"]
        );
        assert_eq!(violations(&json!({"acme": {}})), ["type: Required value; loaded providers: Acme, Other"]);
        assert_eq!(violations(&json!([])), [": the kms configuration must be an object"]);
    }

    #[test]
    fn error_about_a_type_that_is_not_loaded_names_the_loaded_types() {
        let error = union(&json!({"type": "None"}), &[("Acme", "acme")].into()).unwrap_err();
        assert_eq!(error.to_string(), "unsupported KMS provider type \"None\"; loaded providers: Acme");
    }

    #[test]
    fn union_returns_type_and_configuration() {
        let kms = json!({"type": "Acme", "acme": {"a": 1}, "other": null});
        let fields = [("Acme", "acme"), ("Other", "other")].into();
        assert_eq!(union(&kms, &fields).unwrap(), ("Acme", &json!({"a": 1})));
    }
}
