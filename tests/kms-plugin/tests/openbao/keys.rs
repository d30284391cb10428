//! Encryption and decryption, the keys that are used, and their remote key ids.

use serde_json::json;

use crate::{
    bao::{Bao, eventually, policy},
    plugin::{Plan, ROUND_TRIP, STATUS},
};

#[tokio::test]
async fn one_instance_decrypts_the_ciphertext_of_another() {
    let (bao, credentials) = Bao::with_key().await;
    let first = Plan::new(&bao, &credentials).start();
    let status = first.ready().await;
    assert_eq!(status.version, "v2");
    assert!(status.remote_key_id.starts_with("transit/keys/k@v1#"), "{status:?}");
    let key_check = first.key_check().await;
    assert!(key_check.ciphertext.starts_with(b"vault:v1:"));
    drop(first);

    let second = Plan::new(&bao, &credentials).start();
    assert_eq!(second.ready().await, status);
    assert_eq!(second.decrypts(&key_check).await, Ok(()));
}

#[tokio::test]
async fn a_rotation_changes_the_key_id_and_old_ciphertext_stays_readable() {
    let (bao, credentials) = Bao::with_key().await;
    let plugin = Plan::new(&bao, &credentials).start();
    let before = plugin.ready().await.remote_key_id;
    let key_check = plugin.key_check().await;

    bao.post("", "transit/keys/k/rotate", json!({})).await;
    let after = plugin.ready().await.remote_key_id;
    assert_ne!(before, after);
    assert!(after.starts_with("transit/keys/k@v2#"), "{after}");
    assert!(plugin.key_check().await.ciphertext.starts_with(b"vault:v2:"));
    assert_eq!(plugin.decrypts(&key_check).await, Ok(()));
}

#[tokio::test]
async fn a_key_that_was_created_again_under_its_name_is_another_key() {
    let (bao, credentials) = Bao::with_key().await;
    let plugin = Plan::new(&bao, &credentials).start();
    let before = plugin.ready().await.remote_key_id;
    let key_check = plugin.key_check().await;

    let made = |key: &serde_json::Value| key.pointer("/data/keys/1").cloned();
    let first = made(&bao.get("", "transit/keys/k").await);
    // Vault's times are whole seconds.
    eventually("a key of another second", async || {
        bao.post("", "transit/keys/k/config", json!({ "deletion_allowed": true })).await;
        bao.delete("", "transit/keys/k").await;
        bao.post("", "transit/keys/k", json!({})).await;
        made(&bao.get("", "transit/keys/k").await) != first
    })
    .await;

    let after = plugin.ready().await.remote_key_id;
    assert_ne!(before, after);
    let error = plugin.decrypts(&key_check).await.unwrap_err();
    assert_eq!(error.category(), "KEKMismatch");
    assert!(error.to_string().contains("cipher: message authentication failed"), "{error}");
}

#[tokio::test]
async fn a_key_that_does_not_exist_is_unhealthy_and_is_not_created() {
    let (bao, credentials) = Bao::with_key().await;
    // Even if the policy allows encrypt to create it.
    let generous = policy("transit", "+").replace("\"update\"", "\"create\", \"update\"");
    bao.set_policy("", &generous).await;
    let plugin =
        Plan::new(&bao, &credentials).with("vault-key-path", "transit/keys/wrong").start_answering().await;
    let error = plugin.failure(&STATUS).await;
    assert_eq!(error.category(), "PluginUnhealthy");
    assert!(error.to_string().contains("/v1/transit/keys/wrong Code: 404. Errors: * not found"), "{error}");

    let client = keyward_kms::Timeouts { connect: STATUS.call_timeout, call: STATUS.call_timeout };
    let client = keyward_kms::Client::connect(&plugin.socket, client).await.unwrap();
    let error = client.encrypt("uid", &[7; 32]).await.unwrap_err();
    assert_eq!(error.grpc_code(), Some(5), "{error}");

    bao.post("", "transit/keys/wrong", json!({})).await;
    let status = plugin.ready().await;
    assert!(status.remote_key_id.starts_with("transit/keys/wrong@v1#"), "{status:?}");
}

#[tokio::test]
async fn key_and_login_can_be_in_namespaces() {
    let bao = Bao::start().await;
    bao.post("", "sys/namespaces/org", json!({})).await;
    bao.post("org", "sys/namespaces/team", json!({})).await;
    for namespace in ["org", "org/team"] {
        bao.mount_transit(namespace).await;
        bao.post(namespace, "transit/keys/k", json!({})).await;
    }

    // Without an auth namespace, the login is in the key's namespace.
    let own = bao.credentials("org/team", &policy("transit", "k"), json!({})).await;
    let plugin = Plan::new(&bao, &own).with("vault-namespace", "org/team").start();
    let status = plugin.ready().await;
    assert!(status.remote_key_id.starts_with("org/team/transit/keys/k@v1#"), "{status:?}");
    let key_check = plugin.key_check().await;

    // A login in the parent namespace, for the same key.
    let parents = bao.credentials("org", &policy("team/transit", "k"), json!({})).await;
    let plan = Plan::new(&bao, &parents).with("vault-namespace", "/org/team/");
    let plugin = plan.with("vault-auth-namespace", "org").start();
    assert_eq!(plugin.ready().await, status);
    assert_eq!(plugin.decrypts(&key_check).await, Ok(()));

    // The same name in another namespace is another key.
    bao.set_policy("org", &policy("transit", "k")).await;
    let plugin = Plan::new(&bao, &parents).with("vault-namespace", "org").start();
    assert!(plugin.ready().await.remote_key_id.starts_with("org/transit/keys/k@v1#"));
    assert_eq!(plugin.decrypts(&key_check).await.unwrap_err().category(), "KEKMismatch");
    assert_eq!(plugin.probe(&ROUND_TRIP).await.result, Ok(()));
}
