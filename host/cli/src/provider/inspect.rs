//! `keyward provider inspect`: shows a module's description and the cost of its calls.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use keyward_engine::measure::{self, CallCost};
use keyward_engine::{Engine, Limits, ModuleInfo};
use serde_json::{Value, json};

use crate::output::print;

/// Number of calls whose median is the time of one call.
const ROUNDS: usize = 200;

/// Arguments of `keyward provider inspect`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  keyward provider inspect target/providers/acme.wasm --config acme.yaml")]
pub(super) struct Args {
    /// Path of the module
    module: PathBuf,
    /// A valid configuration (value of the config field, YAML) with which the cost of each function is
    /// measured
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, Default)]
enum Output {
    /// Text for people
    #[default]
    Table,
    /// JSON
    Json,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let engine = super::load(&args.module)?;
    let Some(info) = engine.modules().into_iter().next() else {
        bail!("{} contains no module", args.module.display());
    };
    let costs = costs(&engine, &info, args.config.as_deref())?;
    match args.output {
        Output::Table => print(&table(&info, engine.limits(), &costs)?)?,
        Output::Json => print(&format!("{:#}\n", document(&info, engine.limits(), &costs)))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn costs(engine: &Engine, info: &ModuleInfo, config: Option<&Path>) -> anyhow::Result<Vec<CallCost>> {
    let descriptor = &info.descriptor;
    let described = measure::describe(engine, &descriptor.provider_type, ROUNDS).transpose()?;
    let mut costs: Vec<CallCost> = described.into_iter().collect();
    if let Some(path) = config {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let config = super::yaml(&text).with_context(|| path.display().to_string())?;
        costs.extend(measure::calls(engine, &kms(descriptor, &config), ROUNDS)?);
    }
    Ok(costs)
}

/// A `kms` object with this configuration.
pub(super) fn kms(descriptor: &keyward_core::provider::Descriptor, config: &Value) -> Value {
    json!({"type": descriptor.provider_type, descriptor.config_field.as_str(): config})
}

fn table(info: &ModuleInfo, limits: &Limits, costs: &[CallCost]) -> Result<String, std::fmt::Error> {
    let d = &info.descriptor;
    let mut text = String::new();
    writeln!(text, "module    {} ({} bytes)", info.file, info.size)?;
    writeln!(text, "digest    {}", d.module.0)?;
    writeln!(text, "ABI       {}", info.abi)?;
    let imports = match info.imports.as_slice() {
        [] => "none".to_owned(),
        types => format!("{} (types only)", types.join(", ")),
    };
    writeln!(text, "imports   {imports}")?;
    writeln!(text, "provider  type {}, configured in `{}`", d.provider_type, d.config_field)?;
    writeln!(text, "image     {}", d.image_field.as_deref().unwrap_or("none: it runs no plugin"))?;
    for (name, value) in &d.facts {
        writeln!(text, "fact      {name} = {value}")?;
    }

    writeln!(text, "\nEffect of a change, by field")?;
    let width = d.rules.iter().map(|rule| rule.field.len()).max().unwrap_or(0);
    for rule in &d.rules {
        writeln!(text, "  {:width$}  {:10}  {}", rule.field, rule.effect.to_string(), rule.reason)?;
    }

    writeln!(text, "\n{:14}  {:>10}  {:>10}  {:>10}", "Cost of a call", "fuel", "memory", "time")?;
    for cost in costs {
        let memory = format!("{} KiB", cost.memory_bytes / 1024);
        let time = format!("{:.1} µs", cost.median.as_secs_f64() * 1e6);
        writeln!(text, "  {:12}  {:>10}  {memory:>10}  {time:>10}", cost.function, cost.fuel)?;
    }
    let memory = format!("{} KiB", limits.memory_bytes / 1024);
    let deadline = format!("{:?}", limits.deadline);
    writeln!(text, "  {:12}  {:>10}  {memory:>10}  {deadline:>10}", "at most", limits.fuel)?;
    Ok(text)
}

fn document(info: &ModuleInfo, limits: &Limits, costs: &[CallCost]) -> Value {
    let calls: Vec<Value> = costs
        .iter()
        .map(|cost| {
            json!({
                "function": cost.function,
                "fuel": cost.fuel,
                "memoryBytes": cost.memory_bytes,
                "medianSeconds": cost.median.as_secs_f64(),
            })
        })
        .collect();
    json!({
        "file": info.file,
        "sizeBytes": info.size,
        "abi": info.abi,
        "imports": info.imports,
        "descriptor": info.descriptor,
        "calls": calls,
        "limits": {
            "fuel": limits.fuel,
            "memoryBytes": limits.memory_bytes,
            "deadlineSeconds": limits.deadline.as_secs_f64(),
        },
    })
}
