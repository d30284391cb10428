//! AppRole login and the token: a token is renewed at two thirds of its lease. It is replaced by a new login
//! if the renewal is refused, if its maximum lifetime is near, or if Vault does not know it any more.

use std::{sync::Arc, time::Duration};

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, sleep_until},
};
use tracing::{debug, info, warn};

use crate::{
    api::{Api, Call},
    error::BackendError,
    settings::{Secret, Settings},
};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often a token that never expires is checked again.
const IDLE: Duration = Duration::from_hours(1);

/// A client of Vault with a login.
#[derive(Debug)]
pub(crate) struct Session {
    api: Api,
    role: AppRole,
    token: Mutex<Arc<Token>>,
}

#[derive(Debug)]
struct AppRole {
    namespace: String,
    mount: String,
    role_id: String,
    secret_id: Secret,
}

#[derive(Debug)]
struct Token {
    secret: Secret,
    obtained: Instant,
    /// Zero if the token never expires.
    lease: Duration,
    renewable: bool,
}

/// The part of a response that contains a token.
#[derive(Deserialize)]
struct Answer {
    auth: Granted,
}

#[derive(Deserialize)]
struct Granted {
    client_token: String,
    lease_duration: u64,
    renewable: bool,
}

impl Session {
    /// Logs in. While Vault is unavailable, sealed or busy, it retries until `-vault-connection-timeout`. A
    /// refusal is final: retries with the same credentials would only lock the role out.
    pub(crate) async fn begin(api: Api, settings: &Settings) -> Result<Self, BackendError> {
        let role = AppRole {
            namespace: settings.auth_namespace.clone(),
            mount: settings.auth_mount.clone(),
            role_id: settings.role_id.clone(),
            secret_id: settings.secret_id.clone(),
        };
        let end = Instant::now() + settings.timeout;
        let mut pause = FIRST_PAUSE;
        let token = loop {
            match role.login(&api).await {
                Ok(token) => break token,
                Err(error) if error.is_transient() && Instant::now() + pause < end => {
                    warn!(%error, "not logged in yet");
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(error) => return Err(error),
            }
        };
        info!(mount = role.mount, namespace = role.namespace, lease = ?token.lease, "logged in");
        Ok(Self { api, role, token: Mutex::new(Arc::new(token)) })
    }

    /// Makes a request with the current token, and repeats it with a new one if Vault no longer knows the
    /// token.
    pub(crate) async fn call(&self, call: &Call<'_>) -> Result<Value, BackendError> {
        let token = self.token.lock().await.clone();
        match self.api.call(call, Some(&token.secret)).await {
            Err(error) if error.is_permission_denied() && !self.is_known(&token).await => {
                let token = self.replace(&token).await?;
                self.api.call(call, Some(&token.secret)).await
            }
            answer => answer,
        }
    }

    /// Renews the token, for ever.
    pub(crate) async fn keep(&self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let token = self.token.lock().await.clone();
            if token.lease.is_zero() {
                sleep(IDLE).await;
                continue;
            }
            sleep_until(token.obtained + token.lease * 2 / 3).await;
            if !Arc::ptr_eq(&token, &*self.token.lock().await) {
                continue;
            }
            match self.renew(&token).await {
                Ok(()) => pause = FIRST_PAUSE,
                Err(error) => {
                    warn!(%error, "the token was neither renewed nor replaced");
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// A policy that denies and a token that has expired cause the same error; only a lookup of the token
    /// distinguishes them.
    async fn is_known(&self, token: &Token) -> bool {
        let look = self.token_call("look up the token", Method::GET, "auth/token/lookup-self");
        match self.api.call(&look, Some(&token.secret)).await {
            Err(error) => !error.is_permission_denied(),
            Ok(_) => true,
        }
    }

    async fn renew(&self, token: &Arc<Token>) -> Result<(), BackendError> {
        if token.renewable {
            let renew = self.token_call("renew the token", Method::POST, "auth/token/renew-self");
            let answer = self.api.call(&renew, Some(&token.secret)).await;
            match answer.and_then(|answer| Token::of(renew.what, answer)) {
                // A shrinking lease means that the token's maximum lifetime is near.
                Ok(renewed) if renewed.lease * 2 > token.lease => {
                    debug!(lease = ?renewed.lease, "token renewed");
                    let mut current = self.token.lock().await;
                    if Arc::ptr_eq(&current, token) {
                        *current = Arc::new(renewed);
                    }
                    return Ok(());
                }
                Ok(_) => {}
                Err(error) => warn!(%error, "logging in again"),
            }
        }
        self.replace(token).await.map(drop)
    }

    /// Logs in again, unless another task has replaced `stale` already.
    async fn replace(&self, stale: &Arc<Token>) -> Result<Arc<Token>, BackendError> {
        let mut current = self.token.lock().await;
        if Arc::ptr_eq(&current, stale) {
            *current = Arc::new(self.role.login(&self.api).await?);
            info!(lease = ?current.lease, "logged in again");
        }
        Ok(current.clone())
    }

    /// A token belongs to the namespace of its login.
    fn token_call(&self, what: &'static str, method: Method, path: &'static str) -> Call<'_> {
        Call { what, method, path, namespace: &self.role.namespace, body: None }
    }
}

impl AppRole {
    async fn login(&self, api: &Api) -> Result<Token, BackendError> {
        let body = json!({ "role_id": self.role_id, "secret_id": self.secret_id.reveal() });
        let login = Call {
            what: "log in by AppRole",
            method: Method::PUT,
            path: &format!("auth/{}/login", self.mount),
            namespace: &self.namespace,
            body: Some(&body),
        };
        Token::of(login.what, api.call(&login, None).await?)
    }
}

impl Token {
    fn of(what: &'static str, answer: Value) -> Result<Self, BackendError> {
        // serde's errors quote values of a wrong type, and this response contains a token.
        let answer: Answer = serde_json::from_value(answer).map_err(|_| BackendError::Unexpected {
            what,
            reason: "the response contains no token".into(),
        })?;
        Ok(Self {
            secret: Secret::new(answer.auth.client_token),
            obtained: Instant::now(),
            lease: Duration::from_secs(answer.auth.lease_duration),
            renewable: answer.auth.renewable,
        })
    }
}
