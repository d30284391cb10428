//! The engine with hostile modules (invariant: modules-are-untrusted): each gets its own typed error within
//! bounded time, and a good module beside it keeps serving.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "clippy knows only functions marked as tests, not their helpers"
)]

mod cache;
mod calls;
mod contract;
mod load;
mod parts;
mod reload;
mod sound;

use std::path::Path;
use std::time::{Duration, Instant};

use keyward_core::provider::{Evaluation, EvaluationRequest, Evaluator, Origin, ProviderError};
use keyward_engine::{Engine, EngineError, Limits, Options};
use keyward_test_hostile::Forge;
use serde_json::{Value, json};

/// The maximum time of a refusal, on a slow and busy machine.
const BOUND: Duration = Duration::from_secs(30);

/// Limits that a test reaches quickly.
fn small() -> Limits {
    Limits { fuel: 1_000_000, memory_bytes: 4 << 20, concurrent_calls: 2, ..Limits::default() }
}

fn options() -> Options {
    Options { limits: small(), cache: None }
}

/// Why this file is refused.
fn refusal(bytes: &[u8], options: Options) -> EngineError {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("module.wasm");
    std::fs::write(&file, bytes).unwrap();
    let start = Instant::now();
    let error = Engine::open_file(&file, options).err().expect("the module is refused");
    assert!(start.elapsed() < BOUND, "took {:?}", start.elapsed());
    error
}

/// The module of a forge.
fn built(forge: &Forge) -> Vec<u8> {
    forge.component().unwrap()
}

/// An engine with this one module.
fn engine(forge: &Forge) -> Engine {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("module.wasm");
    std::fs::write(&file, built(forge)).unwrap();
    Engine::open_file(&file, options()).unwrap()
}

fn put(folder: &Path, name: &str, forge: &Forge) {
    std::fs::write(folder.join(name), built(forge)).unwrap();
}

fn image() -> String {
    format!("example.com/kms@sha256:{}", "a".repeat(64))
}

/// A `kms` object of the type Acme.
fn acme(key: &str) -> Value {
    json!({"type": "Acme", "acme": {"image": image(), "key": key}})
}

fn evaluate(engine: &Engine, kms: &Value) -> Result<Evaluation, ProviderError> {
    engine.evaluate(&EvaluationRequest::new(Origin::Desired, kms))
}

/// Function, category and message of a failed evaluation, within bounded time.
fn failure(engine: &Engine, kms: &Value) -> (String, String, String) {
    let start = Instant::now();
    let result = evaluate(engine, kms);
    assert!(start.elapsed() < BOUND, "took {:?}", start.elapsed());
    match result {
        Err(ProviderError::Failed { function, category, message, .. }) => (function, category, message),
        other => panic!("a failure was expected, not {other:?}"),
    }
}
