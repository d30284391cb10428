//! etcd, kube-apiserver, kube-controller-manager and kubeadm: built from tests/control-plane as one binary, or the ones that
//! `KUBEBUILDER_ASSETS` points at.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::stamp::Stamp;
use crate::{Tools, progress};

/// The version that the API server reports; the one that go.mod requires.
const KUBERNETES: &str = "v1.36.3";

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
    /// etcd 3.6.
    pub etcd: Program,
    /// kube-apiserver. Built here, it takes the poll of its encryption configuration from
    /// `KEYWARD_TEST_ENCRYPTION_CONFIG_POLL`; one from elsewhere polls each minute.
    pub kube_apiserver: Program,
    /// kube-controller-manager, which not every `KUBEBUILDER_ASSETS` has.
    pub kube_controller_manager: Option<Program>,
    /// kubeadm, which makes static pods. No `KUBEBUILDER_ASSETS` has it by itself.
    pub kubeadm: Option<Program>,
}

impl Tools {
    /// The control plane, built when its sources changed: some five minutes cold, twenty seconds warm.
    pub fn control_plane(&self) -> Result<ControlPlane> {
        if let Some(folder) = env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from) {
            return assets(&folder);
        }
        let _lock = self.lock()?;
        let source = self.root().join("tests/control-plane");
        let binary = self.folder().join("control-plane");
        let ldflags = format!("-s -w -X k8s.io/component-base/version.gitVersion={KUBERNETES}");
        let inputs = ["main.go", "go.mod", "go.sum"].map(|name| source.join(name));
        let stamp = Stamp::of(self.folder().join("control-plane.stamp"), &inputs, &[&ldflags])?;
        if !(stamp.is_current() && binary.is_file()) {
            let go = self.go()?;
            // Built aside: a control plane that runs keeps the file that it was started from.
            let fresh = binary.with_extension("new");
            let mut command = Command::new(go);
            command.current_dir(&source).arg("build");
            // Same sources, same bytes: no path of this machine, no time, nothing fetched that go.sum does not name.
            command
                .args(["-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags", &ldflags, "-o"])
                .arg(&fresh)
                .arg(".");
            command.env("CGO_ENABLED", "0").env("GOTOOLCHAIN", "local").env_remove("GOFLAGS");
            let title = format!(
                "building the control plane (Kubernetes {KUBERNETES}, etcd; about 5 minutes the first time)"
            );
            progress::run(&title, command, &self.log("control-plane"))?;
            fs::rename(&fresh, &binary).with_context(|| format!("moving {} into place", binary.display()))?;
            stamp.keep()?;
        }
        let component = |name: &str| Program { path: binary.clone(), args: vec![name.to_owned()] };
        Ok(ControlPlane {
            etcd: component("etcd"),
            kube_apiserver: component("kube-apiserver"),
            kube_controller_manager: Some(component("kube-controller-manager")),
            kubeadm: Some(component("kubeadm")),
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
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
