//! The tasks of a KMS admin: namespaces, Transit keys, AppRoles and their permissions.

use anyhow::{Context, Result};
use reqwest::Method;
use serde_json::{Value, json};

use super::Bao;
use crate::hidden::Hidden;

/// The credentials that a plugin logs in with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppRole {
    /// Not a secret: arguments may contain it.
    pub role_id: String,
    /// The secret.
    pub secret_id: Hidden,
}

/// The permissions of an AppRole for its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "KMS admins grant these four permissions separately")]
pub struct Policy {
    /// Encrypt.
    pub encrypt: bool,
    /// Decrypt.
    pub decrypt: bool,
    /// Read the key's versions.
    pub read: bool,
    /// Read the license status, which HashiCorp's plugin requests.
    pub license: bool,
}

impl Policy {
    /// All permissions that a KMS plugin needs.
    pub const FULL: Self = Self { encrypt: true, decrypt: true, read: true, license: true };

    /// The policy's text for keys given as `MOUNT/keys/NAME`.
    fn text(self, keys: &[&str]) -> Result<String> {
        let mut allowed = Vec::new();
        for key in keys {
            let (mount, name) =
                key.rsplit_once("/keys/").with_context(|| format!("{key} is not MOUNT/keys/NAME"))?;
            if self.encrypt {
                allowed.push((format!("{mount}/encrypt/{name}"), "update"));
            }
            if self.decrypt {
                allowed.push((format!("{mount}/decrypt/{name}"), "update"));
            }
            if self.read {
                allowed.push(((*key).to_owned(), "read"));
            }
        }
        if self.license {
            allowed.push(("sys/license/status".to_owned(), "read"));
        }
        let rule = |(path, capability)| format!("path \"{path}\" {{ capabilities = [\"{capability}\"] }}\n");
        Ok(allowed.into_iter().map(rule).collect())
    }
}

impl Bao {
    /// Creates a namespace. (Vault has them in its Enterprise edition only.)
    pub async fn create_namespace(&self, namespace: &str) -> Result<()> {
        self.request(Method::POST, &format!("sys/namespaces/{namespace}"), Some(&json!({}))).await.map(drop)
    }

    /// Mounts a Transit engine. An empty namespace is the root.
    pub async fn mount_transit(&self, namespace: &str, mount: &str) -> Result<()> {
        self.post(namespace, &format!("sys/mounts/{mount}"), &json!({"type": "transit"})).await
    }

    /// Creates a Transit key, AES-256-GCM, version 1.
    pub async fn create_key(&self, namespace: &str, mount: &str, name: &str) -> Result<()> {
        self.post(namespace, &format!("{mount}/keys/{name}"), &json!({"type": "aes256-gcm96"})).await
    }

    /// Makes the key's next version.
    pub async fn rotate_key(&self, namespace: &str, mount: &str, name: &str) -> Result<()> {
        self.post(namespace, &format!("{mount}/keys/{name}/rotate"), &json!({})).await
    }

    /// Deletes a key with all of its versions.
    pub async fn delete_key(&self, namespace: &str, mount: &str, name: &str) -> Result<()> {
        let key = format!("{mount}/keys/{name}");
        self.post(namespace, &format!("{key}/config"), &json!({"deletion_allowed": true})).await?;
        self.request(Method::DELETE, &within(namespace, &key), None).await.map(drop)
    }

    /// A backup of the key with all of its versions, to restore it after a delete.
    pub async fn backup_key(&self, namespace: &str, mount: &str, name: &str) -> Result<Hidden> {
        let allowed = json!({"exportable": true, "allow_plaintext_backup": true});
        self.post(namespace, &format!("{mount}/keys/{name}/config"), &allowed).await?;
        let path = within(namespace, &format!("{mount}/backup/{name}"));
        let answer = self.request(Method::GET, &path, None).await?;
        answer.pointer("/data/backup").and_then(Value::as_str).map(Hidden::new).context("no backup")
    }

    /// Restores a key under its name, which must be free.
    pub async fn restore_key(&self, namespace: &str, mount: &str, name: &str, backup: &Hidden) -> Result<()> {
        let body = json!({"backup": backup.reveal()});
        self.post(namespace, &format!("{mount}/restore/{name}"), &body).await
    }

    /// Creates an AppRole with all permissions that a plugin needs for these keys (`MOUNT/keys/NAME`).
    pub async fn policy_and_approle(&self, namespace: &str, role: &str, keys: &[&str]) -> Result<AppRole> {
        self.set_policy(namespace, role, keys, Policy::FULL).await?;
        let enabled = self.post(namespace, "sys/auth/approle", &json!({"type": "approle"})).await;
        match enabled {
            Err(error) if !error.to_string().contains("already in use") => return Err(error),
            _ => {}
        }
        let settings = json!({"token_policies": [role], "token_ttl": "1h", "secret_id_num_uses": 0});
        self.post(namespace, &format!("auth/approle/role/{role}"), &settings).await?;
        let path = within(namespace, &format!("auth/approle/role/{role}/role-id"));
        let answer = self.request(Method::GET, &path, None).await?;
        let role_id =
            answer.pointer("/data/role_id").and_then(Value::as_str).context("no role_id")?.to_owned();
        Ok(AppRole { role_id, secret_id: self.new_secret_id(namespace, role).await? })
    }

    /// Changes the permissions of an AppRole; they apply at once to the tokens that it has.
    pub async fn set_policy(&self, namespace: &str, role: &str, keys: &[&str], policy: Policy) -> Result<()> {
        let text = json!({"policy": policy.text(keys)?});
        self.post(namespace, &format!("sys/policies/acl/{role}"), &text).await
    }

    /// Changes the permissions of an AppRole for each of these keys, given as `MOUNT/keys/NAME`.
    pub async fn set_policies(&self, namespace: &str, role: &str, keys: &[(&str, Policy)]) -> Result<()> {
        let rules: Vec<String> =
            keys.iter().map(|(key, policy)| policy.text(&[*key])).collect::<Result<_>>()?;
        let text = json!({"policy": rules.concat()});
        self.post(namespace, &format!("sys/policies/acl/{role}"), &text).await
    }

    /// Another secret-id of a role; the previous ones stay valid.
    pub async fn new_secret_id(&self, namespace: &str, role: &str) -> Result<Hidden> {
        let path = within(namespace, &format!("auth/approle/role/{role}/secret-id"));
        let answer = self.request(Method::POST, &path, Some(&json!({}))).await?;
        answer.pointer("/data/secret_id").and_then(Value::as_str).map(Hidden::new).context("no secret_id")
    }

    /// Destroys a secret-id: no further login with it succeeds.
    pub async fn revoke_secret_id(&self, namespace: &str, role: &str, secret_id: &Hidden) -> Result<()> {
        let body = json!({"secret_id": secret_id.reveal()});
        self.post(namespace, &format!("auth/approle/role/{role}/secret-id/destroy"), &body).await
    }

    /// Revokes all tokens that AppRole logins returned.
    pub async fn revoke_tokens(&self, namespace: &str) -> Result<()> {
        self.post(namespace, "sys/leases/revoke-prefix/auth/approle/login", &json!({"sync": true})).await
    }

    async fn post(&self, namespace: &str, path: &str, body: &Value) -> Result<()> {
        self.request(Method::POST, &within(namespace, path), Some(body)).await.map(drop)
    }
}

fn within(namespace: &str, path: &str) -> String {
    match namespace.trim_matches('/') {
        "" => path.to_owned(),
        namespace => format!("{namespace}/{path}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_grants_only_the_chosen_permissions() {
        let text = Policy { encrypt: false, license: false, ..Policy::FULL }.text(&["a/b/keys/k"]).unwrap();
        assert_eq!(
            text,
            "path \"a/b/decrypt/k\" { capabilities = [\"update\"] }\n\
             path \"a/b/keys/k\" { capabilities = [\"read\"] }\n"
        );
        assert!(Policy::FULL.text(&["k"]).is_err());
    }

    #[test]
    fn paths_begin_with_their_namespace() {
        assert_eq!(within("", "sys/mounts/t"), "sys/mounts/t");
        assert_eq!(within("team-a/", "sys/mounts/t"), "team-a/sys/mounts/t");
    }
}
