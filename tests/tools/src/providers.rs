//! Provider modules: every member of the workspace in `providers/`, compiled for wasm32 and made a component.
//! A module has the name of its folder: `providers/NAME` gives `target/providers/NAME.wasm`.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::componentize::componentize;
use crate::{BIN_DIR, Tools, progress, wasm};

/// A member of the workspace `providers/` that is a module.
#[derive(Debug, PartialEq, Eq)]
struct Module {
    name: String,
    package: String,
    artifact: String,
}

impl Tools {
    /// Builds all provider modules, and returns their folder.
    pub fn providers(&self) -> Result<PathBuf> {
        let out = self.modules();
        if env::var_os(BIN_DIR).is_some() && out.is_dir() {
            return Ok(out);
        }
        let manifest = self.root().join("providers/Cargo.toml");
        let _lock = self.lock()?;
        let modules = members(&self.metadata(&manifest)?)?;
        if modules.is_empty() {
            bail!(
                "{} has no member with crate-type cdylib, so there is no module to build",
                manifest.display()
            );
        }
        let target = self.target().join("providers-build");
        let route = wasm::route(self)?;
        let mut cargo = route.cargo_build(self, &target);
        cargo.args(["--release", "--lib", "--manifest-path"]).arg(&manifest);
        cargo.args(modules.iter().flat_map(|module| ["--package", &module.package]));
        let names: Vec<_> = modules.iter().map(|module| module.name.as_str()).collect();
        progress::run(
            &format!("building provider modules ({})", names.join(", ")),
            cargo,
            &self.log("providers"),
        )?;

        fs::create_dir_all(&out).with_context(|| format!("creating {}", out.display()))?;
        for module in &modules {
            let core = route.artifacts(&target).join(format!("{}.wasm", module.artifact));
            let stamp = target.join(format!("{}.stamp", module.name));
            componentize(&core, &out.join(format!("{}.wasm", module.name)), stamp)?;
        }
        remove_others(&out, &modules)?;
        Ok(out)
    }

    fn metadata(&self, manifest: &Path) -> Result<Value> {
        let mut cargo = self.cargo();
        cargo.args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path"]).arg(manifest);
        let output = cargo.output().context("starting cargo")?;
        if !output.status.success() {
            bail!("{}: {}", manifest.display(), String::from_utf8_lossy(&output.stderr).trim());
        }
        serde_json::from_slice(&output.stdout).context("the output of cargo metadata is not JSON")
    }
}

/// The modules among a workspace's packages: the packages whose library is a cdylib.
fn members(metadata: &Value) -> Result<Vec<Module>> {
    let list =
        |value: &Value, key: &str| value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let mut modules = Vec::new();
    for package in list(metadata, "packages") {
        let cdylib = list(&package, "targets")
            .into_iter()
            .find(|target| list(target, "crate_types").iter().any(|kind| kind == "cdylib"));
        let Some(target) = cdylib else { continue };
        let manifest =
            PathBuf::from(text(&package, "manifest_path").context("a package without a manifest")?);
        let folder = manifest.parent().and_then(Path::file_name).context("a package without a folder")?;
        let artifact = text(&target, "name").context("a target without a name")?.replace('-', "_");
        let package = text(&package, "name").context("a package without a name")?;
        modules.push(Module { name: folder.to_string_lossy().into_owned(), package, artifact });
    }
    modules.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(modules)
}

/// Removes modules whose provider is gone, so that they are not loaded any more.
fn remove_others(out: &Path, modules: &[Module]) -> Result<()> {
    let known: BTreeSet<_> = modules.iter().map(|module| format!("{}.wasm", module.name)).collect();
    for entry in fs::read_dir(out).with_context(|| format!("reading {}", out.display()))? {
        let path = entry?.path();
        let is_module = path.extension().is_some_and(|extension| extension == "wasm");
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if is_module && !known.contains(&name) {
            fs::remove_file(&path).with_context(|| format!("removing {name}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn module_has_the_name_of_its_folder_and_a_library_is_no_module() {
        let metadata = json!({"packages": [
            {"name": "shared", "manifest_path": "/x/providers/shared/Cargo.toml",
             "targets": [{"name": "shared", "crate_types": ["lib"]}]},
            {"name": "keyward-provider-vault", "manifest_path": "/x/providers/vault/Cargo.toml",
             "targets": [{"name": "custom-build", "crate_types": ["bin"]},
                         {"name": "keyward-provider-vault", "crate_types": ["cdylib", "rlib"]}]},
        ]});
        let expected = Module {
            name: "vault".into(),
            package: "keyward-provider-vault".into(),
            artifact: "keyward_provider_vault".into(),
        };
        assert_eq!(members(&metadata).unwrap(), [expected]);
    }
}
