//! The requests to the API server and their users, from its audit log.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use keyward_test_cluster::User;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{PEOPLE, grants};

/// One request: user, verb and object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Request {
    /// The user's name.
    pub user: String,
    /// The user's groups.
    pub groups: BTreeSet<String>,
    /// The verb of RBAC.
    pub verb: String,
    /// The object.
    pub on: On,
}

/// The object of a request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum On {
    /// An object or a collection.
    Object {
        /// The API group; empty for the core group.
        group: String,
        /// In plural, with its subresource.
        resource: String,
        /// Empty if the request has none.
        namespace: String,
        /// Empty if the request has none.
        name: String,
    },
    /// A path that is not a resource's.
    Url(String),
}

impl std::fmt::Display for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { user, verb, on, .. } = self;
        match on {
            On::Object { group, resource, namespace, name } => {
                write!(f, "{user}: {verb} {resource}.{group} {namespace}/{name}")
            }
            On::Url(url) => write!(f, "{user}: {verb} {url}"),
        }
    }
}

/// All recorded requests.
#[derive(Debug, Default)]
pub struct Requests {
    /// Requests that were authorized, also if they failed later.
    pub granted: BTreeSet<Request>,
    /// Requests that were refused, and never granted before or after. A new role may take a moment to reach
    /// the API server's authorizer; a repeated request is granted then.
    pub refused: BTreeSet<Request>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    verb: String,
    user: Who,
    #[serde(rename = "requestURI")]
    request_uri: String,
    object_ref: Option<Object>,
    response_status: Option<Status>,
}

#[derive(Deserialize)]
struct Who {
    #[serde(default)]
    username: String,
    #[serde(default)]
    groups: BTreeSet<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Object {
    api_group: String,
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    code: u16,
}

/// A policy and a log below a folder, and the API server's arguments for them.
pub struct Audit {
    policy: PathBuf,
    log: PathBuf,
}

impl Audit {
    /// Records the requests of the operator, the agents and every [`person`](super::person).
    pub fn below(folder: &Path) -> Result<Self> {
        let policy = json!({
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived"],
            "rules": [
                {"level": "Metadata", "userGroups": ["keyward:nodes", PEOPLE]},
                {"level": "Metadata", "users": [User::Operator.name()]},
                {"level": "None"},
            ],
        });
        let this = Self { policy: folder.join("audit-policy.json"), log: folder.join("audit.log") };
        std::fs::write(&this.policy, serde_json::to_vec(&policy)?)?;
        Ok(this)
    }

    /// The arguments of the API server.
    pub fn arguments(&self) -> [String; 2] {
        [
            format!("--audit-policy-file={}", self.policy.display()),
            format!("--audit-log-path={}", self.log.display()),
        ]
    }

    /// Fails if a request was refused unexpectedly, or if no request needed a grant of these roles. Returns
    /// the number of grants.
    pub fn must_fit(&self, roles: &[Value], is_expected: impl Fn(&Request) -> bool) -> Result<usize> {
        let requests = self.requests()?;
        let grants = grants::of(roles)?;
        println!("{} different requests, {} grants", requests.granted.len(), grants.len());
        ensure!(!grants.is_empty(), "these roles grant nothing");
        let refused = requests.refused.iter().filter(|request| !is_expected(request));
        let mut wrong: Vec<String> = refused.map(|request| format!("refused: {request}")).collect();
        let unneeded = grants::unneeded(&grants, &requests);
        wrong.extend(unneeded.map(|grant| format!("granted but not needed: {grant}")));
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(grants.len())
    }

    /// The requests so far.
    pub fn requests(&self) -> Result<Requests> {
        let log = std::fs::read_to_string(&self.log).context("the audit log")?;
        let mut requests = Requests::default();
        // The last line may be incomplete.
        for line in log.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let Event { verb, user, request_uri, object_ref, response_status } =
                serde_json::from_str(line).context("an audit event")?;
            let url = request_uri.split('?').next().unwrap_or_default().to_owned();
            let on = object_ref.map_or(On::Url(url), |object| {
                let Object { api_group: group, mut resource, subresource, namespace, name } = object;
                if !subresource.is_empty() {
                    resource = format!("{resource}/{subresource}");
                }
                On::Object { group, resource, namespace, name }
            });
            let request = Request { user: user.username, groups: user.groups, verb, on };
            match response_status.map(|status| status.code) {
                Some(403) => requests.refused.insert(request),
                _ => requests.granted.insert(request),
            };
        }
        requests.refused.retain(|request| !requests.granted.contains(request));
        Ok(requests)
    }
}
