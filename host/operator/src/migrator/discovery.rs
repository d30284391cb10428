//! Discovery: how the API server serves a resource, by the preferred version of its group.

use serde::Deserialize;

use keyward_core::ids::GroupResource;
use keyward_core::names;
use keyward_core::platform::Serving;

use super::absence;
use crate::cluster::{CallError, Category, Cluster, Meta, Pager, Scope};

/// A resource as it is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Served {
    /// `/api/v1` or `/apis/GROUP/VERSION`.
    base: String,
    resource: String,
    namespaced: bool,
}

impl Served {
    /// Path of the collection with the object of this full name.
    pub(crate) fn collection_of(&self, full_name: &str) -> String {
        self.collection(full_name.split_once('/').map(|(namespace, _)| namespace))
    }

    /// `GROUP/VERSION`; `None` in the core group.
    fn group_version(&self) -> Option<&str> {
        self.base.strip_prefix("/apis/")
    }

    /// Path of all its objects.
    pub(crate) fn everything(&self) -> String {
        format!("{}/{}", self.base, self.resource)
    }

    /// Path of the collection in this namespace.
    pub(crate) fn collection(&self, namespace: Option<&str>) -> String {
        match namespace.filter(|_| self.namespaced) {
            Some(namespace) => format!("{}/namespaces/{namespace}/{}", self.base, self.resource),
            None => self.everything(),
        }
    }

    pub(crate) fn scope(&self) -> Scope {
        if self.namespaced { Scope::Namespaces } else { Scope::Cluster }
    }
}

/// An `APIGroupList`.
#[derive(Deserialize)]
struct Groups {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    #[serde(default)]
    name: String,
    #[serde(default)]
    versions: Vec<GroupVersion>,
    preferred_version: Option<GroupVersion>,
}

#[derive(Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct GroupVersion {
    group_version: String,
}

#[derive(Deserialize)]
struct Resources {
    #[serde(default)]
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Resource {
    name: String,
    #[serde(default)]
    namespaced: bool,
    #[serde(default)]
    verbs: Vec<String>,
}

/// The result of a look-up of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Served with all of [`names::MIGRATION_VERBS`].
    Served(Served),
    /// No version names it, and it has no CustomResourceDefinition, with which Kubernetes deletes the objects.
    Absent,
    /// No version names it, but its CustomResourceDefinition exists: its objects are still stored.
    Unserved,
    /// No version names it, and it is kube-apiserver's own: its objects may still be stored.
    Disabled,
    /// It is not known which objects of it kube-apiserver stores, if any. Has the reason.
    Unknown(String),
    /// Some version names it and lacks a verb, or discovery contradicts itself.
    Unsuitable,
}

impl Found {
    /// Why no object can be rewritten, and the remedy. `decrypts`: the migration is a decryption.
    pub(crate) fn message(&self, resource: &GroupResource, decrypts: bool) -> String {
        let confirm = if decrypts {
            String::new()
        } else {
            format!(", or add {resource} to spec.decrypt to confirm its decryption")
        };
        match self {
            Self::Served(_) => format!("{resource} is served"),
            Self::Absent => format!(
                "{resource} is not served, and its CustomResourceDefinition does not exist; create it again{confirm}. If the finalizer of the definition was removed, the objects are still stored: create the definition again, and delete it without removing the finalizer"
            ),
            Self::Unserved => format!(
                "{resource} is not served, and its objects are still stored; set served: true for a version of its CustomResourceDefinition, and do not delete the definition: its objects would be deleted with it"
            ),
            Self::Disabled => format!(
                "{resource} is not served; enable it again in kube-apiserver (--runtime-config), because its objects may still be stored"
            ),
            Self::Unknown(why) => {
                format!("it is not known whether kube-apiserver stores objects of {resource}: {why}")
            }
            Self::Unsuitable => {
                format!("no served version of {resource} supports get, list and patch")
            }
        }
    }
}

/// `Ok(None)` if no version of the group serves it with all of [`names::MIGRATION_VERBS`].
pub(crate) async fn find(cluster: &Cluster, wanted: &GroupResource) -> Result<Option<Served>, CallError> {
    Ok(match discover(cluster, wanted).await? {
        Discovered::Served(served) => Some(served),
        Discovered::Missing(_) | Discovered::Unsuitable => None,
    })
}

/// Looks a resource up. An error if a document could not be read: that proves nothing.
pub(crate) async fn look_up(cluster: &Cluster, wanted: &GroupResource) -> Result<Found, CallError> {
    match discover(cluster, wanted).await? {
        Discovered::Served(served) => {
            let another = absence::own(cluster, served.group_version()).await?;
            Ok(another.unwrap_or(Found::Served(served)))
        }
        Discovered::Missing(versions) => absence::of(cluster, wanted, &versions).await,
        Discovered::Unsuitable => Ok(Found::Unsuitable),
    }
}

/// The result from the documents of discovery alone.
#[derive(Debug, PartialEq, Eq)]
enum Discovered {
    Served(Served),
    /// The documents are complete, and no version names it. Has the listed versions of its group, as `GROUP/VERSION`.
    Missing(Vec<String>),
    Unsuitable,
}

async fn discover(cluster: &Cluster, wanted: &GroupResource) -> Result<Discovered, CallError> {
    let mut documents = Vec::new();
    for base in bases(cluster, wanted).await? {
        match cluster.document::<Resources>(&base).await {
            Ok(resources) => {
                if let Some(served) = among(&base, &resources, wanted) {
                    return Ok(Discovered::Served(served));
                }
                documents.push((base, Some(resources)));
            }
            Err(error) if is_absent(&error) => documents.push((base, None)),
            Err(error) => return Err(error),
        }
    }
    if names_it(&documents, wanted) {
        return Ok(Discovered::Unsuitable);
    }
    // A 404 may come from a proxy: the list of all groups has to agree (kubernetes: discovery-can-be-incomplete).
    let groups =
        if wanted.group.is_empty() { None } else { Some(cluster.document::<Groups>("/apis").await?) };
    Ok(missing(wanted, &documents, groups.as_ref()))
}

fn names_it(documents: &[(String, Option<Resources>)], wanted: &GroupResource) -> bool {
    let mut named = documents.iter().filter_map(|(_, resources)| resources.as_ref());
    named.any(|resources| resources.resources.iter().any(|resource| resource.name == wanted.resource))
}

/// The result if none of these documents names the resource.
fn missing(
    wanted: &GroupResource,
    documents: &[(String, Option<Resources>)],
    groups: Option<&Groups>,
) -> Discovered {
    let listed = groups.and_then(|groups| groups.groups.iter().find(|group| group.name == wanted.group));
    let is_read = |base: &str| documents.iter().any(|(read, resources)| read == base && resources.is_some());
    let is_complete = match (groups, listed) {
        (None, _) => is_read("/api/v1"),
        (Some(groups), None) => !groups.groups.is_empty() && documents.iter().all(|(_, r)| r.is_none()),
        (Some(_), Some(group)) => {
            !group.versions.is_empty()
                && group.versions.iter().all(|version| is_read(&format!("/apis/{}", version.group_version)))
        }
    };
    if !is_complete {
        return Discovered::Unsuitable;
    }
    let versions = listed.iter().flat_map(|group| &group.versions);
    Discovered::Missing(versions.map(|version| version.group_version.clone()).collect())
}

/// The current version of etcd, from a collection that always exists (kubernetes: versions-are-etcd-revisions).
pub(crate) async fn version(cluster: &Cluster) -> Result<String, CallError> {
    let pager: Pager<Meta> = Pager::of(OWN_COLLECTION.to_owned(), OWN_RESOURCE, Scope::Cluster);
    pager.metadata_only().version(cluster).await
}

const OWN_COLLECTION: &str = "/apis/encryption.keyward.dev/v1alpha1/encryptionmigrations";
const OWN_RESOURCE: &str = "encryptionmigrations.encryption.keyward.dev";

/// How a resource is served, which decides whether it can be encrypted.
pub(crate) async fn serving(cluster: &Cluster, wanted: &GroupResource) -> Serving {
    let serving = async {
        let Some(served) = find(cluster, wanted).await? else { return Ok(Serving::Not) };
        let Some(name) = served.group_version().and_then(absence::api_service) else {
            return Ok(Serving::Itself);
        };
        let is_aggregated = absence::aggregated(cluster, &name).await?;
        Ok(if is_aggregated { Serving::Aggregated(name) } else { Serving::Itself })
    };
    serving.await.unwrap_or_else(|error: CallError| Serving::Unknown(error.to_string()))
}

/// Whether etcd has compacted its history up to this resourceVersion: no older value can be read any more
/// (kubernetes: history-is-compacted). An error if this is not known.
pub(crate) async fn is_compacted(
    cluster: &Cluster,
    resource: &GroupResource,
    version: &str,
) -> Result<bool, String> {
    let found = look_up(cluster, resource).await.map_err(|error| error.to_string())?;
    let listed = match found {
        Found::Served(served) => cluster.list_at(&served.everything(), &resource.to_string(), version).await,
        // The objects of a custom resource are, or were, in the same etcd, and all resources share etcd's versions.
        Found::Absent | Found::Unserved => cluster.list_at(OWN_COLLECTION, OWN_RESOURCE, version).await,
        found @ (Found::Disabled | Found::Unknown(_) | Found::Unsuitable) => {
            return Err(found.message(resource, true));
        }
    };
    match listed {
        Ok(()) => Ok(false),
        Err(error) if error.category() == Category::Expired => Ok(true),
        Err(error) => Err(error.to_string()),
    }
}

async fn bases(cluster: &Cluster, wanted: &GroupResource) -> Result<Vec<String>, CallError> {
    if wanted.group.is_empty() {
        return Ok(vec!["/api/v1".to_owned()]);
    }
    match cluster.document::<Group>(&format!("/apis/{}", wanted.group)).await {
        Ok(group) => Ok(preferred_first(group)),
        Err(error) if is_absent(&error) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn preferred_first(group: Group) -> Vec<String> {
    let preferred = group.preferred_version;
    let others = group.versions.into_iter().filter(|version| Some(version) != preferred.as_ref());
    preferred.clone().into_iter().chain(others).map(|v| format!("/apis/{}", v.group_version)).collect()
}

fn among(base: &str, resources: &Resources, wanted: &GroupResource) -> Option<Served> {
    let can = |resource: &Resource| {
        names::MIGRATION_VERBS.iter().all(|verb| resource.verbs.iter().any(|served| served == verb))
    };
    let mut found = resources.resources.iter();
    let found = found.find(|resource| resource.name == wanted.resource && can(resource))?;
    Some(Served { base: base.to_owned(), resource: found.name.clone(), namespaced: found.namespaced })
}

fn is_absent(error: &CallError) -> bool {
    matches!(error.category(), Category::NotFound | Category::NotServed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preferred_version_comes_first_and_once() {
        let group: Group = serde_json::from_str(
            r#"{"versions":[{"groupVersion":"g/v1beta1"},{"groupVersion":"g/v1"}],"preferredVersion":{"groupVersion":"g/v1"}}"#,
        )
        .unwrap();
        assert_eq!(preferred_first(group), ["/apis/g/v1", "/apis/g/v1beta1"]);
    }

    #[test]
    fn resource_must_support_get_list_and_patch() {
        let resources: Resources = serde_json::from_str(
            r#"{"resources":[{"name":"things/status","namespaced":true,"verbs":["patch"]},
                {"name":"things","namespaced":true,"verbs":["get","list","patch"]},
                {"name":"unread","namespaced":false,"verbs":["list","patch"]},
                {"name":"reviews","namespaced":false,"verbs":["create"]}]}"#,
        )
        .unwrap();
        let documents = [("/apis/g/v1".to_owned(), Some(resources))];
        let Some(resources) = &documents[0].1 else { panic!() };
        let find = |name: &str| among("/apis/g/v1", resources, &GroupResource::parse(name));
        let things = find("things.g").unwrap();
        assert_eq!(things.everything(), "/apis/g/v1/things");
        assert_eq!(things.collection(Some("n")), "/apis/g/v1/namespaces/n/things");
        assert!(names_it(&documents, &GroupResource::parse("unread.g")));
        assert!(!names_it(&documents, &GroupResource::parse("other.g")));
        assert_eq!(find("reviews.g"), None);
        assert_eq!(find("unread.g"), None);
    }

    #[test]
    fn resource_is_missing_only_if_all_documents_agree() {
        let groups = |json: &str| serde_json::from_str::<Groups>(json).unwrap();
        let none = || serde_json::from_str::<Resources>(r#"{"resources":[]}"#).unwrap();
        let widgets = GroupResource::parse("widgets.example.com");
        let v1 = "/apis/example.com/v1".to_owned();
        let others = groups(r#"{"groups":[{"name":"apps","versions":[{"groupVersion":"apps/v1"}]}]}"#);
        let listed =
            groups(r#"{"groups":[{"name":"example.com","versions":[{"groupVersion":"example.com/v1"}]}]}"#);
        let found =
            |documents: &[(String, Option<Resources>)], groups| missing(&widgets, documents, Some(groups));

        assert_eq!(found(&[], &others), Discovered::Missing(vec![]), "the whole group is missing");
        assert_eq!(
            found(&[(v1.clone(), Some(none()))], &listed),
            Discovered::Missing(vec!["example.com/v1".to_owned()])
        );
        assert_eq!(
            found(&[], &listed),
            Discovered::Unsuitable,
            "the group is listed, but its document is a 404"
        );
        assert_eq!(found(&[(v1.clone(), None)], &listed), Discovered::Unsuitable);
        assert_eq!(found(&[(v1, Some(none()))], &others), Discovered::Unsuitable, "the two disagree");
        assert_eq!(
            found(&[], &groups(r#"{"groups":[]}"#)),
            Discovered::Unsuitable,
            "every API server has groups"
        );
        assert!(serde_json::from_str::<Groups>("{}").is_err());
    }

    #[test]
    fn message_about_a_resource_that_is_not_served_has_the_remedy() {
        let widgets = GroupResource::parse("widgets.example.com");
        assert_eq!(
            Found::Absent.message(&widgets, false),
            "widgets.example.com is not served, and its CustomResourceDefinition does not exist; create it again, or add widgets.example.com to spec.decrypt to confirm its decryption. If the finalizer of the definition was removed, the objects are still stored: create the definition again, and delete it without removing the finalizer"
        );
    }

    #[test]
    fn remedy_for_an_existing_definition_deletes_and_decrypts_nothing() {
        let widgets = GroupResource::parse("widgets.example.com");
        for decrypts in [false, true] {
            let message = Found::Unserved.message(&widgets, decrypts);
            assert!(message.contains("set served: true"), "{message}");
            assert!(message.contains("do not delete the definition"), "{message}");
            assert!(!message.contains("create") && !message.contains("spec.decrypt"), "{message}");
        }
    }
}
