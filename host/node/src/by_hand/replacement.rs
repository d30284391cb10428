//! What is to be replaced, by what is kept on the node: which values, of which data.

use std::collections::{BTreeMap, BTreeSet};

use keyward_core::SecretBytes;
use keyward_core::formats::ReferencedData;
use keyward_core::formats::revision::{PluginRecord, RevisionContent};
use keyward_core::ids::KeyId;
use keyward_core::node::{Disk, Instance, Recovered};
use keyward_core::provider::{KeyRef, Plugin};

use crate::error::AgentError;

/// A file of a plugin, as an admin names it, and what is to be in it.
pub(super) type NewFile = (String, SecretBytes);

/// The replacement, still without its number. `salt` is fresh.
pub(super) fn replacement(
    disk: &Disk,
    key_id: KeyId,
    files: &[NewFile],
    salt: SecretBytes,
) -> Result<Recovered, AgentError> {
    let cannot = |why: &str| AgentError::CannotRecover { key_id, why: why.to_owned() };
    let of_key: Vec<&RevisionContent> =
        disk.revisions.values().map(AsRef::as_ref).filter(|c| c.plugins.contains_key(&key_id)).collect();
    let Some(newest) = of_key.last() else {
        let kept = disk.revisions.values().flat_map(|content| content.plugins.keys());
        let kept: BTreeSet<String> = kept.map(ToString::to_string).collect();
        return Err(AgentError::NoSuchKey { key_id, kept: kept.into_iter().collect() });
    };
    let before = serving(disk, key_id, newest);
    let now = match before.and_then(|before| before.over(newest)) {
        Some((_, record)) => record,
        None => newest.plugins.get(&key_id).cloned().ok_or_else(|| cannot("its data are gone"))?,
    };
    match now.accepted.as_ref().map(|accepted| &accepted.template) {
        Some(Plugin::Managed(_)) => {}
        _ => {
            return Err(cannot(
                "its plugin is not one that Keyward runs; give it the credential where it runs",
            ));
        }
    }
    if !disk.key_checks.contains_key(&key_id) {
        return Err(cannot(
            "no key check of it is kept on this node, so a plugin could not be shown to reach its KEK",
        ));
    }
    let mut values = before.map(|before| before.values.clone()).unwrap_or_default();
    for (name, value) in files {
        let source = named(&now, key_id, name)?;
        if value.is_empty() {
            return Err(cannot(&format!("what is to replace {name} is empty")));
        }
        values.insert(source.clone(), like(value, now.referenced.get(&source)));
    }
    if values.iter().all(|(source, value)| now.referenced.get(source) == Some(value)) {
        return Err(cannot("its plugin has exactly these files already"));
    }
    let replaces = of_key.iter().filter_map(|content| content.digest(key_id).cloned()).collect();
    Ok(Recovered { key_id, number: 0, replaces, values, salt, withdrawn: false })
}

/// The replacement of the newest data that serves. One that never came to serve is no ground to build on: its values may be
/// what kept it from it.
fn serving<'a>(disk: &'a Disk, key_id: KeyId, newest: &RevisionContent) -> Option<&'a Recovered> {
    // A reboot empties the folder of the links.
    let led = disk.serving.get(&key_id).or_else(|| disk.links.get(&key_id))?;
    let serves = |one: &&Recovered| {
        let mut made = disk.revisions.values().filter_map(|content| one.over(content));
        made.any(|(digest, _)| Instance::new(key_id, &digest).generation == *led)
    };
    let of_key = disk.recovered.iter().filter(|one| one.key_id == key_id && !one.withdrawn);
    of_key.filter(|one| one.over(newest).is_some()).find(serves)
}

/// Every name that one value has: as its file in the plugin's folder, without the kind, and the data key alone.
fn spellings(source: &KeyRef) -> [String; 3] {
    let short = format!("{}_{}", source.name, source.key);
    [format!("{}-{short}", source.kind), short, source.key.clone()]
}

fn named(record: &PluginRecord, key_id: KeyId, name: &str) -> Result<KeyRef, AgentError> {
    let mut found: BTreeMap<usize, Vec<&KeyRef>> = BTreeMap::new();
    for source in record.referenced.keys() {
        if let Some(spelling) = spellings(source).iter().position(|spelling| spelling == name) {
            found.entry(spelling).or_default().push(source);
        }
    }
    match found.into_values().next().as_deref() {
        Some([source]) => Ok((*source).clone()),
        _ => {
            let names = record.referenced.keys().map(|source| {
                let [file, ..] = spellings(source);
                file
            });
            Err(AgentError::NoSuchFile { key_id, name: name.to_owned(), names: names.collect() })
        }
    }
}

/// An editor ends a file with a newline. What had none gets none.
fn like(value: &SecretBytes, before: Option<&SecretBytes>) -> SecretBytes {
    let had = before.is_some_and(|before| before.expose().ends_with(b"\n"));
    match value.expose().strip_suffix(b"\n") {
        Some(bare) if !had => SecretBytes::from(bare.strip_suffix(b"\r").unwrap_or(bare)),
        _ => value.clone(),
    }
}

/// The objects that the values come from, each once: what has to be updated afterwards.
pub(super) fn objects(values: &ReferencedData) -> Vec<String> {
    let all: BTreeSet<String> =
        values.keys().map(|source| format!("{} {}", source.kind, source.name)).collect();
    all.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use keyward_core::api::KeyCheck;
    use keyward_core::formats::encryption_config::{EncryptionConfiguration, REVISION_ZERO};
    use keyward_core::formats::revision::AcceptedPlugin;
    use keyward_core::ids::{RemoteKeyId, Revision};
    use keyward_core::provider::{Container, ReferenceKind};
    use serde_json::json;

    use super::*;

    fn source(name: &str, key: &str) -> KeyRef {
        KeyRef { kind: ReferenceKind::Secret, name: name.into(), key: key.into() }
    }

    fn disk(values: &[(&str, &str, &str)]) -> Disk {
        let container = Container {
            command: Vec::new(),
            args: Vec::new(),
            env: Vec::new(),
            files: Vec::new(),
            ports: Vec::new(),
            health: None,
            cpu_request_millis: 1,
            memory_request_mib: 1,
            settings: BTreeMap::new(),
        };
        let record = PluginRecord {
            kms: json!({"type": "Acme"}),
            referenced: values
                .iter()
                .map(|(name, key, value)| (source(name, key), SecretBytes::from(value.as_bytes())))
                .collect(),
            accepted: Some(AcceptedPlugin {
                image: Some("i".into()),
                template: Plugin::Managed(container),
                settings: Default::default(),
                module_digest: None,
            }),
            salt: Some(SecretBytes::from(b"salt".as_slice())),
        };
        let config = EncryptionConfiguration::decode(REVISION_ZERO.as_bytes()).unwrap();
        let content = RevisionContent::new(config, [(KeyId(1), record)].into());
        let key_check = KeyCheck {
            ciphertext: String::new(),
            remote_key_id: RemoteKeyId("k".into()),
            annotations: BTreeMap::new(),
            plaintext_sha256: String::new(),
        };
        Disk {
            revisions: [(Revision(3), Arc::new(content))].into(),
            key_checks: [(KeyId(1), key_check)].into(),
            ..Disk::default()
        }
    }

    fn tried(disk: &Disk, key: u64, files: &[(&str, &str)]) -> Result<Recovered, String> {
        let files: Vec<NewFile> = files
            .iter()
            .map(|(name, value)| ((*name).to_owned(), SecretBytes::from(value.as_bytes())))
            .collect();
        replacement(disk, KeyId(key), &files, SecretBytes::from(b"fresh".as_slice()))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_is_known_by_its_name_in_the_folder_and_by_shorter_ones() {
        let disk = disk(&[("login", "role-id", "r"), ("login", "secret-id", "s"), ("other", "role-id", "o")]);
        for name in ["secret-login_secret-id", "login_secret-id", "secret-id"] {
            let one = tried(&disk, 1, &[(name, "new\n")]).unwrap();
            let value = one.values.get(&source("login", "secret-id")).unwrap();
            assert_eq!(value.expose(), b"new", "what had no newline gets none");
            assert_eq!(one.replaces.len(), 1);
        }
        let unknown = tried(&disk, 1, &[("role-id", "x")]).unwrap_err();
        assert_eq!(
            unknown,
            "the plugin of key 1 has no file \"role-id\"; it has secret-login_role-id, secret-login_secret-id, secret-other_role-id"
        );
    }

    #[test]
    fn what_makes_no_difference_or_no_sense_is_refused() {
        let mut disk = disk(&[("login", "secret-id", "s")]);
        let told = tried(&disk, 7, &[("secret-id", "x")]).unwrap_err();
        assert_eq!(told, "no revision that is kept on this node has a plugin of key 7; it has 1");
        assert!(tried(&disk, 1, &[("secret-id", "s")]).unwrap_err().contains("exactly these files"));
        assert!(tried(&disk, 1, &[("secret-id", "")]).unwrap_err().contains("is empty"));
        disk.key_checks.clear();
        assert!(tried(&disk, 1, &[("secret-id", "x")]).unwrap_err().contains("no key check"));
    }

    #[test]
    fn a_second_replacement_keeps_what_the_first_replaced_where_that_serves() {
        let mut disk = disk(&[("login", "role-id", "r"), ("login", "secret-id", "s")]);
        let first = tried(&disk, 1, &[("secret-id", "s2")]).unwrap();
        let (digest, _) = first.over(&disk.revisions[&Revision(3)]).unwrap();
        disk.recovered.push(Recovered { number: 1, ..first });
        // It has not come to serve: the node runs the revision's own.
        assert_eq!(tried(&disk, 1, &[("role-id", "r2")]).unwrap().values.len(), 1);
        disk.serving.insert(KeyId(1), Instance::new(KeyId(1), &digest).generation);
        let second = tried(&disk, 1, &[("role-id", "r2")]).unwrap();
        assert_eq!(second.values.len(), 2);
        // One that failed is no ground to build on.
        disk.recovered[0].withdrawn = true;
        assert_eq!(tried(&disk, 1, &[("role-id", "r2")]).unwrap().values.len(), 1);
    }
}
