//! Edits `/etc/kubernetes/manifests/kube-apiserver.yaml`.

use serde_json::{Value, json};

use super::folders::Mount;
use super::pod::{self, API_SERVER, Asks};
use super::words::{self, Flags};
use super::{Examined, Missing, OLDEST, Refusal, arguments, folders, lines};

const WHAT: &str = "kube-apiserver.yaml";

/// The parts of an API server's manifest that Keyward depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// The version in the image's tag. `None` if the tag has no version.
    pub version: Option<(u32, u32)>,
    /// Its flags.
    pub flags: Flags,
    /// Its mounts.
    pub mounts: Vec<Mount>,
    /// The names of all volumes of its pod.
    volumes: Vec<String>,
    probes: Vec<pod::Probe>,
}

/// Faults and notes that only an admin can act on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remarks {
    /// Probes that restart the server while any KMS does not answer.
    pub faults: Vec<String>,
    /// Information without a fault.
    pub notes: Vec<String>,
}

/// Reads a manifest as the kubelet and kube-apiserver do.
///
/// # Errors
/// The manifest cannot be understood, so its missing parts are not known.
pub fn read(text: &str) -> Result<Server, Refusal> {
    of(&parse(text)?)
}

/// The missing parts and the mistakes of a manifest, and the manifest with the missing parts.
pub fn examine(text: &str) -> Examined {
    let server = match read(text) {
        Ok(server) => server,
        Err(refusal) => return Examined::not_understood(refusal),
    };
    let (mut missing, mut refusals) = arguments::examine(&server.flags);
    let (folders, mounted) = folders::examine(&server.mounts, &server.volumes);
    missing.extend(folders);
    refusals.extend(mounted);
    refusals.extend(
        server.version.filter(|version| *version < OLDEST).map(|version| Refusal::TooOld { version }),
    );
    Examined { edited: edit(text, &server, &missing), missing, refusals }
}

impl Server {
    /// Faults and notes that only an admin can act on.
    pub fn remarks(&self) -> Remarks {
        let mut remarks = Remarks::default();
        if self.version.is_none() {
            remarks.notes.push("the API server's version cannot be read from the image's tag".to_owned());
        }
        for pod::Probe { name, asks } in &self.probes {
            match asks {
                Asks::Port => {}
                Asks::Command => remarks.notes.push(format!(
                    "{name} runs a command; if it asks /healthz or /readyz, change it to /livez: the other two fail while \
                     any KMS does not answer"
                )),
                Asks::Path(path) => match needs_every_kms(path) {
                    Some(true) => remarks.faults.push(format!(
                        "{name} asks {}, which fails while any KMS does not answer, so the kubelet would restart \
                         kube-apiserver again and again; change it to /livez",
                        path.split('?').next().unwrap_or_default()
                    )),
                    Some(false) => {}
                    None => remarks.notes.push(format!(
                        "{name} asks {path}; only /livez does not depend on a KMS"
                    )),
                },
            }
        }
        remarks
    }
}

/// Whether a probe's path fails while any KMS does not answer (kubernetes: kms-gates-readyz-not-livez).
/// `None` if that is not known.
fn needs_every_kms(path: &str) -> Option<bool> {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let query = query.split('#').next().unwrap_or_default();
    let path = path.trim_start_matches('/');
    let (endpoint, check) = path.split_once('/').unwrap_or((path, ""));
    let is_excluded = query.split('&').any(|part| part == "exclude=kms-providers");
    match (endpoint, check.trim_end_matches('/')) {
        ("livez", check) if !check.starts_with("kms-provider") => Some(false),
        ("healthz" | "readyz", "") => Some(!is_excluded),
        ("healthz" | "readyz" | "livez", check) => Some(check.starts_with("kms-provider")),
        _ => None,
    }
}

fn of(value: &Value) -> Result<Server, Refusal> {
    let pod = pod::pod(value).map_err(|why| shape(&why))?.ok_or_else(|| shape("it is not a Pod of v1"))?;
    let servers = pod.api_servers();
    let [server] = servers.as_slice() else {
        return Err(shape(&format!(
            "{} of its containers run kube-apiserver; exactly one must",
            servers.len()
        )));
    };
    if server.name != API_SERVER {
        return Err(shape("it has no container kube-apiserver"));
    }
    let words: Vec<&str> = server.words.iter().map(String::as_str).collect();
    let Some((program, words)) =
        words.split_first().filter(|(word, _)| word.rsplit('/').next() == Some(API_SERVER))
    else {
        return Err(shape("its command is not kube-apiserver"));
    };
    if program.contains('$') {
        return Err(shape("its command is not kube-apiserver"));
    }
    let flags = words::parse(words).map_err(|why| shape(&why))?;
    let mount = |mount: &pod::VolumeMount| {
        let volume = pod.volumes.iter().find(|volume| volume.name == mount.name);
        let (source, kind) = volume.and_then(|volume| volume.host_path.clone()).unzip();
        let (name, path, sub_path) = (mount.name.clone(), mount.path.clone(), mount.sub_path.clone());
        Mount { name, path, sub_path, source, kind: kind.unwrap_or_default() }
    };
    Ok(Server {
        version: version(&server.image),
        flags,
        mounts: server.mounts.iter().map(mount).collect(),
        volumes: pod.volumes.iter().map(|volume| volume.name.clone()).collect(),
        probes: server.probes.clone(),
    })
}

/// The text with the missing parts, if they can be added line by line.
fn edit(text: &str, before: &Server, missing: &[Missing]) -> Result<String, Refusal> {
    if missing.is_empty() {
        return Ok(text.to_owned());
    }
    let mut wanted = parse(text)?;
    let mut written = lines::of(text);
    for part in missing {
        match *part {
            Missing::Flag { name, value } => add_flag(&mut wanted, &mut written, name, value)?,
            Missing::Folder { name, path } => add_folder(&mut wanted, &mut written, name, path)?,
        }
    }
    let text = written.concat();
    // The result must have the additions and change nothing else, both as YAML and for the API server.
    let misplaced = || shape("the change would not have the intended result");
    if parse(&text).map_err(|_| misplaced())? != wanted {
        return Err(misplaced());
    }
    let after = of(&wanted)?;
    let kept = before.flags.0.iter().all(|flag| after.flags.0.contains(flag));
    let added = missing.iter().filter(|part| matches!(part, Missing::Flag { .. })).count();
    if !kept || after.flags.0.len() != before.flags.0.len() + added {
        return Err(misplaced());
    }
    Ok(text)
}

/// Adds a flag at the end, where kubeadm adds an admin's flags (kubernetes: kubeadm-orders-what-it-adds).
fn add_flag(pod: &mut Value, written: &mut Vec<String>, name: &str, value: &str) -> Result<(), Refusal> {
    let argument = format!("--{name}={value}");
    let list = lines::list(written, "command").ok_or_else(|| by_line("command"))?;
    lines::insert(written, &list, usize::MAX, std::slice::from_ref(&argument));
    let command = container_mut(pod).and_then(|server| array_mut(server, "command"));
    command.ok_or_else(|| by_line("command"))?.push(json!(argument));
    Ok(())
}

/// Adds a folder, sorted by name as kubeadm does.
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
    let (Some(values), Some(list)) = (values, lines::list(written, key)) else { return Err(by_line(key)) };
    let names = values.iter().map(|value| value.get("name").and_then(Value::as_str).unwrap_or_default());
    let place = lines::place(names, name);
    lines::insert(written, &list, place, item);
    values.insert(place, value);
    Ok(())
}

fn parse(text: &str) -> Result<Value, Refusal> {
    pod::parse(text.as_bytes()).map_err(|why| Refusal::Unparsable { what: WHAT, why })
}

fn container_mut(pod: &mut Value) -> Option<&mut Value> {
    let containers = pod.get_mut("spec").and_then(|spec| array_mut(spec, "containers"))?;
    containers.iter_mut().find(|container| container.get("name").and_then(Value::as_str) == Some(API_SERVER))
}

/// `registry.k8s.io/kube-apiserver:v1.36.3` → (1, 36)
fn version(image: &str) -> Option<(u32, u32)> {
    let (_, tag) = image.split('@').next()?.rsplit('/').next()?.split_once(":v")?;
    let mut parts = tag.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn array_mut<'a>(value: &'a mut Value, key: &str) -> Option<&'a mut Vec<Value>> {
    value.get_mut(key).and_then(Value::as_array_mut)
}

fn by_line(key: &str) -> Refusal {
    shape(&format!("it does not have exactly one list `{key}` with one item per line"))
}

fn shape(why: &str) -> Refusal {
    Refusal::Shape { what: WHAT, why: why.to_owned() }
}
