//! A KMS v2 plugin that encrypts by XOR with its KEK's byte, with a fault that the test chooses.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use futures::{Stream, stream};
use keyward_kms::v2::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse,
    key_management_service_server::{KeyManagementService, KeyManagementServiceServer},
};
use tempfile::TempDir;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::oneshot,
    task::JoinHandle,
};
use tonic::{Code, Request, Response, Status, transport::Server};

/// The fault of the plugin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    None,
    Healthz(&'static str),
    /// Unhealthy for this number of Status calls.
    UnhealthyUntil(u32),
    Version(&'static str),
    /// `v2` at first, then `v2beta1`.
    VersionFlaps,
    EmptyKeyId,
    LongKeyId,
    EncryptKeyId(&'static str),
    /// The KEK rotates between Status and Encrypt.
    RotatesBeforeEncrypt,
    EncryptEmptyKeyId,
    PlaintextReturned,
    EmptyCiphertext,
    LongCiphertext,
    AnnotationKey(&'static str),
    LongAnnotations(usize),
    WrongRoundTrip,
    /// A decrypt error that quotes the ciphertext.
    QuotesCiphertext,
    StatusError(Code, &'static str),
    EncryptError(Code, &'static str),
    DecryptError(Code, &'static str),
    HangsIn(&'static str),
}

pub(crate) struct Plugin {
    pub(crate) fault: Fault,
    /// The byte that is its KEK.
    pub(crate) kek: u8,
    pub(crate) checks_key: bool,
    pub(crate) statuses: AtomicU32,
    pub(crate) rotated: AtomicU32,
    pub(crate) uids: Mutex<Vec<String>>,
    pub(crate) deadlines: Mutex<Vec<Option<String>>>,
}

impl Plugin {
    pub(crate) fn new(fault: Fault) -> Self {
        Self {
            fault,
            kek: 0x5a,
            checks_key: true,
            statuses: AtomicU32::new(0),
            rotated: AtomicU32::new(1),
            uids: Mutex::default(),
            deadlines: Mutex::default(),
        }
    }

    fn key_id(&self) -> String {
        format!("kek-{:02x}-v{}", self.kek, self.rotated.load(Ordering::SeqCst))
    }

    fn note<T>(&self, uid: &str, request: &Request<T>) {
        self.uids.lock().unwrap().push(uid.to_owned());
        let deadline = request.metadata().get("grpc-timeout").map(|value| value.to_str().unwrap().to_owned());
        self.deadlines.lock().unwrap().push(deadline);
    }

    async fn hang_in(&self, call: &'static str) {
        if self.fault == Fault::HangsIn(call) {
            std::future::pending::<()>().await;
        }
    }
}

/// Lets a test read the state of the serving plugin.
struct Shared(Arc<Plugin>);

#[tonic::async_trait]
impl KeyManagementService for Shared {
    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let plugin = &self.0;
        plugin.note("", &request);
        plugin.hang_in("status").await;
        let before = plugin.statuses.fetch_add(1, Ordering::SeqCst);
        if let Fault::StatusError(code, message) = plugin.fault {
            return Err(Status::new(code, message));
        }
        let version = match plugin.fault {
            Fault::Version(version) => version,
            Fault::VersionFlaps if before > 0 => "v2beta1",
            _ => "v2",
        };
        let healthz = match plugin.fault {
            Fault::Healthz(text) => text,
            Fault::UnhealthyUntil(calls) if before < calls => "KEK is not loaded yet",
            _ => "ok",
        };
        let key_id = match plugin.fault {
            Fault::EmptyKeyId | Fault::Healthz(_) => String::new(),
            Fault::LongKeyId => "k".repeat(1025),
            _ => plugin.key_id(),
        };
        Ok(Response::new(StatusResponse { version: version.into(), healthz: healthz.into(), key_id }))
    }

    async fn encrypt(&self, request: Request<EncryptRequest>) -> Result<Response<EncryptResponse>, Status> {
        let plugin = &self.0;
        plugin.note(&request.get_ref().uid, &request);
        plugin.hang_in("encrypt").await;
        let plaintext = request.get_ref().plaintext.clone();
        if plugin.fault == Fault::RotatesBeforeEncrypt {
            plugin.rotated.store(2, Ordering::SeqCst);
        }
        let ciphertext = match plugin.fault {
            Fault::EncryptError(code, message) => return Err(Status::new(code, message)),
            Fault::PlaintextReturned => plaintext,
            Fault::EmptyCiphertext => Vec::new(),
            Fault::LongCiphertext => vec![1; 1025],
            _ => std::iter::once(plugin.kek).chain(plaintext.iter().map(|byte| byte ^ plugin.kek)).collect(),
        };
        let key_id = match plugin.fault {
            Fault::EncryptKeyId(id) => id.to_owned(),
            Fault::EncryptEmptyKeyId => String::new(),
            _ => plugin.key_id(),
        };
        let annotations = match plugin.fault {
            Fault::AnnotationKey(key) => BTreeMap::from([(key.to_owned(), vec![1])]),
            Fault::LongAnnotations(bytes) => BTreeMap::from([("a.example.com".to_owned(), vec![1; bytes])]),
            _ => BTreeMap::from([("kek.example.com".to_owned(), vec![plugin.kek])]),
        };
        Ok(Response::new(EncryptResponse { ciphertext, key_id, annotations }))
    }

    async fn decrypt(&self, request: Request<DecryptRequest>) -> Result<Response<DecryptResponse>, Status> {
        let plugin = &self.0;
        plugin.note(&request.get_ref().uid, &request);
        plugin.hang_in("decrypt").await;
        let request = request.into_inner();
        let (kek, wrapped) = request.ciphertext.split_first().expect("a ciphertext");
        match plugin.fault {
            Fault::DecryptError(code, message) => return Err(Status::new(code, message)),
            Fault::QuotesCiphertext => {
                let bytes = &request.ciphertext;
                let hex = bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
                return Err(Status::internal(format!("{hex} or {bytes:?} is no good")));
            }
            _ => {}
        }
        if plugin.checks_key && *kek != plugin.kek {
            return Err(Status::invalid_argument("message authentication failed"));
        }
        let mut plaintext: Vec<u8> = wrapped.iter().map(|byte| byte ^ plugin.kek).collect();
        if plugin.fault == Fault::WrongRoundTrip {
            plaintext.reverse();
        }
        Ok(Response::new(DecryptResponse { plaintext }))
    }
}

/// A plugin that serves until it is dropped.
pub(crate) struct Running {
    pub(crate) plugin: Arc<Plugin>,
    pub(crate) socket: PathBuf,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
    folder: Option<TempDir>,
}

impl Running {
    pub(crate) fn start(plugin: Plugin) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let running = Self::start_at(&folder.path().join("kms.sock"), plugin);
        Self { folder: Some(folder), ..running }
    }

    pub(crate) fn start_at(socket: &Path, plugin: Plugin) -> Self {
        let listener = UnixListener::bind(socket).unwrap();
        let plugin = Arc::new(plugin);
        let service = KeyManagementServiceServer::new(Shared(plugin.clone()));
        let (stop, stopped) = oneshot::channel();
        let server = tokio::spawn(async move {
            let connections = pin!(connections(listener));
            let stopped = async { stopped.await.unwrap_or_default() };
            let server = Server::builder().add_service(service);
            server.serve_with_incoming_shutdown(connections, stopped).await.unwrap();
        });
        Self { plugin, socket: socket.to_owned(), stop, server, folder: None }
    }

    /// Stops the plugin and waits until it ends. Its socket file remains, as after a crash.
    pub(crate) async fn stop(self) -> Option<TempDir> {
        let Self { stop, server, folder, .. } = self;
        drop(stop);
        server.await.unwrap();
        folder
    }
}

fn connections(listener: UnixListener) -> impl Stream<Item = io::Result<UnixStream>> {
    stream::unfold(listener, |listener| async {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    })
}
