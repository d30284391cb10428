//! `cargo xtask`: the commands of developers and CI. Each command does its own set-up and prints what it
//! does.
//!
//! What may come in: one file for each command, which prepares tools (keyward-test-tools) and runs cargo or a
//! program of tests/. What never does: logic of the product, a Kubernetes client, an async runtime.

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
    /// Demonstrate Keyward on a new cluster with a real kube-apiserver, etcd and OpenBao
    Demo(demo::Options),
    /// Run all tests, or the named groups
    Test(test::Options),
    /// Run what CI runs: formatting, lints, documentation and all tests
    Ci,
    /// Run benchmarks of whole processes; each prints a table and writes JSON
    Bench(bench::Options),
    /// Run each fuzz target for a while; a finding is an error
    Fuzz(fuzz::Options),
    /// Simulate the world around Keyward's decisions: completely within small bounds, and randomly
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
