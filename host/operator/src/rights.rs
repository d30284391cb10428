//! Whether the operator may re-encrypt a resource, by the API server's own word, before anything is rolled out for it.
//!
//! The operator asks about itself (SelfSubjectAccessReview, which every authenticated account may create); `keyward plan`
//! asks about the operator's ServiceAccount (SubjectAccessReview).

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SubjectAccessReview,
    SubjectAccessReviewSpec, SubjectAccessReviewStatus,
};

use keyward_core::ids::GroupResource;
use keyward_core::names;
use keyward_core::platform::{Serving, VERBS};

use crate::cluster::{CallError, Cluster};

/// Whose rights are looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Account {
    /// Those of the account that asks: the operator itself.
    Own,
    /// Those of the operator's ServiceAccount, for somebody else.
    Operator,
}

/// [`Serving::Itself`] where the operator has every right on the resource that re-encryption needs.
pub(crate) async fn of(cluster: &Cluster, account: Account, resource: &GroupResource) -> Serving {
    let asked = VERBS.map(|verb| async move {
        let allowed = allows(cluster, account, verb, resource).await?;
        Ok::<_, CallError>((!allowed).then_some(verb))
    });
    match futures::future::try_join_all(asked).await {
        Ok(lacks) => match lacks.into_iter().flatten().collect::<Vec<_>>() {
            none if none.is_empty() => Serving::Itself,
            lacks => Serving::Forbidden(lacks),
        },
        Err(error) => Serving::Unknown(format!("the operator's rights: {error}")),
    }
}

async fn allows(
    cluster: &Cluster,
    account: Account,
    verb: &str,
    resource: &GroupResource,
) -> Result<bool, CallError> {
    let attributes = ResourceAttributes {
        group: Some(resource.group.clone()),
        resource: Some(resource.resource.clone()),
        verb: Some(verb.to_owned()),
        ..Default::default()
    };
    let status = match account {
        Account::Own => {
            let spec =
                SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
            cluster.review(&SelfSubjectAccessReview { spec, ..Default::default() }).await?.status
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
            cluster.review(&SubjectAccessReview { spec, ..Default::default() }).await?.status
        }
    };
    // An authorizer that failed has not denied it, and has not allowed it either.
    let SubjectAccessReviewStatus { allowed, .. } = status.unwrap_or_default();
    Ok(allowed)
}
