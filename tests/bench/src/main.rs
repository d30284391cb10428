//! Benchmarks of whole processes, built as they ship. `cargo xtask bench` runs them. They print a table and
//! write it as JSON to `target/bench/`.
//!
//! What may come in: measurements. What never does: an assertion on an absolute time, since machines are
//! noisy. A goal is printed beside its figure.

mod agent;
mod live;
mod pure;
mod table;

use anyhow::Result;
use clap::Parser;
use keyward_test_cluster::Tools;

use table::Table;

#[derive(Parser)]
struct Arguments {
    /// Benchmarks to run: `provider`, `core`, `live`, `agent`, `binary` [default: all]
    names: Vec<String>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let wanted = |name: &str| arguments.names.is_empty() || arguments.names.iter().any(|n| n == name);
    let tools = Tools::here();
    let mut table = Table::default();
    if wanted("provider") {
        pure::provider(&tools, &mut table)?;
    }
    if wanted("core") {
        pure::core(&mut table)?;
    }
    if wanted("binary") {
        live::binary(&tools, &mut table)?;
    }
    if wanted("live") {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(live::live(&mut table))?;
    }
    if wanted("agent") {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(agent::agent(&mut table))?;
    }
    table.print();
    table.keep(&tools)
}
