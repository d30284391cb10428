//! Access reviews: whether the operator is allowed to re-encrypt a resource, checked before anything is rolled out
//! for it.
//!
//! The operator asks about itself (SelfSubjectAccessReview, which its ClusterRole allows); `keyward plan`
//! asks about the operator's ServiceAccount (SubjectAccessReview).

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SubjectAccessReview,
    SubjectAccessReviewSpec, SubjectAccessReviewStatus,
};

use keyward_core::ids::GroupResource;
use keyward_core::names;
use keyward_core::platform::{Serving, VERBS};

use crate::cluster::{CallError, Cluster};

/// The account whose permissions are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Account {
    /// The account of this process: the operator checks itself.
    Own,
    /// The operator's ServiceAccount, checked by another account.
    Operator,
}

/// Why a review neither allows nor denies.
#[derive(Debug, thiserror::Error)]
enum Unknown {
    #[error("{0}")]
    Call(#[from] CallError),
    #[error("the access review of {0} has no status")]
    NoStatus(&'static str),
    /// An authorizer that failed neither denied nor allowed it.
    #[error("the API server could not evaluate {verb}: {error}")]
    Evaluation { verb: &'static str, error: String },
}

/// [`Serving::Itself`] if the operator has every permission on the resource that re-encryption needs.
pub(crate) async fn of(cluster: &Cluster, account: Account, resource: &GroupResource) -> Serving {
    let asked = VERBS.map(|verb| async move {
        let allowed = is_allowed(verb, review(cluster, account, verb, resource).await?)?;
        Ok::<_, Unknown>((!allowed).then_some(verb))
    });
    match futures::future::try_join_all(asked).await {
        Ok(lacks) => match lacks.into_iter().flatten().collect::<Vec<_>>() {
            none if none.is_empty() => Serving::Itself,
            lacks => Serving::Forbidden(lacks),
        },
        Err(error) => Serving::Unknown(format!("cannot check the operator's permissions: {error}")),
    }
}

/// Whether the review allows it. It is denied only if every authorizer answered.
fn is_allowed(verb: &'static str, status: Option<SubjectAccessReviewStatus>) -> Result<bool, Unknown> {
    let status = status.ok_or(Unknown::NoStatus(verb))?;
    let error = status.evaluation_error.filter(|error| !error.is_empty());
    match error {
        Some(error) if !status.allowed => Err(Unknown::Evaluation { verb, error }),
        _ => Ok(status.allowed),
    }
}

async fn review(
    cluster: &Cluster,
    account: Account,
    verb: &str,
    resource: &GroupResource,
) -> Result<Option<SubjectAccessReviewStatus>, CallError> {
    let attributes = ResourceAttributes {
        group: Some(resource.group.clone()),
        resource: Some(resource.resource.clone()),
        verb: Some(verb.to_owned()),
        ..Default::default()
    };
    match account {
        Account::Own => {
            let spec =
                SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
            Ok(cluster.review(&SelfSubjectAccessReview { spec, ..Default::default() }).await?.status)
        }
        Account::Operator => {
            let spec = SubjectAccessReviewSpec {
                resource_attributes: Some(attributes),
                user: Some(format!(
                    "system:serviceaccount:{}:{}",
                    names::NAMESPACE,
                    names::OPERATOR_SERVICE_ACCOUNT
                )),
                groups: Some(vec![
                    "system:serviceaccounts".to_owned(),
                    format!("system:serviceaccounts:{}", names::NAMESPACE),
                    "system:authenticated".to_owned(),
                ]),
                ..Default::default()
            };
            Ok(cluster.review(&SubjectAccessReview { spec, ..Default::default() }).await?.status)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn review_that_could_not_be_evaluated_is_unknown_and_not_denied() {
        let status = |allowed: bool, error: Option<&str>| {
            Some(SubjectAccessReviewStatus {
                allowed,
                evaluation_error: error.map(ToOwned::to_owned),
                ..Default::default()
            })
        };
        assert!(matches!(is_allowed("patch", status(false, None)), Ok(false)));
        assert!(matches!(is_allowed("patch", status(false, Some(""))), Ok(false)));
        assert!(matches!(is_allowed("patch", status(true, Some("webhook timed out"))), Ok(true)));
        let unknown = is_allowed("patch", status(false, Some("webhook timed out"))).unwrap_err().to_string();
        assert_eq!(unknown, "the API server could not evaluate patch: webhook timed out");
        assert!(is_allowed("patch", None).is_err());
    }
}
