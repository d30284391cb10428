//! A plugin's static pod and files, from the accepted rendering (decision 0025).
//!
//! The template says what the program needs: arguments, environment, files, ports. Everything else is decided
//! here, and no template can change it: the image is the accepted one, the container is locked down, and it
//! mounts only its own socket folder and its own files. A static pod is copied into a mirror Pod that many
//! may read, so its environment contains no value of a Secret.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, Container as PodContainer, ContainerPort, EnvVar, HTTPGetAction, HostAlias,
    HostPathVolumeSource, Pod, PodSecurityContext, PodSpec, Probe, ResourceRequirements, SeccompProfile,
    SecurityContext, Toleration, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as QuantityText;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::instance::Instance;
use crate::SecretBytes;
use crate::api::{PluginResources, PluginSettings};
use crate::formats::revision::{AcceptedPlugin, PluginRecord};
use crate::ids::{KeyId, PluginDigest};
use crate::names::GROUP;
use crate::provider::{Container, HttpProbe, KeyRef, Part, Plugin, ReferenceKind};
use crate::quantity::Quantity;

/// The value of `app.kubernetes.io/name` on every plugin's pod.
pub const APP: &str = "keyward-kms-plugin";
/// The name of the only container.
pub const CONTAINER: &str = "kms-plugin";
/// The namespace of the static pods.
pub const NAMESPACE: &str = "kube-system";
/// The restart policy of trials.
const ONCE: &str = "Never";
/// The value of `system-node-critical`; the kubelet does not look it up for static pods.
const PRIORITY: i32 = 2_000_001_000;

/// What differs between nodes and generations.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The node's name.
    pub node: &'a str,
    /// The folder of this instance's files; the container sees it at the same path.
    pub files: &'a str,
    /// The ports that it gets, by the template's names.
    pub ports: &'a BTreeMap<String, u16>,
    /// The owner of its files and socket folder, and the user that it runs as.
    pub uid: u32,
    /// The group of both.
    pub gid: u32,
    /// For a trial, the number of this start: it is started once. Otherwise it is kept running.
    pub trial: Option<u32>,
}

/// The pod and the files of an instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Rendered {
    /// Its static pod.
    pub pod: Pod,
    /// Its files, by name.
    pub files: BTreeMap<String, SecretBytes>,
}

/// Why no pod can be made from a rendering.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// Nothing was accepted yet, or the plugin is external.
    #[error("its rendered plugin is not one that a node can run")]
    NotManaged,
    /// The provider's configuration names no image.
    #[error("its configuration names no image")]
    NoImage,
    /// A secret value would be readable in the mirror Pod.
    #[error(
        "environment variable {variable} must not contain a value of {source_kind} {name}: static pods are copied into mirror Pods, where it can be read; the provider module must pass it as a file"
    )]
    SecretInPod {
        /// The variable.
        variable: String,
        /// The kind of the object.
        source_kind: ReferenceKind,
        /// The object.
        name: String,
    },
    /// The revision lacks a referenced value.
    #[error("the data of {source_kind} {name:?} is missing required key {key:?}")]
    MissingValue {
        /// The kind of the object.
        source_kind: ReferenceKind,
        /// The object.
        name: String,
        /// The data key.
        key: String,
    },
    /// A value in arguments or environment is not text.
    #[error("{what} is not text")]
    NotText {
        /// The argument or variable.
        what: String,
    },
    /// The template has a placeholder that this host does not fill in.
    #[error("the template has the placeholder {0:?}, which this version does not support")]
    UnknownHostPart(String),
    /// The template refers to a file that it does not render.
    #[error("the template references file {0:?}, which it does not render")]
    UnknownFile(String),
    /// The template references a port that it does not declare.
    #[error("the template references port {0:?}, which it does not declare")]
    UnknownPort(String),
    /// A name is not a valid file name.
    #[error("{0:?} is not a valid file name")]
    FileName(String),
}

/// Whether a pod can be made from this key's record, on any node.
pub fn check(instance: &Instance, record: &PluginRecord) -> Result<(), RenderError> {
    let ports = ports(record).iter().map(|name| (name.clone(), 1)).collect();
    let place = Place { node: "node", files: "/files", ports: &ports, uid: 1, gid: 1, trial: None };
    fill(instance, record, &place).map(drop)
}

/// The names of the ports that an instance needs.
pub fn ports(record: &PluginRecord) -> &[String] {
    match managed(record) {
        Ok((_, _, container)) => &container.ports,
        Err(_) => &[],
    }
}

/// The pod and the files of one instance.
pub fn render(
    key_id: KeyId,
    digest: &PluginDigest,
    record: &PluginRecord,
    place: &Place<'_>,
) -> Result<Rendered, RenderError> {
    let instance = Instance::new(key_id, digest);
    let Filled { image, container, settings, files, args, env, health, ports } =
        fill(&instance, record, place)?;
    let command: Vec<String> = container.command.iter().map(|word| escaped(word)).collect();

    let folder = |name: &str, path: String, read_only: bool| {
        // The path inside the container is the same: arguments and the API server's configuration contain it.
        let mount = VolumeMount {
            name: name.to_owned(),
            mount_path: path.clone(),
            read_only: read_only.then_some(true),
            ..Default::default()
        };
        // `Directory`, not `DirectoryOrCreate`: the kubelet would create a folder of root.
        let source = HostPathVolumeSource { path, type_: Some("Directory".to_owned()) };
        (mount, Volume { name: name.to_owned(), host_path: Some(source), ..Default::default() })
    };
    let mut mounts = vec![folder("socket", instance.socket_folder(), false)];
    if !files.is_empty() {
        mounts.push(folder("files", place.files.to_owned(), true));
    }
    let (volume_mounts, volumes): (Vec<_>, Vec<_>) = mounts.into_iter().unzip();

    let container = PodContainer {
        name: CONTAINER.to_owned(),
        image: Some(image.to_owned()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(command).filter(|command| !command.is_empty()),
        args: Some(args).filter(|args| !args.is_empty()),
        env: Some(env).filter(|env| !env.is_empty()),
        ports: Some(ports).filter(|ports| !ports.is_empty()),
        resources: Some(resources(container, settings.resources.as_ref())),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), ..Default::default() }),
            privileged: Some(false),
            read_only_root_filesystem: Some(true),
            ..Default::default()
        }),
        // No liveness probe: the health endpoint may depend on the KMS, and a restart does not fix a plugin
        // whose KMS is down.
        readiness_probe: health.map(|http_get| Probe {
            http_get: Some(http_get),
            period_seconds: Some(10),
            timeout_seconds: Some(5),
            ..Default::default()
        }),
        volume_mounts: Some(volume_mounts),
        ..Default::default()
    };
    let spec = PodSpec {
        automount_service_account_token: Some(false),
        containers: vec![container],
        // Cluster DNS is served by pods that need the API server that needs this plugin.
        dns_policy: Some("Default".to_owned()),
        enable_service_links: Some(false),
        host_aliases: host_aliases(settings),
        host_network: Some(true),
        priority: Some(PRIORITY),
        priority_class_name: Some("system-node-critical".to_owned()),
        restart_policy: Some(if place.trial.is_some() { ONCE } else { "Always" }.to_owned()),
        security_context: Some(PodSecurityContext {
            run_as_group: Some(i64::from(place.gid)),
            run_as_non_root: Some(place.uid != 0),
            run_as_user: Some(i64::from(place.uid)),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                localhost_profile: None,
            }),
            ..Default::default()
        }),
        termination_grace_period_seconds: Some(10),
        tolerations: Some(vec![Toleration { operator: Some("Exists".to_owned()), ..Default::default() }]),
        volumes: Some(volumes),
        ..Default::default()
    };
    let mut annotations = BTreeMap::from([
        (format!("{GROUP}/key-id"), key_id.to_string()),
        (format!("{GROUP}/plugin-digest"), digest.to_string()),
    ]);
    // The kubelet starts a pod again only if its manifest changed.
    annotations.extend(place.trial.map(|run| (format!("{GROUP}/trial"), run.to_string())));
    let metadata = ObjectMeta {
        name: Some(instance.pod_name()),
        namespace: Some(NAMESPACE.to_owned()),
        labels: Some(BTreeMap::from([
            ("app.kubernetes.io/name".to_owned(), APP.to_owned()),
            ("app.kubernetes.io/managed-by".to_owned(), "keyward".to_owned()),
            (format!("{GROUP}/key-id"), key_id.to_string()),
        ])),
        annotations: Some(annotations),
        ..Default::default()
    };
    Ok(Rendered { pod: Pod { metadata, spec: Some(spec), ..Default::default() }, files })
}

/// What differs between instances: everything in a pod that can be wrong.
struct Filled<'a> {
    image: &'a str,
    container: &'a Container,
    settings: &'a PluginSettings,
    files: BTreeMap<String, SecretBytes>,
    args: Vec<String>,
    env: Vec<EnvVar>,
    health: Option<HTTPGetAction>,
    ports: Vec<ContainerPort>,
}

fn fill<'a>(
    instance: &Instance,
    record: &'a PluginRecord,
    place: &Place<'_>,
) -> Result<Filled<'a>, RenderError> {
    let (accepted, image, container) = managed(record)?;
    let settings = &accepted.settings;
    let mut filler = Filler { instance, container, record, place, files: BTreeMap::new() };
    for file in &container.files {
        let content = filler.bytes(&file.content)?;
        filler.files.insert(rendered_name(&file.name)?, content);
    }
    let args = container
        .args
        .iter()
        .enumerate()
        .map(|(i, parts)| filler.text(parts, || format!("argument {}", i + 1)).map(|text| escaped(&text)))
        .collect::<Result<Vec<_>, _>>()?;
    let env = environment(&mut filler, settings)?;
    let health = container.health.as_ref().map(|probe| http_get(probe, place)).transpose()?;
    let files = filler.files;
    let ports: Vec<ContainerPort> = container
        .ports
        .iter()
        .map(|name| {
            let port = i32::from(port(name, place)?);
            Ok(ContainerPort { container_port: port, host_port: Some(port), ..Default::default() })
        })
        .collect::<Result<_, RenderError>>()?;
    Ok(Filled { image, container, settings, files, args, env, health, ports })
}

/// The manifest as the kubelet reads it. Strings that YAML 1.1 would take for something else are quoted.
pub fn manifest(pod: &Pod) -> Result<String, serde_saphyr::ser::Error> {
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    // Through a `Value`: YAML's reader and writer, compiled for each of a Pod's types, add megabytes to the
    // binary.
    let value = serde_json::to_value(pod).map_err(<serde_saphyr::ser::Error as serde::ser::Error>::custom)?;
    serde_saphyr::to_string_with_options(&value, options)
}

/// The Pod of a manifest; `None` if it is not a Pod.
pub fn read(manifest: &[u8]) -> Option<Pod> {
    let value: serde_json::Value = serde_saphyr::from_str(std::str::from_utf8(manifest).ok()?).ok()?;
    serde_json::from_value(value).ok()
}

fn managed(record: &PluginRecord) -> Result<(&AcceptedPlugin, &str, &Container), RenderError> {
    let accepted = record.accepted.as_ref().ok_or(RenderError::NotManaged)?;
    let Plugin::Managed(container) = &accepted.template else { return Err(RenderError::NotManaged) };
    let image = accepted.image.as_deref().filter(|image| !image.is_empty()).ok_or(RenderError::NoImage)?;
    Ok((accepted, image, container))
}

/// Fills in parts, and records which files they reference: no other file is written.
struct Filler<'a> {
    instance: &'a Instance,
    container: &'a Container,
    record: &'a PluginRecord,
    place: &'a Place<'a>,
    files: BTreeMap<String, SecretBytes>,
}

impl Filler<'_> {
    fn text(&mut self, parts: &[Part], what: impl Fn() -> String) -> Result<String, RenderError> {
        let bytes = self.bytes(parts)?;
        String::from_utf8(bytes.expose().to_vec())
            .ok()
            .filter(|text| !text.contains('\0'))
            .ok_or_else(|| RenderError::NotText { what: what() })
    }

    fn bytes(&mut self, parts: &[Part]) -> Result<SecretBytes, RenderError> {
        // A growing vector leaves copies in memory: collect, measure, then copy once.
        let pieces = parts.iter().map(|part| self.piece(part)).collect::<Result<Vec<_>, _>>()?;
        let mut bytes = Vec::with_capacity(pieces.iter().map(SecretBytes::len).sum());
        for piece in &pieces {
            bytes.extend_from_slice(piece.expose());
        }
        Ok(SecretBytes::new(bytes))
    }

    fn piece(&mut self, part: &Part) -> Result<SecretBytes, RenderError> {
        let text = match part {
            Part::Text(text) => text.clone(),
            Part::Host(name) => self.host(name)?,
            Part::Value(source) => return self.value(source).cloned(),
            Part::Path(source) => {
                let name = referenced_name(source)?;
                let value = self.value(source)?.clone();
                self.files.insert(name.clone(), value);
                format!("{}/{name}", self.place.files)
            }
            Part::Rendered(name) => {
                if !self.container.files.iter().any(|file| file.name == *name) {
                    return Err(RenderError::UnknownFile(name.clone()));
                }
                format!("{}/{}", self.place.files, rendered_name(name)?)
            }
        };
        Ok(SecretBytes::new(text.into_bytes()))
    }

    fn host(&self, name: &str) -> Result<String, RenderError> {
        Ok(match name {
            "socket-uri" => format!("unix://{}", self.instance.socket()),
            "socket-path" => self.instance.socket(),
            "key-id" => self.instance.key_id.to_string(),
            "node-name" => self.place.node.to_owned(),
            other => match other.strip_prefix("port:") {
                Some(name) => port(name, self.place)?.to_string(),
                None => return Err(RenderError::UnknownHostPart(other.to_owned())),
            },
        })
    }

    fn value(&self, source: &KeyRef) -> Result<&SecretBytes, RenderError> {
        self.record.referenced.get(source).ok_or_else(|| RenderError::MissingValue {
            source_kind: source.kind,
            name: source.name.clone(),
            key: source.key.clone(),
        })
    }
}

fn port(name: &str, place: &Place<'_>) -> Result<u16, RenderError> {
    place.ports.get(name).copied().ok_or_else(|| RenderError::UnknownPort(name.to_owned()))
}

/// An object's name has no `_`, so no two references share a file.
fn referenced_name(source: &KeyRef) -> Result<String, RenderError> {
    file_name(format!("{}-{}_{}", source.kind, source.name, source.key))
}

fn rendered_name(name: &str) -> Result<String, RenderError> {
    file_name(format!("rendered_{name}"))
}

fn file_name(name: String) -> Result<String, RenderError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.len() <= 255 && name.chars().all(plain) { Ok(name) } else { Err(RenderError::FileName(name)) }
}

fn environment(filler: &mut Filler<'_>, settings: &PluginSettings) -> Result<Vec<EnvVar>, RenderError> {
    let mut env = Vec::new();
    for variable in &filler.container.env {
        for part in &variable.value {
            if let Part::Value(KeyRef { kind: ReferenceKind::Secret, name, .. }) = part {
                return Err(RenderError::SecretInPod {
                    variable: variable.name.clone(),
                    source_kind: ReferenceKind::Secret,
                    name: name.clone(),
                });
            }
        }
        let value = filler.text(&variable.value, || format!("environment variable {}", variable.name))?;
        env.push(EnvVar { name: variable.name.clone(), value: Some(escaped(&value)), ..Default::default() });
    }
    let proxy = settings.proxy.clone().unwrap_or_default();
    for (name, value) in
        [("HTTP_PROXY", proxy.http), ("HTTPS_PROXY", proxy.https), ("NO_PROXY", proxy.no_proxy)]
    {
        let Some(value) = value else { continue };
        if !env.iter().any(|variable| variable.name == name) {
            env.push(EnvVar { name: name.to_owned(), value: Some(escaped(&value)), ..Default::default() });
        }
    }
    Ok(env)
}

/// The kubelet would expand `$(NAME)` in a value; `$$` is an escaped dollar.
fn escaped(text: &str) -> String {
    text.replace("$(", "$$(")
}

fn host_aliases(settings: &PluginSettings) -> Option<Vec<HostAlias>> {
    let alias = |alias: &crate::api::HostAlias| HostAlias {
        ip: alias.ip.clone(),
        hostnames: Some(alias.hostnames.clone()),
    };
    Some(settings.host_aliases.iter().map(alias).collect::<Vec<_>>()).filter(|aliases| !aliases.is_empty())
}

fn http_get(probe: &HttpProbe, place: &Place<'_>) -> Result<HTTPGetAction, RenderError> {
    Ok(HTTPGetAction {
        // With host networking the pod's address is the node's, on which the plugin may not listen.
        host: Some("127.0.0.1".to_owned()),
        path: Some(probe.path.clone()),
        port: IntOrString::Int(i32::from(port(&probe.port, place)?)),
        ..Default::default()
    })
}

/// The template's requests, overridden by `spec.plugins.resources`. Without limits there, limits are four
/// times the requests.
fn resources(container: &Container, settings: Option<&PluginResources>) -> ResourceRequirements {
    let mut requests = BTreeMap::new();
    if container.cpu_request_millis > 0 {
        requests.insert("cpu".to_owned(), format!("{}m", container.cpu_request_millis));
    }
    if container.memory_request_mib > 0 {
        requests.insert("memory".to_owned(), format!("{}Mi", container.memory_request_mib));
    }
    requests.extend(settings.iter().flat_map(|settings| settings.requests.clone()));
    let limits: BTreeMap<String, String> = match settings {
        Some(settings) if !settings.limits.is_empty() => settings.limits.clone(),
        _ => requests.iter().filter_map(|(name, text)| Some((name.clone(), four_times(text)?))).collect(),
    };
    let quantities = |map: BTreeMap<String, String>| {
        Some(
            map.into_iter()
                .map(|(name, quantity)| (name, QuantityText(quantity)))
                .collect::<BTreeMap<_, _>>(),
        )
        .filter(|map| !map.is_empty())
    };
    ResourceRequirements { requests: quantities(requests), limits: quantities(limits), ..Default::default() }
}

/// A quantity times four, its suffix kept: `100m` → `400m`, `0.5` → `2.0`, `64Mi` → `256Mi`. `None` if it is
/// not a quantity, which [`check_resources`] reports.
pub fn four_times(text: &str) -> Option<String> {
    let wanted = Quantity::parse(text).ok()?.times(4)?;
    let text = text.strip_prefix('+').unwrap_or(text);
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let product = format!("{:0>1$}", digits.checked_mul(4)?, fraction.len() + 1);
    let (whole, fraction) = product.split_at(product.len() - fraction.len());
    let product =
        if fraction.is_empty() { format!("{whole}{suffix}") } else { format!("{whole}.{fraction}{suffix}") };
    (Quantity::parse(&product) == Ok(wanted)).then_some(product)
}

/// The fields of `spec.plugins.resources` that the kubelet would refuse, with the reasons.
pub fn check_resources(resources: &PluginResources) -> Vec<(String, String)> {
    let mut wrong = Vec::new();
    for (list, quantities) in [("requests", &resources.requests), ("limits", &resources.limits)] {
        for (name, text) in quantities {
            let limit = resources.limits.get(name).and_then(|limit| Quantity::parse(limit).ok());
            match Quantity::parse(text) {
                Err(why) => wrong.push((format!("{list}.{name}"), why)),
                Ok(amount) if list == "requests" && limit.is_some_and(|limit| limit < amount) => {
                    wrong.push((format!("{list}.{name}"), format!("{text} is above limits.{name}")));
                }
                Ok(_) => {}
            }
        }
    }
    wrong
}

/// The instance of a manifest that this module wrote, and its digest.
pub fn identify(pod: &Pod) -> Option<(Instance, PluginDigest)> {
    let annotations = pod.metadata.annotations.as_ref()?;
    let key_id = annotations.get(&format!("{GROUP}/key-id"))?.parse().ok()?;
    let digest = PluginDigest(annotations.get(&format!("{GROUP}/plugin-digest"))?.clone());
    let instance = Instance::new(key_id, &digest);
    (pod.metadata.name.as_deref() == Some(&instance.pod_name())).then_some((instance, digest))
}

/// Whether a manifest that this module wrote is a trial's.
pub fn is_trial(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) == Some(ONCE)
}

#[cfg(test)]
#[path = "pod_tests.rs"]
mod tests;
