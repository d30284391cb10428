//! One connection to one plugin, with a deadline for each call and every answer held against the API's rules.

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

/// Far above what a lawful answer needs (32 KiB of annotations), far below what would hurt.
const MAX_ANSWER_BYTES: usize = 256 * 1024;

/// How long to wait for a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For connecting to the socket.
    pub connect: Duration,
    /// For each call, told to the plugin too. API servers use 3 s unless configured otherwise.
    pub call: Duration,
}

/// What a plugin says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusAnswer {
    /// `v2` or `v2beta1`; not judged while the plugin is unhealthy.
    pub version: String,
    /// `ok`, or why not; cleaned, and never empty.
    pub healthz: String,
    /// The remote key id in use; not judged while the plugin is unhealthy, and then maybe empty.
    pub remote_key_id: String,
}

impl StatusAnswer {
    /// Whether an API server would take the plugin for healthy.
    pub fn is_healthy(&self) -> bool {
        self.healthz == "ok"
    }
}

/// What Encrypt returned, and all that Decrypt needs.
#[derive(Clone, PartialEq, Eq)]
pub struct Encrypted {
    /// The wrapped bytes.
    pub ciphertext: Vec<u8>,
    /// The KEK, with its version, that wrapped them.
    pub remote_key_id: String,
    /// What the plugin wants back with them.
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
    /// Connects to the plugin that listens on the unix socket `socket`.
    ///
    /// Nothing is asked yet: a listener that never answers is found by the first call. Should the plugin go away, later
    /// calls connect again.
    ///
    /// # Errors
    /// [`KmsError::Unreachable`] where there is no socket or nobody accepts; [`KmsError::Timeout`] where that takes
    /// too long.
    pub async fn connect(socket: &Path, timeouts: Timeouts) -> Result<Self, KmsError> {
        let path = socket.to_owned();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
        });
        // The URI names no host; it gives the `:authority` header, as gRPC over unix sockets has it.
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

    /// The same connection with another deadline of each call.
    pub(crate) fn with_call_timeout(&self, call_timeout: Duration) -> Self {
        Self { call_timeout, ..self.clone() }
    }

    /// Asks how the plugin is. An unhealthy plugin is an answer, not an error: the reason it gives matters more than
    /// whether the rest of the answer is lawful.
    ///
    /// # Errors
    /// The call failed, or the answer breaks a rule: an unknown version, another version than before, a `key_id` that
    /// no API server accepts.
    pub async fn status(&self) -> Result<StatusAnswer, KmsError> {
        let request = self.request(StatusRequest {});
        let mut rpc = self.rpc.clone();
        let answer = self.call(Phase::Status, &[], rpc.status(request)).await?;
        let healthz = match text::clean(&answer.healthz, &[]) {
            empty if empty.is_empty() => "it gives no reason (healthz is empty)".to_owned(),
            // Cleaning must not make a plugin well.
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

    /// Wraps `plaintext` under the plugin's KEK. `uid` goes to the plugin's log.
    ///
    /// # Errors
    /// The call failed, or the answer breaks a rule: `key_id`, ciphertext or annotations that no API server accepts, or
    /// a ciphertext that is the plaintext.
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

    /// Unwraps what [`encrypt`](Self::encrypt) returned, by this plugin or an earlier instance.
    ///
    /// # Errors
    /// The call failed.
    pub async fn decrypt(&self, uid: &str, encrypted: &Encrypted) -> Result<Zeroizing<Vec<u8>>, KmsError> {
        self.decrypt_in(Phase::Decrypt, uid, encrypted).await
    }

    /// [`decrypt`](Self::decrypt), with errors of the given phase.
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

    /// Waits for an answer until the deadline. `blobs` are what the error must not quote.
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

    /// A status without a source came from the plugin; one with a source was made on our side of the socket.
    fn classify(&self, phase: Phase, blobs: &[&[u8]], status: &Status) -> KmsError {
        let rpc = |message: &str| match text::clean(message, blobs) {
            empty if empty.is_empty() => {
                KmsError::Rpc { phase, code: status.code(), message: "it gives no reason".to_owned() }
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

/// The cause at the bottom says what happened ("No such file or directory"); the layers above only that something did.
fn innermost(error: &(dyn Error + 'static)) -> String {
    chain(error).last().map_or_else(|| error.to_string(), ToString::to_string)
}
