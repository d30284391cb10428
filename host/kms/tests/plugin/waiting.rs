//! Waiting for a plugin that starts, or never starts.

use std::{sync::atomic::Ordering, time::Duration};

use keyward_kms::{KmsError, ProbeSpec, probe, wait_ready};
use tonic::Code;

use crate::misbehaving::{Fault, Plugin, Running};

const SPEC: ProbeSpec<'static> = ProbeSpec {
    call_timeout: Duration::from_secs(1),
    status_timeout: None,
    round_trip: true,
    key_check: None,
    make_key_check: false,
};
/// Long enough for a slow machine; no test that passes waits for it.
const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(200);

#[tokio::test]
async fn the_wait_continues_until_the_socket_exists() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("kms.sock");
    // The first probe finds no socket. Only then does the plugin start.
    let (report, _running) = tokio::join!(wait_ready(&socket, &SPEC, LONG), async {
        Running::start_at(&socket, Plugin::new(Fault::None))
    });
    assert_eq!(report.result, Ok(()));
}

#[tokio::test]
async fn the_wait_continues_until_the_plugin_is_healthy() {
    let running = Running::start(Plugin::new(Fault::UnhealthyUntil(2)));
    let report = wait_ready(&running.socket, &SPEC, LONG).await;
    assert_eq!(report.result, Ok(()));
    assert_eq!(running.plugin.statuses.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn an_expired_wait_returns_the_last_error_of_the_plugin() {
    let folder = tempfile::tempdir().unwrap();
    let report = wait_ready(&folder.path().join("kms.sock"), &SPEC, SHORT).await;
    assert!(matches!(report.result, Err(KmsError::Unreachable { .. })), "{:?}", report.result);

    let running = Running::start(Plugin::new(Fault::StatusError(Code::Unavailable, "backend is sealed")));
    let report = wait_ready(&running.socket, &SPEC, SHORT).await;
    assert_eq!(report.result.unwrap_err().to_string(), "status: Unavailable: backend is sealed");
    assert!(running.plugin.statuses.load(Ordering::SeqCst) > 1, "only one Status call");
}

#[tokio::test]
async fn another_key_ends_the_wait() {
    let made = Running::start(Plugin::new(Fault::None));
    let key_check = probe(&made.socket, &ProbeSpec { make_key_check: true, ..SPEC }).await.key_check.unwrap();
    let other = Running::start(Plugin { kek: 0x77, checks_key: false, ..Plugin::new(Fault::None) });
    let report = wait_ready(&other.socket, &ProbeSpec { key_check: Some(&key_check), ..SPEC }, LONG).await;
    assert_eq!(report.result, Err(KmsError::KeyCheckMismatch));
    assert_eq!(other.plugin.statuses.load(Ordering::SeqCst), 1);
}
