//! Plans the replacement of credentials: which values, of which of the data that are stored on the node.

use std::collections::{BTreeMap, BTreeSet};

use keyward_core::SecretBytes;
use keyward_core::formats::ReferencedData;
use keyward_core::formats::revision::{PluginRecord, RevisionContent};
use keyward_core::ids::KeyId;
use keyward_core::node::{Disk, Instance, Recovered};
use keyward_core::provider::{KeyRef, Plugin};

use crate::error::AgentError;

/// A file of a plugin, by the name that the admin used, and its new content.
pub(super) type NewFile = (String, SecretBytes);

/// The replacement, without its number. `salt` must be fresh.
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
        let stored = disk.revisions.values().flat_map(|content| content.plugins.keys());
        let stored: BTreeSet<String> = stored.map(ToString::to_string).collect();
        return Err(AgentError::NoSuchKey { key_id, stored: stored.into_iter().collect() });
    };
    let before = serving(disk, key_id, newest);
    let now = match before.and_then(|before| before.over(newest)) {
        Some((_, record)) => record,
        None => newest.plugins.get(&key_id).cloned().ok_or_else(|| cannot("its data is missing"))?,
    };
    match now.accepted.as_ref().map(|accepted| &accepted.template) {
        Some(Plugin::Managed(_)) => {}
        _ => {
            return Err(cannot(
                "Keyward does not run its plugin; replace the credential where that plugin runs",
            ));
        }
    }
    if !disk.key_checks.contains_key(&key_id) {
        return Err(cannot(
            "no key check of it is stored on this node, so it cannot be verified that a plugin reaches its KEK",
        ));
    }
    let mut values = before.map(|before| before.values.clone()).unwrap_or_default();
    for (name, value) in files {
        let source = source_of(&now, key_id, name)?;
        if value.is_empty() {
            return Err(cannot(&format!("the new value of {name} is empty")));
        }
        values.insert(source.clone(), trimmed(value, now.referenced.get(&source)));
    }
    if values.iter().all(|(source, value)| now.referenced.get(source) == Some(value)) {
        return Err(cannot("its plugin already has exactly these values"));
    }
    let replaces = of_key.iter().filter_map(|content| content.digest(key_id).cloned()).collect();
    Ok(Recovered { key_id, number: 0, replaces, values, salt, rolled_back: false })
}

/// The serving replacement of the newest data. A replacement that never served is not used: its values may be
/// the reason.
fn serving<'a>(disk: &'a Disk, key_id: KeyId, newest: &RevisionContent) -> Option<&'a Recovered> {
    // The record is first, because a reboot empties the folder of the links.
    let linked = disk.serving.get(&key_id).or_else(|| disk.links.get(&key_id))?;
    let serves = |one: &&Recovered| {
        let mut made = disk.revisions.values().filter_map(|content| one.over(content));
        made.any(|(digest, _)| Instance::new(key_id, &digest).generation == *linked)
    };
    let of_key = disk.recovered.iter().filter(|one| one.key_id == key_id && !one.rolled_back);
    of_key.filter(|one| one.over(newest).is_some()).find(serves)
}

/// All names of one value: its file in the plugin's folder, the same without the kind, and the data key
/// alone.
fn spellings(source: &KeyRef) -> [String; 3] {
    let short = format!("{}_{}", source.name, source.key);
    [format!("{}-{short}", source.kind), short, source.key.clone()]
}

fn source_of(record: &PluginRecord, key_id: KeyId, name: &str) -> Result<KeyRef, AgentError> {
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

/// Removes the newline that an editor adds, if the previous value had none.
fn trimmed(value: &SecretBytes, before: Option<&SecretBytes>) -> SecretBytes {
    let had = before.is_some_and(|before| before.expose().ends_with(b"\n"));
    match value.expose().strip_suffix(b"\n") {
        Some(bare) if !had => SecretBytes::from(bare.strip_suffix(b"\r").unwrap_or(bare)),
        _ => value.clone(),
    }
}

/// The objects that contain the values, each once. The admin has to update them afterwards.
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
    fn a_file_can_be_named_by_its_name_in_the_folder_or_by_a_shorter_name() {
        let disk = disk(&[("login", "role-id", "r"), ("login", "secret-id", "s"), ("other", "role-id", "o")]);
        for name in ["secret-login_secret-id", "login_secret-id", "secret-id"] {
            let one = tried(&disk, 1, &[(name, "new\n")]).unwrap();
            let value = one.values.get(&source("login", "secret-id")).unwrap();
            assert_eq!(value.expose(), b"new", "the previous value had no newline");
            assert_eq!(one.replaces.len(), 1);
        }
        let unknown = tried(&disk, 1, &[("role-id", "x")]).unwrap_err();
        assert_eq!(
            unknown,
            "the plugin of key 1 has no file \"role-id\"; it has secret-login_role-id, secret-login_secret-id, secret-other_role-id"
        );
    }

    #[test]
    fn a_replacement_without_a_change_or_without_a_key_check_is_refused() {
        let mut disk = disk(&[("login", "secret-id", "s")]);
        let error = tried(&disk, 7, &[("secret-id", "x")]).unwrap_err();
        assert_eq!(
            error,
            "no revision that is stored on this node has a plugin of key 7; keys with plugins: 1"
        );
        assert!(tried(&disk, 1, &[("secret-id", "s")]).unwrap_err().contains("exactly these values"));
        assert!(tried(&disk, 1, &[("secret-id", "")]).unwrap_err().contains("is empty"));
        disk.key_checks.clear();
        assert!(tried(&disk, 1, &[("secret-id", "x")]).unwrap_err().contains("no key check"));
    }

    #[test]
    fn a_second_replacement_keeps_the_values_of_a_first_one_that_serves() {
        let mut disk = disk(&[("login", "role-id", "r"), ("login", "secret-id", "s")]);
        let first = tried(&disk, 1, &[("secret-id", "s2")]).unwrap();
        let (digest, _) = first.over(&disk.revisions[&Revision(3)]).unwrap();
        disk.recovered.push(Recovered { number: 1, ..first });
        // It does not serve: the node runs the revision's own plugin.
        assert_eq!(tried(&disk, 1, &[("role-id", "r2")]).unwrap().values.len(), 1);
        disk.serving.insert(KeyId(1), Instance::new(KeyId(1), &digest).generation);
        let second = tried(&disk, 1, &[("role-id", "r2")]).unwrap();
        assert_eq!(second.values.len(), 2);
        // A failed replacement is not used.
        disk.recovered[0].rolled_back = true;
        assert_eq!(tried(&disk, 1, &[("role-id", "r2")]).unwrap().values.len(), 1);
    }
}
