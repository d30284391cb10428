//! What was asked of the API server, and by whom, from its own audit log.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use keyward_test_cluster::User;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{PEOPLE, grants};

/// Who, what, on what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Request {
    /// The user's name.
    pub user: String,
    /// The user's groups.
    pub groups: BTreeSet<String>,
    /// RBAC's word for what is done.
    pub verb: String,
    /// To what.
    pub on: On,
}

/// What a request is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum On {
    /// Objects.
    Object {
        /// The API group; empty for the core group.
        group: String,
        /// In plural, with its subresource.
        resource: String,
        /// Empty where the request has none.
        namespace: String,
        /// Empty where the request has none.
        name: String,
    },
    /// A path that is no resource's.
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

/// Everything that was asked.
#[derive(Debug, Default)]
pub struct Asked {
    /// What was not refused, whatever became of it.
    pub granted: BTreeSet<Request>,
    /// Refused, and never granted before or after. A right that was given a moment ago may not have reached the API
    /// server's authorizer yet; whoever asks again then gets it.
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
    /// Of operator, agents, and whoever is a [`person`](super::person).
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

    /// What the API server is to be told.
    pub fn arguments(&self) -> [String; 2] {
        [
            format!("--audit-policy-file={}", self.policy.display()),
            format!("--audit-log-path={}", self.log.display()),
        ]
    }

    /// Fails where a request was refused that was not meant to be, or where one of these roles grants something without
    /// which everything would have gone as well. Returns how many grants there are.
    pub fn must_fit(&self, roles: &[Value], is_meant: impl Fn(&Request) -> bool) -> Result<usize> {
        let asked = self.asked()?;
        let grants = grants::of(roles)?;
        println!("{} requests of {} kinds of grants", asked.granted.len(), grants.len());
        ensure!(!grants.is_empty(), "these roles grant nothing");
        let refused = asked.refused.iter().filter(|request| !is_meant(request));
        let mut wrong: Vec<String> = refused.map(|request| format!("refused: {request}")).collect();
        let vain = grants::in_vain(&grants, &asked);
        wrong.extend(vain.map(|grant| format!("granted in vain: {grant}")));
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(grants.len())
    }

    /// All of it so far.
    pub fn asked(&self) -> Result<Asked> {
        let log = std::fs::read_to_string(&self.log).context("the audit log")?;
        let mut asked = Asked::default();
        // The last line may be being written.
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
                Some(403) => asked.refused.insert(request),
                _ => asked.granted.insert(request),
            };
        }
        asked.refused.retain(|request| !asked.granted.contains(request));
        Ok(asked)
    }
}
