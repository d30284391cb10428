//! The two HTTP servers: `/healthz` (whether the plugin can read the key in Vault) and `/metrics`.

use std::{net::Ipv4Addr, sync::Arc};

use anyhow::{Context as _, Result};
use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use tokio::net::TcpListener;
use tracing::info;

use crate::{metrics::Metrics, transit::Transit};

/// Listens on all addresses, like the real plugin: the kubelet probes the node's address.
pub(crate) async fn bind(what: &'static str, port: u16) -> Result<Option<TcpListener>> {
    if port == 0 {
        return Ok(None);
    }
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
        .await
        .with_context(|| format!("{what}: listen tcp 0.0.0.0:{port}"))?;
    info!(port, "serving {what}");
    Ok(Some(listener))
}

pub(crate) fn health(transit: Arc<Transit>) -> Router {
    Router::new().route(
        "/healthz",
        get(move || async move {
            match transit.key_id().await {
                Ok(_) => (StatusCode::OK, "ok\n".to_owned()),
                Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
            }
        }),
    )
}

pub(crate) fn metrics(metrics: Arc<Metrics>) -> Router {
    const FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Router::new().route(
        "/metrics",
        get(move || async move {
            match metrics.text() {
                Ok(text) => ([(CONTENT_TYPE, FORMAT)], text).into_response(),
                Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            }
        }),
    )
}

/// Serves until the future is dropped; without a listener it does nothing and never ends.
pub(crate) async fn serve(listener: Option<TcpListener>, router: Router) -> Result<()> {
    match listener {
        Some(listener) => Ok(axum::serve(listener, router).await?),
        None => std::future::pending().await,
    }
}
