//! What the client accepts and refuses in each call.

use std::{path::Path, time::Duration};

use keyward_kms::{Client, Encrypted, KmsError, MAX_ANNOTATION_BYTES, Phase, Timeouts};
use tokio::net::UnixListener;
use tonic::Code;

use crate::misbehaving::{Fault, Plugin, Running};

const SECOND: Duration = Duration::from_secs(1);
const TIMEOUTS: Timeouts = Timeouts { connect: SECOND, call: SECOND };
const SECRET: &[u8] = b"thirty-two bytes of seed, say we";

async fn client(running: &Running) -> Client {
    Client::connect(&running.socket, TIMEOUTS).await.unwrap()
}

async fn status_error(fault: Fault) -> KmsError {
    let running = Running::start(Plugin::new(fault));
    client(&running).await.status().await.unwrap_err()
}

async fn encrypt_error(fault: Fault) -> KmsError {
    let running = Running::start(Plugin::new(fault));
    client(&running).await.encrypt("uid", SECRET).await.unwrap_err()
}

#[tokio::test]
async fn a_correct_plugin_passes() {
    let running = Running::start(Plugin::new(Fault::None));
    let client = client(&running).await;
    let status = client.status().await.unwrap();
    assert!(status.is_healthy());
    let encrypted = client.encrypt("one", SECRET).await.unwrap();
    assert_eq!(encrypted.remote_key_id, status.remote_key_id);
    assert_eq!(client.decrypt("two", &encrypted).await.unwrap().as_slice(), SECRET);
    assert_eq!(*running.plugin.uids.lock().unwrap(), ["", "one", "two"]);
}

#[tokio::test]
async fn a_plugin_receives_the_deadline() {
    let running = Running::start(Plugin::new(Fault::None));
    client(&running).await.status().await.unwrap();
    assert_eq!(*running.plugin.deadlines.lock().unwrap(), [Some("1000000u".to_owned())]);
}

#[tokio::test]
async fn a_missing_socket_is_unreachable() {
    let error = Client::connect(Path::new("/nonexistent/kms.sock"), TIMEOUTS).await.unwrap_err();
    assert_eq!(
        (error.phase(), error.grpc_code(), error.category()),
        (Phase::Start, None, "PluginUnreachable")
    );
    assert_eq!(
        error.to_string(),
        "no KMS plugin answers at /nonexistent/kms.sock: No such file or directory (os error 2)"
    );
}

#[tokio::test]
async fn a_socket_that_refuses_is_unreachable() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("kms.sock");
    drop(UnixListener::bind(&socket).unwrap());
    let error = Client::connect(&socket, TIMEOUTS).await.unwrap_err();
    assert!(matches!(&error, KmsError::Unreachable { reason, .. } if reason.contains("refused")), "{error}");
}

#[tokio::test]
async fn a_stopped_plugin_is_unreachable() {
    let running = Running::start(Plugin::new(Fault::None));
    let client = client(&running).await;
    client.status().await.unwrap();
    let _folder = running.stop().await;
    let error = client.status().await.unwrap_err();
    assert!(
        matches!(&error, KmsError::Unreachable { reason, .. } if reason.contains("refused")),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_listener_that_does_not_answer_times_out() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("kms.sock");
    let _mute = UnixListener::bind(&socket).unwrap();
    let short = Timeouts { call: Duration::from_millis(50), ..TIMEOUTS };
    let error = Client::connect(&socket, short).await.unwrap().status().await.unwrap_err();
    assert_eq!(error, KmsError::Timeout { phase: Phase::Status, after: short.call });
}

#[tokio::test]
async fn each_call_has_a_deadline() {
    for (call, phase) in [("status", Phase::Status), ("encrypt", Phase::Encrypt), ("decrypt", Phase::Decrypt)]
    {
        let running = Running::start(Plugin::new(Fault::HangsIn(call)));
        let short = Timeouts { call: Duration::from_millis(50), ..TIMEOUTS };
        let client = Client::connect(&running.socket, short).await.unwrap();
        let error = match phase {
            Phase::Status => client.status().await.map(drop),
            Phase::Encrypt => client.encrypt("uid", SECRET).await.map(drop),
            _ => {
                let sealed =
                    Encrypted { ciphertext: vec![1], remote_key_id: "k".into(), annotations: [].into() };
                client.decrypt("uid", &sealed).await.map(drop)
            }
        }
        .unwrap_err();
        assert_eq!(error, KmsError::Timeout { phase, after: short.call });
        assert_eq!((error.grpc_code(), error.category()), (Some(4), "PluginTimeout"));
    }
}

#[tokio::test]
async fn a_status_that_breaks_a_rule_is_an_error() {
    assert_eq!(status_error(Fault::Version("v3")).await, KmsError::Version { version: "v3".into() });
    assert_eq!(status_error(Fault::Version("")).await, KmsError::Version { version: String::new() });
    let bytes = |bytes| KmsError::KeyId { phase: Phase::Status, bytes };
    assert_eq!(status_error(Fault::EmptyKeyId).await, bytes(0));
    assert_eq!(status_error(Fault::LongKeyId).await, bytes(1025));
}

#[tokio::test]
async fn a_version_that_changes_is_an_error() {
    let running = Running::start(Plugin::new(Fault::VersionFlaps));
    let client = client(&running).await;
    client.status().await.unwrap();
    let error = client.status().await.unwrap_err();
    assert_eq!(error, KmsError::VersionChanged { before: "v2".into(), now: "v2beta1".into() });
}

#[tokio::test]
async fn the_status_of_an_unhealthy_plugin_has_a_reason() {
    let running = Running::start(Plugin::new(Fault::Healthz("1 error occurred:\n\t* backend is sealed\n")));
    let status = client(&running).await.status().await.unwrap();
    assert!(!status.is_healthy());
    assert_eq!(status.healthz, "1 error occurred: * backend is sealed");
    assert_eq!(status.remote_key_id, "");

    for (healthz, shown) in
        [("", "the plugin gives no reason (healthz is empty)"), (" ok\n", "healthz is \" ok\\n\"")]
    {
        let running = Running::start(Plugin::new(Fault::Healthz(healthz)));
        let status = client(&running).await.status().await.unwrap();
        assert_eq!((status.is_healthy(), status.healthz.as_str()), (false, shown));
    }
}

#[tokio::test]
async fn an_encrypt_answer_that_breaks_a_rule_is_an_error() {
    let too_long = MAX_ANNOTATION_BYTES + "a.example.com".len();
    for (fault, expected) in [
        (Fault::PlaintextReturned, KmsError::PlaintextUnchanged),
        (Fault::EmptyCiphertext, KmsError::Ciphertext { bytes: 0 }),
        (Fault::LongCiphertext, KmsError::Ciphertext { bytes: 1025 }),
        (Fault::EncryptEmptyKeyId, KmsError::KeyId { phase: Phase::Encrypt, bytes: 0 }),
        (Fault::AnnotationKey("version"), KmsError::AnnotationKey { key: "version".into() }),
        (Fault::LongAnnotations(MAX_ANNOTATION_BYTES), KmsError::Annotations { bytes: too_long }),
    ] {
        let error = encrypt_error(fault).await;
        assert_eq!(error, expected);
        assert_eq!((error.phase(), error.category()), (Phase::Encrypt, "PluginBroken"));
    }
}

#[tokio::test]
async fn an_answer_of_megabytes_is_not_read() {
    let error = encrypt_error(Fault::LongAnnotations(1 << 20)).await;
    assert!(matches!(error, KmsError::Rpc { code: Code::OutOfRange, .. }), "{error:?}");
}

#[tokio::test]
async fn a_plugins_error_keeps_its_code_and_message() {
    let error = encrypt_error(Fault::EncryptError(Code::PermissionDenied, "permission\ndenied")).await;
    assert_eq!(error.to_string(), "encrypt: PermissionDenied: permission denied");
    assert_eq!(
        (error.phase(), error.grpc_code(), error.category()),
        (Phase::Encrypt, Some(7), "PluginError")
    );
    let error = encrypt_error(Fault::EncryptError(Code::Unknown, "")).await;
    assert_eq!(error.to_string(), "encrypt: Unknown: the plugin gives no reason");
}

#[tokio::test]
async fn errors_and_debug_contain_no_ciphertext() {
    let running = Running::start(Plugin::new(Fault::QuotesCiphertext));
    let client = client(&running).await;
    let encrypted = client.encrypt("uid", SECRET).await.unwrap();
    let error = client.decrypt("uid", &encrypted).await.unwrap_err();
    assert_eq!(error.to_string(), "decrypt: Internal: [redacted] or [[redacted]] is no good");
    let debug = format!("{encrypted:?}");
    assert!(debug.contains("[33 bytes]") && !debug.contains("90"), "{debug}");
}
