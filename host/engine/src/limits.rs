//! What one module, and one call of it, may use.

use std::time::Duration;

/// Limits of modules and calls. The defaults fit a module in Rust or JavaScript a hundred times over and stop one
/// that runs away long before anybody notices. All sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Size of a component's file. A Rust module has 50 KB, one with a JavaScript engine 1 MB, one with Python 18 MB.
    pub component_bytes: usize,
    /// Wall clock for compiling a component once. Rust takes 35 ms, Python 5 s on two cores; a slow, busy machine
    /// may take ten times as long. It only decides whether a module is loaded, never what it answers.
    pub compile_time: Duration,
    /// Units of fuel for a call, roughly one an instruction. This is what decides: the same input has the same verdict
    /// on every machine. A Rust module uses some ten thousand, JavaScript eighty thousand.
    pub fuel: u64,
    /// Wall clock for a call. A backstop for what fuel does not see (bulk memory operations cost one unit whatever
    /// their length), far above what the fuel takes on a slow machine.
    pub deadline: Duration,
    /// Linear memory, summed over all memories of the call's store. A Rust module uses 1.1 MB; an interpreter's heap
    /// some tens.
    pub memory_bytes: usize,
    /// Table elements, summed over all tables of the call's store; 8 bytes each.
    pub table_elements: usize,
    /// Core instances that one component is made of; a bundled interpreter has a few dozen.
    pub instances: usize,
    /// Memories that one component has; more than one only where several languages were linked.
    pub memories: usize,
    /// Tables that one component has.
    pub tables: usize,
    /// Stack of the module. Below the 2 MiB that the async runtime gives to a blocking thread.
    pub stack_bytes: usize,
    /// What goes into a call. A Kubernetes object is at most 1.5 MB; the largest configuration known has 10 KB.
    pub input_bytes: usize,
    /// What comes out of a call: the host copies no more, counted as its own records.
    pub output_bytes: usize,
    /// Depth to which JSON may be nested, so that nothing here recurses without end.
    pub json_depth: usize,
    /// Calls at a time; others wait. Each has its slot in the allocator's pool, whose address space is reserved at
    /// start.
    pub concurrent_calls: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            component_bytes: 32 << 20,
            compile_time: Duration::from_mins(1),
            fuel: 50_000_000,
            deadline: Duration::from_secs(5),
            memory_bytes: 64 << 20,
            table_elements: 100_000,
            instances: 64,
            memories: 4,
            tables: 16,
            stack_bytes: 512 << 10,
            input_bytes: 256 << 10,
            output_bytes: 1 << 20,
            json_depth: 64,
            concurrent_calls: 8,
        }
    }
}
