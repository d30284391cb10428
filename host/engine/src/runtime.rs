//! The wasmtime engine of all modules: one configuration, the pool of instances, and the clock for deadlines.

use std::sync::mpsc;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use wasmtime::component::Linker;
use wasmtime::{Config, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, Store};

use crate::error::EngineError;
use crate::limits::Limits;
use crate::meter::Meter;

/// How often the epoch advances, which is the precision of a deadline. Ten wake-ups a second have no measurable cost.
const TICK: Duration = Duration::from_millis(100);

/// Memory of a slot that is kept and zeroed between calls, and not returned and faulted in again: all memory of a Rust
/// module (1.1 MB), of which a call dirties a few pages, and only these are zeroed. It halves the time of a call.
const KEEP_RESIDENT: usize = 2 << 20;

/// The shared runtime of all modules.
pub(crate) struct Runtime {
    pub(crate) engine: Engine,
    pub(crate) limits: Limits,
    permits: Permits,
    _ticker: Ticker,
}

impl Runtime {
    pub(crate) fn new(limits: Limits) -> Result<Self, EngineError> {
        let failed = |error: wasmtime::Error| EngineError::Runtime { message: format!("{error:#}") };
        let engine = Engine::new(&config(&limits)).map_err(failed)?;
        let ticker = Ticker::start(&engine)?;
        let permits = Permits::new(limits.concurrent_calls);
        Ok(Self { engine, limits, permits, _ticker: ticker })
    }

    /// The linker: empty, since a module imports no function.
    pub(crate) fn linker(&self) -> Linker<Meter> {
        Linker::new(&self.engine)
    }

    /// A store for one call, with every limit set. Stores are created only here.
    pub(crate) fn store(&self) -> Result<Store<Meter>, EngineError> {
        let mut store = Store::new(&self.engine, Meter::new(&self.limits));
        store.limiter(|meter| meter);
        store
            .set_fuel(self.limits.fuel)
            .map_err(|error| EngineError::Runtime { message: format!("{error:#}") })?;
        store.set_epoch_deadline(ticks(self.limits.deadline));
        store.epoch_deadline_trap();
        store.set_hostcall_fuel(self.limits.output_bytes);
        Ok(store)
    }

    /// Waits for a slot of the pool.
    pub(crate) fn permit(&self) -> Permit<'_> {
        self.permits.take()
    }
}

fn config(limits: &Limits) -> Config {
    let slots = |each: usize| u32::try_from(limits.concurrent_calls.saturating_mul(each)).unwrap_or(u32::MAX);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(slots(1))
        .total_core_instances(slots(limits.instances))
        .total_memories(slots(limits.memories))
        .total_tables(slots(limits.tables))
        .table_elements(limits.table_elements)
        .max_unused_warm_slots(slots(1))
        .linear_memory_keep_resident(KEEP_RESIDENT)
        .table_keep_resident(KEEP_RESIDENT);

    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .wasm_component_model(true)
        .consume_fuel(true)
        .epoch_interruption(true)
        .max_wasm_stack(limits.stack_bytes)
        .cranelift_opt_level(OptLevel::Speed)
        // The same input has the same result on every machine: no results that depend on the processor.
        .cranelift_nan_canonicalization(true)
        .wasm_relaxed_simd(false)
        // Features that no provider needs are off.
        .wasm_memory64(false)
        .wasm_multi_memory(false)
        // Only for debuggers and backtraces of modules, which are not used: less to compile, to store and to load.
        .native_unwind_info(false)
        .generate_address_map(false);
    config
}

/// The number of ticks after which at least `duration` has passed.
fn ticks(duration: Duration) -> u64 {
    let ticks = duration.as_millis().div_ceil(TICK.as_millis());
    u64::try_from(ticks).unwrap_or(u64::MAX).saturating_add(1)
}

/// The thread that advances the epoch. It ends when this value is dropped.
struct Ticker {
    _stop: mpsc::Sender<()>,
}

impl Ticker {
    fn start(engine: &Engine) -> Result<Self, EngineError> {
        let (stop, stopped) = mpsc::channel::<()>();
        let engine = engine.weak();
        std::thread::Builder::new()
            .name("provider-epoch".to_owned())
            .spawn(move || {
                while stopped.recv_timeout(TICK) == Err(mpsc::RecvTimeoutError::Timeout) {
                    let Some(engine) = engine.upgrade() else { return };
                    engine.increment_epoch();
                }
            })
            .map_err(|error| EngineError::Runtime { message: format!("no thread for deadlines: {error}") })?;
        Ok(Self { _stop: stop })
    }
}

/// Counts the pool's slots, so that a call waits for a slot instead of failing.
struct Permits {
    free: Mutex<usize>,
    returned: Condvar,
}

/// One slot, returned when dropped.
pub(crate) struct Permit<'a>(&'a Permits);

impl Permits {
    fn new(count: usize) -> Self {
        Self { free: Mutex::new(count.max(1)), returned: Condvar::new() }
    }

    fn take(&self) -> Permit<'_> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free =
            self.returned.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        Permit(self)
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.returned.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn deadline_is_never_early() {
        assert_eq!(ticks(Duration::from_millis(1)), 2);
        assert_eq!(ticks(Duration::from_secs(5)), 51);
    }

    #[test]
    fn ticker_ends_with_its_engine() {
        let runtime = Runtime::new(Limits::default()).unwrap();
        let weak = runtime.engine.weak();
        drop(runtime);
        let end = Instant::now() + Duration::from_secs(10);
        while weak.upgrade().is_some() {
            assert!(Instant::now() < end, "the engine is still referenced");
            std::thread::yield_now();
        }
    }

    #[test]
    fn permits_are_returned() {
        let permits = Permits::new(1);
        drop(permits.take());
        drop(permits.take());
        assert_eq!(*permits.free.lock().unwrap(), 1);
    }
}
