//! `/metrics`, `/readyz` and `/livez` over plain HTTP. Leader and standby serve them; nothing here is secret.

use std::net::SocketAddr;
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::health::Health;
use crate::metrics::Metrics;

#[derive(Clone)]
struct Shown {
    health: Health,
    metrics: Metrics,
}

/// Binds. The returned address has the actual port if port 0 was requested.
pub(crate) async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let failed = |source| Error::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Serves until `stop`.
pub(crate) async fn serve(listener: TcpListener, health: Health, metrics: Metrics, stop: CancellationToken) {
    let router = Router::new()
        .route("/metrics", get(show_metrics))
        .route("/readyz", get(async |State(shown): State<Shown>| probe(shown.health.ready(Instant::now()))))
        .route("/livez", get(async |State(shown): State<Shown>| probe(shown.health.alive(Instant::now()))))
        .with_state(Shown { health, metrics });
    let serving = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
    if let Err(error) = serving.await {
        tracing::error!("metrics and probes are no longer served: {error}");
    }
}

fn probe(state: Result<(), String>) -> (StatusCode, String) {
    match state {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(problem) => (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")),
    }
}

async fn show_metrics(State(shown): State<Shown>) -> axum::response::Response {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match shown.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
