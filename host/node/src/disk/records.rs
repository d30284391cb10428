//! The records of the agent's memory on disk, and how they are written.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keyward_core::SecretBytes;
use keyward_core::api::{KeyCheck, PreflightAnswer};
use keyward_core::formats::revision::{RevisionContent, SecretData};
use keyward_core::ids::{ConfigHash, KeyId, PluginDigest, Revision};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::atomic;
use crate::error::AgentError;
use crate::paths::Paths;

/// `state.json` and `state.copy.json`: all small facts. Written as a whole, so that its parts always agree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Memory {
    /// The highest key number that was ever used (invariant: one-number-one-kek).
    #[serde(rename = "highestKeyID")]
    pub(super) highest_key_id: KeyId,
    /// The generation to which each key's link must lead.
    pub(super) serving: BTreeMap<u64, String>,
    pub(super) key_checks: BTreeMap<u64, KeyCheck>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) preflight: Option<PreflightAnswer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) refusal: Option<RefusalRecord>,
    /// The last configuration that the API server was observed to have loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) loaded: Option<ConfigHash>,
    /// The revision that should have been in force when another configuration was loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) drift: Option<Revision>,
}

/// A configuration that the API server did not load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RefusalRecord {
    pub(super) revision: Revision,
    pub(super) hash: ConfigHash,
    pub(super) attempts: u32,
}

/// `instances/{name}.json`. It is written last: if it exists, so do the instance's files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct InstanceRecord {
    pub(super) digest: PluginDigest,
    /// Allocated once. They stay the same for the life of the instance.
    #[serde(default)]
    pub(super) ports: BTreeMap<String, u16>,
    /// SHA-256, in hex, of each of its files. This record is as private as the files.
    #[serde(default)]
    pub(super) sums: BTreeMap<String, String>,
    /// SHA-256, in hex, of the last written manifest. Absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) manifest: Option<String>,
    /// How often it was started as a trial.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) tries: u32,
    /// How often its manifest or its files were written again because something else had changed them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) repairs: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// The agent's memory, from `state.json` or else from its copy.
#[derive(Debug)]
pub(super) struct Remembered {
    pub(super) memory: Memory,
    /// Why `state.json` was not used.
    pub(super) lost: Option<String>,
}

/// Reads the agent's memory.
///
/// # Errors
/// Neither file can be understood. A copy that cannot be understood does not count as absent if `state.json`
/// is absent.
pub(super) fn memory(paths: &Paths) -> Result<Remembered, AgentError> {
    let (path, copy) = (paths.memory(), paths.memory_copy());
    let lost = match read(&path) {
        Ok(Some(memory)) => return Ok(Remembered { memory, lost: None }),
        Ok(None) => None,
        Err(error @ AgentError::Corrupt { .. }) => Some(error),
        Err(error) => return Err(error),
    };
    match (read(&copy), lost) {
        (Ok(Some(memory)), lost) => {
            let why = match lost {
                Some(AgentError::Corrupt { why, .. }) => format!("cannot be understood ({why})"),
                _ => "is missing".to_owned(),
            };
            Ok(Remembered { memory, lost: Some(format!("{} {why}", path.display())) })
        }
        (Ok(None), None) => Ok(Remembered { memory: Memory::default(), lost: None }),
        (_, Some(error)) | (Err(error), None) => Err(error),
    }
}

/// Writes both files. The copy is first, so that it is never older.
pub(super) fn write_memory(paths: &Paths, memory: &Memory) -> Result<(), AgentError> {
    write(&paths.memory_copy(), memory)?;
    write(&paths.memory(), memory)
}

/// Whether an agent has ever run on this node.
pub(crate) fn has_memory(paths: &Paths) -> bool {
    paths.memory().exists() || paths.memory_copy().exists()
}

/// A record. None if there is no file.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, AgentError> {
    let Some(bytes) = atomic::read(path)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| corrupt(path, &error))
}

pub(super) fn write(path: &Path, record: &impl Serialize) -> Result<(), AgentError> {
    let mut bytes = serde_json::to_vec_pretty(record).map_err(|error| corrupt(path, &error))?;
    bytes.push(b'\n');
    atomic::write(path, &bytes, None)
}

/// serde's error text may quote the file, so only its position is used.
fn corrupt(path: &Path, error: &serde_json::Error) -> AgentError {
    let why = format!("line {} column {}", error.line(), error.column());
    AgentError::Corrupt { path: path.to_owned(), why }
}

/// Stores a revision: the data of its Secret.
pub(super) fn write_revision(path: &Path, content: &RevisionContent) -> Result<(), AgentError> {
    let data = content.encode();
    let encoded: BTreeMap<&String, String> =
        data.iter().map(|(key, value)| (key, STANDARD.encode(value.expose()))).collect();
    write(path, &encoded)
}

/// Reads a stored revision. One that cannot be understood counts as not stored, and is read from its Secret
/// again.
pub(super) fn read_revision(path: &Path, name: &str) -> Result<Option<RevisionContent>, AgentError> {
    let Some(encoded) = read::<BTreeMap<String, String>>(path)? else { return Ok(None) };
    let broken = |why: String| AgentError::Corrupt { path: path.to_owned(), why };
    let data = encoded
        .into_iter()
        .map(|(key, value)| {
            let bytes = STANDARD.decode(&value).map_err(|_| broken(format!("{key} is not base64")))?;
            Ok((key, SecretBytes::new(bytes)))
        })
        .collect::<Result<SecretData, AgentError>>()?;
    RevisionContent::decode(name, &data).map_err(|error| broken(error.to_string()))
}
