//! Logins and policies that are refused, expired or repaired.

use serde_json::json;

use crate::{
    bao::{Bao, Credentials, eventually, policy},
    plugin::{Plan, ROUND_TRIP, STATUS},
};

#[tokio::test]
async fn the_plugin_exits_at_once_with_a_wrong_secret_id() {
    let (bao, credentials) = Bao::with_key().await;
    let wrong = Credentials { secret_id: "00000000-wrong-secret-id".into(), ..credentials };
    let mut plugin = Plan::new(&bao, &wrong).start();
    assert_eq!(plugin.ended().await.code(), Some(1));
    let log = plugin.log();
    assert!(log.contains("failed to log in by AppRole"), "{log}");
    assert!(
        log.contains("/v1/auth/approle/login\\nCode: 400. Errors:\\n\\n* invalid role or secret ID"),
        "{log}"
    );
    assert!(!log.contains(&wrong.secret_id), "{log}");
    assert_eq!(log.lines().count(), 1, "it has tried more than once:\n{log}");
}

#[tokio::test]
async fn the_plugin_exits_with_a_wrong_auth_mount() {
    let (bao, credentials) = Bao::with_key().await;
    let mut plugin = Plan::new(&bao, &credentials).with("auth-mount", "elsewhere").start();
    assert_eq!(plugin.ended().await.code(), Some(1));
    // Without a token, OpenBao does not report which mounts exist.
    assert!(plugin.log().contains("Code: 403. Errors:\\n\\n* permission denied"), "{}", plugin.log());
}

#[tokio::test]
async fn a_missing_permission_is_reported_and_can_be_granted_without_a_restart() {
    let (bao, credentials) = Bao::with_key().await;
    bao.set_policy("", r#"path "transit/encrypt/k" { capabilities = ["update"] }"#).await;
    let plugin = Plan::new(&bao, &credentials).start_answering().await;
    let error = plugin.failure(&STATUS).await;
    assert_eq!(error.category(), "PluginUnhealthy");
    assert!(error.to_string().contains("read the key"), "{error}");
    assert!(
        error.to_string().contains("Code: 403. Errors: * 1 error occurred: * permission denied"),
        "{error}"
    );

    // An old key without the encrypt permission is healthy for Status; only the round trip fails.
    let no_encrypt = policy("transit", "k").replace("transit/encrypt", "transit/none");
    bao.set_policy("", &no_encrypt).await;
    let error = plugin.failure(&ROUND_TRIP).await;
    assert_eq!((error.phase().as_str(), error.grpc_code()), ("encrypt", Some(7)), "{error}");
    assert_eq!(plugin.probe(&STATUS).await.result, Ok(()));

    bao.set_policy("", &policy("transit", "k")).await;
    plugin.ready().await;
    let log = plugin.log();
    assert!(!log.contains("logged in again"), "a changed policy needs no new login:\n{log}");
}

#[tokio::test]
async fn a_revoked_token_is_replaced() {
    let (bao, credentials) = Bao::with_key().await;
    let plugin = Plan::new(&bao, &credentials).start();
    plugin.ready().await;
    bao.post("", "sys/leases/revoke-prefix/auth/approle", json!({})).await;
    assert_eq!(plugin.probe(&ROUND_TRIP).await.result, Ok(()), "{}", plugin.log());
    assert!(plugin.log().contains("logged in again"), "{}", plugin.log());
}

#[tokio::test]
async fn a_token_is_renewed_until_its_maximum_lifetime() {
    let (bao, _) = Bao::with_key().await;
    bao.delete("", "sys/auth/approle").await;
    let lifetimes = json!({ "token_ttl": "2s", "token_max_ttl": "5s" });
    let credentials = bao.credentials("", &policy("transit", "k"), lifetimes).await;
    let plugin = Plan::new(&bao, &credentials).with("zap-log-level", "debug").start();
    plugin.ready().await;
    eventually("a renewal", async || plugin.log().contains("token renewed")).await;
    eventually("a login", async || plugin.log().contains("logged in again")).await;
    plugin.ready().await;
}

#[tokio::test]
async fn no_credential_is_logged_at_any_level() {
    let (bao, credentials) = Bao::with_key().await;
    let plugin = Plan::new(&bao, &credentials).with("zap-log-level", "9").start();
    plugin.ready().await;
    let log = plugin.log();
    assert!(log.contains("keyward-probe-"), "debug lines contain the uid:\n{log}");
    // Tokens of OpenBao begin with `s.`, of Vault with `hvs.`; ciphertext with `vault:`.
    let leaks = |word: &&str| {
        let secret = ["s.", "hvs.", "vault:"].iter().any(|start| word.starts_with(start));
        secret || word.contains(&credentials.secret_id)
    };
    assert_eq!(log.split(['"', ' ', '/']).find(leaks), None, "{log}");
}
