//! Logins and policies: refused, expired, mended.

use serde_json::json;

use crate::{
    bao::{Bao, Credentials, eventually, policy},
    plugin::{Plan, ROUND_TRIP, STATUS},
};

#[tokio::test]
async fn a_wrong_secret_id_ends_the_plugin_at_once() {
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
    assert_eq!(log.lines().count(), 1, "it asked more than once:\n{log}");
}

#[tokio::test]
async fn a_wrong_auth_mount_ends_the_plugin() {
    let (bao, credentials) = Bao::with_key().await;
    let mut plugin = Plan::new(&bao, &credentials).with("auth-mount", "elsewhere").start();
    assert_eq!(plugin.ended().await.code(), Some(1));
    // Nobody is told without a token what is mounted where.
    assert!(plugin.log().contains("Code: 403. Errors:\\n\\n* permission denied"), "{}", plugin.log());
}

#[tokio::test]
async fn what_the_policy_lacks_is_said_and_mended_without_a_restart() {
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

    // An old key that may no longer encrypt looks healthy to Status; only the round trip shows it.
    let no_encrypt = policy("transit", "k").replace("transit/encrypt", "transit/none");
    bao.set_policy("", &no_encrypt).await;
    let error = plugin.failure(&ROUND_TRIP).await;
    assert_eq!((error.phase().as_str(), error.grpc_code()), ("encrypt", Some(7)), "{error}");
    assert_eq!(plugin.probe(&STATUS).await.result, Ok(()));

    bao.set_policy("", &policy("transit", "k")).await;
    plugin.ready().await;
    let log = plugin.log();
    assert!(!log.contains("logged in anew"), "a policy is no reason to log in again:\n{log}");
}

#[tokio::test]
async fn a_token_that_was_revoked_is_replaced() {
    let (bao, credentials) = Bao::with_key().await;
    let plugin = Plan::new(&bao, &credentials).start();
    plugin.ready().await;
    bao.post("", "sys/leases/revoke-prefix/auth/approle", json!({})).await;
    assert_eq!(plugin.probe(&ROUND_TRIP).await.result, Ok(()), "{}", plugin.log());
    assert!(plugin.log().contains("logged in anew"), "{}", plugin.log());
}

#[tokio::test]
async fn a_token_is_renewed_until_its_longest_life() {
    let (bao, _) = Bao::with_key().await;
    bao.delete("", "sys/auth/approle").await;
    let lives = json!({ "token_ttl": "2s", "token_max_ttl": "5s" });
    let credentials = bao.credentials("", &policy("transit", "k"), lives).await;
    let plugin = Plan::new(&bao, &credentials).with("zap-log-level", "debug").start();
    plugin.ready().await;
    eventually("a renewal", async || plugin.log().contains("token renewed")).await;
    eventually("a login", async || plugin.log().contains("logged in anew")).await;
    plugin.ready().await;
}

#[tokio::test]
async fn no_credential_is_logged_at_any_level() {
    let (bao, credentials) = Bao::with_key().await;
    let plugin = Plan::new(&bao, &credentials).with("zap-log-level", "9").start();
    plugin.ready().await;
    let log = plugin.log();
    assert!(log.contains("keyward-probe-"), "debug lines name the uid:\n{log}");
    // Tokens of OpenBao begin with `s.`, of Vault with `hvs.`; ciphertext with `vault:`.
    let leaks = |word: &&str| {
        let secret = ["s.", "hvs.", "vault:"].iter().any(|start| word.starts_with(start));
        secret || word.contains(&credentials.secret_id)
    };
    assert_eq!(log.split(['"', ' ', '/']).find(leaks), None, "{log}");
}
