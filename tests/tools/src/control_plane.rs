//! etcd, kube-apiserver, kube-controller-manager and kubeadm: built from tests/control-plane as one binary, or the ones that
//! `KUBEBUILDER_ASSETS` points at. `KEYWARD_TEST_KUBERNETES` chooses the release that is built.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::stamp::Stamp;
use crate::{Tools, progress};

/// Names the release of Kubernetes to test with, for example `1.37`; [`RELEASES`] has those that can be built.
const RELEASE: &str = "KEYWARD_TEST_KUBERNETES";

/// What can be built from tests/control-plane: the first is the default.
const RELEASES: [Release; 2] = [
    Release { name: "1.36", version: "v1.36.3", modules: "go.mod", binary: "control-plane" },
    Release { name: "1.37", version: "v1.37.2", modules: "go-1.37.mod", binary: "control-plane-1.37" },
];

/// A release of Kubernetes, with the etcd that belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Release {
    name: &'static str,
    /// What the API server reports; what `modules` requires.
    version: &'static str,
    /// The file that names the Go modules; beside it is the `.sum` of them.
    modules: &'static str,
    /// The file that is built.
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

    /// All that the binary is made of.
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

/// A program and the arguments that it always gets first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The binary.
    pub path: PathBuf,
    /// Comes before any other argument: the subcommand, for the control plane's one binary.
    pub args: Vec<String>,
}

/// The programs of a control plane.
#[derive(Debug, Clone)]
pub struct ControlPlane {
    /// etcd, of the release that goes with Kubernetes'.
    pub etcd: Program,
    /// kube-apiserver. Built here, it takes the poll of its encryption configuration from
    /// `KEYWARD_TEST_ENCRYPTION_CONFIG_POLL`; one from elsewhere polls each minute.
    pub kube_apiserver: Program,
    /// kube-controller-manager, which not every `KUBEBUILDER_ASSETS` has.
    pub kube_controller_manager: Option<Program>,
    /// kubeadm, which makes static pods. No `KUBEBUILDER_ASSETS` has it by itself.
    pub kubeadm: Option<Program>,
    /// How the kubelet reads manifests and kube-apiserver its flags, to compare with. No `KUBEBUILDER_ASSETS` has it.
    pub pod: Option<Program>,
    /// What the API server understands of EncryptionConfigurations. No `KUBEBUILDER_ASSETS` has it.
    pub encryption_configurations: Option<Program>,
}

impl Tools {
    /// The control plane, built when its sources changed: some five minutes cold, twenty seconds warm.
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
            // Built aside: a control plane that runs keeps the file that it was started from.
            let fresh = self.folder().join(format!("{}.new", release.binary));
            let mut command = Command::new(go);
            command.current_dir(&source).arg("build");
            // Same sources, same bytes: no path of this machine, no time, nothing fetched that go.sum does not name.
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
            "KUBEBUILDER_ASSETS={} must hold etcd and kube-apiserver; unset it to have them built",
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
    fn a_release_is_chosen_by_name_and_the_first_is_the_default() {
        assert_eq!(Release::chosen(None).unwrap().name, "1.36");
        assert_eq!(Release::chosen(Some("")).unwrap().name, "1.36");
        assert_eq!(Release::chosen(Some("1.37")).unwrap().version, "v1.37.2");
        let error = Release::chosen(Some("1.35")).unwrap_err().to_string();
        assert_eq!(error, "KEYWARD_TEST_KUBERNETES=1.35 is not one of 1.36, 1.37");
    }

    /// A source that was forgotten would leave an old binary in use.
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
        assert!(error.contains("must hold etcd and kube-apiserver; unset it"), "{error}");
        fs::write(folder.path().join("kube-apiserver"), "").unwrap();
        let found = assets(folder.path()).unwrap();
        assert!(found.kube_apiserver.args.is_empty());
        assert_eq!(found.kube_controller_manager, None);
    }
}
