//! What was asked of the API server, and by whom, from its own audit log.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::json;

/// The group of those who run commands here.
pub(crate) const PEOPLE: &str = "keyward-test:people";

/// Who, what, on what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Request {
    pub(crate) user: String,
    pub(crate) groups: BTreeSet<String>,
    pub(crate) verb: String,
    pub(crate) on: On,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum On {
    /// `resource` with its subresource; the namespace and the name are empty where the request has none.
    Object {
        group: String,
        resource: String,
        namespace: String,
        name: String,
    },
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
pub(crate) struct Asked {
    pub(crate) granted: BTreeSet<Request>,
    /// Refused, and never granted before or after. A right that was given a moment ago may not have reached the API
    /// server's authorizer yet; whoever asks again then gets it.
    pub(crate) refused: BTreeSet<Request>,
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
pub(crate) struct Audit {
    policy: PathBuf,
    log: PathBuf,
}

impl Audit {
    /// Operator, agents, and [`PEOPLE`].
    pub(crate) fn below(folder: &Path) -> Result<Self> {
        let of = |who: serde_json::Value| {
            let mut rule = json!({"level": "Metadata"});
            rule.as_object_mut().unwrap().extend(who.as_object().unwrap().clone());
            rule
        };
        let policy = json!({
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived"],
            "rules": [
                of(json!({"userGroups": ["keyward:nodes", PEOPLE]})),
                of(json!({"users": ["system:serviceaccount:keyward-system:keyward-operator"]})),
                {"level": "None"},
            ],
        });
        let this = Self { policy: folder.join("audit-policy.json"), log: folder.join("audit.log") };
        std::fs::write(&this.policy, serde_json::to_vec(&policy)?)?;
        Ok(this)
    }

    pub(crate) fn arguments(&self) -> [String; 2] {
        [
            format!("--audit-policy-file={}", self.policy.display()),
            format!("--audit-log-path={}", self.log.display()),
        ]
    }

    /// All of it so far.
    pub(crate) fn asked(&self) -> Result<Asked> {
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
