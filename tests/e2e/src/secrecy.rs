//! No secret byte is where it must not be: searches for one in every file of the cluster and in every object
//! that is not a Secret. A harmless marker in a file and in an object shows that the search works.

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

/// Files that are allowed to contain the secret, by their paths in the cluster's folder, and why.
const SPARED: [(&str, &str); 4] = [
    ("etcd/member/", "stored values, in plain text before they are encrypted; evidence.rs checks them"),
    ("/rootfs/etc/kubernetes/keyward/plugins/", "the credentials that a plugin reads to log in"),
    ("/rootfs/var/lib/keyward/instances/", "the agent's copy of them, for a start without an API server"),
    ("/rootfs/var/lib/keyward/revisions/", "the agent's copies of revisions, with the same credentials"),
];
/// Parts of the names of places that the search must have read; otherwise the search itself is wrong.
const MUST_READ: [&str; 11] = [
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
/// The object with the marker.
const MARKED: &str = "ClusterEncryption objects";
const ANNOTATION: &str = "example.com/marker";

/// A search that is repeated while files and objects change: each run adds to the findings.
pub struct Search<'a> {
    keyward: &'a Keyward,
    secret: Forms,
    marker: Forms,
    read: BTreeSet<String>,
    secret_found: BTreeSet<String>,
    marker_found: BTreeSet<String>,
    /// Spared files that contain the secret, with their modes.
    spared: BTreeMap<String, u32>,
}

impl<'a> Search<'a> {
    /// Writes the marker: unchanged into the transcript, and as a part of base64 text into an object's
    /// annotation.
    pub async fn begin(keyward: &'a Keyward, secret: &Hidden, transcript: &Transcript) -> Result<Self> {
        let random = RandomState::new().build_hasher().finish();
        let marker = format!("harmless-marker-{random:016x}");
        transcript.say(format_args!("   the search for the secret-id must find this marker: {marker}"));
        let text = BASE64_STANDARD.encode(format!("a {marker}!"));
        let patch = Patch::Merge(json!({"metadata": {"annotations": {ANNOTATION: text}}}));
        let api = Api::<ClusterEncryption>::all(keyward.client.clone());
        api.patch(names::CLUSTER, &PatchParams::default(), &patch).await.context("writing the marker")?;
        Ok(Self {
            keyward,
            secret: Forms::of(secret.reveal()),
            marker: Forms::of(&marker),
            read: BTreeSet::new(),
            secret_found: BTreeSet::new(),
            marker_found: BTreeSet::new(),
            spared: BTreeMap::new(),
        })
    }

    /// Searches everywhere once.
    pub async fn run(&mut self) -> Result<()> {
        for (kind, text) in objects(&self.keyward.client).await? {
            self.check(format!("{kind} objects"), &text);
        }
        let folder = self.keyward.cluster.folder();
        let mut found = Vec::new();
        files(folder, &mut found)?;
        for path in found {
            let place = path.strip_prefix(folder).unwrap_or(&path).display().to_string();
            let Some((text, mode)) = read(&path)? else { continue };
            if !SPARED.iter().any(|(spared, _)| place.contains(spared)) {
                self.check(place, &text);
            } else if self.secret.are_in(&text) {
                self.spared.insert(place, mode);
            }
        }
        if let Some((text, _)) = read(self.keyward.bao.log())? {
            self.check("OpenBao's log".to_owned(), &text);
        }
        Ok(())
    }

    fn check(&mut self, place: String, text: &str) {
        if self.secret.are_in(text) {
            self.secret_found.insert(place.clone());
        }
        if self.marker.are_in(text) {
            self.marker_found.insert(place.clone());
        }
        self.read.insert(place);
    }

    /// Fails unless the search read every place of `MUST_READ`, found the marker where it was written, and
    /// found the secret only in spared files that no other user can access.
    pub fn verdict(&self) -> Result<()> {
        ensure!(self.secret_found.is_empty(), "the secret is in {:?}", self.secret_found);
        for part in MUST_READ {
            let read = self.read.iter().any(|place| place.contains(part));
            ensure!(read, "the search never read {part}: {:?}", self.read);
        }
        for place in [transcript::FILE, MARKED] {
            ensure!(self.marker_found.contains(place), "the marker in {place} was not found");
        }
        ensure!(!self.spared.is_empty(), "the secret was not found in the plugin's own file");
        let open: Vec<_> = self.spared.iter().filter(|(_, mode)| **mode & 0o077 != 0).collect();
        ensure!(open.is_empty(), "other users can read files with the secret: {open:?}");
        Ok(())
    }
}

impl fmt::Display for Search<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = self.read.iter().filter(|place| place.ends_with(" objects")).count();
        write!(
            f,
            "in {} files and all objects of {kinds} kinds without Secrets: found in {}\n   a marker in two of them: \
             found in {}",
            self.read.len() - kinds,
            self.secret_found.len(),
            self.marker_found.len(),
        )?;
        write!(f, "\n   files of agent and plugins that must contain it: {}", self.spared.len())
    }
}

/// The forms in which a program is likely to print a word.
struct Forms(Vec<String>);

impl Forms {
    fn of(word: &str) -> Self {
        let hex: String = word.bytes().map(|byte| format!("{byte:02x}")).collect();
        let mut forms = vec![word.to_owned(), hex.to_uppercase(), hex];
        // Three bytes are four letters of base64. So a word in other text has three forms, depending on the
        // number of bytes before it. Letters at either end that also encode a neighboring byte are left out.
        for (before, letters) in [(0, 0), (1, 2), (2, 3)] {
            let padded = " ".repeat(before) + word;
            let text = BASE64_STANDARD_NO_PAD.encode(&padded);
            forms.extend(text.get(letters..padded.len() * 8 / 6).map(str::to_owned));
        }
        Self(forms)
    }

    fn are_in(&self, text: &str) -> bool {
        self.0.iter().any(|form| text.contains(form.as_str()))
    }
}

/// Every object of every kind that can be listed, except Secrets, as JSON by kind.
async fn objects(client: &Client) -> Result<BTreeMap<String, String>> {
    let discovery = Discovery::new(client.clone()).run().await.context("discovery")?;
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

/// A file's content, also if it is not text, and its mode. `None` if it does not exist any more: files of
/// plugins are removed with them.
fn read(path: &Path) -> Result<Option<(String, u32)>> {
    let found = std::fs::metadata(path).and_then(|about| Ok((std::fs::read(path)?, about)));
    match found {
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
    fn a_word_is_found_in_other_text_in_every_form() {
        let word = "0d9c37a1-6a1e";
        let forms = Forms::of(word);
        for before in ["", "x", "xy", "xyz"] {
            for after in ["", "x", "xy"] {
                let text = BASE64_STANDARD.encode(format!("{before}{word}{after}"));
                assert!(forms.are_in(&text), "{before}|{after}: {text}");
            }
        }
        assert!(forms.are_in("id=0d9c37a1-6a1e;"));
        assert!(forms.are_in("30643963333761312d36613165"));
        assert!(!forms.are_in(&BASE64_STANDARD.encode("1d9c37a1-6a1e")));
        assert!(!forms.are_in(""));
    }
}
