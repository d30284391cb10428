//! One evaluation: from a `kms` object to everything that its provider says of it.

use std::collections::BTreeMap;

use keyward_core::field::FieldPath;
use keyward_core::provider::{Evaluation, Origin, Plugin, ProviderError, Violation};
use keyward_core::spelling;
use serde_json::Value;

use crate::check;
use crate::error::EngineError;
use crate::module::{Checked, Module, Normalized};

/// Why there is no evaluation, before it is put into the host's words.
pub(crate) enum Refusal {
    /// Violations, with paths below the configuration.
    Invalid(Vec<Violation>),
    /// A call that did not end well.
    Failed(&'static str, EngineError),
}

impl Refusal {
    /// Whether the same request can have another answer later.
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

/// Marks which function a failure is of.
fn of<T>(function: &'static str, result: Result<T, EngineError>) -> Result<T, Refusal> {
    result.map_err(|error| Refusal::Failed(function, error))
}

fn accepted<T>(function: &'static str, result: Result<Checked<T>, EngineError>) -> Result<T, Refusal> {
    of(function, result)?.map_err(Refusal::Invalid)
}

/// The configuration of today that was stored as this.
pub(crate) fn upgraded(module: &Module, stored: &Value) -> Result<Value, Refusal> {
    accepted("upgrade", module.upgrade(stored))
}

/// The canonical form of a configuration as it was written, now or earlier.
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
    // A normal form that is not its own normal form would change with each look at it.
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
    let message = format!("normalize makes {what} of what it returned itself");
    Err(Refusal::Failed("normalize", EngineError::Contract { message }))
}

/// Everything that a module says of one configuration.
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

/// The image, from the descriptor's field and nowhere else.
fn image(module: &Module, config: &Value) -> Result<String, Refusal> {
    let Some(field) = &module.descriptor.image_field else {
        let message = "it renders a container, but names no image-field".to_owned();
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

/// Takes a `kms` object apart: its type, and the configuration in the field of that type. `fields` maps each loaded
/// type to its config field. The messages are CONTRACT 4's, made for any provider.
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
        let message = format!("is required; loaded providers: {}", loaded().join(", "));
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
    // One that is misspelled is named below.
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
    fn the_union_is_checked_for_any_provider() {
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
        assert_eq!(violations(&json!({"acme": {}})), ["type: is required; loaded providers: Acme, Other"]);
        assert_eq!(violations(&json!([])), [": the kms configuration must be an object"]);
    }

    #[test]
    fn a_type_that_is_not_loaded_is_named_with_those_that_are() {
        let error = union(&json!({"type": "None"}), &[("Acme", "acme")].into()).unwrap_err();
        assert_eq!(error.to_string(), "unsupported KMS provider type \"None\"; loaded providers: Acme");
    }

    #[test]
    fn the_configuration_is_found() {
        let kms = json!({"type": "Acme", "acme": {"a": 1}, "other": null});
        let fields = [("Acme", "acme"), ("Other", "other")].into();
        assert_eq!(union(&kms, &fields).unwrap(), ("Acme", &json!({"a": 1})));
    }
}
