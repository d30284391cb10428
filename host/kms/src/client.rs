//! One connection to one plugin, with a deadline for each call. Every answer is checked against the API's
//! rules.

use std::{
    collections::BTreeMap,
    error::Error,
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::{
    ConnectError, Request, Response, Status, TimeoutExpired,
    transport::{Channel, Endpoint},
};
use zeroize::Zeroizing;

use crate::{
    error::{KmsError, Phase},
    rules, text,
    v2::{
        self, DecryptRequest, EncryptRequest, StatusRequest,
        key_management_service_client::KeyManagementServiceClient,
    },
};

/// Far more than a valid answer needs (32 KiB of annotations), and still harmless.
const MAX_ANSWER_BYTES: usize = 256 * 1024;

/// How long to wait for a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For connecting to the socket.
    pub connect: Duration,
    /// For each call. The plugin receives it too. API servers use 3 s unless configured otherwise.
    pub call: Duration,
}

/// A plugin's answer to Status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusAnswer {
    /// `v2` or `v2beta1`. Not checked while the plugin is unhealthy.
    pub version: String,
    /// `ok`, or the reason why the plugin is unhealthy. Cleaned, and never empty.
    pub healthz: String,
    /// The remote key id in use. While the plugin is unhealthy, it is not checked and may be empty.
    pub remote_key_id: String,
}

impl StatusAnswer {
    /// Whether an API server would consider the plugin healthy.
    pub fn is_healthy(&self) -> bool {
        self.healthz == "ok"
    }
}

/// The answer of Encrypt. It has everything that Decrypt needs.
#[derive(Clone, PartialEq, Eq)]
pub struct Encrypted {
    /// The wrapped bytes.
    pub ciphertext: Vec<u8>,
    /// The KEK, with its version, that wrapped them.
    pub remote_key_id: String,
    /// The annotations that Decrypt must receive with them.
    pub annotations: BTreeMap<String, Vec<u8>>,
}

impl fmt::Debug for Encrypted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encrypted")
            .field("ciphertext", &v2::Sized(&self.ciphertext))
            .field("remote_key_id", &self.remote_key_id)
            .field("annotations", &self.annotations.keys())
            .finish()
    }
}

/// A connection to one plugin. Clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    rpc: KeyManagementServiceClient<Channel>,
    socket: PathBuf,
    call_timeout: Duration,
    /// The first version that Status named.
    version: Arc<OnceLock<String>>,
}

impl Client {
    /// Connects to the plugin that listens on the Unix socket `socket`.
    ///
    /// It makes no call, so only the first call finds a listener that never answers. If the plugin stops,
    /// later calls connect again.
    ///
    /// # Errors
    /// [`KmsError::Unreachable`] if there is no socket or nothing accepts; [`KmsError::Timeout`] if
    /// connecting takes too long.
    pub async fn connect(socket: &Path, timeouts: Timeouts) -> Result<Self, KmsError> {
        let path = socket.to_owned();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
        });
        // The URI names no host. It sets the `:authority` header that gRPC uses over Unix sockets.
        let endpoint = Endpoint::from_static("http://localhost");
        let connecting = endpoint.connect_with_connector(connector);
        match tokio::time::timeout(timeouts.connect, connecting).await {
            Ok(Ok(channel)) => Ok(Self {
                rpc: KeyManagementServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES),
                socket: socket.to_owned(),
                call_timeout: timeouts.call,
                version: Arc::default(),
            }),
            Ok(Err(error)) => {
                Err(KmsError::Unreachable { socket: socket.to_owned(), reason: innermost(&error) })
            }
            Err(_) => Err(KmsError::Timeout { phase: Phase::Start, after: timeouts.connect }),
        }
    }

    /// The same connection with another deadline for each call.
    pub(crate) fn with_call_timeout(&self, call_timeout: Duration) -> Self {
        Self { call_timeout, ..self.clone() }
    }

    /// Calls Status. The answer of an unhealthy plugin is not an error: its reason matters more than whether
    /// the rest of the answer is valid.
    ///
    /// # Errors
    /// The call failed, or the answer breaks a rule: the version is unknown or differs from an earlier one,
    /// or no API server accepts the `key_id`.
    pub async fn status(&self) -> Result<StatusAnswer, KmsError> {
        let request = self.request(StatusRequest {});
        let mut rpc = self.rpc.clone();
        let answer = self.call(Phase::Status, &[], rpc.status(request)).await?;
        let healthz = match text::clean(&answer.healthz, &[]) {
            empty if empty.is_empty() => "the plugin gives no reason (healthz is empty)".to_owned(),
            // Cleaning must not make a plugin healthy.
            ok if ok == "ok" && answer.healthz != "ok" => format!("healthz is {:?}", answer.healthz),
            text => text,
        };
        if healthz != "ok" {
            let version = text::id(&answer.version);
            return Ok(StatusAnswer { version, healthz, remote_key_id: text::id(&answer.key_id) });
        }
        self.check_version(&answer.version)?;
        rules::key_id(Phase::Status, &answer.key_id)?;
        Ok(StatusAnswer { version: answer.version, healthz, remote_key_id: answer.key_id })
    }

    /// Wraps `plaintext` under the plugin's KEK. `uid` is for the plugin's log.
    ///
    /// # Errors
    /// The call failed, or the answer breaks a rule: no API server accepts its `key_id`, ciphertext or
    /// annotations, or the ciphertext equals the plaintext.
    pub async fn encrypt(&self, uid: &str, plaintext: &[u8]) -> Result<Encrypted, KmsError> {
        let request = self.request(EncryptRequest { plaintext: plaintext.to_vec(), uid: uid.to_owned() });
        let mut rpc = self.rpc.clone();
        let answer = self.call(Phase::Encrypt, &[plaintext], rpc.encrypt(request)).await?;
        rules::ciphertext(&answer.ciphertext, plaintext)?;
        rules::key_id(Phase::Encrypt, &answer.key_id)?;
        rules::annotations(&answer.annotations)?;
        Ok(Encrypted {
            ciphertext: answer.ciphertext,
            remote_key_id: answer.key_id,
            annotations: answer.annotations,
        })
    }

    /// Unwraps a ciphertext that [`encrypt`](Self::encrypt) returned, from this plugin or an earlier
    /// instance.
    ///
    /// # Errors
    /// The call failed.
    pub async fn decrypt(&self, uid: &str, encrypted: &Encrypted) -> Result<Zeroizing<Vec<u8>>, KmsError> {
        self.decrypt_in(Phase::Decrypt, uid, encrypted).await
    }

    /// [`decrypt`](Self::decrypt), with `phase` in its errors.
    pub(crate) async fn decrypt_in(
        &self,
        phase: Phase,
        uid: &str,
        encrypted: &Encrypted,
    ) -> Result<Zeroizing<Vec<u8>>, KmsError> {
        let request = self.request(DecryptRequest {
            ciphertext: encrypted.ciphertext.clone(),
            uid: uid.to_owned(),
            key_id: encrypted.remote_key_id.clone(),
            annotations: encrypted.annotations.clone(),
        });
        let mut rpc = self.rpc.clone();
        let mut answer = self.call(phase, &[&encrypted.ciphertext], rpc.decrypt(request)).await?;
        Ok(Zeroizing::new(std::mem::take(&mut answer.plaintext)))
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.call_timeout);
        request
    }

    /// Waits for an answer until the deadline. The error does not quote any of `blobs`.
    async fn call<T>(
        &self,
        phase: Phase,
        blobs: &[&[u8]],
        answer: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, KmsError> {
        match tokio::time::timeout(self.call_timeout, answer).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.classify(phase, blobs, &status)),
            Err(_) => Err(KmsError::Timeout { phase, after: self.call_timeout }),
        }
    }

    /// A status without a source is from the plugin. A status with a source is from this side of the socket.
    fn classify(&self, phase: Phase, blobs: &[&[u8]], status: &Status) -> KmsError {
        let rpc = |message: &str| match text::clean(message, blobs) {
            empty if empty.is_empty() => {
                KmsError::Rpc { phase, code: status.code(), message: "the plugin gives no reason".to_owned() }
            }
            message => KmsError::Rpc { phase, code: status.code(), message },
        };
        match status.source() {
            None => rpc(status.message()),
            Some(source) if in_chain::<TimeoutExpired>(source) => {
                KmsError::Timeout { phase, after: self.call_timeout }
            }
            Some(source) if in_chain::<ConnectError>(source) => {
                KmsError::Unreachable { socket: self.socket.clone(), reason: innermost(source) }
            }
            Some(source) => rpc(&format!("the connection to the plugin failed: {}", innermost(source))),
        }
    }

    fn check_version(&self, version: &str) -> Result<(), KmsError> {
        rules::version(version)?;
        let first = self.version.get_or_init(|| version.to_owned());
        if first == version {
            return Ok(());
        }
        Err(KmsError::VersionChanged { before: first.clone(), now: version.to_owned() })
    }
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

fn in_chain<E: Error + 'static>(error: &(dyn Error + 'static)) -> bool {
    chain(error).any(<dyn Error>::is::<E>)
}

/// The innermost cause names the failure ("No such file or directory"). The outer layers add nothing.
fn innermost(error: &(dyn Error + 'static)) -> String {
    chain(error).last().map_or_else(|| error.to_string(), ToString::to_string)
}
