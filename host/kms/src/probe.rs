//! Is a plugin fit for use, and does it reach the KEK it should? Asked before a key is made or changed, and again and
//! again while it is in use (DESIGN, "Provider ABI" and "Health").

use std::{collections::BTreeMap, fmt, path::Path, time::Duration};

use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::{
    client::{Client, Encrypted, StatusAnswer, Timeouts},
    error::{KmsError, Phase},
    v2,
};

/// As long as the seeds that API servers have wrapped.
const PLAINTEXT_BYTES: usize = 32;

/// Proof of a KEK: whoever can decrypt this reaches the KEK that it was made under.
///
/// It holds the digest of 32 random bytes and never the bytes themselves, so that it may be kept on a node and in a
/// status.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyCheck {
    /// The wrapped random bytes.
    pub ciphertext: Vec<u8>,
    /// The remote key id that Encrypt gave with them.
    pub remote_key_id: String,
    /// The annotations that Encrypt gave with them.
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

/// What a probe does beyond asking for Status.
#[derive(Debug, Clone, Copy)]
pub struct ProbeSpec<'a> {
    /// Deadline of connecting and of each call.
    pub call_timeout: Duration,
    /// That of connecting and of Status where it is to be another: a plugin that hangs has to be found soon, and one that
    /// wraps a key may have to wait for its KMS.
    pub status_timeout: Option<Duration>,
    /// Encrypt 32 random bytes, then decrypt them. A plugin that can no longer encrypt breaks every read at the API
    /// server's next restart (BUILDING), so this is asked of read plugins too.
    pub round_trip: bool,
    /// Decrypt this, after the round trip: a failure then is about the KEK and not about the right to decrypt.
    pub key_check: Option<&'a KeyCheck>,
    /// Make a key check of what the round trip wrapped; implies `round_trip`.
    pub make_key_check: bool,
}

/// How long each call took. None where it was not made or did not succeed.
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

/// What a probe saw. All that was learnt before a failure is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeReport {
    /// The last answer to Status; there even if the plugin called itself unhealthy.
    pub status: Option<StatusAnswer>,
    /// How long each call took.
    pub latencies: Latencies,
    /// The verdict: everything asked for passed, or the first thing that did not.
    pub result: Result<(), KmsError>,
    /// The key check asked for by `make_key_check`; only where everything passed.
    pub key_check: Option<KeyCheck>,
}

/// Probes the plugin at `socket` once, over a connection of its own.
///
/// Passes if Status is healthy; Encrypt names the same remote key id as Status; Decrypt returns what was encrypted; and
/// the key check decrypts to bytes of its digest.
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
            // A rotation between the two calls is no fault: then Status has moved on too.
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

/// Says in the plugin's log who asked; one for all calls of a probe.
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
