//! `ClusterConfiguration`, as it stands in the ConfigMap `kube-system/kubeadm-config`.

use serde_json::{Map, Value, json};

use super::folders::Mount;
use super::{Edited, Missing, Refusal, arguments, folders, lines};

const WHAT: &str = "ClusterConfiguration";
const SECTION: &str = "apiServer";

/// How arguments are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    /// A map, name to value.
    V1beta3,
    /// A list of names and values.
    V1beta4,
}

/// The configuration with the flags and the folders; all but its part about the API server stays byte for byte.
///
/// # Errors
/// It cannot be read, is of a version that nobody here knows, or says something that is not ours to change.
pub fn edit(text: &str) -> Result<Edited, Refusal> {
    let mut wanted = parse(text)?;
    let version = version(&wanted)?;
    let section = match wanted.get(SECTION) {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(section)) => section.clone(),
        Some(_) => return Err(shape("apiServer is no map")),
    };
    let missing = missing(&section, version)?;
    if missing.is_empty() {
        return Ok(Edited { text: text.to_owned(), missing });
    }
    let mut section = section;
    for part in &missing {
        match *part {
            Missing::Flag { name, value } => add_flag(&mut section, version, name, value)?,
            Missing::Folder { name, path } => {
                let volume = json!({
                    "name": name, "hostPath": path, "mountPath": path,
                    "readOnly": true, "pathType": "DirectoryOrCreate",
                });
                list_mut(&mut section, "extraVolumes")?.push(volume);
            }
        }
    }
    if let Some(all) = wanted.as_object_mut() {
        all.insert(SECTION.to_owned(), Value::Object(section.clone()));
    }
    let text = with_section(text, &section)?;
    if parse(&text)? != wanted {
        return Err(shape("apiServer does not stand by itself"));
    }
    Ok(Edited { text, missing })
}

fn missing(section: &Map<String, Value>, version: Version) -> Result<Vec<Missing>, Refusal> {
    let given = match (version, section.get("extraArgs")) {
        (_, None | Some(Value::Null)) => Vec::new(),
        (Version::V1beta3, Some(Value::Object(map))) => {
            map.iter().map(|(name, value)| (name.clone(), scalar(value))).collect()
        }
        (Version::V1beta4, Some(Value::Array(list))) => {
            list.iter().map(|argument| (field(argument, "name"), field(argument, "value"))).collect()
        }
        _ => return Err(shape("apiServer.extraArgs is of another version's form")),
    };
    let volumes =
        section.get("extraVolumes").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mounts: Vec<Mount> = volumes
        .iter()
        .map(|volume| Mount {
            name: field(volume, "name"),
            path: field(volume, "mountPath"),
            source: Some(field(volume, "hostPath")),
            kind: Some(field(volume, "pathType")),
        })
        .collect();
    let names: Vec<String> = mounts.iter().map(|mount| mount.name.clone()).collect();
    let mut missing = arguments::missing(&given)?;
    missing.extend(folders::missing(&mounts, &names)?);
    Ok(missing)
}

fn add_flag(
    section: &mut Map<String, Value>,
    version: Version,
    name: &str,
    value: &str,
) -> Result<(), Refusal> {
    match version {
        Version::V1beta4 => list_mut(section, "extraArgs")?.push(json!({"name": name, "value": value})),
        Version::V1beta3 => {
            let map = some(section, "extraArgs", || json!({})).as_object_mut();
            map.ok_or_else(|| shape("apiServer.extraArgs is no map"))?.insert(name.to_owned(), json!(value));
        }
    }
    Ok(())
}

/// The text with another part about the API server.
fn with_section(text: &str, section: &Map<String, Value>) -> Result<String, Refusal> {
    let fresh = serde_saphyr::to_string(&json!({SECTION: section}))
        .map_err(|error| Refusal::Unparsable { what: WHAT, why: error.to_string() })?;
    let mut all = lines::of(text);
    let heading = format!("{SECTION}:");
    let begins = all.iter().position(|line| line.starts_with(&heading));
    // Nothing of a map stands in the first column but its keys, and dashes of lists.
    let belongs = |line: &String| line.starts_with([' ', '-', '#']) || line.is_empty();
    let range = match begins {
        Some(at) => at..at + 1 + all.iter().skip(at + 1).take_while(|line| belongs(line)).count(),
        None => 0..0,
    };
    all.splice(range, lines::of(&fresh));
    Ok(lines::joined(&all))
}

fn version(config: &Value) -> Result<Version, Refusal> {
    if field(config, "kind") != "ClusterConfiguration" {
        return Err(shape("it is of another kind"));
    }
    match field(config, "apiVersion").as_str() {
        "kubeadm.k8s.io/v1beta3" => Ok(Version::V1beta3),
        "kubeadm.k8s.io/v1beta4" => Ok(Version::V1beta4),
        other => {
            Err(shape(&format!("its version {other:?} is neither v1beta3 nor v1beta4 of kubeadm.k8s.io")))
        }
    }
}

fn parse(text: &str) -> Result<Value, Refusal> {
    let unparsable = |error: serde_saphyr::Error| Refusal::Unparsable { what: WHAT, why: error.to_string() };
    serde_saphyr::from_str(text).map_err(unparsable)
}

fn list_mut<'a>(section: &'a mut Map<String, Value>, key: &str) -> Result<&'a mut Vec<Value>, Refusal> {
    let list = some(section, key, || json!([])).as_array_mut();
    list.ok_or_else(|| shape(&format!("apiServer.{key} is no list")))
}

/// The value of a key, which is made where it is missing or null.
fn some<'a>(section: &'a mut Map<String, Value>, key: &str, empty: impl FnOnce() -> Value) -> &'a mut Value {
    let value = section.entry(key.to_owned()).or_insert(Value::Null);
    if value.is_null() {
        *value = empty();
    }
    value
}

fn field(value: &Value, key: &str) -> String {
    value.get(key).map(scalar).unwrap_or_default()
}

/// A string; what YAML takes for a number or a boolean as it is written.
fn scalar(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn shape(why: &str) -> Refusal {
    Refusal::Shape { what: WHAT, why: why.to_owned() }
}
