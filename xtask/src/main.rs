//! `cargo xtask`: what developers and CI run. Each command does its own set-up and says what it does.
//!
//! What may come in: a file a command, which prepares tools (keyward-test-tools) and runs cargo or a program of
//! tests/. What never does: logic of the product, a Kubernetes client, an async runtime.

mod bench;
mod ci;
mod demo;
mod fuzz;
mod sim;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use keyward_test_tools::{Tools, progress};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, tests and shows Keyward")]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// The main job from nothing, on a real kube-apiserver, etcd and OpenBao
    Demo(demo::Options),
    /// All tests, or the groups named
    Test(test::Options),
    /// Formatting, lints, documentation and all tests: what CI runs
    Ci,
    /// Whole-process benchmarks: a table each, and the JSON behind it
    Bench(bench::Options),
    /// The fuzz targets, each for a while; a finding is an error
    Fuzz(fuzz::Options),
    /// The world around Keyward's decisions, explored: completely for small bounds, and by chance
    Sim(sim::Options),
    /// Build the provider modules into target/providers/NAME.wasm
    Providers,
    /// Build etcd, kube-apiserver, kube-controller-manager and kubeadm into target/tools/control-plane
    ControlPlane,
}

fn main() -> ExitCode {
    run(Arguments::parse().command).unwrap_or_else(|error| {
        progress::say(&format!("error: {error:#}"));
        ExitCode::FAILURE
    })
}

fn run(task: Task) -> Result<ExitCode> {
    let tools = Tools::here();
    match task {
        Task::Demo(options) => demo::run(&tools, &options),
        Task::Test(options) => Ok(test::run(&tools, &options)),
        Task::Ci => ci::run(&tools),
        Task::Bench(options) => bench::run(&tools, &options),
        Task::Fuzz(options) => fuzz::run(&tools, &options),
        Task::Sim(options) => sim::run(&tools, &options),
        Task::Providers => {
            let folder = tools.providers()?;
            progress::say(&format!("provider modules are in {}", folder.display()));
            Ok(ExitCode::SUCCESS)
        }
        Task::ControlPlane => {
            let programs = tools.control_plane()?;
            progress::say(&format!("the control plane is {}", programs.kube_apiserver.path.display()));
            Ok(ExitCode::SUCCESS)
        }
    }
}
