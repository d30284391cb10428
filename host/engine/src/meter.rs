//! Counts the allocations of a call over its whole store: with a limit for each memory, a module with many memories
//! would have no limit.

use wasmtime::ResourceLimiter;

use crate::limits::Limits;

/// The limit that a module tried to exceed. It is a trap and not a refused growth: after a refused growth an
/// allocator only aborts, and the cause would not be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Exceeded {
    #[error("memory limit exceeded")]
    Memory,
    #[error("table limit exceeded")]
    Tables,
}

/// The data of a call's store.
#[derive(Debug)]
pub(crate) struct Meter {
    memory: Counter,
    tables: Counter,
    instances: usize,
    memory_count: usize,
    table_count: usize,
}

/// The use of one resource.
#[derive(Debug)]
struct Counter {
    limit: usize,
    used: usize,
    /// The last growth, which is subtracted again if it fails after it was allowed.
    last: usize,
}

impl Counter {
    fn new(limit: usize) -> Self {
        Self { limit, used: 0, last: 0 }
    }

    fn grow(&mut self, current: usize, desired: usize) -> bool {
        let growth = desired.saturating_sub(current);
        let used = self.used.saturating_add(growth);
        if used > self.limit {
            return false;
        }
        self.used = used;
        self.last = growth;
        true
    }

    fn take_back(&mut self) {
        self.used = self.used.saturating_sub(self.last);
        self.last = 0;
    }
}

impl Meter {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            memory: Counter::new(limits.memory_bytes),
            tables: Counter::new(limits.table_elements),
            instances: limits.instances,
            memory_count: limits.memories,
            table_count: limits.tables,
        }
    }

    /// Linear memory in use, in bytes.
    pub(crate) fn memory_used(&self) -> usize {
        self.memory.used
    }
}

impl ResourceLimiter for Meter {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        if self.memory.grow(current, desired) { Ok(true) } else { Err(Exceeded::Memory.into()) }
    }

    fn memory_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.memory.take_back();
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        if self.tables.grow(current, desired) { Ok(true) } else { Err(Exceeded::Tables.into()) }
    }

    fn table_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.tables.take_back();
        Ok(())
    }

    fn instances(&self) -> usize {
        self.instances
    }

    fn memories(&self) -> usize {
        self.memory_count
    }

    fn tables(&self) -> usize {
        self.table_count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_are_summed_and_failed_growth_is_subtracted() {
        let limits = Limits { memory_bytes: 100, ..Limits::default() };
        let mut meter = Meter::new(&limits);
        assert!(meter.memory_growing(0, 40, None).unwrap());
        assert!(meter.memory_growing(0, 40, None).unwrap());
        let error = meter.memory_growing(40, 61, None).unwrap_err();
        assert_eq!(error.downcast_ref::<Exceeded>(), Some(&Exceeded::Memory));
        assert_eq!(meter.memory_used(), 80);
        assert!(meter.memory_growing(40, 60, None).unwrap());
        meter.memory_grow_failed(wasmtime::Error::msg("no room")).unwrap();
        assert_eq!(meter.memory_used(), 80);
    }
}
