//! The proof that kube-apiserver stores no object of a resource that discovery does not name (decision 0059).
//!
//! Discovery alone proves nothing: it does not name a CustomResourceDefinition whose versions all have
//! `served: false` either, and its objects stay in etcd. Kubernetes deletes them only with the
//! CustomResourceDefinition (kubernetes: custom-resources-go-with-their-definition). So only its absence counts, and
//! only in a group that neither kube-apiserver itself nor another server serves.

use serde::Deserialize;

use keyward_core::ids::GroupResource;

use super::discovery::Found;
use crate::cluster::{CallError, Category, Cluster};

const CRDS: &str = "customresourcedefinitions.apiextensions.k8s.io";
const API_SERVICES: &str = "apiservices.apiregistration.k8s.io";

/// An `APIService` has a service if another server serves the group.
#[derive(Deserialize)]
struct ApiService {
    spec: ApiServiceSpec,
}

#[derive(Deserialize)]
struct ApiServiceSpec {
    service: Option<serde::de::IgnoredAny>,
}

/// Any object: only its existence counts.
#[derive(Deserialize)]
struct AnyObject {}

/// Groups of kube-apiserver itself whose names have a dot. It may store their resources without serving them.
const BUILT_IN: [&str; 18] = [
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "certificates.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
    "events.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "internal.apiserver.k8s.io",
    "networking.k8s.io",
    "node.k8s.io",
    "rbac.authorization.k8s.io",
    "resource.k8s.io",
    "scheduling.k8s.io",
    "storage.k8s.io",
    "storagemigration.k8s.io",
];

fn is_built_in(resource: &GroupResource) -> bool {
    !resource.group.contains('.') || BUILT_IN.contains(&resource.group.as_str())
}

/// Whether a later kube-apiserver may serve the group itself: Kubernetes' own suffix, which custom resources use too.
fn may_be_built_in(resource: &GroupResource) -> bool {
    resource.group.ends_with(".k8s.io")
}

/// The meaning of a complete discovery that does not name the resource. `versions`: those of its group that discovery
/// lists, as `GROUP/VERSION`. An error if the API server did not answer: that proves nothing.
pub(super) async fn of(
    cluster: &Cluster,
    wanted: &GroupResource,
    versions: &[String],
) -> Result<Found, CallError> {
    if is_built_in(wanted) {
        return Ok(Found::Disabled);
    }
    for name in versions.iter().filter_map(|version| api_service(version)) {
        match aggregated(cluster, &name).await {
            Ok(false) => {}
            Ok(true) => return Ok(another_server(&name)),
            Err(error) => return unproven(error, API_SERVICES),
        }
    }
    let name = wanted.to_string();
    let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
    judge(wanted, cluster.document::<AnyObject>(&path).await.map(|AnyObject {}| ()))
}

/// A served resource counts only if kube-apiserver itself serves it: it does not store the objects of another server
/// (kubernetes: aggregated-resources-are-stored-elsewhere).
pub(super) async fn own(cluster: &Cluster, group_version: Option<&str>) -> Result<Option<Found>, CallError> {
    let Some(name) = group_version.and_then(api_service) else { return Ok(None) };
    match aggregated(cluster, &name).await {
        Ok(false) => Ok(None),
        Ok(true) => Ok(Some(another_server(&name))),
        Err(error) => unproven(error, API_SERVICES).map(Some),
    }
}

fn another_server(api_service: &str) -> Found {
    Found::Unknown(format!(
        "another server serves its group; delete APIService {api_service} so that kube-apiserver serves it"
    ))
}

/// Whether this APIService belongs to another server.
pub(super) async fn aggregated(cluster: &Cluster, name: &str) -> Result<bool, CallError> {
    let path = format!("/apis/apiregistration.k8s.io/v1/apiservices/{name}");
    match cluster.document::<ApiService>(&path).await {
        Ok(found) => Ok(found.spec.service.is_some()),
        // Without an aggregator no group is aggregated.
        Err(error) if matches!(error.category(), Category::NotFound | Category::NotServed) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The APIService of `GROUP/VERSION`.
pub(super) fn api_service(group_version: &str) -> Option<String> {
    group_version.split_once('/').map(|(group, version)| format!("{version}.{group}"))
}

/// The meaning of the response to a get of the resource's CustomResourceDefinition.
fn judge(wanted: &GroupResource, crd: Result<(), CallError>) -> Result<Found, CallError> {
    let error = match crd {
        Ok(()) => return Ok(Found::Unserved),
        Err(error) => error,
    };
    let crds = GroupResource::parse(CRDS);
    if !error.refusal().is_some_and(|refusal| refusal.misses(&crds, &wanted.to_string())) {
        return unproven(error, CRDS);
    }
    Ok(if may_be_built_in(wanted) {
        Found::Unknown(
            "it has no CustomResourceDefinition, but kube-apiserver itself may store resources of this group; create the CustomResourceDefinition again first"
                .to_owned(),
        )
    } else {
        Found::Absent
    })
}

/// Without permission nothing is known. If the API server did not answer, the error leads to a retry.
fn unproven(error: CallError, resource: &str) -> Result<Found, CallError> {
    match error.category() {
        Category::Forbidden => Ok(Found::Unknown(format!(
            "the operator is not allowed to get {resource}; apply deploy/rbac/operator.yaml again"
        ))),
        Category::NotFound | Category::NotServed => {
            Ok(Found::Unknown(format!("cannot read {resource}: {}", error.cause)))
        }
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::cluster::{About, Cause, Refusal};

    fn refused(code: u16, reason: &str, name: &str) -> CallError {
        let crds = GroupResource::parse(CRDS);
        let about = About { name: name.to_owned(), group: crds.group, kind: crds.resource };
        let refusal = Refusal { code, reason: reason.to_owned(), about, ..Default::default() };
        CallError { verb: "get", object: "o".into(), cause: Cause::Refused(Box::new(refusal)) }
    }

    fn widgets() -> GroupResource {
        GroupResource::parse("widgets.example.com")
    }

    #[test]
    fn custom_resource_is_absent_only_if_its_definition_does_not_exist() {
        let missing = || refused(404, "NotFound", "widgets.example.com");
        assert_eq!(judge(&widgets(), Err(missing())).unwrap(), Found::Absent);
        assert_eq!(judge(&widgets(), Ok(())).unwrap(), Found::Unserved, "its versions are not served");
    }

    #[rstest]
    #[case::forbidden(
        refused(403, "Forbidden", "widgets.example.com"),
        "is not allowed to get customresourcedefinitions"
    )]
    #[case::no_credential(
        refused(401, "Unauthorized", ""),
        "is not allowed to get customresourcedefinitions"
    )]
    #[case::proxy(refused(404, "", ""), "cannot read customresourcedefinitions")]
    #[case::another(refused(404, "NotFound", "gadgets.example.com"), "cannot read customresourcedefinitions")]
    fn response_that_is_not_about_the_definition_proves_nothing(
        #[case] error: CallError,
        #[case] expected: &str,
    ) {
        let Found::Unknown(why) = judge(&widgets(), Err(error)).unwrap() else { panic!("it is known") };
        assert!(why.contains(expected), "{why}");
    }

    #[rstest]
    #[case::busy(429)]
    #[case::etcd(500)]
    #[case::starting(503)]
    fn server_that_does_not_answer_leads_to_a_retry(#[case] code: u16) {
        judge(&widgets(), Err(refused(code, "Other", "widgets.example.com"))).unwrap_err();
    }

    #[test]
    fn resource_with_the_suffix_of_kubernetes_may_be_stored_without_a_definition() {
        let name = "claims.later.k8s.io";
        let missing = refused(404, "NotFound", name);
        let found = judge(&GroupResource::parse(name), Err(missing)).unwrap();
        assert!(matches!(found, Found::Unknown(_)), "{found:?}");
    }

    #[test]
    fn built_in_resource_may_be_stored_without_being_served() {
        for name in ["deployments.apps", "leases.coordination.k8s.io", "secrets"] {
            assert!(is_built_in(&GroupResource::parse(name)), "{name}");
        }
        assert!(!is_built_in(&widgets()));
    }

    #[test]
    fn api_service_is_named_version_first() {
        assert_eq!(api_service("example.com/v1").as_deref(), Some("v1.example.com"));
        assert_eq!(api_service("v1"), None);
    }
}
