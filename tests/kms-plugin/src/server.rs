//! The KMS v2 service: each call is one or two requests to Transit.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use keyward_kms::v2::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse,
    key_management_service_server::KeyManagementService,
};
use tonic::{Code, Request, Response, Status};
use tracing::{debug, info, warn};

use crate::{error::BackendError, metrics::Metrics, transit::Transit};

/// The service, shared by all connections.
#[derive(Debug)]
pub(crate) struct Kms {
    transit: Arc<Transit>,
    metrics: Arc<Metrics>,
    /// The last known key id. Status returns it while Vault does not respond; a change of it is a rotation.
    key_id: Mutex<String>,
}

impl Kms {
    pub(crate) fn new(transit: Arc<Transit>, metrics: Arc<Metrics>) -> Self {
        Self { transit, metrics, key_id: Mutex::default() }
    }

    fn remember(&self, key_id: &str) {
        let mut known = self.key_id.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != key_id {
            info!(key_id, before = *known, "the key in use");
            key_id.clone_into(&mut known);
        }
    }

    fn remembered(&self) -> String {
        self.key_id.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts and logs a call.
    fn ended(&self, operation: &'static str, uid: &str, began: Instant, error: Option<&BackendError>) {
        let code = error.map_or(Code::Ok, BackendError::code);
        self.metrics.record(operation, code, began);
        match error {
            None => debug!(operation, uid, took = ?began.elapsed(), "done"),
            Some(error) => warn!(operation, uid, ?code, %error, "failed"),
        }
    }
}

#[tonic::async_trait]
impl KeyManagementService for Kms {
    /// Answers also if Vault does not respond: `healthz` then contains the reason, and the key id is the last
    /// known one.
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let began = Instant::now();
        let read = self.transit.key_id().await;
        self.ended("status", "", began, read.as_ref().err());
        let (healthz, key_id) = match read {
            Ok(key_id) => {
                self.remember(&key_id);
                ("ok".to_owned(), key_id)
            }
            Err(error) => (error.to_string(), self.remembered()),
        };
        Ok(Response::new(StatusResponse { version: "v2".to_owned(), healthz, key_id }))
    }

    async fn encrypt(&self, request: Request<EncryptRequest>) -> Result<Response<EncryptResponse>, Status> {
        let began = Instant::now();
        let request = request.into_inner();
        let wrapped = self.transit.encrypt(&request.plaintext).await;
        self.ended("encrypt", &request.uid, began, wrapped.as_ref().err());
        let wrapped = wrapped?;
        Ok(Response::new(EncryptResponse {
            ciphertext: wrapped.ciphertext.into_bytes(),
            key_id: wrapped.key_id,
            annotations: BTreeMap::new(),
        }))
    }

    /// Transit's ciphertext contains the version, so neither key id nor annotations are needed: the
    /// configured key decrypts the ciphertexts of all of its versions, and no others.
    async fn decrypt(&self, request: Request<DecryptRequest>) -> Result<Response<DecryptResponse>, Status> {
        let began = Instant::now();
        let request = request.into_inner();
        let plaintext = self.transit.decrypt(&request.ciphertext).await;
        self.ended("decrypt", &request.uid, began, plaintext.as_ref().err());
        Ok(Response::new(DecryptResponse { plaintext: std::mem::take(&mut *plaintext?) }))
    }
}
