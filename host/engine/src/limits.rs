//! Limits of a module, and of one call.

use std::time::Duration;

/// Limits of modules and calls. The defaults are a hundred times what a module in Rust or JavaScript needs, and stop a
/// module in an endless loop long before anybody notices. All sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Size of a component's file. A Rust module has 50 KB, one with a JavaScript engine 1 MB, one with Python 18 MB.
    pub component_bytes: usize,
    /// Wall clock for compiling a component once. Rust takes 35 ms, Python 5 s on two cores; a slow, busy machine
    /// may take ten times as long. It only decides whether a module is loaded, never its results.
    pub compile_time: Duration,
    /// Limits of a component's parts, which are counted before it is compiled.
    pub parts: Parts,
    /// Units of fuel for a call: one an instruction, and one more for each byte or table element that a bulk operation
    /// writes (`memory.fill`, `memory.copy`, `table.grow`, …). This limit decides, so that the same input has the same
    /// result on every machine. A Rust module uses some ten thousand, JavaScript eighty thousand.
    pub fuel: u64,
    /// Wall clock for a call. A backstop if a unit of fuel takes long: on a machine that is slow or has no memory left,
    /// and in `memory.grow`, which costs one unit for any number of pages. Far longer than the fuel takes on a slow
    /// machine.
    pub deadline: Duration,
    /// Linear memory, summed over all memories of the call's store. A Rust module uses 1.1 MB; an interpreter's heap
    /// some tens.
    pub memory_bytes: usize,
    /// Table elements, summed over all tables of the call's store; 8 bytes each.
    pub table_elements: usize,
    /// Core instances in one component, and core modules in it; a bundled interpreter has a few dozen.
    pub instances: usize,
    /// Memories of one component; more than one only if several languages are linked. As for tables and instances, the
    /// limit is for those in the file, and also for those that instantiation creates.
    pub memories: usize,
    /// Tables of one component.
    pub tables: usize,
    /// Stack of the module. Below the 2 MiB that the async runtime gives to a blocking thread.
    pub stack_bytes: usize,
    /// Input of a call. A Kubernetes object has at most 1.5 MB; the largest known configuration has 10 KB.
    pub input_bytes: usize,
    /// Result of a call: the host copies no more, counted as its own records.
    pub output_bytes: usize,
    /// Deepest nesting of JSON, so that nothing here recurses endlessly.
    pub json_depth: usize,
    /// Concurrent calls; others wait. Each has a slot in the allocator's pool, whose address space is reserved at
    /// start.
    pub concurrent_calls: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            component_bytes: 32 << 20,
            compile_time: Duration::from_mins(1),
            parts: Parts::default(),
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

/// Limits of a component's parts. A file of kilobytes can take gigabytes or hours to compile, or overflow the
/// compiler's stack. Within these limits each of the two functions that are compiled at a time takes less than a
/// gigabyte, most a few megabytes, and a whole hostile file takes less than an hour.
///
/// The figures are those of the engines in modules in other languages (SpiderMonkey, QuickJS, CPython), in optimised
/// builds. A Rust module has a hundredth of that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Functions in all core modules. Each takes 6 KB until the last is compiled; SpiderMonkey has 20,000.
    pub functions: usize,
    /// Bytes of code in all functions; SpiderMonkey has 11 MB.
    pub code_bytes: usize,
    /// Bytes of one function. CPython has one of 427 KB that only stores numbers; its others have at most 184 KB.
    pub function_bytes: usize,
    /// Parameters and local variables of one function. Optimised code has at most some hundreds, other code some
    /// thousands.
    pub function_locals: usize,
    /// Calls in one function, and operations that become calls (bulk operations, the checks in loops). Each takes 20 KB
    /// while the function is compiled; CPython has a function with 3,100.
    pub function_calls: usize,
    /// The same for all functions; SpiderMonkey has 120,000.
    pub calls: usize,
    /// Nested loops in one function. The time grows with more than their square; no engine has more than 6.
    pub function_loops: usize,
    /// Locals and operands at each branch of one function, summed over the branches. Each takes 60 bytes while the
    /// function is compiled; SpiderMonkey has a function with 400,000.
    pub function_live: usize,
    /// The same for all functions; SpiderMonkey has 6 million.
    pub live: usize,
    /// Locals that can differ where paths through one function join, summed over those paths. Each takes 600 bytes
    /// while the function is compiled, and the time grows with their square; SpiderMonkey has a function with
    /// 146,000.
    pub function_joins: usize,
    /// The same for all functions; SpiderMonkey has 4 million.
    pub joins: usize,
    /// Types of all core modules and components; SpiderMonkey has 170.
    pub types: usize,
    /// Levels of nested types of components and instances; most components have none.
    pub type_nesting: usize,
    /// Data segments of all core modules; SpiderMonkey has 6,700.
    pub data_segments: usize,
    /// Levels of components and modules in components. Tools write one level, and one more for each composition of a
    /// composed component.
    pub nesting: usize,
    /// Upper bound of the instances of components: the product over all nested components. In a chain of components
    /// that each instantiate the next one twice, the instances double with each level.
    pub component_instances: usize,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            functions: 40_000,
            code_bytes: 24 << 20,
            function_bytes: 512 << 10,
            function_locals: 10_000,
            function_calls: 10_000,
            calls: 500_000,
            function_loops: 50,
            function_live: 1_000_000,
            live: 20_000_000,
            function_joins: 300_000,
            joins: 8_000_000,
            types: 10_000,
            type_nesting: 100,
            data_segments: 50_000,
            nesting: 8,
            component_instances: 10_000,
        }
    }
}
