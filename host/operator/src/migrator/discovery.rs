//! Where a resource is served: its preferred version, by the API server's own word.

use serde::Deserialize;

use keyward_core::ids::GroupResource;
use keyward_core::names;
use keyward_core::platform::Serving;

use crate::cluster::{CallError, Category, Cluster, Scope};

/// A resource as it is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Served {
    /// `/api/v1` or `/apis/GROUP/VERSION`.
    base: String,
    resource: String,
    namespaced: bool,
}

impl Served {
    /// Path of the collection that holds the object of this full name.
    pub(crate) fn collection_of(&self, full_name: &str) -> String {
        self.collection(full_name.split_once('/').map(|(namespace, _)| namespace))
    }

    /// Path of all its objects.
    pub(crate) fn everything(&self) -> String {
        format!("{}/{}", self.base, self.resource)
    }

    /// Path of the collection that one object stands in.
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

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    #[serde(default)]
    versions: Vec<GroupVersion>,
    preferred_version: Option<GroupVersion>,
}

#[derive(Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct GroupVersion {
    group_version: String,
}

/// An `APIService` has a service where another server answers for the group.
#[derive(Deserialize)]
struct ApiService {
    spec: ApiServiceSpec,
}

#[derive(Deserialize)]
struct ApiServiceSpec {
    service: Option<serde::de::IgnoredAny>,
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

/// `Ok(None)` where no version of the group serves it with all of [`names::MIGRATION_VERBS`].
pub(crate) async fn find(cluster: &Cluster, wanted: &GroupResource) -> Result<Option<Served>, CallError> {
    for base in bases(cluster, wanted).await? {
        match cluster.document::<Resources>(&base).await {
            Ok(resources) => {
                if let Some(served) = among(&base, &resources, wanted) {
                    return Ok(Some(served));
                }
            }
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// How a resource is served, for the question whether it can be encrypted.
pub(crate) async fn serving(cluster: &Cluster, wanted: &GroupResource) -> Serving {
    let looked = async {
        let Some(served) = find(cluster, wanted).await? else { return Ok(Serving::Not) };
        let Some((group, version)) = served.base.strip_prefix("/apis/").and_then(|base| base.split_once('/'))
        else {
            return Ok(Serving::Itself);
        };
        let name = format!("{version}.{group}");
        let path = format!("/apis/apiregistration.k8s.io/v1/apiservices/{name}");
        match cluster.document::<ApiService>(&path).await {
            Ok(found) if found.spec.service.is_some() => Ok(Serving::Aggregated(name)),
            Ok(_) => Ok(Serving::Itself),
            // Without an aggregator nothing is aggregated.
            Err(error) if is_absent(&error) => Ok(Serving::Itself),
            Err(error) => Err(error),
        }
    };
    looked.await.unwrap_or_else(|error: CallError| Serving::Unknown(error.to_string()))
}

/// Whether what was stored at this resourceVersion, and before, cannot be read any more: etcd has compacted it.
pub(crate) async fn is_compacted(
    cluster: &Cluster,
    resource: &GroupResource,
    version: &str,
) -> Result<bool, CallError> {
    let Some(served) = find(cluster, resource).await? else { return Ok(false) };
    let listed = cluster.list_at(&served.everything(), &resource.to_string(), version).await;
    match listed {
        Ok(()) => Ok(false),
        Err(error) if error.category() == Category::Expired => Ok(true),
        Err(error) => Err(error),
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
    fn resource_must_be_read_listed_and_patched() {
        let resources: Resources = serde_json::from_str(
            r#"{"resources":[{"name":"things/status","namespaced":true,"verbs":["patch"]},
                {"name":"things","namespaced":true,"verbs":["get","list","patch"]},
                {"name":"unread","namespaced":false,"verbs":["list","patch"]},
                {"name":"reviews","namespaced":false,"verbs":["create"]}]}"#,
        )
        .unwrap();
        let find = |name: &str| among("/apis/g/v1", &resources, &GroupResource::parse(name));
        let things = find("things.g").unwrap();
        assert_eq!(things.everything(), "/apis/g/v1/things");
        assert_eq!(things.collection(Some("n")), "/apis/g/v1/namespaces/n/things");
        assert_eq!(find("reviews.g"), None);
        assert_eq!(find("unread.g"), None);
    }
}
