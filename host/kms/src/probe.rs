//! The probe: can a plugin be used, and does it reach the KEK of its key? It runs before a key is created or
//! changed, and periodically while the key is in use (decision 0023).

use std::{collections::BTreeMap, fmt, path::Path, time::Duration};

use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::{
    client::{Client, Encrypted, StatusAnswer, Timeouts},
    error::{KmsError, Phase},
    v2,
};

/// The length of the seeds that API servers wrap.
const PLAINTEXT_BYTES: usize = 32;

/// Proof of a KEK: a plugin that decrypts this ciphertext reaches the KEK that it was made under.
///
/// It contains the digest of 32 random bytes and never the bytes themselves, so it can be stored on a node
/// and in a status.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyCheck {
    /// The wrapped random bytes.
    pub ciphertext: Vec<u8>,
    /// The remote key id that Encrypt returned with them.
    pub remote_key_id: String,
    /// The annotations that Encrypt returned with them.
    pub annotations: BTreeMap<String, Vec<u8>>,
    /// SHA-256 of the random bytes.
    pub plaintext_sha256: [u8; 32],
}

impl fmt::Debug for KeyCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyCheck")
            .field("ciphertext", &v2::Sized(&self.ciphertext))
            .field("remote_key_id", &self.remote_key_id)
            .field("annotations", &self.annotations.keys())
            .finish_non_exhaustive()
    }
}

/// The steps of a probe after Status, and its deadlines.
#[derive(Debug, Clone, Copy)]
pub struct ProbeSpec<'a> {
    /// Deadline of connecting and of each call.
    pub call_timeout: Duration,
    /// Another deadline of connecting and of Status: a plugin that hangs has to be found soon, while Encrypt
    /// and Decrypt may have to wait for the KMS.
    pub status_timeout: Option<Duration>,
    /// Encrypt 32 random bytes, then decrypt them. A plugin that can no longer encrypt breaks every read at
    /// the API server's next restart (kubernetes: reads-need-encrypt), so probes of read plugins do this too.
    pub round_trip: bool,
    /// Decrypt this after the round trip, so that a failure is about the KEK and not about the right to
    /// decrypt.
    pub key_check: Option<&'a KeyCheck>,
    /// Make a key check from the ciphertext of the round trip. Implies `round_trip`.
    pub make_key_check: bool,
}

/// How long each call took. None if it was not made or failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Latencies {
    /// Connecting to the socket.
    pub connect: Option<Duration>,
    /// Status.
    pub status: Option<Duration>,
    /// Encrypt.
    pub encrypt: Option<Duration>,
    /// Decrypt of what Encrypt returned.
    pub decrypt: Option<Duration>,
    /// Decrypt of the given key check.
    pub key_check: Option<Duration>,
}

/// The result of a probe. Everything that was observed before a failure is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeReport {
    /// The last answer to Status, also of an unhealthy plugin.
    pub status: Option<StatusAnswer>,
    /// How long each call took.
    pub latencies: Latencies,
    /// Ok if every step passed, else the first failure.
    pub result: Result<(), KmsError>,
    /// The key check that `make_key_check` requests. Only if every step passed.
    pub key_check: Option<KeyCheck>,
}

/// Probes the plugin at `socket` once, over a new connection.
///
/// It passes if Status is healthy, Encrypt returns the same remote key id as Status, Decrypt returns the
/// plaintext of Encrypt, and the key check decrypts to bytes of its digest.
pub async fn probe(socket: &Path, spec: &ProbeSpec<'_>) -> ProbeReport {
    let mut report =
        ProbeReport { status: None, latencies: Latencies::default(), result: Ok(()), key_check: None };
    report.result = run(socket, spec, &mut report).await;
    if report.result.is_err() {
        report.key_check = None;
    }
    report
}

async fn run(socket: &Path, spec: &ProbeSpec<'_>, report: &mut ProbeReport) -> Result<(), KmsError> {
    let soon = spec.status_timeout.unwrap_or(spec.call_timeout);
    let timeouts = Timeouts { connect: soon, call: soon };
    let asking = timed(&mut report.latencies.connect, Client::connect(socket, timeouts)).await?;
    let status = timed(&mut report.latencies.status, asking.status()).await?;
    let client = asking.with_call_timeout(spec.call_timeout);
    report.status = Some(status.clone());
    if !status.is_healthy() {
        return Err(KmsError::Unhealthy { healthz: status.healthz });
    }
    let uid = uid()?;
    if spec.round_trip || spec.make_key_check {
        let plaintext = Zeroizing::new(random::<PLAINTEXT_BYTES>()?);
        let encrypted =
            timed(&mut report.latencies.encrypt, client.encrypt(&uid, plaintext.as_slice())).await?;
        if encrypted.remote_key_id != status.remote_key_id {
            // A rotation between the two calls is not a failure: then Status returns the new id too.
            let again = asking.status().await?;
            let agrees = again.remote_key_id == encrypted.remote_key_id;
            let status = report.status.insert(again).remote_key_id.clone();
            if !agrees {
                return Err(KmsError::KeyIdMismatch { status, encrypt: encrypted.remote_key_id });
            }
        }
        let decrypted = timed(&mut report.latencies.decrypt, client.decrypt(&uid, &encrypted)).await?;
        if decrypted.as_slice() != plaintext.as_slice() {
            return Err(KmsError::RoundTripMismatch);
        }
        if spec.make_key_check {
            report.key_check = Some(KeyCheck {
                ciphertext: encrypted.ciphertext,
                remote_key_id: encrypted.remote_key_id,
                annotations: encrypted.annotations,
                plaintext_sha256: Sha256::digest(plaintext.as_slice()).into(),
            });
        }
    }
    if let Some(key_check) = spec.key_check {
        let encrypted = Encrypted {
            ciphertext: key_check.ciphertext.clone(),
            remote_key_id: key_check.remote_key_id.clone(),
            annotations: key_check.annotations.clone(),
        };
        let decrypting = client.decrypt_in(Phase::KeyCheck, &uid, &encrypted);
        let decrypted = timed(&mut report.latencies.key_check, decrypting).await?;
        if Sha256::digest(decrypted.as_slice()).as_slice() != key_check.plaintext_sha256 {
            return Err(KmsError::KeyCheckMismatch);
        }
    }
    Ok(())
}

/// Identifies the probe in the plugin's log. All calls of one probe have the same uid.
fn uid() -> Result<String, KmsError> {
    Ok(format!("keyward-probe-{:08x}", u32::from_be_bytes(random()?)))
}

fn random<const N: usize>() -> Result<[u8; N], KmsError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| KmsError::Random { reason: error.to_string() })?;
    Ok(bytes)
}

async fn timed<T>(
    latency: &mut Option<Duration>,
    call: impl Future<Output = Result<T, KmsError>>,
) -> Result<T, KmsError> {
    let started = Instant::now();
    let answer = call.await?;
    *latency = Some(started.elapsed());
    Ok(answer)
}
