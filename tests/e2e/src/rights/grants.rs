//! The grants of the shipped roles, verb by verb.

use anyhow::{Context as _, Result};
use k8s_openapi::api::rbac::v1::{PolicyRule, RoleRef, Subject};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::audit::{On, Request, Requests};

/// One verb on one object or path, for the subjects that are bound to the role.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    /// `Role NAMESPACE/NAME` or `ClusterRole NAME`.
    role: String,
    namespace: Option<String>,
    verb: String,
    on: Granted,
    subjects: Vec<Subject>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Granted {
    /// Objects of this name, or of any name if there is none.
    Objects {
        group: String,
        resource: String,
        name: Option<String>,
    },
    Url(String),
}

impl std::fmt::Display for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { role, verb, on, .. } = self;
        match on {
            Granted::Objects { group, resource, name } => {
                write!(f, "{role}: {verb} {resource}.{group} {}", name.as_deref().unwrap_or("*"))
            }
            Granted::Url(url) => write!(f, "{role}: {verb} {url}"),
        }
    }
}

impl Grant {
    /// Whether this grant authorizes the request.
    fn covers(&self, request: &Request) -> bool {
        let is_subject = self.subjects.iter().any(|subject| match subject.kind.as_str() {
            "Group" => request.groups.contains(&subject.name),
            "User" => request.user == subject.name,
            _ => {
                let namespace = subject.namespace.as_deref().unwrap_or_default();
                request.user == format!("system:serviceaccount:{namespace}:{}", subject.name)
            }
        });
        let is_object = match (&self.on, &request.on) {
            (Granted::Url(granted), On::Url(url)) => granted == url,
            (
                Granted::Objects { group, resource, name },
                On::Object { group: of, resource: asked, namespace, name: called },
            ) => {
                group == of
                    && resource == asked
                    && name.as_ref().is_none_or(|name| name == called)
                    && self.namespace.as_ref().is_none_or(|within| within == namespace)
            }
            _ => false,
        };
        is_subject && is_object && self.verb == request.verb
    }
}

/// The grants of all roles in these documents, each with the subjects of the bindings in them.
pub(crate) fn of(documents: &[Value]) -> Result<Vec<Grant>> {
    let text = |object: &Value, pointer: &str| {
        object.pointer(pointer).and_then(Value::as_str).map(ToOwned::to_owned)
    };
    let mut grants = Vec::new();
    for role in documents {
        let kind = text(role, "/kind").unwrap_or_default();
        if kind != "Role" && kind != "ClusterRole" {
            continue;
        }
        let name = text(role, "/metadata/name").context("a role's name")?;
        let namespace = text(role, "/metadata/namespace");
        let rules: Vec<PolicyRule> = part(role, "rules")?;
        let mut subjects = Vec::new();
        for binding in documents.iter().filter(|object| object.get("roleRef").is_some()) {
            let reference: RoleRef = part(binding, "roleRef")?;
            let within = text(binding, "/metadata/namespace");
            if reference.kind == kind && reference.name == name && within == namespace {
                subjects.extend(part::<Vec<Subject>>(binding, "subjects")?);
            }
        }
        let role = match &namespace {
            Some(namespace) => format!("{kind} {namespace}/{name}"),
            None => format!("{kind} {name}"),
        };
        let granted = rules.iter().flat_map(expanded);
        grants.extend(granted.map(|(verb, on)| Grant {
            role: role.clone(),
            namespace: namespace.clone(),
            verb,
            on,
            subjects: subjects.clone(),
        }));
    }
    Ok(grants)
}

fn part<T: DeserializeOwned>(object: &Value, name: &str) -> Result<T> {
    let part = object.get(name).with_context(|| format!("no {name}: {object}"))?;
    Ok(serde_json::from_value(part.clone())?)
}

/// Grants that no request needs: no request is covered by them, or another grant covers it too.
pub(crate) fn unneeded<'g>(grants: &'g [Grant], requests: &Requests) -> impl Iterator<Item = &'g Grant> {
    let needed = move |at: usize| {
        requests.granted.iter().any(|request| {
            let mut by = grants.iter().enumerate().filter(|(_, grant)| grant.covers(request));
            by.next().is_some_and(|(first, _)| first == at) && by.next().is_none()
        })
    };
    grants.iter().enumerate().filter(move |(at, _)| !needed(*at)).map(|(_, grant)| grant)
}

fn expanded(rule: &PolicyRule) -> Vec<(String, Granted)> {
    let mut on: Vec<Granted> =
        rule.non_resource_urls.iter().flatten().map(|url| Granted::Url(url.clone())).collect();
    let names: Vec<Option<String>> = match &rule.resource_names {
        Some(names) => names.iter().cloned().map(Some).collect(),
        None => vec![None],
    };
    for group in rule.api_groups.iter().flatten() {
        for resource in rule.resources.iter().flatten() {
            on.extend(names.iter().map(|name| Granted::Objects {
                group: group.clone(),
                resource: resource.clone(),
                name: name.clone(),
            }));
        }
    }
    rule.verbs.iter().flat_map(|verb| on.iter().map(|on| (verb.clone(), on.clone()))).collect()
}
