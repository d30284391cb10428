//! One build of the whole workspace: its binaries and test programs.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use keyward_test_tools::{Tools, progress};
use serde_json::Value;

/// A test program that cargo built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TestProgram {
    /// Its package's name.
    pub(crate) package: String,
    /// Its target's name: the crate, or the file in tests/.
    pub(crate) target: String,
    /// Whether it is in the package's tests/ folder.
    pub(crate) integration: bool,
    /// The package's folder, in which tests run.
    pub(crate) folder: PathBuf,
    pub(crate) executable: PathBuf,
}

/// The result of a build.
#[derive(Debug)]
pub(crate) struct Built {
    tests: Vec<TestProgram>,
    folder: PathBuf,
    complete: bool,
}

impl Built {
    /// Builds all crates with their binaries and tests, in the development profile. A crate that does not
    /// build does not stop the others.
    pub(crate) fn everything(tools: &Tools) -> Result<Self> {
        progress::say("building all crates and tests");
        let started = Instant::now();
        let mut cargo = tools.cargo();
        // --all-targets in one graph: binaries and tests share every dependency.
        cargo.args(["build", "--workspace", "--all-targets", "--keep-going"]);
        cargo.arg("--message-format=json-render-diagnostics");
        let mut child = cargo.stdout(Stdio::piped()).spawn().context("starting cargo")?;
        let stdout = child.stdout.take().context("cargo's output")?;
        let mut tests = Vec::new();
        for line in BufReader::new(stdout).lines() {
            let message: Value = serde_json::from_str(&line?).context("cargo printed no JSON")?;
            tests.extend(test_program(&message));
        }
        let complete = child.wait().context("waiting for cargo")?.success();
        let (word, took) = (if complete { "done" } else { "failed" }, progress::spoken(started.elapsed()));
        progress::say(&format!("building all crates and tests: {word} in {took}"));
        tests.sort_by(|a, b| {
            (&a.package, a.integration, &a.target).cmp(&(&b.package, b.integration, &b.target))
        });
        Ok(Self { tests, folder: tools.target().join("debug"), complete })
    }

    /// Whether every crate was built.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    pub(crate) fn tests(&self) -> impl Iterator<Item = &TestProgram> {
        self.tests.iter()
    }

    /// Where the binaries are.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// One of the binaries.
    pub(crate) fn binary(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        ensure!(path.is_file(), "this workspace has no binary {name}");
        Ok(path)
    }
}

/// The test program that a line of cargo's JSON describes.
fn test_program(message: &Value) -> Option<TestProgram> {
    let is_test = message.pointer("/profile/test").and_then(Value::as_bool)?;
    let text = |pointer: &str| message.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let executable = PathBuf::from(text("/executable")?);
    let manifest = PathBuf::from(text("/manifest_path")?);
    is_test.then_some(TestProgram {
        package: package_name(&text("/package_id")?, &manifest),
        target: text("/target/name")?,
        integration: text("/target/kind/0")? == "test",
        folder: manifest.parent()?.to_owned(),
        executable,
    })
}

/// `path+file:///x/tests/cluster#keyward-test-cluster@0.1.0` or, where the folder has the package's name,
/// `path+file:///x/xtask#0.1.0`.
fn package_name(id: &str, manifest: &Path) -> String {
    let fragment = id.rsplit('#').next().unwrap_or_default();
    match fragment.split_once('@') {
        Some((name, _)) => name.to_owned(),
        None => manifest
            .parent()
            .and_then(Path::file_name)
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    impl TestProgram {
        pub(crate) fn named(package: &str, integration: bool) -> Self {
            Self {
                package: package.into(),
                target: String::new(),
                integration,
                folder: PathBuf::new(),
                executable: PathBuf::new(),
            }
        }
    }

    #[test]
    fn test_programs_are_distinguished_from_binaries() {
        let artifact = |test: bool| {
            json!({
                "reason": "compiler-artifact",
                "package_id": "path+file:///x/tests/cluster#keyward-test-cluster@0.1.0",
                "manifest_path": "/x/tests/cluster/Cargo.toml",
                "target": {"kind": ["test"], "name": "one_node"},
                "profile": {"test": test},
                "executable": "/x/target/debug/deps/one_node-1",
            })
        };
        let program = test_program(&artifact(true)).unwrap();
        assert_eq!((program.package.as_str(), program.target.as_str()), ("keyward-test-cluster", "one_node"));
        assert!(program.integration);
        assert_eq!(program.folder, Path::new("/x/tests/cluster"));
        assert_eq!(test_program(&artifact(false)), None);
        assert_eq!(test_program(&json!({"reason": "build-finished", "success": true})), None);
    }

    #[test]
    fn package_named_like_its_folder_has_the_short_id() {
        assert_eq!(package_name("path+file:///x/xtask#0.1.0", Path::new("/x/xtask/Cargo.toml")), "xtask");
    }
}
