//! What is missing on this node, from what was read.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail};
use keyward_core::duration;
use keyward_core::ids::Revision;
use keyward_node::kubeadm::{CONFIG, Edited, Files, Installed, Missing, manifest};
use similar::TextDiff;

use super::cluster::{self, Cluster};

/// kube-apiserver's own.
const REQUEST_TIMEOUT: &str = "60s";

/// Why somebody else's configuration stops this, and the way out.
fn foreign() -> String {
    format!(
        "{CONFIG} is not Keyward's, and Keyward does not take it over: decrypt what is stored by it, then move it away \
         (docs/install.md, \"Where somebody encrypts already\")"
    )
}

/// Everything that one run decides from.
pub(super) struct Plan {
    /// The manifest as it is.
    pub(super) manifest: String,
    /// As it is to be.
    pub(super) edited: Edited,
    installed: Installed,
    /// An agent has worked here.
    known: bool,
    /// `None` where the cluster was left out.
    pub(super) cluster: Option<Cluster>,
    /// The admin says that the cluster has had no revision.
    begin_unencrypted: bool,
    /// Worth knowing.
    pub(super) notes: Vec<String>,
    /// What is wrong and not ours to change.
    pub(super) faults: Vec<String>,
}

impl Plan {
    pub(super) fn of(files: &Files, cluster: Option<Cluster>, begin_unencrypted: bool) -> Result<Self> {
        let path = files.manifest_path();
        let manifest = files.manifest()?.with_context(|| {
            format!("{} is not there; prepare is for control-plane nodes of kubeadm", path.display())
        })?;
        let edited = manifest::edit(&manifest)?;
        let mut plan = Self {
            edited,
            installed: files.installed()?,
            known: files.has_state(),
            cluster,
            begin_unencrypted,
            notes: Vec::new(),
            faults: Vec::new(),
            manifest,
        };
        plan.remark()?;
        Ok(plan)
    }

    fn remark(&mut self) -> Result<()> {
        let remarks = manifest::remarks(&self.manifest)?;
        if remarks.version.is_none() {
            self.notes.push("the image's tag does not tell the API server's version".to_owned());
        }
        for probe in remarks.fatal_probes {
            self.faults.push(format!(
                "{probe} asks /healthz, which fails while any one KMS does not answer: the kubelet would restart \
                 kube-apiserver for ever; have it ask /livez"
            ));
        }
        let timeout = remarks.request_timeout.as_deref().unwrap_or(REQUEST_TIMEOUT);
        let spec = self.cluster.as_ref().and_then(|cluster| Some(&cluster.keyward.as_ref()?.spec));
        match spec {
            Some(spec) => {
                let ours = spec.api_server.request_timeout.as_deref().unwrap_or(REQUEST_TIMEOUT);
                if duration::go(ours) != duration::go(timeout) {
                    self.faults.push(format!(
                        "--request-timeout is {timeout} and ClusterEncryption's spec.apiServer.requestTimeout {ours}; \
                         they must be the same"
                    ));
                }
            }
            None => self.notes.push(format!(
                "--request-timeout is {timeout}; ClusterEncryption's spec.apiServer.requestTimeout must say the same"
            )),
        }
        if self.installed == Installed::Foreign {
            self.faults.push(foreign());
        }
        if self.cluster.is_none() {
            self.notes.push(format!("{} was not looked at (--manifest-only)", cluster::NAME));
        }
        Ok(())
    }

    /// What is missing, each with where.
    pub(super) fn lacks(&self) -> Vec<String> {
        let named = |edited: &Edited, whose: &str| -> Vec<String> {
            edited.missing.iter().map(|missing: &Missing| format!("{missing} ({whose})")).collect()
        };
        let mut all = Vec::new();
        if self.installed == Installed::Nothing {
            all.push(format!("{CONFIG} (a file of this node)"));
        }
        all.extend(named(&self.edited, "kube-apiserver.yaml"));
        if let Some(cluster) = &self.cluster {
            all.extend(named(&cluster.edited, cluster::NAME));
        }
        all
    }

    pub(super) fn is_done(&self) -> bool {
        self.lacks().is_empty()
    }

    pub(super) fn installs_revision_zero(&self) -> bool {
        self.installed == Installed::Nothing
    }

    /// An API server that begins with revision 0 writes plain text, and reads nothing that is encrypted: that is for a
    /// cluster in which nothing was ever encrypted.
    pub(super) fn may_be_carried_out(&self) -> Result<()> {
        let begins = match self.installed {
            Installed::Foreign => bail!(foreign()),
            Installed::Ours => false,
            // Where an agent has seen to it, it is what this node is to have now.
            Installed::RevisionZero => !self.edited.missing.is_empty() && !self.known,
            Installed::Nothing => true,
        };
        if !begins {
            return Ok(());
        }
        let highest = self.cluster.as_ref().map(Cluster::highest_revision).unwrap_or_default();
        if highest > Revision(0) || self.known {
            bail!(
                "this API server would begin without encryption, and the cluster has had revisions (the newest: \
                 {highest}); the one in force is installed by: keyward node-agent prepare --join"
            );
        }
        // A cluster that was not looked at may encrypt.
        if self.cluster.is_none() && !self.begin_unencrypted {
            bail!(
                "this API server would begin without encryption, and whether the cluster has had revisions is not known \
                 (--manifest-only); the one in force is installed by: keyward node-agent prepare --join. Where there has \
                 been none yet, say --begin-unencrypted"
            );
        }
        Ok(())
    }

    /// What would be done.
    pub(super) fn shown(&self, files: &Files) -> String {
        let mut text = String::new();
        if self.installs_revision_zero() {
            let path = files.config_path();
            let _ = writeln!(
                text,
                "new file {}: revision 0, by which everything stays as it is\n",
                path.display()
            );
        }
        let mut show = |name: &str, old: &str, new: &str| {
            if old != new {
                let diff = TextDiff::from_lines(old, new);
                let _ = writeln!(text, "{}", diff.unified_diff().context_radius(3).header(name, name));
            }
        };
        if let Some(cluster) = &self.cluster {
            show(cluster::NAME, &cluster.text, &cluster.edited.text);
        }
        show(&files.manifest_path().to_string_lossy(), &self.manifest, &self.edited.text);
        text
    }
}
