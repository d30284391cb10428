//! Checks of a module's results for one configuration (invariant: modules-are-untrusted). A name is used in a data
//! key, an argument in a Pod, a file name on a node.

use std::collections::BTreeSet;

use keyward_core::field::{FieldPath, Step};
use keyward_core::names::PREFLIGHT_SECRET;
use keyward_core::provider::{Container, Exposure, Kek, KeyRef, Part, Reference, ReferenceKind, Violation};
use serde_json::Value;

use crate::abi::{RawKek, Setting};
use crate::describe::unique;
use crate::error::EngineError;
use crate::schema::Schema;

/// The values that the host provides, beside `port:NAME`.
const HOST_PARTS: [&str; 4] = ["socket-uri", "socket-path", "key-id", "node-name"];

/// Highest CPU request of a plugin; its limit is four times that. A plugin seals a few keys, it does not compute.
const MAX_CPU_MILLIS: u32 = 2_000;
/// Highest memory request of a plugin, in MiB; its limit is four times that.
const MAX_MEMORY_MIB: u32 = 2_048;

fn broken(message: String) -> EngineError {
    EngineError::Contract { message }
}

/// How names of Keyward's own Secrets begin: keys, revisions, candidates, foreign configurations. They are in the
/// namespace of referenced objects, and contain AES keys.
const OWN_SECRETS: [&str; 4] =
    ["encryption-key-", "encryption-config-", PREFLIGHT_SECRET, "encryption-foreign-"];

/// The identity with its parts sorted. A name that is given twice is an error: it is not known which value counts.
pub(crate) fn kek(raw: RawKek) -> Result<Kek, EngineError> {
    let part = |settings: Vec<Setting>, part: &str| {
        unique(settings).map_err(|found| broken(format!("in the {part} of the KEK: {found}")))
    };
    Ok(Kek { key: part(raw.key, "key")?, version: part(raw.version, "version")? })
}

/// Checks that references name objects and data keys that can exist, in fields of the schema, and only objects that the
/// admin named: the name is in the normal form at `field`, and also in the configuration as it was `written`, since the
/// module itself makes the normal form.
pub(crate) fn references(
    references: &[Reference],
    schema: &Schema,
    normalized: &Value,
    written: &Value,
) -> Result<(), EngineError> {
    for Reference { source, field, .. } in references {
        let KeyRef { kind, name, key } = source;
        // `{name}_{key}` is split at the first underscore (openshift: referenced-data-keys). No object name has one.
        if !is_object_name(name) {
            return Err(broken(format!(
                "a reference names the {kind} {name:?}, which is not a valid object name"
            )));
        }
        if !is_data_key(key) {
            return Err(broken(format!(
                "a reference names the key {key:?} of {kind} {name}, which is not a valid data key"
            )));
        }
        let Some(path) = FieldPath::parse(field).ok().filter(|path| schema.has(path)) else {
            return Err(broken(format!(
                "the reference to {kind} {name} comes from {field:?}, which is not a field of the schema"
            )));
        };
        if !is_at(path.steps(), normalized, name) || !is_in(written, name) {
            return Err(broken(format!(
                "the reference to {kind} {name} comes from the field {field:?}, but the configuration does not name \
                 {name:?} there"
            )));
        }
    }
    Ok(())
}

/// References to Keyward's own Secrets, as violations of the fields that name them.
pub(crate) fn own_secrets(references: &[Reference]) -> Vec<Violation> {
    references
        .iter()
        .filter(|r| r.source.kind == ReferenceKind::Secret)
        .filter(|r| OWN_SECRETS.iter().any(|own| r.source.name.starts_with(own)))
        .map(|r| Violation {
            field: r.field.clone(),
            message: format!(
                "{} has the name of one of Keyward's own Secrets, which plugins do not get; use another Secret",
                r.source.name
            ),
        })
        .collect()
}

/// Whether this text is the value at a path or, for a pattern, one of the values.
fn is_at(path: &[Step], value: &Value, text: &str) -> bool {
    let Some((step, rest)) = path.split_first() else { return value.as_str() == Some(text) };
    let below = |value: &Value| is_at(rest, value, text);
    match (step, value) {
        (Step::Key(name), Value::Object(fields)) => fields.get(name).is_some_and(below),
        (Step::AnyKey, Value::Object(fields)) => fields.values().any(below),
        (Step::Item(index), Value::Array(items)) => items.get(*index).is_some_and(below),
        (Step::AnyItem, Value::Array(items)) => items.iter().any(below),
        _ => false,
    }
}

/// Whether this text is a value anywhere.
fn is_in(value: &Value, text: &str) -> bool {
    match value {
        Value::String(value) => value == text,
        Value::Array(items) => items.iter().any(|value| is_in(value, text)),
        Value::Object(fields) => fields.values().any(|value| is_in(value, text)),
        _ => false,
    }
}

/// Checks a rendered container: every part refers to an existing value, and every name is valid.
pub(crate) fn container(c: &Container, references: &[Reference]) -> Result<(), EngineError> {
    names(&c.ports, "port", is_port_name)?;
    names(c.files.iter().map(|f| &f.name), "file", is_data_key)?;
    names(c.env.iter().map(|e| &e.name), "environment variable", is_env_name)?;
    let scope = Scope { container: c, references };
    for argument in &c.args {
        scope.parts(argument, Place::Arguments)?;
    }
    for variable in &c.env {
        scope.parts(&variable.value, Place::Environment)?;
    }
    for file in &c.files {
        scope.parts(&file.content, Place::File)?;
    }
    if let Some(probe) = &c.health {
        if !c.ports.contains(&probe.port) {
            return Err(broken(format!(
                "the health probe is on port {:?}, which is not in `ports`",
                probe.port
            )));
        }
        if !probe.path.starts_with('/') || probe.path.contains(|c: char| c.is_control() || c.is_whitespace())
        {
            return Err(broken(format!(
                "the health probe's path {:?} does not begin with a slash",
                probe.path
            )));
        }
    }
    let texts = c.command.iter().chain(c.args.iter().flatten().filter_map(|part| match part {
        Part::Text(text) => Some(text),
        _ => None,
    }));
    if let Some(text) = texts.into_iter().find(|text| text.contains('\0')) {
        return Err(broken(format!("the argument {text:?} contains a zero byte")));
    }
    within(c.cpu_request_millis, MAX_CPU_MILLIS, "cpu-request-millis")?;
    within(c.memory_request_mib, MAX_MEMORY_MIB, "memory-request-mib")
}

/// Secret values in the environment, as violations of the fields that refer to them. Everyone who can read the Pod
/// (for a static Pod: its mirror Pod) could read them (kubernetes: mirror-pods-are-readable).
pub(crate) fn readable_secrets(c: &Container, references: &[Reference]) -> Vec<Violation> {
    let in_environment = |source: &KeyRef| {
        c.env.iter().flat_map(|e| &e.value).any(|part| matches!(part, Part::Value(key) if key == source))
    };
    references
        .iter()
        .filter(|r| r.exposure == Exposure::SecretValue && in_environment(&r.source))
        .map(|r| Violation {
            field: r.field.clone(),
            message: format!(
                "key {} of {} {} would be in the plugin's environment, which everyone who can read Pods can read; \
                 use an authentication that reads it from a file",
                r.source.key, r.source.kind, r.source.name
            ),
        })
        .collect()
}

/// Checks the endpoint of an external plugin.
pub(crate) fn endpoint(endpoint: &str) -> Result<(), EngineError> {
    // sockaddr_un has 108 bytes, the last of them zero.
    match endpoint.strip_prefix("unix://") {
        Some(path) if path.starts_with('/') && path.len() < 108 && !path.contains(char::is_control) => Ok(()),
        _ => Err(broken(format!(
            "the endpoint {endpoint:?} is not unix:///PATH with a path of at most 107 bytes"
        ))),
    }
}

/// The image, if it is pinned by digest; otherwise a violation of the field that names it.
pub(crate) fn image(image: Option<&str>, field: &str) -> Result<String, Violation> {
    let pinned = |image: &&str| {
        image.split_once("@sha256:").is_some_and(|(name, digest)| {
            !name.is_empty()
                && !name.contains(char::is_whitespace)
                && digest.len() == 64
                && digest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        })
    };
    image.filter(pinned).map(str::to_owned).ok_or_else(|| Violation {
        field: field.to_owned(),
        message: "the plugin's image must be pinned by digest: NAME@sha256:<64 hexadecimal digits>"
            .to_owned(),
    })
}

/// Where a part is used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Arguments,
    Environment,
    File,
}

struct Scope<'a> {
    container: &'a Container,
    references: &'a [Reference],
}

impl Scope<'_> {
    fn parts(&self, parts: &[Part], place: Place) -> Result<(), EngineError> {
        parts.iter().try_for_each(|part| self.part(part, place))
    }

    fn part(&self, part: &Part, place: Place) -> Result<(), EngineError> {
        match part {
            Part::Text(_) => Ok(()),
            Part::Host(name) => match name.strip_prefix("port:") {
                Some(name) if self.container.ports.iter().any(|p| p == name) => Ok(()),
                Some(name) => {
                    Err(broken(format!("a part refers to the port {name:?}, which is not in `ports`")))
                }
                None if HOST_PARTS.contains(&name.as_str()) => Ok(()),
                None => Err(broken(format!(
                    "a part refers to {name:?}, which the host does not provide (it provides {} and port:NAME)",
                    HOST_PARTS.join(", ")
                ))),
            },
            Part::Rendered(name) if self.container.files.iter().any(|f| f.name == *name) => Ok(()),
            Part::Rendered(name) => {
                Err(broken(format!("a part refers to the file {name:?}, which is not rendered")))
            }
            Part::Path(key) => self.exposed(key, "the path", |exposure| exposure == Exposure::File),
            Part::Value(key) if place == Place::Arguments => {
                self.exposed(key, "the value (in an argument, which everyone can read)", |exposure| {
                    exposure == Exposure::PublicValue
                })
            }
            Part::Value(key) => self.exposed(key, "the value", |exposure| exposure != Exposure::File),
        }
    }

    fn exposed(
        &self,
        key: &KeyRef,
        what: &str,
        allowed: impl Fn(Exposure) -> bool,
    ) -> Result<(), EngineError> {
        let mut exposures =
            self.references.iter().filter(|r| r.source == *key).map(|r| r.exposure).peekable();
        let KeyRef { kind, name, key } = key;
        if exposures.peek().is_none() {
            return Err(broken(format!(
                "a part refers to key {key:?} of {kind} {name:?}, which is not in `references`"
            )));
        }
        if exposures.any(allowed) {
            return Ok(());
        }
        Err(broken(format!(
            "a part needs {what} of key {key} of {kind} {name}, which the exposure of that reference forbids"
        )))
    }
}

fn names<'a>(
    names: impl IntoIterator<Item = &'a String>,
    what: &str,
    valid: impl Fn(&str) -> bool,
) -> Result<(), EngineError> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !valid(name) {
            return Err(broken(format!("{name:?} is not a valid {what} name")));
        }
        if !seen.insert(name) {
            return Err(broken(format!("{what} {name} is given twice")));
        }
    }
    Ok(())
}

fn within(value: u32, max: u32, what: &str) -> Result<(), EngineError> {
    if (1..=max).contains(&value) {
        Ok(())
    } else {
        Err(broken(format!("{what} is {value}; it must be between 1 and {max}")))
    }
}

/// A DNS-1123 subdomain of at most 253 characters.
fn is_object_name(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(|label| {
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
            label.bytes().next().is_some_and(plain)
                && label.bytes().last().is_some_and(plain)
                && label.bytes().all(|b| plain(b) || b == b'-')
        })
}

/// A valid data key of a Secret or ConfigMap, which is also a valid file name.
fn is_data_key(key: &str) -> bool {
    !key.is_empty()
        && key.len() <= 253
        && key != "."
        && !key.starts_with("..")
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn is_env_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.len() <= 253
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// A port name of Kubernetes (IANA_SVC_NAME) that begins with a letter.
fn is_port_name(name: &str) -> bool {
    name.len() <= 15
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && !name.contains("--")
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

#[cfg(test)]
mod tests;
