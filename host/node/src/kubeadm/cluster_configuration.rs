//! Edits `ClusterConfiguration`, which is stored in the ConfigMap `kube-system/kubeadm-config`.

use serde_json::{Map, Value, json};

use super::folders::Mount;
use super::words::{Flags, normalized};
use super::{Examined, Missing, Refusal, arguments, folders, lines, pod};

const WHAT: &str = "ClusterConfiguration";
const SECTION: &str = "apiServer";

/// The version, which decides the form of arguments.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    /// A map of names to values.
    V1beta3,
    /// A list of names and values.
    V1beta4,
}

/// The missing parts and the mistakes of a configuration, and the configuration with the missing parts.
/// Everything except `apiServer` stays byte for byte.
pub fn examine(text: &str) -> Examined {
    let (config, version, section) = match read(text) {
        Ok(read) => read,
        Err(refusal) => return Examined::not_understood(refusal),
    };
    let given = match given(&section, version) {
        Ok(given) => given,
        Err(refusal) => return Examined::not_understood(refusal),
    };
    let (mut missing, mut refusals) = arguments::examine(&given);
    refusals.extend(arguments::ambiguous(&given));
    let mounts = mounts(&section);
    let names: Vec<String> = mounts.iter().map(|mount| mount.name.clone()).collect();
    let (folders, mounted) = folders::examine(&mounts, &names);
    missing.extend(folders);
    refusals.extend(mounted);
    Examined { edited: edit(text, config, version, section, &missing), missing, refusals }
}

/// The API server's flags in a configuration.
///
/// # Errors
/// The configuration cannot be understood.
pub fn flags(text: &str) -> Result<Flags, Refusal> {
    let (_, version, section) = read(text)?;
    given(&section, version)
}

fn read(text: &str) -> Result<(Value, Version, Map<String, Value>), Refusal> {
    let config = parse(text)?;
    let version = version(&config)?;
    let section = match config.get(SECTION) {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(section)) => section.clone(),
        Some(_) => return Err(shape("apiServer is not a map")),
    };
    Ok((config, version, section))
}

fn edit(
    text: &str,
    mut wanted: Value,
    version: Version,
    mut section: Map<String, Value>,
    missing: &[Missing],
) -> Result<String, Refusal> {
    if missing.is_empty() {
        return Ok(text.to_owned());
    }
    for part in missing {
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
    let misplaced = || shape("apiServer is not a YAML block");
    if parse(&text).map_err(|_| misplaced())? != wanted {
        return Err(misplaced());
    }
    Ok(text)
}

fn given(section: &Map<String, Value>, version: Version) -> Result<Flags, Refusal> {
    let flags = match (version, section.get("extraArgs")) {
        (_, None | Some(Value::Null)) => Vec::new(),
        (Version::V1beta3, Some(Value::Object(map))) => {
            map.iter().map(|(name, value)| (normalized(name), scalar(value))).collect()
        }
        (Version::V1beta4, Some(Value::Array(list))) => list
            .iter()
            .map(|argument| (normalized(&field(argument, "name")), field(argument, "value")))
            .collect(),
        _ => return Err(shape("apiServer.extraArgs has the form of another kubeadm version")),
    };
    Ok(Flags(flags))
}

fn mounts(section: &Map<String, Value>) -> Vec<Mount> {
    let volumes =
        section.get("extraVolumes").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mount = |volume: &Value| Mount {
        name: field(volume, "name"),
        path: field(volume, "mountPath"),
        sub_path: None,
        source: Some(field(volume, "hostPath")),
        kind: field(volume, "pathType"),
    };
    volumes.iter().map(mount).collect()
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
            map.ok_or_else(|| shape("apiServer.extraArgs is not a map"))?
                .insert(name.to_owned(), json!(value));
        }
    }
    Ok(())
}

/// The text with this `apiServer`.
fn with_section(text: &str, section: &Map<String, Value>) -> Result<String, Refusal> {
    let fresh = serde_saphyr::to_string(&json!({SECTION: section}))
        .map_err(|error| Refusal::Unparsable { what: WHAT, why: error.to_string() })?;
    let mut all = lines::of(text);
    let heading = format!("{SECTION}:");
    let begins = all.iter().position(|line| line.starts_with(&heading));
    // The first column of a map has only its keys and the dashes of lists.
    let belongs = |line: &String| line.starts_with([' ', '-', '#']) || line.trim().is_empty();
    let range = match begins {
        Some(at) => at..at + 1 + all.iter().skip(at + 1).take_while(|line| belongs(line)).count(),
        None => 0..0,
    };
    let ending = lines::ending(&all);
    all.splice(range, fresh.lines().map(|line| format!("{line}{ending}")));
    Ok(all.concat())
}

fn version(config: &Value) -> Result<Version, Refusal> {
    if field(config, "kind") != "ClusterConfiguration" {
        return Err(shape("it is not a ClusterConfiguration"));
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
    pod::parse(text.as_bytes()).map_err(|why| Refusal::Unparsable { what: WHAT, why })
}

fn list_mut<'a>(section: &'a mut Map<String, Value>, key: &str) -> Result<&'a mut Vec<Value>, Refusal> {
    let list = some(section, key, || json!([])).as_array_mut();
    list.ok_or_else(|| shape(&format!("apiServer.{key} is not a list")))
}

/// The value of a key, which is created if it is missing or null.
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

/// A string, or the text of a number or boolean. `null` is an empty string, as in Go.
fn scalar(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn shape(why: &str) -> Refusal {
    Refusal::Shape { what: WHAT, why: why.to_owned() }
}
