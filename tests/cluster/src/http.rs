//! HTTP clients for the harness's own servers.

use std::time::Duration;

use anyhow::{Context, Result};
use reqwest::{Certificate, Client};

/// A loopback server responds at once or hangs.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A client that trusts only this authority, or, without one, uses plain HTTP.
pub(crate) fn client(ca: Option<&str>) -> Result<Client> {
    crate::use_one_tls_provider();
    let mut builder = Client::builder().timeout(TIMEOUT).no_proxy();
    if let Some(ca) = ca {
        builder =
            builder.tls_certs_only([Certificate::from_pem(ca.as_bytes()).context("an authority's PEM")?]);
    }
    builder.build().context("an HTTP client")
}
