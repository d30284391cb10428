//! `/etc/kubernetes/manifests/kube-apiserver.yaml`.

use serde_json::{Value, json};

use super::folders::Mount;
use super::{Edited, Missing, OLDEST, Refusal, arguments, folders, lines};

const WHAT: &str = "kube-apiserver.yaml";
const CONTAINER: &str = "kube-apiserver";

/// The manifest with the flags and the folders.
///
/// # Errors
/// It cannot be read, or says something that is not ours to change.
pub fn edit(text: &str) -> Result<Edited, Refusal> {
    let mut wanted = parse(text)?;
    let server = container(&wanted)?;
    if let Some(version) = version(server).filter(|version| *version < OLDEST) {
        return Err(Refusal::TooOld { version });
    }
    let missing = missing(&wanted, server)?;
    let mut written = lines::of(text);
    for part in &missing {
        match *part {
            Missing::Flag { name, value } => add_flag(&mut wanted, &mut written, name, value)?,
            Missing::Folder { name, path } => add_folder(&mut wanted, &mut written, name, path)?,
        }
    }
    if missing.is_empty() {
        return Ok(Edited { text: text.to_owned(), missing });
    }
    let text = lines::joined(&written);
    if parse(&text)? != wanted {
        return Err(shape("the additions would not stand where they must"));
    }
    Ok(Edited { text, missing })
}

/// What is wrong with it, or worth knowing, that nobody but its admin can change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remarks {
    /// Of the image's tag; `None` where it has none that tells.
    pub version: Option<(u32, u32)>,
    /// Probes that restart the server and ask `/healthz`, which fails while one KMS of several does not answer
    /// (FIELD 1.3).
    pub fatal_probes: Vec<&'static str>,
    /// `--request-timeout`, where it is given.
    pub request_timeout: Option<String>,
}

/// Reads them.
///
/// # Errors
/// It cannot be read.
pub fn remarks(text: &str) -> Result<Remarks, Refusal> {
    let pod = parse(text)?;
    let server = container(&pod)?;
    let asks_healthz = |probe: &&'static str| {
        let path = server.pointer(&format!("/{probe}/httpGet/path")).and_then(Value::as_str);
        path.is_some_and(|path| path == "/healthz" || path.starts_with("/healthz/"))
    };
    let timeout = flags(server)?.into_iter().rfind(|(name, _)| name == "request-timeout");
    Ok(Remarks {
        version: version(server),
        fatal_probes: ["livenessProbe", "startupProbe"].into_iter().filter(asks_healthz).collect(),
        request_timeout: timeout.map(|(_, value)| value),
    })
}

fn missing(pod: &Value, server: &Value) -> Result<Vec<Missing>, Refusal> {
    let volumes = items(pod, "/spec/volumes");
    let name_of = |value: &Value| text(value, "/name").unwrap_or_default();
    let mounts: Vec<Mount> = items(server, "/volumeMounts")
        .iter()
        .map(|mount| {
            let name = name_of(mount);
            let volume = volumes.iter().find(|volume| name_of(volume) == name);
            let of_volume = |pointer: &str| volume.and_then(|volume| text(volume, pointer));
            Mount {
                path: text(mount, "/mountPath").unwrap_or_default(),
                source: of_volume("/hostPath/path"),
                kind: of_volume("/hostPath/type"),
                name,
            }
        })
        .collect();
    let names: Vec<String> = volumes.iter().map(name_of).collect();
    let mut missing = arguments::missing(&flags(server)?)?;
    missing.extend(folders::missing(&mounts, &names)?);
    Ok(missing)
}

/// As kubeadm does with what an admin gave it: behind all others.
fn add_flag(pod: &mut Value, written: &mut Vec<String>, name: &str, value: &str) -> Result<(), Refusal> {
    let argument = format!("--{name}={value}");
    let list = lines::list(written, "command").ok_or_else(|| shape("it has not one list `command`"))?;
    lines::insert(written, &list, usize::MAX, std::slice::from_ref(&argument));
    let command = container_mut(pod).and_then(|server| array_mut(server, "command"));
    command.ok_or_else(|| shape("the API server has no `command`"))?.push(json!(argument));
    Ok(())
}

/// As kubeadm does: sorted by name.
fn add_folder(pod: &mut Value, written: &mut Vec<String>, name: &str, path: &str) -> Result<(), Refusal> {
    let mounts = container_mut(pod).and_then(|server| array_mut(server, "volumeMounts"));
    let mount = json!({"mountPath": path, "name": name, "readOnly": true});
    let item = [format!("mountPath: {path}"), format!("name: {name}"), "readOnly: true".to_owned()];
    add(mounts, written, "volumeMounts", name, mount, &item)?;
    let volumes = pod.get_mut("spec").and_then(|spec| array_mut(spec, "volumes"));
    let volume = json!({"hostPath": {"path": path, "type": "DirectoryOrCreate"}, "name": name});
    let item = [
        "hostPath:".to_owned(),
        format!("  path: {path}"),
        "  type: DirectoryOrCreate".to_owned(),
        format!("name: {name}"),
    ];
    add(volumes, written, "volumes", name, volume, &item)
}

fn add(
    values: Option<&mut Vec<Value>>,
    written: &mut Vec<String>,
    key: &str,
    name: &str,
    value: Value,
    item: &[String],
) -> Result<(), Refusal> {
    let (Some(values), Some(list)) = (values, lines::list(written, key)) else {
        return Err(shape(&format!("it has not one list `{key}`")));
    };
    let names = values.iter().map(|value| value.get("name").and_then(Value::as_str).unwrap_or_default());
    let place = lines::place(names, name);
    lines::insert(written, &list, place, item);
    values.insert(place, value);
    Ok(())
}

fn parse(text: &str) -> Result<Value, Refusal> {
    let unparsable = |error: serde_saphyr::Error| Refusal::Unparsable { what: WHAT, why: error.to_string() };
    serde_saphyr::from_str(text).map_err(unparsable)
}

fn container(pod: &Value) -> Result<&Value, Refusal> {
    if text(pod, "/kind").as_deref() != Some("Pod") {
        return Err(shape("it is no Pod"));
    }
    let containers = items(pod, "/spec/containers");
    let server = containers.iter().find(|container| text(container, "/name").as_deref() == Some(CONTAINER));
    server.ok_or_else(|| shape("it has no container kube-apiserver"))
}

fn container_mut(pod: &mut Value) -> Option<&mut Value> {
    let containers = pod.get_mut("spec").and_then(|spec| array_mut(spec, "containers"))?;
    containers.iter_mut().find(|container| text(container, "/name").as_deref() == Some(CONTAINER))
}

/// Of `command` and of `args`.
fn flags(server: &Value) -> Result<Vec<(String, String)>, Refusal> {
    let words: Vec<&str> = ["/command", "/args"]
        .iter()
        .flat_map(|list| items(server, list))
        .map(|word| word.as_str().unwrap_or_default())
        .collect();
    let program = words.first().and_then(|word| word.rsplit('/').next());
    if program != Some(CONTAINER) {
        return Err(shape("its command is not kube-apiserver"));
    }
    let apart = words.iter().find(|word| **word == "--encryption-provider-config");
    if apart.is_some() {
        return Err(shape("--encryption-provider-config and its value are two words"));
    }
    Ok(words.into_iter().filter_map(arguments::split).collect())
}

/// `registry.k8s.io/kube-apiserver:v1.36.3` → (1, 36)
fn version(server: &Value) -> Option<(u32, u32)> {
    let image = text(server, "/image")?;
    let (_, tag) = image.split('@').next()?.rsplit('/').next()?.split_once(":v")?;
    let mut parts = tag.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn items<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value, pointer: &str) -> Option<String> {
    value.pointer(pointer).and_then(Value::as_str).map(str::to_owned)
}

fn array_mut<'a>(value: &'a mut Value, key: &str) -> Option<&'a mut Vec<Value>> {
    value.get_mut(key).and_then(Value::as_array_mut)
}

fn shape(why: &str) -> Refusal {
    Refusal::Shape { what: WHAT, why: why.to_owned() }
}
