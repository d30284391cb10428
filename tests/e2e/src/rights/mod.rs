//! Binds the roles of deploy/rbac to users, and checks that the roles grant exactly what is needed.
//!
//! The API server's audit log is the evidence. If a role lacks a verb, a request is refused. If a role has a
//! verb that no request uses, or that another role grants already, no request needs it.

mod audit;
mod grants;

use anyhow::{Context as _, Result};
use keyward_test_cluster::{Cluster, User};
use serde_json::{Value, json};

pub use audit::{Audit, On, Request, Requests};

use crate::install::shipped_documents;

/// The group of users who run commands in tests.
const PEOPLE: &str = "keyward-test:people";

/// A user with only the permissions of [`give`].
pub fn person(name: &str) -> User {
    User::Other { name: name.to_owned(), groups: vec![PEOPLE.to_owned()] }
}

/// Binds the roles of deploy/rbac/NAME.yaml to the [`person`] of that name. Returns the roles and their
/// bindings.
pub async fn give(cluster: &Cluster, name: &str) -> Result<Vec<Value>> {
    let mut documents = shipped_documents(cluster, &format!("rbac/{name}.yaml"))?;
    let bindings = documents.iter().map(|role| bound(role, name)).collect::<Result<Vec<_>>>()?;
    documents.extend(bindings);
    for document in &documents {
        cluster.apply(&document.to_string()).await?;
    }
    Ok(documents)
}

fn bound(role: &Value, person: &str) -> Result<Value> {
    let kind = role.get("kind").and_then(Value::as_str).context("a role's kind")?;
    let metadata = role.get("metadata").context("a role's metadata")?;
    Ok(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": format!("{kind}Binding"),
        "metadata": metadata,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": metadata.get("name")},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": person}],
    }))
}
