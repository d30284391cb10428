//! A container's environment, and `$(VAR)` in its command and arguments, as Kubernetes expands them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::EnvVar;

/// The fields of its own pod that a container may request by the downward API.
pub(crate) type Fields = BTreeMap<&'static str, String>;

/// Resolves a container's variables in order, in addition to the image's. Each can refer to the earlier ones.
///
/// # Errors
/// A variable that would be read from the API, which a static pod cannot have; the error names it.
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
                        "variable {} is from an API object, which static pods cannot refer to",
                        variable.name
                    ));
                };
                let field = fields.get(path);
                field
                    .cloned()
                    .ok_or_else(|| format!("variable {} refers to the unknown field {path}", variable.name))?
            }
            (value, None) => expand(value.as_deref().unwrap_or_default(), &resolved),
        };
        resolved.insert(variable.name.clone(), value);
    }
    Ok(resolved)
}

/// `$(NAME)` becomes the variable's value; `$$(NAME)` becomes `$(NAME)`; an unknown name stays unchanged.
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
            // The value of a variable is not expanded again.
            ("$(B)", "$(A)"),
        ] {
            assert_eq!(expand(text, &known()), expected, "{text}");
        }
    }

    #[test]
    fn a_variable_can_refer_to_earlier_ones() {
        let plain = |name: &str, value: &str| EnvVar {
            name: name.into(),
            value: Some(value.into()),
            ..EnvVar::default()
        };
        let variables = [
            plain("HOST", "h"),
            plain("URL", "https://$(HOST)"),
            plain("EARLY", "$(LATER)"),
            plain("LATER", "x"),
        ];
        let resolved = resolve(&known(), &variables, &Fields::new()).unwrap();
        assert_eq!(resolved["URL"], "https://h");
        assert_eq!(resolved["EARLY"], "$(LATER)");
        assert_eq!(resolved["A"], "1");
    }

    #[test]
    fn static_pods_can_refer_to_fields_but_not_to_secrets() {
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
