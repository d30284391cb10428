//! OpenBao as the tests use it: permissions, namespaces, keys, outages.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails at the first error")]

use anyhow::Result;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use keyward_test_cluster::{AppRole, Bao, Policy, Tools};
use serde_json::{Value, json};

/// A plugin's client, with the token of an AppRole login.
struct Plugin {
    http: reqwest::Client,
    base: String,
    token: String,
}

impl Plugin {
    async fn login(bao: &Bao, namespace: &str, role: &AppRole) -> Result<Self> {
        let ca = reqwest::Certificate::from_pem(bao.ca_pem().as_bytes())?;
        let http = reqwest::Client::builder().tls_certs_only([ca]).no_proxy().build()?;
        let plugin = Self { http, base: format!("{}/v1/{namespace}", bao.address()), token: String::new() };
        let body = json!({"role_id": role.role_id, "secret_id": role.secret_id.reveal()});
        let answer = plugin.post("auth/approle/login", &body).await?;
        let token = answer["auth"]["client_token"].as_str().unwrap_or_default().to_owned();
        Ok(Self { token, ..plugin })
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let request = self.http.post(format!("{}/{path}", self.base)).header("X-Vault-Token", &self.token);
        Ok(request.json(body).send().await?.error_for_status()?.json().await?)
    }

    async fn encrypt(&self, key: &str) -> Result<String> {
        let body = json!({"plaintext": BASE64_STANDARD.encode("hello")});
        let answer = self.post(&format!("transit/encrypt/{key}"), &body).await?;
        Ok(answer["data"]["ciphertext"].as_str().unwrap_or_default().to_owned())
    }

    async fn decrypt(&self, key: &str, ciphertext: &str) -> Result<Vec<u8>> {
        let answer = self.post(&format!("transit/decrypt/{key}"), &json!({"ciphertext": ciphertext})).await?;
        Ok(BASE64_STANDARD.decode(answer["data"]["plaintext"].as_str().unwrap_or_default())?)
    }
}

#[tokio::test]
async fn a_role_has_exactly_the_permissions_of_its_policy() -> Result<()> {
    let bao = Bao::start(&Tools::here()).await?;
    bao.create_namespace("team-a").await?;
    bao.mount_transit("team-a", "transit").await?;
    for key in ["k", "other"] {
        bao.create_key("team-a", "transit", key).await?;
    }
    let keys = ["transit/keys/k"];
    let role = bao.policy_and_approle("team-a", "keyward", &keys).await?;
    assert!(!format!("{role:?}").contains(role.secret_id.reveal()), "{role:?}");
    let plugin = Plugin::login(&bao, "team-a/", &role).await?;

    let first = plugin.encrypt("k").await?;
    assert!(first.starts_with("vault:v1:"), "{first}");
    assert!(plugin.encrypt("other").await.is_err(), "another key");
    bao.rotate_key("team-a", "transit", "k").await?;
    assert!(plugin.encrypt("k").await?.starts_with("vault:v2:"));
    assert_eq!(plugin.decrypt("k", &first).await?, b"hello");

    // Often only decrypt is allowed for old KEKs.
    bao.set_policy("team-a", "keyward", &keys, Policy { encrypt: false, ..Policy::FULL }).await?;
    assert!(plugin.encrypt("k").await.is_err());
    assert_eq!(plugin.decrypt("k", &first).await?, b"hello");

    let second = AppRole { secret_id: bao.new_secret_id("team-a", "keyward").await?, ..role.clone() };
    bao.revoke_secret_id("team-a", "keyward", &role.secret_id).await?;
    assert!(Plugin::login(&bao, "team-a/", &role).await.is_err());
    assert!(Plugin::login(&bao, "team-a/", &second).await.is_ok());
    bao.revoke_tokens("team-a").await?;
    assert!(plugin.decrypt("k", &first).await.is_err());

    let plugin = Plugin::login(&bao, "team-a/", &second).await?;
    bao.seal().await?;
    assert!(plugin.decrypt("k", &first).await.unwrap_err().to_string().contains("503"));
    bao.unseal().await?;
    assert_eq!(plugin.decrypt("k", &first).await?, b"hello");
    bao.delete_key("team-a", "transit", "k").await?;
    assert!(plugin.decrypt("k", &first).await.is_err());
    Ok(())
}

#[tokio::test]
async fn a_durable_server_has_its_keys_after_a_restart() -> Result<()> {
    let mut bao = Bao::start_durable(&Tools::here()).await?;
    bao.mount_transit("", "transit").await?;
    bao.create_key("", "transit", "k").await?;
    let role = bao.policy_and_approle("", "keyward", &["transit/keys/k"]).await?;
    let plugin = Plugin::login(&bao, "", &role).await?;
    let ciphertext = plugin.encrypt("k").await?;
    bao.stop();
    assert!(plugin.decrypt("k", &ciphertext).await.unwrap_err().to_string().contains("sending request"));
    bao.start_again().await?;
    assert_eq!(plugin.decrypt("k", &ciphertext).await?, b"hello");
    assert!(bao.start_again().await.is_err(), "it runs already");

    let mut memory = Bao::start(&Tools::here()).await?;
    memory.stop();
    assert!(memory.start_again().await.unwrap_err().to_string().contains("in memory"));
    Ok(())
}
