//! A container's environment, and `$(VAR)` in its command and arguments, as Kubernetes expands them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::EnvVar;

/// What fields of its own pod a container may ask for by the downward API.
pub(crate) type Fields = BTreeMap<&'static str, String>;

/// Resolves a container's variables in their order, each seeing the earlier ones, on top of the image's.
///
/// # Errors
/// What a static pod cannot have, named: anything that would be read from the API.
pub(crate) fn resolve(
    image: &BTreeMap<String, String>,
    variables: &[EnvVar],
    fields: &Fields,
) -> Result<BTreeMap<String, String>, String> {
    let mut resolved = image.clone();
    for variable in variables {
        let value = match (&variable.value, &variable.value_from) {
            (_, Some(source)) => {
                let Some(path) = source.field_ref.as_ref().map(|field| field.field_path.as_str()) else {
                    return Err(format!(
                        "variable {} comes from an API object, which static pods cannot refer to",
                        variable.name
                    ));
                };
                let field = fields.get(path);
                field
                    .cloned()
                    .ok_or_else(|| format!("variable {} asks for the field {path}", variable.name))?
            }
            (value, None) => expand(value.as_deref().unwrap_or_default(), &resolved),
        };
        resolved.insert(variable.name.clone(), value);
    }
    Ok(resolved)
}

/// `$(NAME)` becomes the variable's value; `$$(NAME)` stays as `$(NAME)`; an unknown name stays as it stands.
pub(crate) fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = after.strip_prefix('(').and_then(|after| after.split_once(')')) {
            match variables.get(name) {
                Some(value) => out.push_str(value),
                None => out.extend(["$(", name, ")"]),
            }
            rest = after;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{EnvVarSource, ObjectFieldSelector, SecretKeySelector};

    use super::*;

    fn known() -> BTreeMap<String, String> {
        BTreeMap::from([("A".to_owned(), "1".to_owned()), ("B".to_owned(), "$(A)".to_owned())])
    }

    #[test]
    fn references_are_expanded_as_kubernetes_does() {
        for (text, expected) in [
            ("plain", "plain"),
            ("$(A)-$(A)", "1-1"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$(UNKNOWN)", "$(UNKNOWN)"),
            ("$(A", "$(A"),
            ("cost $5 $", "cost $5 $"),
            // What a value holds is not looked at again.
            ("$(B)", "$(A)"),
        ] {
            assert_eq!(expand(text, &known()), expected, "{text}");
        }
    }

    #[test]
    fn a_variable_sees_the_ones_before_it() {
        let plain = |name: &str, value: &str| EnvVar {
            name: name.into(),
            value: Some(value.into()),
            ..EnvVar::default()
        };
        let variables = [
            plain("HOST", "h"),
            plain("URL", "https://$(HOST)"),
            plain("LATE", "$(LATER)"),
            plain("LATER", "x"),
        ];
        let resolved = resolve(&known(), &variables, &Fields::new()).unwrap();
        assert_eq!(resolved["URL"], "https://h");
        assert_eq!(resolved["LATE"], "$(LATER)");
        assert_eq!(resolved["A"], "1");
    }

    #[test]
    fn static_pods_have_fields_but_no_secrets() {
        let field = EnvVarSource {
            field_ref: Some(ObjectFieldSelector { field_path: "spec.nodeName".into(), ..Default::default() }),
            ..Default::default()
        };
        let variable = |source| EnvVar { name: "X".into(), value_from: Some(source), ..EnvVar::default() };
        let fields = Fields::from([("spec.nodeName", "node-1".to_owned())]);
        assert_eq!(resolve(&known(), &[variable(field)], &fields).unwrap()["X"], "node-1");
        let secret =
            EnvVarSource { secret_key_ref: Some(SecretKeySelector::default()), ..Default::default() };
        assert!(resolve(&known(), &[variable(secret)], &fields).unwrap_err().contains("API object"));
    }
}
