//! When a probe passes and when it fails.

use std::time::Duration;

use keyward_kms::{KeyCheck, KmsError, Phase, ProbeReport, ProbeSpec, probe};
use tonic::Code;

use crate::misbehaving::{Fault, Plugin, Running};

const STATUS_ONLY: ProbeSpec<'static> = ProbeSpec {
    call_timeout: Duration::from_secs(1),
    status_timeout: None,
    round_trip: false,
    key_check: None,
    make_key_check: false,
};
const ROUND_TRIP: ProbeSpec<'static> = ProbeSpec { round_trip: true, ..STATUS_ONLY };
const MAKE_KEY_CHECK: ProbeSpec<'static> = ProbeSpec { make_key_check: true, ..STATUS_ONLY };

async fn probe_of(plugin: Plugin, spec: &ProbeSpec<'_>) -> ProbeReport {
    let running = Running::start(plugin);
    probe(&running.socket, spec).await
}

async fn failure(fault: Fault, spec: &ProbeSpec<'_>) -> KmsError {
    probe_of(Plugin::new(fault), spec).await.result.unwrap_err()
}

async fn key_check() -> KeyCheck {
    let report = probe_of(Plugin::new(Fault::None), &MAKE_KEY_CHECK).await;
    assert_eq!(report.result, Ok(()));
    report.key_check.unwrap()
}

#[tokio::test]
async fn a_correct_plugin_passes_with_latencies() {
    let running = Running::start(Plugin::new(Fault::None));
    let report = probe(&running.socket, &ROUND_TRIP).await;
    assert_eq!(report.result, Ok(()));
    assert_eq!(report.key_check, None);
    let status = report.status.unwrap();
    assert_eq!((status.version.as_str(), status.remote_key_id.as_str()), ("v2", "kek-5a-v1"));
    let seen = report.latencies;
    assert!([seen.connect, seen.status, seen.encrypt, seen.decrypt].iter().all(Option::is_some), "{seen:?}");
    assert_eq!(seen.key_check, None);

    let uids = running.plugin.uids.lock().unwrap();
    let (uid, hex) = (&uids[1], uids[1].strip_prefix("keyward-probe-").unwrap());
    assert!(hex.len() == 8 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()), "{uid}");
    assert_eq!(*uid, uids[2], "one uid for the calls of one probe");
}

#[tokio::test]
async fn status_alone_neither_encrypts_nor_decrypts() {
    let running = Running::start(Plugin::new(Fault::EncryptError(Code::Internal, "no")));
    assert_eq!(probe(&running.socket, &STATUS_ONLY).await.result, Ok(()));
    assert_eq!(running.plugin.uids.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn an_unhealthy_plugin_fails_with_its_reason_and_status() {
    let report = probe_of(Plugin::new(Fault::Healthz("backend is sealed")), &ROUND_TRIP).await;
    let error = report.result.unwrap_err();
    assert_eq!(error, KmsError::Unhealthy { healthz: "backend is sealed".into() });
    assert_eq!((error.phase(), error.category()), (Phase::Status, "PluginUnhealthy"));
    assert_eq!(report.status.unwrap().healthz, "backend is sealed");
}

#[tokio::test]
async fn encrypt_must_use_the_key_that_status_names() {
    let error = failure(Fault::EncryptKeyId("another"), &ROUND_TRIP).await;
    assert_eq!(error, KmsError::KeyIdMismatch { status: "kek-5a-v1".into(), encrypt: "another".into() });
}

#[tokio::test]
async fn a_probe_passes_when_the_kek_rotates_between_status_and_encrypt() {
    let report = probe_of(Plugin::new(Fault::RotatesBeforeEncrypt), &MAKE_KEY_CHECK).await;
    assert_eq!(report.result, Ok(()));
    assert_eq!(report.status.unwrap().remote_key_id, "kek-5a-v2");
    assert_eq!(report.key_check.unwrap().remote_key_id, "kek-5a-v2");
}

#[tokio::test]
async fn decrypt_must_return_the_plaintext_of_encrypt() {
    let report = probe_of(Plugin::new(Fault::WrongRoundTrip), &MAKE_KEY_CHECK).await;
    assert_eq!(report.result, Err(KmsError::RoundTripMismatch));
    assert_eq!(report.key_check, None, "no key check of a plugin that does not pass");
}

#[tokio::test]
async fn a_hanging_plugin_fails_in_the_call_that_hangs() {
    let key_check = key_check().await;
    let short = ProbeSpec { call_timeout: Duration::from_millis(50), ..ROUND_TRIP };
    for (call, phase) in [("status", Phase::Status), ("encrypt", Phase::Encrypt), ("decrypt", Phase::Decrypt)]
    {
        let error = failure(Fault::HangsIn(call), &short).await;
        assert_eq!(error, KmsError::Timeout { phase, after: short.call_timeout });
    }
    let key_check_only = ProbeSpec { round_trip: false, key_check: Some(&key_check), ..short };
    let error = failure(Fault::HangsIn("decrypt"), &key_check_only).await;
    assert_eq!((error.phase(), error.category()), (Phase::KeyCheck, "PluginTimeout"));
}

#[tokio::test]
async fn another_instance_with_the_same_key_decrypts_the_key_check() {
    let key_check = key_check().await;
    let spec = ProbeSpec { key_check: Some(&key_check), ..ROUND_TRIP };
    let report = probe_of(Plugin::new(Fault::None), &spec).await;
    assert_eq!(report.result, Ok(()));
    assert!(report.latencies.key_check.is_some());
}

#[tokio::test]
async fn a_key_check_of_another_key_is_a_mismatch() {
    let key_check = key_check().await;
    let spec = ProbeSpec { key_check: Some(&key_check), ..ROUND_TRIP };

    let refuses = Plugin { kek: 0x77, ..Plugin::new(Fault::None) };
    let error = probe_of(refuses, &spec).await.result.unwrap_err();
    assert_eq!(error.to_string(), "key-check: InvalidArgument: message authentication failed");
    assert_eq!(
        (error.phase(), error.grpc_code(), error.category()),
        (Phase::KeyCheck, Some(3), "KEKMismatch")
    );

    let decrypts_to_garbage = Plugin { kek: 0x77, checks_key: false, ..Plugin::new(Fault::None) };
    let report = probe_of(decrypts_to_garbage, &ProbeSpec { make_key_check: true, ..spec }).await;
    assert_eq!(report.key_check, None, "no key check of another key than the expected one");
    let error = report.result.unwrap_err();
    assert_eq!(error, KmsError::KeyCheckMismatch);
    assert_eq!((error.phase(), error.category()), (Phase::KeyCheck, "KEKMismatch"));
}

#[tokio::test]
async fn an_unavailable_backend_is_not_a_kek_mismatch() {
    let key_check = key_check().await;
    let spec = ProbeSpec { key_check: Some(&key_check), ..STATUS_ONLY };
    for code in [Code::Unavailable, Code::PermissionDenied, Code::ResourceExhausted] {
        let error = failure(Fault::DecryptError(code, "no"), &spec).await;
        assert_eq!((error.phase(), error.category()), (Phase::KeyCheck, "PluginError"));
    }
}

#[tokio::test]
async fn debug_of_a_key_check_shows_no_bytes() {
    let key_check = key_check().await;
    let debug = format!("{key_check:?}");
    assert!(debug.contains("[33 bytes]") && !debug.contains("sha256") && !debug.contains("90"), "{debug}");
}
