//! A KMS v2 plugin with the command line and the function of HashiCorp's vault-kube-kms, whose image is not
//! publicly available: Transit over HTTPS with a real Vault or OpenBao, with an AppRole login.
//!
//! Files: [`flags`] (parsed by [`go_flag`], validated by [`settings`]), [`api`] (HTTP and TLS) with its
//! [errors](mod@error), [`auth`] (AppRole and the token), [`transit`] (the KEK), [`server`] (KMS v2) on its
//! [`socket`], [`http`] (`/healthz`, and `/metrics` of [`metrics`]). In scope: all behavior of the real
//! plugin that is visible from outside. Never in scope: Keyward's own rules, a fault that the real plugin
//! cannot have, and a credential, plaintext or ciphertext in a log line or an error.
//!
//! Exit codes: 0 after SIGTERM or SIGINT, 1 if it cannot run, 2 if the command line is wrong.

mod api;
mod auth;
mod error;
mod flags;
mod go_flag;
mod http;
mod metrics;
mod server;
mod settings;
mod socket;
mod transit;

use std::{io, pin::pin, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use keyward_kms::v2::key_management_service_server::KeyManagementServiceServer;
use rustix::{fs::Mode, process::umask};
use tokio::{
    select,
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::timeout,
};
use tonic::transport::Server;
use tracing::{error, info, warn};
use tracing_subscriber::{
    filter::Targets, fmt::layer, layer::SubscriberExt as _, registry, util::SubscriberInitExt as _,
};

use crate::{
    api::Api,
    auth::Session,
    flags::{FLAGS, Flags},
    go_flag::Stop,
    metrics::Metrics,
    server::Kms,
    settings::{Settings, log_level},
    socket::Socket,
    transit::Transit,
};

/// How long running calls may take after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let mut args = std::env::args();
    let program = args.next().unwrap_or_default();
    let mut flags = Flags::default();
    let level = go_flag::parse(&FLAGS, &mut flags, args)
        .and_then(|()| log_level(&flags.zap_log_level).map_err(Stop::Wrong));
    let level = match level {
        Ok(level) => level,
        Err(Stop::Help) => {
            eprint!("{}", go_flag::usage(&program, &FLAGS));
            return ExitCode::SUCCESS;
        }
        Err(Stop::Wrong(message)) => {
            eprint!("{message}\n{}", go_flag::usage(&program, &FLAGS));
            return ExitCode::from(2);
        }
    };
    // Only this crate's lines: libraries log headers and bodies at their lower levels.
    let ours = Targets::new().with_target(env!("CARGO_CRATE_NAME"), level);
    registry().with(ours).with(layer().json().flatten_event(true).with_writer(io::stderr)).init();
    match start(flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // `{:#}` is the whole chain in one line.
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(flags: Flags) -> Result<()> {
    // Other users have no access to files that the process creates; above all to the socket, from its
    // creation on.
    umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
    let settings = Settings::read(flags)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let (stop, stopped) = watch::channel(false);
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut running = pin!(run(&settings, stopped));
        select! {
            ended = &mut running => return ended,
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        info!("stopping");
        stop.send_replace(true);
        timeout(GRACE, running).await.unwrap_or_else(|_| {
            warn!("cut off calls that were still running");
            Ok(())
        })
    })
}

/// Logs in, then serves until `stopped` is true.
async fn run(settings: &Settings, stopped: watch::Receiver<bool>) -> Result<()> {
    let api = Api::new(settings)?;
    let session = select! {
        session = Session::begin(api, settings) => session?,
        () = wait_stopped(stopped.clone()) => return Ok(()),
    };
    let transit = Arc::new(Transit::new(session, settings));
    let metrics = Arc::new(Metrics::default());
    let health_listener = http::bind("health", settings.health_port).await?;
    let metrics_listener = http::bind("metrics", settings.metrics_port).await?;
    let (_socket, listener) = Socket::bind(&settings.socket).await?;
    info!(socket = %settings.socket.display(), "serving KMS v2");

    let service = KeyManagementServiceServer::new(Kms::new(transit.clone(), metrics.clone()));
    let connections = pin!(socket::connections(listener));
    let serving = Server::builder()
        .add_service(service)
        .serve_with_incoming_shutdown(connections, wait_stopped(stopped));
    select! {
        ended = serving => ended.context("serving KMS v2"),
        ended = http::serve(health_listener, http::health(transit.clone())) => ended.context("serving health"),
        ended = http::serve(metrics_listener, http::metrics(metrics)) => ended.context("serving metrics"),
        () = transit.session().keep() => Ok(()),
    }
}

async fn wait_stopped(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is dropped: then the process is stopping, too.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}
