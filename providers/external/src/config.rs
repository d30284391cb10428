//! The configuration: an endpoint, or nothing.

use keyward_guest::prelude::*;

use crate::DEFAULT_ENDPOINT;

/// A KMS v2 plugin that somebody else runs on every control-plane node.
#[derive(Debug, ProviderConfig)]
pub struct Config {
    /// Address of the plugin: `unix:///PATH`; default `unix:///var/run/kmsplugin/kms.sock`.
    #[keyward(
        new_key = "another plugin can use another KEK",
        // A socket's path has at most 107 bytes.
        max_length = 114,
        matches("^unix:///", "must be unix:///PATH, the absolute path of a socket on the node"),
        never("^unix:///@", "must not be an abstract socket, on which any process of the node can listen"),
        never("[?]", "must not have a query"),
        never("#", "must not have a fragment"),
        never(
            "[^a-zA-Z0-9._~:/?#@-]",
            "must only contain letters, digits and any of . _ ~ - : @ /"
        ),
        never("/[.][.]?(/|$)", "must not contain '.' or '..' path segments"),
        never("^unix:////|[^:/]//|/$", "must not contain empty path segments")
    )]
    pub endpoint: Option<String>,
}

impl Config {
    /// The endpoint of the plugin. A normal form always contains it.
    pub(crate) fn endpoint(&self) -> &str {
        self.endpoint.as_deref().unwrap_or(DEFAULT_ENDPOINT)
    }
}
