//! Compiles Rust for wasm32-unknown-unknown by the first route that works on this machine: the target is
//! installed, rustup adds it, or Debian's packages build the standard library.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{Tools, apt, in_path, progress};

pub(crate) const TARGET: &str = "wasm32-unknown-unknown";
/// The variable that selects the route: `installed`, `rustup` or `debian`.
const OVERRIDE: &str = "KEYWARD_WASM_ROUTE";
const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
/// A machine that cannot reach rustup's server usually fails at once. If packets are lost, it would wait
/// for ever.
const RUSTUP_LIMIT: Duration = Duration::from_mins(2);

/// How modules are compiled on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// The toolchain that builds this workspace has the target.
    Toolchain,
    /// Debian's compiler builds the standard library for the target and links with this linker.
    Debian { linker: PathBuf },
}

impl Route {
    /// The cargo command of this route with `build` and the target in it.
    pub(crate) fn cargo_build(&self, tools: &Tools, target_dir: &Path) -> Command {
        let mut command = match self {
            Self::Toolchain => tools.cargo(),
            Self::Debian { .. } => Command::new("/usr/bin/cargo"),
        };
        command.args(["build", "--target", TARGET]);
        match self {
            Self::Toolchain => command.env("CARGO_TARGET_DIR", target_dir),
            Self::Debian { linker } => command
                .arg("-Zbuild-std=std,panic_abort")
                .env("RUSTC_BOOTSTRAP", "1")
                .env("RUSTC", "/usr/bin/rustc")
                .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker)
                // Two compilers must not share artifacts.
                .env("CARGO_TARGET_DIR", target_dir.join("debian"))
                .env_remove("RUSTUP_TOOLCHAIN"),
        };
        command
    }

    /// The folder in which that command stores release modules.
    pub(crate) fn artifacts(&self, target_dir: &Path) -> PathBuf {
        let base = match self {
            Self::Toolchain => target_dir.to_owned(),
            Self::Debian { .. } => target_dir.join("debian"),
        };
        base.join(TARGET).join("release")
    }
}

/// The first route that works. Prints a line if it is not the installed target.
pub(crate) fn route(tools: &Tools) -> Result<Route> {
    let only = env::var(OVERRIDE).ok();
    let allowed = |name: &str| only.as_deref().is_none_or(|only| only == name);
    if allowed("installed") && target_is_installed(tools) {
        return Ok(Route::Toolchain);
    }
    if allowed("rustup") && in_path("rustup").is_some() {
        let mut rustup = Command::new("rustup");
        rustup.args(["target", "add", TARGET]);
        let title = format!("adding Rust's target {TARGET} with rustup");
        match progress::run_within(&title, rustup, &tools.log("rustup"), Some(RUSTUP_LIMIT)) {
            Ok(()) if target_is_installed(tools) => return Ok(Route::Toolchain),
            Ok(()) => progress::say("rustup added the target to another toolchain"),
            Err(error) => progress::say(&format!("rustup cannot add the target: {}", last_line(&error))),
        }
    }
    if allowed("debian") {
        progress::say(
            "provider modules: building the standard library with Debian's compiler (about a minute, once)",
        );
        return debian(tools).context(
            "cannot compile for wasm32; with network, run rustup target add wasm32-unknown-unknown",
        );
    }
    bail!("{OVERRIDE}={} does not work here; unset it", only.unwrap_or_default())
}

fn target_is_installed(tools: &Tools) -> bool {
    let mut rustc = Command::new("rustc");
    rustc.current_dir(tools.root()).args(["--print", "target-libdir", "--target", TARGET]);
    let Ok(output) = rustc.output() else { return false };
    let folder = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
}

fn debian(tools: &Tools) -> Result<Route> {
    let complete = Path::new("/usr/bin/rustc").is_file()
        && Path::new("/usr/bin/cargo").is_file()
        && debian_source(Path::new("/usr/bin/rustc")).is_some();
    if !complete {
        apt::install("compiling provider modules", &DEBIAN_PACKAGES, &tools.log("apt"))?;
    }
    // Debian's packages have no linker for the target. The toolchain that builds this workspace has one.
    let linker = sysroot(Path::new("rustc"))
        .map(|sysroot| sysroot.join("lib/rustlib").join(host()).join("bin/rust-lld"))
        .filter(|path| path.is_file())
        .or_else(|| in_path("wasm-ld"))
        .context("the toolchain has no linker for wasm32 (rust-lld); run apt-get install lld")?;
    Ok(Route::Debian { linker })
}

fn debian_source(rustc: &Path) -> Option<PathBuf> {
    let source = sysroot(rustc)?.join("lib/rustlib/src/rust/library/std");
    source.is_dir().then_some(source)
}

fn sysroot(rustc: &Path) -> Option<PathBuf> {
    let output = Command::new(rustc).args(["--print", "sysroot"]).output().ok()?;
    output.status.success().then(|| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

/// The target triple of this machine, as in the names of Rust's folders.
fn host() -> String {
    format!("{}-unknown-linux-gnu", env::consts::ARCH)
}

/// The last line of the failed program's output.
fn last_line(error: &anyhow::Error) -> String {
    error.to_string().lines().last().unwrap_or_default().trim().to_owned()
}
