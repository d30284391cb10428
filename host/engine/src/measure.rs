//! The cost of calls, for `keyward provider inspect` and the benchmarks. No measured result
//! comes from a cache.

use std::path::Path;
use std::time::{Duration, Instant};

use keyward_core::provider::{EvaluationRequest, Evaluator, Origin, ProviderError};
use serde_json::Value;

use crate::engine::{Engine, Options, Source};
use crate::error::EngineError;
use crate::in_force::InForce;
use crate::module::{Function, Module};

/// The cost of one function of a module, called in a fresh instance each time.
#[derive(Clone, Debug)]
pub struct CallCost {
    /// The ABI function.
    pub function: &'static str,
    /// Units of fuel; the same for every call.
    pub fuel: u64,
    /// Linear memory in bytes at the end of the call.
    pub memory_bytes: usize,
    /// Median time of all rounds for instantiating and calling.
    pub median: Duration,
}

/// Calls `describe` of the module of this type, `rounds` times; `None` if no module of the type is in force.
pub fn describe(
    engine: &Engine,
    provider_type: &str,
    rounds: usize,
) -> Option<Result<CallCost, ProviderError>> {
    let module = engine.module(provider_type)?;
    Some(cost(&module, Function::Describe, &Value::Null, rounds))
}

/// Calls each function that takes a configuration, of the module for this valid `kms` object, `rounds` times.
/// (`describe` is called once, at load: [`describe`].)
pub fn calls(engine: &Engine, kms: &Value, rounds: usize) -> Result<Vec<CallCost>, ProviderError> {
    let request = EvaluationRequest::new(Origin::Desired, kms);
    let normalized = engine.evaluate(&request)?.normalized;
    let (module, written) = engine.select(&request)?;
    Function::OF_CONFIGURATION
        .into_iter()
        .map(|function| {
            let config = match function {
                Function::Normalize | Function::Upgrade => &written,
                _ => &normalized,
            };
            cost(&module, function, config, rounds)
        })
        .collect()
}

fn cost(
    module: &Module,
    function: Function,
    config: &Value,
    rounds: usize,
) -> Result<CallCost, ProviderError> {
    let once = || {
        let used = module.use_of(function, config);
        used.map_err(|error| error.in_call(module.provider_type(), function.name()))
    };
    // The first call also pays for memory that the pool has not touched yet.
    let first = once()?;
    let times = (0..rounds).map(|_| Ok(once()?.time)).collect::<Result<Vec<_>, _>>()?;
    Ok(CallCost {
        function: function.name(),
        fuel: first.fuel,
        memory_bytes: first.memory_bytes,
        median: median(times).unwrap_or(first.time),
    })
}

/// Measures loading a module's file in one engine: the first time, then the median of `rounds` times. With a cache the
/// second figure is that of a cached load, without one that of compiling.
pub fn loads(file: &Path, options: Options, rounds: usize) -> Result<(Duration, Duration), EngineError> {
    let engine = Engine::empty(Source::File(file.to_owned()), options)?;
    let once = || {
        let start = Instant::now();
        engine.load(&InForce::default(), file).map(|_| start.elapsed())
    };
    let first = once()?;
    let times = (0..rounds).map(|_| once()).collect::<Result<Vec<_>, _>>()?;
    Ok((first, median(times).unwrap_or(first)))
}

fn median(mut times: Vec<Duration>) -> Option<Duration> {
    times.sort();
    times.get(times.len() / 2).copied()
}
