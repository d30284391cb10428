//! The process between the harness and everything that it starts. `node CONFIG` runs a test node, `guard
//! GRACE-MS PROGRAM ARGUMENT…` any other process. Both exit at the end of their standard input, with
//! everything below them.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use keyward_test_cluster::supervisor;

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["node", config] => supervisor::run(Path::new(config)).map(|()| ExitCode::SUCCESS),
        ["guard", grace, program, ..] => {
            let grace = Duration::from_millis(grace.parse().context("GRACE-MS must be milliseconds")?);
            supervisor::guard(grace, program, arguments.get(3..).unwrap_or_default())
        }
        _ => bail!("usage: keyward-test-node node CONFIG | guard GRACE-MS PROGRAM [ARGUMENT…]"),
    }
}
