//! A validating webhook: a small HTTPS server that refuses objects that a test names, with a code and reason
//! that the test chooses.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use crate::pki::Authority;

/// The API server sends a request at once or not at all.
const TIMEOUT: Duration = Duration::from_secs(10);

type Refusals = Arc<Mutex<BTreeMap<String, (u16, String)>>>;

/// A webhook that runs until the process exits; without refusals it admits everything.
pub struct Webhook {
    url: String,
    ca: String,
    refusals: Refusals,
}

impl Webhook {
    /// Listens on loopback, with a certificate of its own authority.
    pub fn start() -> Result<Self> {
        crate::use_one_tls_provider();
        let authority = Authority::new("webhook")?;
        let identity = authority.server(&["127.0.0.1"])?;
        let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes())?;
        let key = PrivateKeyDer::from_pem_slice(identity.key.reveal().as_bytes())?;
        let config =
            ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key)?;
        let (config, listener) = (Arc::new(config), TcpListener::bind("127.0.0.1:0")?);
        let url = format!("https://{}/", listener.local_addr()?);
        let refusals = Refusals::default();
        let answers = Arc::clone(&refusals);
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (config, answers) = (Arc::clone(&config), Arc::clone(&answers));
                // The API server reports a broken connection.
                thread::spawn(move || drop(answer(connection, config, &answers)));
            }
        });
        Ok(Self { url, ca: authority.pem().to_owned(), refusals })
    }

    /// Refuses updates of the object with this name, with this code and reason.
    pub fn refuse(&self, name: &str, code: u16, reason: &str) {
        self.refusals().insert(name.to_owned(), (code, reason.to_owned()));
    }

    /// Admits everything again.
    pub fn admit_all(&self) {
        self.refusals().clear();
    }

    fn refusals(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, (u16, String)>> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The object that makes the API server call this webhook for each update of a Secret.
    pub fn configuration(&self, name: &str) -> Value {
        use base64::Engine as _;
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": name},
            "webhooks": [{
                "name": format!("{name}.example.com"),
                "clientConfig": {
                    "url": self.url,
                    "caBundle": base64::prelude::BASE64_STANDARD.encode(&self.ca),
                },
                "rules": [{
                    "apiGroups": [""], "apiVersions": ["v1"], "resources": ["secrets"], "operations": ["UPDATE"],
                }],
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
                "timeoutSeconds": 5,
            }],
        })
    }
}

/// Answers one request.
fn answer(connection: TcpStream, config: Arc<ServerConfig>, refusals: &Refusals) -> Result<()> {
    connection.set_read_timeout(Some(TIMEOUT))?;
    let mut reader = BufReader::new(StreamOwned::new(ServerConnection::new(config)?, connection));
    let mut length = 0;
    loop {
        let mut line = String::new();
        anyhow::ensure!(reader.read_line(&mut line)? > 0, "the request ends in its headers");
        if line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().context("a length")?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let review: Value = serde_json::from_slice(&body).context("a review")?;
    let text = |pointer: &str| review.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let mut response = json!({"uid": text("/request/uid"), "allowed": true});
    let refusal = refusals.lock().unwrap_or_else(PoisonError::into_inner).get(text("/request/name")).cloned();
    if let Some((code, reason)) = refusal {
        // The details are those of an object that does not exist: a webhook chooses the details too
        // (kubernetes: webhooks-choose-their-answers).
        response = json!({"uid": text("/request/uid"), "allowed": false, "status": {
            "code": code, "reason": reason, "message": format!("refused with {code}"),
            "details": {"kind": "secrets", "name": text("/request/name")},
        }});
    }
    let review =
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
    let body = review.to_string();
    let mut stream = reader.into_inner();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    stream.flush()?;
    stream.conn.send_close_notify();
    stream.flush()?;
    Ok(())
}
