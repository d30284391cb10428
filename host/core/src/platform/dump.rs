//! Reads a dump of objects, as `kubectl get -o yaml` or `-o json` writes them, for the platforms. Pure: the input is
//! text.
//!
//! The message of a parser may quote its input, including key material. So errors here contain the place and no value.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{ObjectRef, Objects, ReferencedObject, openshift};
use crate::SecretBytes;
use crate::api::{ClusterEncryption, EncryptionMigration, EncryptionNode, fields};
use crate::names;
use crate::provider::{ReferenceKind, Violation};

/// The label of the identity Leases of API servers (kubernetes: identity-leases).
const IDENTITY: (&str, &str) = ("apiserver.kubernetes.io/identity", "kube-apiserver");
const KUBE_SYSTEM: &str = "kube-system";
/// Fields with times from before the dump was made. Times in other fields may be in the future, or come from the clock
/// of a node, which may be wrong.
const TIMES: [&str; 11] = [
    "at",
    "creationTimestamp",
    "deletionTimestamp",
    "finishedAt",
    "lastHeartbeatTime",
    "lastTransitionTime",
    "lastUpdateTime",
    "renewTime",
    "startTime",
    "time",
    names::ANNOTATION_MIGRATED_TIMESTAMP,
];

/// Why a dump cannot be read, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {why}")]
pub struct DumpError {
    /// The place: file, document, item.
    pub place: Place,
    /// The cause, without a value of the object.
    pub why: String,
}

/// The place of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name of the file, as given.
    pub file: String,
    /// Number of the document in the file, from 1.
    pub document: usize,
    /// Number of the item in a List, from 1.
    pub item: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: document {}", self.file, self.document)?;
        self.item.map_or(Ok(()), |item| write!(f, ", item {item}"))
    }
}

/// One object of a cluster: kind with group and version, namespace, name.
type Id = (String, String, String);

/// The objects of a dump that decisions depend on.
#[derive(Clone, Default)]
pub struct Dump {
    cluster_encryption: Option<ClusterEncryption>,
    encryption_nodes: Vec<EncryptionNode>,
    encryption_migrations: Vec<EncryptionMigration>,
    secrets: Vec<Secret>,
    config_maps: Vec<ConfigMap>,
    nodes: Vec<Node>,
    leases: Vec<Lease>,
    pods: Vec<Pod>,
    deployments: Vec<Deployment>,
    api_server: Option<Value>,
    operators: BTreeMap<String, Value>,
    storage_version_migrations: Vec<Value>,
    seen: BTreeMap<Id, (Place, Value)>,
    ignored: BTreeMap<String, usize>,
    newest: Option<jiff::Timestamp>,
}

/// Only counts, because a Secret prints its data.
impl fmt::Debug for Dump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dump").field("objects", &self.seen.len()).finish_non_exhaustive()
    }
}

impl Dump {
    /// Adds a file: a List, or YAML or JSON documents.
    pub fn read(&mut self, file: &str, text: &str) -> Result<(), DumpError> {
        for (index, document) in documents(text).into_iter().enumerate() {
            let place = Place { file: file.to_owned(), document: index.saturating_add(1), item: None };
            match parse(document.text, document.line) {
                Ok(Value::Null) => {}
                Ok(value) => self.add(place, value)?,
                Err(why) => return Err(DumpError { place, why }),
            }
        }
        Ok(())
    }

    fn add(&mut self, place: Place, object: Value) -> Result<(), DumpError> {
        let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (version, kind) = (text("apiVersion"), text("kind"));
        if version.is_empty() || kind.is_empty() {
            let why = "not a Kubernetes object: it has no apiVersion or no kind".to_owned();
            return Err(DumpError { place, why });
        }
        match (kind.strip_suffix("List"), object.get("items")) {
            (Some(of), Some(Value::Array(items))) => {
                for (index, item) in items.iter().enumerate() {
                    let place = Place { item: Some(index.saturating_add(1)), ..place.clone() };
                    self.add(place, typed(item.clone(), &version, of))?;
                }
                Ok(())
            }
            (Some(_), Some(Value::Null)) => Ok(()),
            _ => self.object(place, &format!("{version}/{kind}"), object),
        }
    }

    fn object(&mut self, place: Place, kind: &str, object: Value) -> Result<(), DumpError> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (namespace, name) = (text("/metadata/namespace").to_owned(), text("/metadata/name").to_owned());
        let failed = |place: Place, why: String| {
            let name = if namespace.is_empty() { name.clone() } else { format!("{namespace}/{name}") };
            DumpError { place, why: format!("{kind} {name}: {why}") }
        };
        if name.is_empty() {
            return Err(failed(place, "it has no name".to_owned()));
        }
        let id = (kind.to_owned(), namespace.clone(), name.clone());
        if let Some((before, known)) = self.seen.get(&id) {
            // A decision from two versions of one object would be one from a mix (invariant: decide-from-one-revision).
            return if *known == object {
                Ok(())
            } else {
                Err(failed(place, format!("{before} has another version of it; remove one of them")))
            };
        }
        let known = match kind {
            "v1/Secret" => put(&mut self.secrets, &object),
            "v1/ConfigMap" => put(&mut self.config_maps, &object),
            "v1/Node" => put(&mut self.nodes, &object),
            "v1/Pod" => put(&mut self.pods, &object),
            "coordination.k8s.io/v1/Lease" => put(&mut self.leases, &object),
            "apps/v1/Deployment" => put(&mut self.deployments, &object),
            "encryption.keyward.dev/v1alpha1/EncryptionNode" => put(&mut self.encryption_nodes, &object),
            "encryption.keyward.dev/v1alpha1/EncryptionMigration" => {
                put(&mut self.encryption_migrations, &object)
            }
            "encryption.keyward.dev/v1alpha1/ClusterEncryption" if name == names::CLUSTER => {
                known_fields(&fields::unknown_in_cluster_encryption(&object))
                    .and_then(|()| decode(&object))
                    .map(|found| self.cluster_encryption = Some(found))
            }
            "config.openshift.io/v1/APIServer" if name == names::CLUSTER => {
                self.api_server = Some(object.clone());
                known_fields(&fields::unknown_in_api_server(&object))
            }
            "migration.k8s.io/v1alpha1/StorageVersionMigration" => {
                self.storage_version_migrations.push(object.clone());
                Ok(())
            }
            other => match openshift::operator_kind(other).filter(|_| name == names::CLUSTER) {
                Some(kind) => {
                    self.operators.insert(kind.to_owned(), object.clone());
                    Ok(())
                }
                None => {
                    let count = self.ignored.entry(other.to_owned()).or_default();
                    *count = count.saturating_add(1);
                    return Ok(());
                }
            },
        };
        known.map_err(|why| failed(place.clone(), why))?;
        newest(&object, &mut self.newest);
        self.seen.insert(id, (place, object));
        Ok(())
    }

    /// Kinds that no decision depends on, and the number of objects of each.
    pub fn ignored(&self) -> &BTreeMap<String, usize> {
        &self.ignored
    }

    /// The newest time in an object: close to the time of the dump.
    pub fn newest(&self) -> Option<jiff::Timestamp> {
        self.newest
    }

    /// The kinds of this list of which the dump contains no object. The decisions assume that there is none.
    pub fn lacks<'k>(&self, kinds: &[&'k str]) -> Vec<&'k str> {
        let contains = |kind: &str| {
            self.seen.keys().any(|(known, ..)| known.rsplit('/').next().is_some_and(|k| k == kind))
        };
        kinds.iter().copied().filter(|kind| !contains(kind)).collect()
    }

    /// The objects for platform `kubernetes`, selected as the operator selects them.
    pub fn kubernetes(&self) -> Objects {
        let labelled = |labels: &Option<BTreeMap<String, String>>, key: &str| {
            labels.as_ref().and_then(|labels| labels.get(key).cloned())
        };
        let mut objects = Objects {
            cluster_encryption: self.cluster_encryption.clone(),
            secrets: self.secrets.clone(),
            encryption_nodes: self.encryption_nodes.clone(),
            migrations: self.encryption_migrations.clone(),
            nodes: self.nodes.clone(),
            leases: self.leases.clone(),
            ..Objects::default()
        };
        objects.secrets.retain(|secret| secret.metadata.namespace.as_deref() == Some(names::NAMESPACE));
        let has_agent =
            |name: &Option<String>| objects.encryption_nodes.iter().any(|node| node.metadata.name == *name);
        objects.nodes.retain(|node| {
            labelled(&node.metadata.labels, names::CONTROL_PLANE).is_some() || has_agent(&node.metadata.name)
        });
        objects.leases.retain(|lease| {
            lease.metadata.namespace.as_deref() == Some(KUBE_SYSTEM)
                && labelled(&lease.metadata.labels, IDENTITY.0).as_deref() == Some(IDENTITY.1)
        });
        objects
    }

    /// The objects for platform `openshift`.
    pub fn openshift(&self) -> openshift::Objects {
        openshift::Objects {
            api_server: self.api_server.clone(),
            operators: self.operators.clone(),
            secrets: self.secrets.clone(),
            pods: self.pods.clone(),
            nodes: self.nodes.clone(),
            deployments: self.deployments.clone(),
            migrations: self.storage_version_migrations.clone(),
            unreadable: Vec::new(),
        }
    }

    /// The annotations of a referenced object.
    pub fn annotations(&self, namespace: &str, object: &ObjectRef) -> Option<&BTreeMap<String, String>> {
        let is = |metadata: &&ObjectMeta| is(metadata, namespace, object);
        let metadata = match object.kind {
            ReferenceKind::Secret => self.secrets.iter().map(|secret| &secret.metadata).find(is),
            ReferenceKind::ConfigMap => self.config_maps.iter().map(|map| &map.metadata).find(is),
        };
        metadata?.annotations.as_ref()
    }

    /// A referenced object. It does not exist if the dump does not contain it.
    pub fn referenced(&self, namespace: &str, object: &ObjectRef) -> ReferencedObject {
        let is = |metadata: &ObjectMeta| is(metadata, namespace, object);
        Ok(match object.kind {
            ReferenceKind::Secret => {
                self.secrets.iter().find(|secret| is(&secret.metadata)).map(super::kubernetes::data)
            }
            ReferenceKind::ConfigMap => self.config_maps.iter().find(|map| is(&map.metadata)).map(|map| {
                let text = map.data.iter().flatten().map(|(key, value)| (key, value.clone().into_bytes()));
                let binary = map.binary_data.iter().flatten().map(|(key, value)| (key, value.0.clone()));
                text.chain(binary).map(|(key, value)| (key.clone(), SecretBytes::new(value))).collect()
            }),
        })
    }
}

fn is(metadata: &ObjectMeta, namespace: &str, object: &ObjectRef) -> bool {
    metadata.namespace.as_deref() == Some(namespace) && metadata.name.as_deref() == Some(&object.name)
}

/// Refuses unknown fields outside the status: such a field may be a request. The status of a newer version may have
/// fields that are unknown here.
fn known_fields(unknown: &[Violation]) -> Result<(), String> {
    let of_spec =
        |violation: &&Violation| violation.field != "status" && !violation.field.starts_with("status.");
    let errors: Vec<String> = unknown
        .iter()
        .filter(of_spec)
        .map(|violation| format!("{}: {}", violation.field, violation.message))
        .collect();
    if errors.is_empty() { Ok(()) } else { Err(errors.join("; ")) }
}

fn put<T: DeserializeOwned>(into: &mut Vec<T>, object: &Value) -> Result<(), String> {
    into.push(decode(object)?);
    Ok(())
}

/// A typed object. An error of serde quotes the value, so the error here names only the field.
fn decode<T: DeserializeOwned>(object: &Value) -> Result<T, String> {
    serde_json::from_value(object.clone()).map_err(|_| {
        // Finds the field that causes the error: removes each one and decodes again.
        let without = |path: &[&str]| {
            let mut rest = object.clone();
            let (last, parents) = path.split_last()?;
            let mut at = &mut rest;
            for parent in parents {
                at = at.get_mut(*parent)?;
            }
            at.as_object_mut()?.remove(*last);
            serde_json::from_value::<T>(rest).ok().map(|_| path.join("."))
        };
        let fields: Vec<&String> = object.as_object().into_iter().flat_map(|object| object.keys()).collect();
        let found = fields.iter().find_map(|field| {
            let inner = object.get(*field).and_then(Value::as_object).into_iter().flat_map(|o| o.keys());
            inner
                .map(|key| vec![field.as_str(), key.as_str()])
                .find_map(|path| without(&path))
                .or_else(|| without(&[field.as_str()]))
        });
        match found {
            Some(field) => format!("its {field} cannot be read"),
            None => "it cannot be read".to_owned(),
        }
    })
}

/// Adds version and kind: the items of a typed list from the API have neither.
fn typed(mut item: Value, version: &str, kind: &str) -> Value {
    if let Some(fields) = item.as_object_mut().filter(|_| !kind.is_empty()) {
        for (field, value) in [("apiVersion", version), ("kind", kind)] {
            fields.entry(field).or_insert_with(|| Value::String(value.to_owned()));
        }
    }
    item
}

/// Raises `newest_yet` to the newest time in the object.
fn newest(object: &Value, newest_yet: &mut Option<jiff::Timestamp>) {
    match object {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if TIMES.contains(&name.as_str()) => {
                        *newest_yet = text.parse().ok().max(*newest_yet);
                    }
                    other => newest(other, newest_yet),
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                newest(item, newest_yet);
            }
        }
        _ => {}
    }
}

struct Document<'t> {
    text: &'t str,
    /// The first line of the document in the file, from 0.
    line: u64,
}

/// The documents of a file. `---` at the beginning of a line ends a document, everywhere in YAML.
fn documents(text: &str) -> Vec<Document<'_>> {
    let mut found = Vec::new();
    let (mut from, mut at, mut line, mut first) = (0, 0, 0_u64, 0_u64);
    let mut end = |from: usize, to: usize, line: u64| {
        let Some(document) = text.get(from..to) else { return };
        let empty = document.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#'));
        if !empty {
            found.push(Document { text: document, line });
        }
    };
    for whole in text.split_inclusive('\n') {
        let is_mark = whole.strip_prefix("---").is_some_and(|rest| {
            rest.trim().is_empty()
                || rest.starts_with(char::is_whitespace) && rest.trim_start().starts_with('#')
        });
        if is_mark {
            end(from, at, first);
            from = at.saturating_add(whole.len());
            first = line.saturating_add(1);
        }
        at = at.saturating_add(whole.len());
        line = line.saturating_add(1);
    }
    end(from, text.len(), first);
    found
}

fn parse(text: &str, line: u64) -> Result<Value, String> {
    if text.trim_start().starts_with('{') {
        // JSON does not need the YAML reader, which is much slower on a large dump.
        if let Ok(value) = serde_json::from_str(text) {
            return Ok(value);
        }
    }
    // All Secrets of a cluster in one List exceed the default budget of the YAML reader.
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_nodes: 20_000_000, max_events: 40_000_000 },
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| match error.location() {
        Some(at) => {
            format!("not YAML or JSON, at line {} column {}", at.line().saturating_add(line), at.column())
        }
        None => "not YAML or JSON".to_owned(),
    })
}

#[cfg(test)]
mod tests;
