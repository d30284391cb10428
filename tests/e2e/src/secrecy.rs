//! No secret byte anywhere but where it must be: looks for one in every file of the cluster and in every object that is
//! no Secret. A harmless marker, planted in both, shows that the search sees.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};
use keyward_core::api::ClusterEncryption;
use keyward_core::names;
use keyward_test_cluster::Hidden;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams};
use kube::discovery::{Discovery, verbs};
use kube::{Api, Client};
use serde_json::json;

use crate::Keyward;
use crate::transcript::{self, Transcript};

/// Files that may hold it, by their paths in the cluster's folder, and why.
const SPARED: [(&str, &str); 4] = [
    ("etcd/member/", "what is stored, in plain text before it is encrypted; evidence.rs looks at that"),
    ("/rootfs/etc/kubernetes/keyward/plugins/", "what a plugin logs in with: it reads it from there"),
    ("/rootfs/var/lib/keyward/instances/", "the agent's copy of that, for a start without an API server"),
    ("/rootfs/var/lib/keyward/revisions/", "likewise, of the revisions that it keeps"),
];
/// Looked at for certain, or the search has lost its way: parts of places' names.
const MUST_LOOK: [&str; 11] = [
    transcript::FILE,
    "etcd.log",
    "operator-1.log",
    "supervisor.log",
    "pods.json",
    "new.yaml",
    "_kube-apiserver-node-1_",
    "_keyward-agent-node-1_",
    "_keyward-kms-1-",
    "OpenBao's log",
    "Pod objects",
];
/// The object that carries the marker.
const MARKED: &str = "ClusterEncryption objects";
const ANNOTATION: &str = "example.com/marker";

/// A search that goes on while things come and go: each look adds to what was seen.
pub struct Search<'a> {
    keyward: &'a Keyward,
    secret: Forms,
    marker: Forms,
    looked: BTreeSet<String>,
    secret_seen: BTreeSet<String>,
    marker_seen: BTreeSet<String>,
    /// Spared files that hold the secret, with their modes.
    held: BTreeMap<String, u32>,
}

impl<'a> Search<'a> {
    /// Plants the marker: as it is in what is told, and in base64 amid other text in an object's annotation.
    pub async fn begin(keyward: &'a Keyward, secret: &Hidden, transcript: &Transcript) -> Result<Self> {
        let random = RandomState::new().build_hasher().finish();
        let marker = format!("harmless-marker-{random:016x}");
        transcript.say(format_args!("   the search for secrets must find this: {marker}"));
        let text = BASE64_STANDARD.encode(format!("a {marker}!"));
        let patch = Patch::Merge(json!({"metadata": {"annotations": {ANNOTATION: text}}}));
        let api = Api::<ClusterEncryption>::all(keyward.client.clone());
        api.patch(names::CLUSTER, &PatchParams::default(), &patch).await.context("planting the marker")?;
        Ok(Self {
            keyward,
            secret: Forms::of(secret.reveal()),
            marker: Forms::of(&marker),
            looked: BTreeSet::new(),
            secret_seen: BTreeSet::new(),
            marker_seen: BTreeSet::new(),
            held: BTreeMap::new(),
        })
    }

    /// Looks everywhere once.
    pub async fn look(&mut self) -> Result<()> {
        for (kind, text) in objects(&self.keyward.client).await? {
            self.judge(format!("{kind} objects"), &text);
        }
        let folder = self.keyward.cluster.folder();
        let mut found = Vec::new();
        files(folder, &mut found)?;
        for path in found {
            let place = path.strip_prefix(folder).unwrap_or(&path).display().to_string();
            let Some((text, mode)) = read(&path)? else { continue };
            if !SPARED.iter().any(|(spared, _)| place.contains(spared)) {
                self.judge(place, &text);
            } else if self.secret.stand_in(&text) {
                self.held.insert(place, mode);
            }
        }
        if let Some((text, _)) = read(self.keyward.bao.log())? {
            self.judge("OpenBao's log".to_owned(), &text);
        }
        Ok(())
    }

    fn judge(&mut self, place: String, text: &str) {
        if self.secret.stand_in(text) {
            self.secret_seen.insert(place.clone());
        }
        if self.marker.stand_in(text) {
            self.marker_seen.insert(place.clone());
        }
        self.looked.insert(place);
    }

    /// Fails unless it looked where it must, found the marker where it was planted, and the secret only where it must
    /// be, in files of their owner alone.
    pub fn verdict(&self) -> Result<()> {
        ensure!(self.secret_seen.is_empty(), "the secret stands in {:?}", self.secret_seen);
        for part in MUST_LOOK {
            let looked = self.looked.iter().any(|place| place.contains(part));
            ensure!(looked, "the search never looked at {part}: {:?}", self.looked);
        }
        for place in [transcript::FILE, MARKED] {
            ensure!(self.marker_seen.contains(place), "the marker in {place} was not found");
        }
        ensure!(!self.held.is_empty(), "the plugin's own file was not seen to hold the secret");
        let open: Vec<_> = self.held.iter().filter(|(_, mode)| **mode & 0o077 != 0).collect();
        ensure!(open.is_empty(), "others may read files that hold the secret: {open:?}");
        Ok(())
    }
}

impl fmt::Display for Search<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = self.looked.iter().filter(|place| place.ends_with(" objects")).count();
        write!(
            f,
            "in {} files and all objects of {kinds} kinds that are no Secrets: seen in {}\n   a marker planted in \
             two of them: found in {}",
            self.looked.len() - kinds,
            self.secret_seen.len(),
            self.marker_seen.len(),
        )?;
        write!(f, "\n   files of agent and plugins that hold it, as they must: {}", self.held.len())
    }
}

/// The ways in which a program is likely to print a word.
struct Forms(Vec<String>);

impl Forms {
    fn of(word: &str) -> Self {
        let hex: String = word.bytes().map(|byte| format!("{byte:02x}")).collect();
        let mut forms = vec![word.to_owned(), hex.to_uppercase(), hex];
        // Three bytes are four letters of base64. So amid other text there are three ways in which it looks, by how
        // many bytes come before; letters at either end that a neighbour has a part in are left out.
        for (before, letters) in [(0, 0), (1, 2), (2, 3)] {
            let amid = " ".repeat(before) + word;
            let text = BASE64_STANDARD_NO_PAD.encode(&amid);
            forms.extend(text.get(letters..amid.len() * 8 / 6).map(str::to_owned));
        }
        Self(forms)
    }

    fn stand_in(&self, text: &str) -> bool {
        self.0.iter().any(|form| text.contains(form.as_str()))
    }
}

/// Every object of every kind that can be listed, Secrets aside, as JSON by kind.
async fn objects(client: &Client) -> Result<BTreeMap<String, String>> {
    let discovery = Discovery::new(client.clone()).run().await.context("what kinds there are")?;
    let mut texts = BTreeMap::<String, String>::new();
    for group in discovery.groups() {
        for (kind, can) in group.recommended_resources() {
            let secrets = kind.group.is_empty() && kind.plural == "secrets";
            if secrets || !can.supports_operation(verbs::LIST) {
                continue;
            }
            let list = Api::<DynamicObject>::all_with(client.clone(), &kind)
                .list(&ListParams::default())
                .await
                .with_context(|| format!("listing {}", kind.plural))?;
            let name = if kind.group == "events.k8s.io" { "events.k8s.io Event" } else { &kind.kind };
            texts.entry(name.to_owned()).or_default().push_str(&serde_json::to_string(&list.items)?);
        }
    }
    Ok(texts)
}

/// Every file below a folder.
fn files(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| folder.display().to_string())?,
    };
    for entry in entries {
        let entry = entry.with_context(|| folder.display().to_string())?;
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files(&entry.path(), found)?,
            Ok(kind) if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    Ok(())
}

/// A file, be it text or not, and its mode; `None` where it is gone: plugins come and go.
fn read(path: &Path) -> Result<Option<(String, u32)>> {
    let looked = std::fs::metadata(path).and_then(|about| Ok((std::fs::read(path)?, about)));
    match looked {
        Ok((bytes, about)) => {
            Ok(Some((String::from_utf8_lossy(&bytes).into_owned(), about.permissions().mode())))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_found_amid_other_text_however_it_is_printed() {
        let word = "0d9c37a1-6a1e";
        let forms = Forms::of(word);
        for before in ["", "x", "xy", "xyz"] {
            for after in ["", "x", "xy"] {
                let text = BASE64_STANDARD.encode(format!("{before}{word}{after}"));
                assert!(forms.stand_in(&text), "{before}|{after}: {text}");
            }
        }
        assert!(forms.stand_in("id=0d9c37a1-6a1e;"));
        assert!(forms.stand_in("30643963333761312d36613165"));
        assert!(!forms.stand_in(&BASE64_STANDARD.encode("1d9c37a1-6a1e")));
        assert!(!forms.stand_in(""));
    }
}
