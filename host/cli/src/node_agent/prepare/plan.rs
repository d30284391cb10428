//! What is missing on this node, from what was read.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail};
use keyward_core::duration;
use keyward_core::ids::Revision;
use keyward_node::kubeadm::{CONFIG, Examined, Files, Installed, manifest};
use similar::TextDiff;

use super::cluster::{self, Cluster};

/// kube-apiserver's own.
const REQUEST_TIMEOUT: &str = "60s";
const TIMEOUT_FLAG: &str = "request-timeout";

/// Why another configuration stops this, and the way out.
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
    /// The manifest's file name, for messages.
    name: String,
    examined: Examined,
    installed: Installed,
    /// An agent has worked here.
    known: bool,
    /// `None` where the cluster was left out.
    pub(super) cluster: Option<Cluster>,
    /// The admin says that the cluster has had no revision.
    begin_unencrypted: bool,
    /// Worth knowing.
    pub(super) notes: Vec<String>,
    /// What is wrong, and is the admin's to change; the rest can be carried out.
    pub(super) faults: Vec<String>,
    /// What is wrong, and nothing is changed while it is.
    pub(super) refusals: Vec<String>,
}

/// The texts as they are to be.
pub(super) struct Texts<'a> {
    pub(super) manifest: &'a str,
    pub(super) cluster: Option<&'a str>,
}

impl Plan {
    pub(super) fn of(files: &Files, cluster: Option<Cluster>, begin_unencrypted: bool) -> Result<Self> {
        let path = files.manifest_path();
        let manifest = files.manifest()?.with_context(|| {
            format!("{} is not there; prepare is for control-plane nodes of kubeadm", path.display())
        })?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut plan = Self {
            examined: manifest::examine(&manifest),
            installed: files.installed()?,
            known: files.has_state(),
            cluster,
            begin_unencrypted,
            notes: Vec::new(),
            faults: Vec::new(),
            refusals: files.other_definitions()?.iter().map(ToString::to_string).collect(),
            manifest,
            name,
        };
        plan.remark();
        Ok(plan)
    }

    fn remark(&mut self) {
        let (mut refusals, mut notes) = (Vec::new(), Vec::new());
        for (whose, examined) in self.parts() {
            refusals.extend(examined.refusals.iter().map(|refusal| format!("{refusal} ({whose})")));
            // What is not understood at all is refused, and nothing is known to be missing.
            if let (false, Err(why)) = (examined.missing.is_empty(), &examined.edited) {
                notes.push(format!("what is missing cannot be added automatically: {why} ({whose})"));
            }
        }
        self.refusals.append(&mut refusals);
        self.notes.append(&mut notes);
        if self.installed == Installed::Foreign {
            self.refusals.push(foreign());
        }
        if let Ok(server) = manifest::read(&self.manifest) {
            let remarks = server.remarks();
            self.notes.extend(remarks.notes);
            self.faults.extend(remarks.faults);
            self.compare_timeouts(server.flags.get(TIMEOUT_FLAG).unwrap_or(REQUEST_TIMEOUT));
        }
        if self.cluster.is_none() {
            self.notes.push(format!("{} was not looked at (--manifest-only)", cluster::NAME));
        }
    }

    /// The manifest's, ClusterConfiguration's, from which the manifest is made again, and the spec's must be the same.
    fn compare_timeouts(&mut self, timeout: &str) {
        let differ = |a: &str, b: &str| match (duration::go(a), duration::go(b)) {
            (Ok(a), Ok(b)) => a != b,
            _ => true,
        };
        if let Err(why) = duration::go(timeout) {
            self.faults.push(format!("--{TIMEOUT_FLAG}: {why} ({})", self.name));
        }
        let flags = self.cluster.as_ref().map(Cluster::flags);
        let again = flags.as_ref().map(|flags| flags.get(TIMEOUT_FLAG).unwrap_or(REQUEST_TIMEOUT));
        if let Some(again) = again.filter(|again| differ(again, timeout)) {
            self.faults.push(format!(
                "--{TIMEOUT_FLAG} is {timeout} in {} and {again} in {}, from which kubeadm makes the manifest again; they \
                 must be the same",
                self.name,
                cluster::NAME
            ));
        }
        let spec = self.cluster.as_ref().and_then(|cluster| Some(&cluster.keyward.as_ref()?.spec));
        match spec {
            Some(spec) => {
                let ours = spec.api_server.request_timeout.as_deref().unwrap_or(REQUEST_TIMEOUT);
                if differ(ours, timeout) {
                    self.faults.push(format!(
                        "--{TIMEOUT_FLAG} is {timeout} and ClusterEncryption's spec.apiServer.requestTimeout {ours}; \
                         they must be the same"
                    ));
                }
            }
            None => self.notes.push(format!(
                "--{TIMEOUT_FLAG} is {timeout}; ClusterEncryption's spec.apiServer.requestTimeout must be the same"
            )),
        }
    }

    /// What was examined, each with its name.
    fn parts(&self) -> Vec<(&str, &Examined)> {
        let cluster = self.cluster.as_ref().map(|cluster| (cluster::NAME, &cluster.examined));
        [(self.name.as_str(), &self.examined)].into_iter().chain(cluster).collect()
    }

    /// What is missing, each with where.
    pub(super) fn lacks(&self) -> Vec<String> {
        let mut all = Vec::new();
        if self.installed == Installed::Nothing {
            all.push(format!("{CONFIG} (a file of this node)"));
        }
        for (whose, examined) in self.parts() {
            all.extend(examined.missing.iter().map(|missing| format!("{missing} ({whose})")));
        }
        all
    }

    pub(super) fn is_done(&self) -> bool {
        self.lacks().is_empty()
    }

    pub(super) fn installs_revision_zero(&self) -> bool {
        self.installed == Installed::Nothing
    }

    /// The texts as they are to be.
    pub(super) fn may_be_carried_out(&self) -> Result<Texts<'_>> {
        if !self.refusals.is_empty() {
            bail!(self.refusals.join("\n"));
        }
        self.may_begin()?;
        let manifest = Self::edited(&self.name, &self.examined)?;
        let cluster = self.cluster.as_ref().map(|cluster| Self::edited(cluster::NAME, &cluster.examined));
        Ok(Texts { manifest, cluster: cluster.transpose()? })
    }

    fn edited<'a>(whose: &str, examined: &'a Examined) -> Result<&'a str> {
        let missing: Vec<String> = examined.missing.iter().map(ToString::to_string).collect();
        let edited = examined.edited.as_deref();
        edited.map_err(Clone::clone).with_context(|| format!("{whose} lacks {}", missing.join(", ")))
    }

    /// An API server that begins with revision 0 writes plain text, and reads nothing that is encrypted: that is for a
    /// cluster in which nothing was ever encrypted.
    fn may_begin(&self) -> Result<()> {
        let begins = match self.installed {
            Installed::Ours | Installed::Foreign => false,
            // Where an agent has installed it, it is what this node is to have now.
            Installed::RevisionZero => !self.examined.missing.is_empty() && !self.known,
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
                 been none yet, add --begin-unencrypted"
            );
        }
        Ok(())
    }

    /// What would be done.
    pub(super) fn shown(&self, files: &Files, texts: &Texts<'_>) -> String {
        let mut text = String::new();
        if self.installs_revision_zero() {
            let path = files.config_path();
            let _ = writeln!(text, "new file {}: revision 0, which encrypts nothing\n", path.display());
        }
        let mut show = |name: &str, old: &str, new: &str| {
            if old != new {
                let diff = TextDiff::from_lines(old, new);
                let _ = writeln!(text, "{}", diff.unified_diff().context_radius(3).header(name, name));
            }
        };
        if let (Some(cluster), Some(text)) = (&self.cluster, texts.cluster) {
            show(cluster::NAME, &cluster.text, text);
        }
        show(&files.manifest_path().to_string_lossy(), &self.manifest, texts.manifest);
        text
    }
}
