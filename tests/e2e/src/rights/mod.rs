//! The roles of deploy/rbac, given to people, and whether they are what is needed and no more.
//!
//! The API server's audit log is the witness. Take a verb out of a role, and a request is refused; put one in that nobody
//! needs, or that another role gives already, and no request needed it.

mod audit;
mod grants;

use anyhow::{Context as _, Result};
use keyward_test_cluster::{Cluster, User};
use serde_json::{Value, json};

pub use audit::{Asked, Audit, On, Request};

use crate::install::shipped_documents;

/// The group of those who run commands in tests.
const PEOPLE: &str = "keyward-test:people";

/// Somebody who has no right that [`give`] did not give.
pub fn person(name: &str) -> User {
    User::Other { name: name.to_owned(), groups: vec![PEOPLE.to_owned()] }
}

/// Gives the roles of deploy/rbac/NAME.yaml to the [`person`] of that name. Returns them with their bindings.
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
