//! Compares how Keyward and the API server understand a file.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use keyward_core::duration;
use keyward_core::formats::encryption_config::{
    EncryptionConfiguration, KeysConfiguration, ProviderConfiguration,
};
use keyward_core::formats::provider_lists::{self, ListedKey, ProviderList};
use keyward_core::formats::revision::RevisionContent;
use keyward_core::ids::{GroupResource, Mode};
use keyward_core::machine;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

/// How the API server understands a file, as tests/control-plane prints it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Understood {
    #[serde(default)]
    pub(crate) error: Option<String>,
    #[serde(default)]
    pub(crate) lists: BTreeMap<String, Vec<Provider>>,
    #[serde(default)]
    pub(crate) stored: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Provider {
    kind: String,
    #[serde(default)]
    keys: Vec<Key>,
    #[serde(default)]
    kms: Option<Kms>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    name: String,
    sha256: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Kms {
    api_version: String,
    name: String,
    endpoint: String,
    timeout_nanos: i64,
    cache_size: Option<i32>,
}

/// The outcome of one file.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Both understand the same. Contains the configuration that Keyward writes from it.
    Agree(Box<Rewritten>),
    /// Neither loads it.
    BothRefuse,
    /// The API server loads it; Keyward refuses it for this reason.
    Refused(String),
}

/// Keyward's own form of a configuration. It must read everything that the original reads, and write with the
/// same key.
#[derive(Debug)]
pub(crate) struct Rewritten {
    pub(crate) bytes: Vec<u8>,
    original: BTreeMap<String, Vec<Provider>>,
}

/// A deliberate mistake in Keyward's reading: the comparison must find each one.
pub(crate) type Mistake = fn(&mut EncryptionConfiguration);

/// # Errors
/// Keyward understands something else, or less, or accepts a file that the API server refuses.
pub(crate) fn compare(file: &[u8], theirs: &Understood, mistake: Option<Mistake>) -> Result<Verdict> {
    let mut config = match EncryptionConfiguration::decode(file) {
        Ok(config) => config,
        Err(error) => return Ok(refused(theirs, error.to_string())),
    };
    if let Some(why) = config.refusal() {
        return Ok(refused(theirs, why));
    }
    if let Some(mistake) = mistake {
        mistake(&mut config);
    }
    let lists = provider_lists::lists(&config);
    if let Some(error) = &theirs.error {
        // The agent installs every configuration without a refusal.
        anyhow::bail!("the API server refuses what Keyward would install: {error}");
    }
    same_file(&config, &theirs.lists)?;
    let lists = match lists {
        Ok(lists) => lists,
        Err(error) => return Ok(refused(theirs, error.to_string())),
    };
    ensure!(
        lists.keys().map(ToString::to_string).eq(theirs.lists.keys().cloned()),
        "resources: {:?} for Keyward, {:?} for the API server",
        lists.keys().collect::<Vec<_>>(),
        theirs.lists.keys().collect::<Vec<_>>()
    );
    for (resource, list) in &lists {
        let theirs_list = &theirs.lists[&resource.to_string()];
        same_list(list, theirs_list).with_context(|| resource.to_string())?;
        if let Some(stored) = theirs.stored.get(&resource.to_string()) {
            same_writer(list, &unhex(stored)).with_context(|| format!("the writer of {resource}"))?;
        }
    }
    let content = RevisionContent::new(config.clone(), BTreeMap::new());
    let state = machine::decode(&content, [])?;
    let bytes = machine::encode(&state, Some(&content)).bytes.expose().to_vec();
    Ok(Verdict::Agree(Box::new(Rewritten { bytes, original: theirs.lists.clone() })))
}

fn refused(theirs: &Understood, why: String) -> Verdict {
    if theirs.error.is_some() { Verdict::BothRefuse } else { Verdict::Refused(why) }
}

/// The file itself, field by field.
fn same_file(config: &EncryptionConfiguration, theirs: &BTreeMap<String, Vec<Provider>>) -> Result<()> {
    let mut ours: BTreeMap<String, Vec<Provider>> = BTreeMap::new();
    for entry in &config.resources {
        for name in entry.resources.iter().flatten() {
            // In Go's notation of a resource.
            let name = GroupResource::parse(name).to_string();
            let providers: Result<Vec<Provider>> = entry.providers.iter().map(provider).collect();
            ours.entry(name).or_default().extend(providers?);
        }
    }
    ensure!(ours == *theirs, "the file: {ours:?} for Keyward, {theirs:?} for the API server");
    Ok(())
}

fn provider(one: &ProviderConfiguration) -> Result<Provider> {
    let local = |kind: &str, keys: &KeysConfiguration| {
        let keys = keys.keys.iter().map(|key| {
            let material = key.material().context("not base64")?;
            Ok(Key { name: key.name.clone(), sha256: sha256(material.expose()) })
        });
        Ok(Provider { kind: kind.to_owned(), keys: keys.collect::<Result<_>>()?, kms: None })
    };
    match one {
        ProviderConfiguration { aesgcm: Some(keys), .. } => local("aesgcm", keys),
        ProviderConfiguration { aescbc: Some(keys), .. } => local("aescbc", keys),
        ProviderConfiguration { secretbox: Some(keys), .. } => local("secretbox", keys),
        ProviderConfiguration { kms: Some(kms), .. } => {
            let v1 = kms.api_version == "v1";
            let timeout = duration::go(&kms.timeout).map_err(anyhow::Error::msg)?;
            let kms = Kms {
                api_version: kms.api_version.clone(),
                name: kms.name.clone(),
                endpoint: kms.endpoint.clone(),
                timeout_nanos: i64::try_from(timeout.as_nanos())?,
                cache_size: kms.cachesize.or_else(|| v1.then_some(1000)),
            };
            Ok(Provider { kind: "kms".to_owned(), keys: Vec::new(), kms: Some(kms) })
        }
        _ => Ok(Provider { kind: "identity".to_owned(), keys: Vec::new(), kms: None }),
    }
}

fn sha256(bytes: &[u8]) -> String {
    keyward_core::ids::hex(&Sha256::digest(bytes))
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().map(|c| u8::try_from(c.to_digit(16).unwrap()).unwrap()).collect();
    digits.chunks(2).map(|pair| (pair[0] << 4) | pair[1]).collect()
}

/// The keys, as the state machine reads them.
fn same_list(ours: &ProviderList<'_>, theirs: &[Provider]) -> Result<()> {
    let plain = theirs.first().is_some_and(|first| first.kind == "identity");
    ensure!(ours.writes_plain == plain, "plain text is written: {} for Keyward", ours.writes_plain);
    let mut seen = BTreeSet::new();
    let mut flat: Vec<(String, String, String)> = Vec::new();
    for one in theirs {
        let kms =
            one.kms.iter().map(|kms| (kms.name.split('_').next().unwrap().to_owned(), kms.name.clone()));
        let local = one.keys.iter().map(|key| (key.name.clone(), key.sha256.clone()));
        for (id, what) in local.chain(kms) {
            if seen.insert(id.clone()) {
                flat.push((one.kind.clone(), id, what));
            }
        }
    }
    let found: Vec<_> =
        ours.keys.iter().map(|key| (kind(key).to_owned(), key.id.to_string(), what(key))).collect();
    ensure!(found == flat, "keys: {found:?} for Keyward, {flat:?} for the API server");
    Ok(())
}

fn kind(key: &ListedKey<'_>) -> &'static str {
    match key.mode {
        Mode::Aescbc => "aescbc",
        Mode::Secretbox => "secretbox",
        Mode::Kms => "kms",
        Mode::Aesgcm | Mode::Identity => "aesgcm",
    }
}

fn what(key: &ListedKey<'_>) -> String {
    key.kms.map_or_else(|| sha256(key.material.expose()), |kms| kms.name.clone())
}

fn same_writer(ours: &ProviderList<'_>, stored: &[u8]) -> Result<()> {
    let expected = match ours.keys.first().filter(|_| !ours.writes_plain) {
        None => "marker".to_owned(),
        Some(key) => format!("k8s:enc:{}:v1:{}:", kind(key), key.id),
    };
    let stored = String::from_utf8_lossy(stored);
    ensure!(stored.starts_with(&expected), "{expected} for Keyward; the API server stores {stored:?}");
    Ok(())
}

impl Rewritten {
    /// # Errors
    /// The API server refuses it, lacks a key of the original, or writes with another one.
    pub(crate) fn loses_nothing(&self, theirs: &Understood) -> Result<()> {
        ensure!(theirs.error.is_none(), "the API server refuses what Keyward writes: {:?}", theirs.error);
        for (resource, before) in &self.original {
            let after = theirs.lists.get(resource).with_context(|| format!("{resource} has no list"))?;
            let (before, after) = (flat(before), flat(after));
            ensure!(
                before.first() == after.first(),
                "{resource}: another writer: {before:?}, then {after:?}"
            );
            let lost: Vec<_> = before.iter().filter(|provider| !after.contains(provider)).collect();
            ensure!(lost.is_empty(), "{resource}: {lost:?} is lost");
        }
        Ok(())
    }
}

/// One provider for each key.
fn flat(list: &[Provider]) -> Vec<Provider> {
    let each = |provider: &Provider| match provider.keys.as_slice() {
        [] => vec![provider.clone()],
        keys => keys.iter().map(|key| Provider { keys: vec![key.clone()], ..provider.clone() }).collect(),
    };
    list.iter().flat_map(each).collect()
}
