//! What is missing on this node, computed from the files and objects that were read.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail};
use keyward_core::duration;
use keyward_core::ids::Revision;
use keyward_node::kubeadm::{CONFIG, Examined, Files, Installed, manifest};
use similar::TextDiff;

use super::cluster::{self, Cluster};

/// The default of kube-apiserver.
const REQUEST_TIMEOUT: &str = "60s";
const TIMEOUT_FLAG: &str = "request-timeout";

/// Why `prepare` refuses a configuration that is not Keyward's (decision 0014), and what to do.
fn foreign() -> String {
    format!(
        "{CONFIG} is not Keyward's, and Keyward does not adopt it; decrypt what it encrypted, then move it away \
         (docs/install.md, \"Where somebody encrypts already\")"
    )
}

/// Everything that one run decides from.
pub(super) struct Plan {
    /// The current manifest.
    pub(super) manifest: String,
    /// The manifest's file name, for messages.
    name: String,
    examined: Examined,
    installed: Installed,
    /// Whether an agent has run on this node.
    known: bool,
    /// `None` with `--manifest-only`.
    pub(super) cluster: Option<Cluster>,
    /// The admin confirmed that the cluster has had no revision.
    begin_unencrypted: bool,
    /// Notes that need no change.
    pub(super) notes: Vec<String>,
    /// Mistakes that only the admin can fix. They do not block the changes.
    pub(super) faults: Vec<String>,
    /// Mistakes that block every change.
    pub(super) refusals: Vec<String>,
}

/// The desired texts.
pub(super) struct Texts<'a> {
    pub(super) manifest: &'a str,
    pub(super) cluster: Option<&'a str>,
}

impl Plan {
    pub(super) fn of(files: &Files, cluster: Option<Cluster>, begin_unencrypted: bool) -> Result<Self> {
        let path = files.manifest_path();
        let manifest = files.manifest()?.with_context(|| {
            format!("{} does not exist; run prepare on a control-plane node of kubeadm", path.display())
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
            // A text that cannot be parsed is refused as a whole, and has no list of what is missing.
            if let (false, Err(why)) = (examined.missing.is_empty(), &examined.edited) {
                notes.push(format!("the missing settings cannot be added automatically: {why} ({whose})"));
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
            self.notes.push(format!("{} was not checked (--manifest-only)", cluster::NAME));
        }
    }

    /// The timeouts of the manifest, of ClusterConfiguration, from which kubeadm recreates the manifest, and
    /// of the spec must be the same.
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
                "--{TIMEOUT_FLAG} is {timeout} in {} and {again} in {}; they must be the same, because kubeadm recreates \
                 the manifest from ClusterConfiguration",
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
                        "--{TIMEOUT_FLAG} is {timeout} and spec.apiServer.requestTimeout of ClusterEncryption is {ours}; \
                         they must be the same"
                    ));
                }
            }
            None => self.notes.push(format!(
                "--{TIMEOUT_FLAG} is {timeout}; spec.apiServer.requestTimeout of ClusterEncryption must be the same"
            )),
        }
    }

    /// The examined texts, each with its name.
    fn parts(&self) -> Vec<(&str, &Examined)> {
        let cluster = self.cluster.as_ref().map(|cluster| (cluster::NAME, &cluster.examined));
        [(self.name.as_str(), &self.examined)].into_iter().chain(cluster).collect()
    }

    /// What is missing, each item with the text that lacks it.
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

    /// The desired texts, or why they cannot be written.
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

    /// Refuses to start an API server with revision 0 if the cluster may have encrypted objects. Such a
    /// server writes plain text and can read no encrypted object.
    fn may_begin(&self) -> Result<()> {
        let begins = match self.installed {
            Installed::Ours | Installed::Foreign => false,
            // An agent that installed revision 0 was given it for this node.
            Installed::RevisionZero => !self.examined.missing.is_empty() && !self.known,
            Installed::Nothing => true,
        };
        if !begins {
            return Ok(());
        }
        let highest = self.cluster.as_ref().map(Cluster::highest_revision).unwrap_or_default();
        if highest > Revision(0) || self.known {
            bail!(
                "this API server would start without encryption, but the cluster has had revisions (the newest: \
                 {highest}); install the one in force with: keyward node-agent prepare --join"
            );
        }
        // A cluster that was not read may have encrypted objects.
        if self.cluster.is_none() && !self.begin_unencrypted {
            bail!(
                "this API server would start without encryption, and it is not known whether the cluster has had revisions \
                 (--manifest-only); install the one in force with: keyward node-agent prepare --join. If there was none \
                 yet, add --begin-unencrypted"
            );
        }
        Ok(())
    }

    /// The changes, as people read them.
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
