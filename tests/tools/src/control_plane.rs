//! etcd, kube-apiserver, kube-controller-manager and kubeadm: built from tests/control-plane as one binary,
//! or the binaries in the folder `KUBEBUILDER_ASSETS`. `KEYWARD_TEST_KUBERNETES` selects the release that is
//! built.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::stamp::Stamp;
use crate::{Tools, progress};

/// The variable with the release of Kubernetes to test with, for example `1.37`. [`RELEASES`] lists the
/// possible values.
const RELEASE: &str = "KEYWARD_TEST_KUBERNETES";

/// The releases that can be built from tests/control-plane. The first one is the default.
const RELEASES: [Release; 2] = [
    Release { name: "1.36", version: "v1.36.3", modules: "go.mod", binary: "control-plane" },
    Release { name: "1.37", version: "v1.37.2", modules: "go-1.37.mod", binary: "control-plane-1.37" },
];

/// A release of Kubernetes, with the etcd that belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Release {
    name: &'static str,
    /// The version that `modules` requires and that the API server reports.
    version: &'static str,
    /// The file with the Go modules. The `.sum` file is beside it.
    modules: &'static str,
    /// The name of the built file.
    binary: &'static str,
}

impl Release {
    fn chosen(name: Option<&str>) -> Result<Self> {
        let Some(name) = name.filter(|name| !name.is_empty()) else { return Ok(RELEASES[0]) };
        match RELEASES.iter().find(|release| release.name == name) {
            Some(release) => Ok(*release),
            None => {
                bail!("{RELEASE}={name} is not one of {}", RELEASES.map(|release| release.name).join(", "))
            }
        }
    }

    /// All input files of the build.
    fn inputs(self, source: &Path) -> Result<Vec<PathBuf>> {
        let modules = source.join(self.modules);
        let mut inputs = vec![modules.with_extension("sum"), modules];
        let list = || -> std::io::Result<Vec<PathBuf>> {
            fs::read_dir(source)?.map(|entry| Ok(entry?.path())).collect()
        };
        let files = list().with_context(|| format!("listing {}", source.display()))?;
        inputs.extend(
            files.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "go")),
        );
        inputs.sort();
        Ok(inputs)
    }
}

/// A program, and the arguments that always come first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The binary.
    pub path: PathBuf,
    /// Arguments before all others: for the control plane's one binary, the subcommand.
    pub args: Vec<String>,
}

/// The programs of a control plane.
#[derive(Debug, Clone)]
pub struct ControlPlane {
    /// etcd, of the release that belongs to this Kubernetes.
    pub etcd: Program,
    /// kube-apiserver. If it is built here, `KEYWARD_TEST_ENCRYPTION_CONFIG_POLL` sets the interval at which
    /// it reads its encryption configuration. Any other binary reads it each minute.
    pub kube_apiserver: Program,
    /// kube-controller-manager. Not every `KUBEBUILDER_ASSETS` has it.
    pub kube_controller_manager: Option<Program>,
    /// kubeadm, which writes manifests of static pods. A usual `KUBEBUILDER_ASSETS` does not have it.
    pub kubeadm: Option<Program>,
    /// Shows how the kubelet reads manifests and kube-apiserver reads flags, for comparison. Only built here.
    pub pod: Option<Program>,
    /// Shows how the API server reads EncryptionConfigurations, for comparison. Only built here.
    pub encryption_configurations: Option<Program>,
}

impl Tools {
    /// The control plane. It is built again if its sources changed: about five minutes the first time, then
    /// twenty seconds.
    pub fn control_plane(&self) -> Result<ControlPlane> {
        if let Some(folder) = env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from) {
            return assets(&folder);
        }
        let _lock = self.lock()?;
        let source = self.root().join("tests/control-plane");
        let release = Release::chosen(env::var(RELEASE).ok().as_deref())?;
        let binary = self.folder().join(release.binary);
        let version = release.version;
        let ldflags = format!("-s -w -X k8s.io/component-base/version.gitVersion={version}");
        let kept = self.folder().join(format!("{}.stamp", release.binary));
        let stamp = Stamp::of(kept, &release.inputs(&source)?, &[&ldflags])?;
        if !(stamp.is_current() && binary.is_file()) {
            let go = self.go()?;
            // Built into another file: a running control plane keeps the file from which it started.
            let fresh = self.folder().join(format!("{}.new", release.binary));
            let mut command = Command::new(go);
            command.current_dir(&source).arg("build");
            // The same sources give the same bytes: no path of this machine, no time, and only downloads
            // named in go.sum.
            command
                .args(["-trimpath", "-buildvcs=false", "-mod=readonly", "-modfile", release.modules])
                .args(["-ldflags", &ldflags, "-o"])
                .arg(&fresh)
                .arg(".");
            command.env("CGO_ENABLED", "0").env("GOTOOLCHAIN", "local").env_remove("GOFLAGS");
            let title = format!(
                "building the control plane (Kubernetes {version}, etcd; about 5 minutes the first time)"
            );
            progress::run(&title, command, &self.log(release.binary))?;
            fs::rename(&fresh, &binary).with_context(|| format!("moving {} into place", binary.display()))?;
            stamp.keep()?;
        }
        let component = |name: &str| Program { path: binary.clone(), args: vec![name.to_owned()] };
        Ok(ControlPlane {
            etcd: component("etcd"),
            kube_apiserver: component("kube-apiserver"),
            kube_controller_manager: Some(component("kube-controller-manager")),
            kubeadm: Some(component("kubeadm")),
            pod: Some(component("pod")),
            encryption_configurations: Some(component("encryption-configurations")),
        })
    }
}

fn assets(folder: &std::path::Path) -> Result<ControlPlane> {
    let program = |name: &str| {
        Some(folder.join(name)).filter(|path| path.is_file()).map(|path| Program { path, args: vec![] })
    };
    let (Some(etcd), Some(kube_apiserver)) = (program("etcd"), program("kube-apiserver")) else {
        bail!(
            "KUBEBUILDER_ASSETS={} must contain etcd and kube-apiserver; unset it to have them built",
            folder.display()
        );
    };
    Ok(ControlPlane {
        etcd,
        kube_apiserver,
        kube_controller_manager: program("kube-controller-manager"),
        kubeadm: program("kubeadm"),
        pod: None,
        encryption_configurations: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_is_chosen_by_name_and_the_first_is_the_default() {
        assert_eq!(Release::chosen(None).unwrap().name, "1.36");
        assert_eq!(Release::chosen(Some("")).unwrap().name, "1.36");
        assert_eq!(Release::chosen(Some("1.37")).unwrap().version, "v1.37.2");
        let error = Release::chosen(Some("1.35")).unwrap_err().to_string();
        assert_eq!(error, "KEYWARD_TEST_KUBERNETES=1.35 is not one of 1.36, 1.37");
    }

    /// With a missing input, a change would leave the old binary in use.
    #[test]
    fn every_source_and_the_chosen_modules_are_inputs() {
        let source = Tools::here().root().join("tests/control-plane");
        for release in RELEASES {
            let inputs = release.inputs(&source).unwrap();
            for name in ["main.go", "pod.go", release.modules] {
                assert!(inputs.contains(&source.join(name)), "{name}: {inputs:?}");
            }
            let modules = fs::read_to_string(source.join(release.modules)).unwrap();
            assert!(modules.contains(&format!("k8s.io/kubernetes {}\n", release.version)), "{release:?}");
        }
    }

    #[test]
    fn assets_without_an_api_server_are_refused_with_a_remedy() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("etcd"), "").unwrap();
        let error = assets(folder.path()).unwrap_err().to_string();
        assert!(error.contains("must contain etcd and kube-apiserver; unset it"), "{error}");
        fs::write(folder.path().join("kube-apiserver"), "").unwrap();
        let found = assets(folder.path()).unwrap();
        assert!(found.kube_apiserver.args.is_empty());
        assert_eq!(found.kube_controller_manager, None);
    }
}
