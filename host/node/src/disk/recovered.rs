//! The credentials that an admin replaced on this node, one file each. The command that replaces them and the
//! agent that uses them are two processes, so these files have their own lock, which is taken for one change
//! at a time.

use std::fs::File;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keyward_core::SecretBytes;
use keyward_core::ids::{KeyId, PluginDigest};
use keyward_core::node::Recovered;
use keyward_core::provider::KeyRef;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::{atomic, records};
use crate::error::AgentError;
use crate::paths::Paths;

/// `recovered/{key}-{number}.json`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    #[serde(rename = "keyID")]
    key_id: KeyId,
    number: u32,
    replaces: Vec<PluginDigest>,
    values: Vec<Value>,
    salt: String,
    #[serde(default)]
    rolled_back: bool,
}

#[derive(Serialize, Deserialize)]
struct Value {
    source: KeyRef,
    value: String,
}

/// All recovered credentials of a node.
#[derive(Clone, Debug)]
pub(crate) struct Recoveries {
    paths: Paths,
}

impl Recoveries {
    pub(crate) fn new(paths: Paths) -> Self {
        Self { paths }
    }

    /// All, by key and number. A record that cannot be understood is ignored.
    pub(crate) fn all(&self) -> Result<Vec<Recovered>, AgentError> {
        let folder = self.paths.recovered();
        let mut all = Vec::new();
        for path in atomic::entries(&folder)?.into_iter().map(|name| folder.join(name)) {
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match records::read::<Record>(&path) {
                Ok(record) => match record.map(decode) {
                    Some(Some(one)) if self.paths.recovery(one.key_id, one.number) == path => all.push(one),
                    Some(_) => {
                        tracing::warn!(path = %path.display(), "a file in the folder of recovered credentials is not a record; it is ignored");
                    }
                    None => {}
                },
                Err(error @ AgentError::Corrupt { .. }) => {
                    tracing::warn!(%error, "the record of a recovered credential cannot be read; it is ignored");
                }
                Err(error) => return Err(error),
            }
        }
        all.sort_unstable_by_key(|one| (one.key_id, one.number));
        Ok(all)
    }

    /// Stores a credential under the next number of its key, and returns it with that number.
    pub(crate) fn add(&self, one: Recovered) -> Result<Recovered, AgentError> {
        for folder in [self.paths.state(), self.paths.recovered()] {
            atomic::private_folder(&folder)?;
        }
        let _lock = self.lock()?;
        let of_key = self.all()?.into_iter().filter(|other| other.key_id == one.key_id);
        let number = of_key.map(|other| other.number).max().unwrap_or_default().saturating_add(1);
        let one = Recovered { number, ..one };
        self.write(&one)?;
        Ok(one)
    }

    /// Records that a replacement failed, so that its plugin stops.
    pub(crate) fn roll_back(&self, one: &Recovered) -> Result<(), AgentError> {
        let _lock = self.lock()?;
        // The agent may have deleted it.
        if atomic::read(&self.paths.recovery(one.key_id, one.number))?.is_none() {
            return Ok(());
        }
        self.write(&Recovered { rolled_back: true, ..one.clone() })
    }

    pub(super) fn forget(&self, key_id: KeyId, number: u32) -> Result<(), AgentError> {
        let _lock = self.lock()?;
        atomic::remove(&self.paths.recovery(key_id, number))
    }

    pub(super) fn remove_leftovers(&self) -> Result<(), AgentError> {
        let _lock = self.lock()?;
        atomic::remove_leftovers(&self.paths.recovered())
    }

    fn write(&self, one: &Recovered) -> Result<(), AgentError> {
        let record = Record {
            key_id: one.key_id,
            number: one.number,
            replaces: one.replaces.iter().cloned().collect(),
            values: one
                .values
                .iter()
                .map(|(source, value)| Value {
                    source: source.clone(),
                    value: STANDARD.encode(value.expose()),
                })
                .collect(),
            salt: STANDARD.encode(one.salt.expose()),
            rolled_back: one.rolled_back,
        };
        records::write(&self.paths.recovery(one.key_id, one.number), &record)
    }

    fn lock(&self) -> Result<File, AgentError> {
        let path = self.paths.recovered_lock();
        let lock = atomic::open_private(&path).map_err(AgentError::io("opening", &path))?;
        flock(&lock, FlockOperation::LockExclusive)
            .map_err(|error| AgentError::io("locking", &path)(error.into()))?;
        Ok(lock)
    }
}

fn decode(record: Record) -> Option<Recovered> {
    let bytes = |text: &String| STANDARD.decode(text).ok().map(SecretBytes::new);
    Some(Recovered {
        key_id: record.key_id,
        number: record.number,
        replaces: record.replaces.into_iter().collect(),
        values: record
            .values
            .iter()
            .map(|one| Some((one.source.clone(), bytes(&one.value)?)))
            .collect::<Option<_>>()?,
        salt: bytes(&record.salt)?,
        rolled_back: record.rolled_back,
    })
}
