//! The configuration as an admin writes it: an endpoint, or nothing.

use keyward_guest::prelude::*;

use crate::DEFAULT_ENDPOINT;

/// A KMS v2 plugin that somebody else runs on every control-plane node.
#[derive(Debug, ProviderConfig)]
pub struct Config {
    /// Where the plugin listens: `unix:///PATH`; `unix:///var/run/kmsplugin/kms.sock` where it is not given.
    #[keyward(
        new_key = "another plugin may hold another KEK",
        // A socket's path has at most 107 bytes.
        max_length = 114,
        matches("^unix:///", "must be unix:///PATH: a socket on the node by its absolute path"),
        never("^unix:///@", "must not be an abstract socket, which any process of the node may listen on"),
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
    /// Where the plugin listens; of a canonical configuration that stands in it.
    pub(crate) fn endpoint(&self) -> &str {
        self.endpoint.as_deref().unwrap_or(DEFAULT_ENDPOINT)
    }
}
