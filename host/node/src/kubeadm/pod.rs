//! Parses a static pod manifest as the kubelet does: as JSON if it begins with a brace, else as the first
//! document of a YAML file. Only fields that matter for the API server are read. A value of another type is
//! an error and never counts as absent (decision 0071).

use serde_json::Value;

/// The name of the API server's container and of its program.
pub(super) const API_SERVER: &str = "kube-apiserver";

/// The fields of a Pod that Keyward uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) name: String,
    pub(super) containers: Vec<Container>,
    pub(super) volumes: Vec<Volume>,
}

/// A container or init container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Container {
    pub(super) name: String,
    pub(super) image: String,
    /// `command`, then `args`.
    pub(super) words: Vec<String>,
    pub(super) mounts: Vec<VolumeMount>,
    pub(super) probes: Vec<Probe>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct VolumeMount {
    pub(super) name: String,
    pub(super) path: String,
    /// `subPath` or `subPathExpr`.
    pub(super) sub_path: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Volume {
    pub(super) name: String,
    /// Path and type. `None` if it is not a path of the node.
    pub(super) host_path: Option<(String, String)>,
}

/// A probe that restarts its container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Probe {
    pub(super) name: &'static str,
    pub(super) asks: Asks,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asks {
    /// The path of an HTTP request, with its query.
    Path(String),
    /// The container itself.
    Command,
    /// A TCP or gRPC port.
    Port,
}

impl Container {
    /// Whether it runs kube-apiserver, judged by the manifest.
    fn is_api_server(&self) -> bool {
        // An argument may be a whole shell command.
        let separates =
            |c: char| c.is_whitespace() || matches!(c, '\'' | '"' | '`' | ';' | '|' | '&' | '(' | ')');
        let program = |word: &str| word.rsplit('/').next() == Some(API_SERVER);
        let image = self.image.split('@').next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
        self.name == API_SERVER
            || image.split(':').next() == Some(API_SERVER)
            || self.words.iter().flat_map(|word| word.split(separates)).any(program)
    }
}

impl Pod {
    /// The containers that run kube-apiserver.
    pub(super) fn api_servers(&self) -> Vec<&Container> {
        self.containers.iter().filter(|container| container.is_api_server()).collect()
    }

    /// Whether it is the API server's pod, by its name or by its program.
    pub(super) fn is_api_server(&self) -> bool {
        self.name == API_SERVER || !self.api_servers().is_empty()
    }
}

/// Whether a manifest's pod runs kube-apiserver, or has its name.
///
/// # Errors
/// The manifest cannot be understood.
pub fn defines_api_server(manifest: &[u8]) -> Result<bool, String> {
    Ok(pod(&parse(manifest)?)?.is_some_and(|pod| pod.is_api_server()))
}

/// The parsed value of a manifest.
///
/// # Errors
/// It is not text, not YAML or JSON, or the kubelet and Keyward may read it differently.
pub(super) fn parse(bytes: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
    // YAML 1.1, like Go's parser: `yes` is true, and `010` is eight.
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    let read = |text: &str| -> Result<Vec<Value>, String> {
        serde_saphyr::from_multiple_with_options(text, options.clone()).map_err(|error| place(&error))
    };
    if !text.trim_start().starts_with('{') {
        let mut documents = read(text)?.into_iter();
        let first = documents.next().unwrap_or_default();
        return match documents.next() {
            Some(_) => Err("it has several documents, and the kubelet reads only the first".to_owned()),
            None => Ok(first),
        };
    }
    let json: Value = serde_json::from_str(text)
        .map_err(|error| format!("line {} column {}: it is not JSON", error.line(), error.column()))?;
    // Go merges the values of a name that is given twice. A YAML parser refuses it.
    if read(text)? == [json.clone()] {
        Ok(json)
    } else {
        Err("it has different meanings as JSON and as YAML".to_owned())
    }
}

/// The position of an error without the content: a manifest may have a password in its environment.
fn place(error: &serde_saphyr::Error) -> String {
    match error.location() {
        Some(location) => format!(
            "line {} column {}: the kubelet and Keyward may read this YAML differently",
            location.line(),
            location.column()
        ),
        None => "it is not YAML".to_owned(),
    }
}

/// The Pod of a manifest. `None` if it is an object of another kind, which the kubelet does not run.
///
/// # Errors
/// A field has a value of another type. The error names the field.
pub(super) fn pod(value: &Value) -> Result<Option<Pod>, String> {
    let kind = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
    if (kind("apiVersion"), kind("kind")) != ("v1", "Pod") {
        return Ok(None);
    }
    let root = Field { path: String::new(), value };
    let spec = root.field("spec");
    let mut containers = Vec::new();
    for list in ["initContainers", "containers"] {
        for container in spec.field(list).items()? {
            containers.push(read_container(&container)?);
        }
    }
    let volumes = spec.field("volumes").items()?.iter().map(read_volume).collect::<Result<_, _>>()?;
    Ok(Some(Pod { name: root.field("metadata").field("name").text()?, containers, volumes }))
}

fn read_container(container: &Field<'_>) -> Result<Container, String> {
    let mut words = Vec::new();
    for list in ["command", "args"] {
        for word in container.field(list).items()? {
            words.push(word.text()?);
        }
    }
    let mut probes = Vec::new();
    for name in ["livenessProbe", "startupProbe"] {
        let probe = container.field(name).map()?;
        let asks = if probe.field("httpGet").map()?.is_given() {
            Asks::Path(probe.field("httpGet").field("path").text()?)
        } else if probe.field("exec").map()?.is_given() {
            Asks::Command
        } else if probe.is_given() {
            Asks::Port
        } else {
            continue;
        };
        probes.push(Probe { name, asks });
    }
    let mounts = container.field("volumeMounts").items()?.iter().map(read_mount).collect::<Result<_, _>>()?;
    let text = |key: &str| container.field(key).text();
    Ok(Container { name: text("name")?, image: text("image")?, words, mounts, probes })
}

fn read_mount(mount: &Field<'_>) -> Result<VolumeMount, String> {
    let below = [mount.field("subPath").text()?, mount.field("subPathExpr").text()?];
    Ok(VolumeMount {
        name: mount.field("name").text()?,
        path: mount.field("mountPath").text()?,
        sub_path: below.into_iter().find(|path| !path.is_empty()),
    })
}

fn read_volume(volume: &Field<'_>) -> Result<Volume, String> {
    let host = volume.field("hostPath").map()?;
    let host_path =
        if host.is_given() { Some((host.field("path").text()?, host.field("type").text()?)) } else { None };
    Ok(Volume { name: volume.field("name").text()?, host_path })
}

/// A value and its path. A missing value and `null` are the same, as in Go.
struct Field<'a> {
    path: String,
    value: &'a Value,
}

impl<'a> Field<'a> {
    fn field(&self, key: &str) -> Self {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Self { path, value: self.value.get(key).unwrap_or(&Value::Null) }
    }

    fn is_given(&self) -> bool {
        !self.value.is_null()
    }

    fn items(&self) -> Result<Vec<Field<'a>>, String> {
        let items = match self.value {
            Value::Null => return Ok(Vec::new()),
            Value::Array(items) => items,
            _ => return Err(format!("{} is not a list", self.path)),
        };
        let item = |(at, value): (usize, &'a Value)| Field { path: format!("{}[{at}]", self.path), value };
        Ok(items.iter().enumerate().map(item).collect())
    }

    fn map(self) -> Result<Self, String> {
        if self.value.is_null() || self.value.is_object() {
            Ok(self)
        } else {
            Err(format!("{} is not a map", self.path))
        }
    }

    fn text(&self) -> Result<String, String> {
        match self.value {
            Value::Null => Ok(String::new()),
            Value::String(text) => Ok(text.clone()),
            _ => Err(format!("{} is not a string; quote it", self.path)),
        }
    }
}
