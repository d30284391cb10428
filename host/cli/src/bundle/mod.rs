//! The bundle that `keyward export` writes and `keyward node-agent restore` reads: one revision with
//! everything that its plugins need, encrypted (decision 0078).
//!
//! It is one JSON document in the age format (age-encryption.org/v1), so that age's own tools open it too.
//! Decrypted bytes are wiped from memory after use, and never printed.

mod seal;

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keyward_core::SecretBytes;
use keyward_core::api::KeyCheck;
use keyward_core::formats::revision::{RevisionContent, SecretData};
use keyward_core::ids::{ConfigHash, KeyId, Revision};
use keyward_core::names;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

pub(crate) use seal::{Opener, Seal};

const KIND: &str = "KeywardBundle";
/// Incremented when readers of the previous version cannot read the new one.
const VERSION: u32 = 1;

/// The content. Values are base64, as in the Secret that they come from.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    kind: String,
    version: u32,
    revision: Revision,
    config_hash: ConfigHash,
    created_at: String,
    #[serde(rename = "highestKeyID")]
    highest_key_id: KeyId,
    data: BTreeMap<String, String>,
    key_checks: BTreeMap<u64, KeyCheck>,
    /// Annotations of the key secrets, for diagnosis after a loss.
    #[serde(default)]
    keys: BTreeMap<String, BTreeMap<String, String>>,
}

/// An exported revision.
#[derive(Debug)]
pub(crate) struct Bundle {
    pub(crate) revision: Revision,
    pub(crate) created_at: String,
    pub(crate) highest_key_id: KeyId,
    pub(crate) data: SecretData,
    pub(crate) key_checks: BTreeMap<KeyId, KeyCheck>,
    pub(crate) keys: BTreeMap<String, BTreeMap<String, String>>,
}

impl Bundle {
    /// The decoded revision.
    pub(crate) fn content(&self) -> Result<RevisionContent> {
        let name = names::revision_secret(self.revision);
        RevisionContent::decode(&name, &self.data)?
            .with_context(|| format!("{name} contains no configuration"))
    }

    /// Encrypts the bundle.
    pub(crate) fn seal(&self, seal: &Seal) -> Result<Vec<u8>> {
        let mut document = Document {
            kind: KIND.to_owned(),
            version: VERSION,
            revision: self.revision,
            config_hash: self.content()?.hash(),
            created_at: self.created_at.clone(),
            highest_key_id: self.highest_key_id,
            data: self
                .data
                .iter()
                .map(|(key, value)| (key.clone(), STANDARD.encode(value.expose())))
                .collect(),
            key_checks: self
                .key_checks
                .iter()
                .map(|(key_id, key_check)| (key_id.0, key_check.clone()))
                .collect(),
            keys: self.keys.clone(),
        };
        let text = serde_json::to_vec(&document).map(Zeroizing::new);
        document.data.values_mut().for_each(Zeroize::zeroize);
        seal.seal(&text?)
    }

    /// Decrypts a bundle and verifies the hash of its configuration.
    pub(crate) fn open(sealed: &[u8], opener: &Opener) -> Result<Self> {
        let text = opener.open(sealed)?;
        // serde's own message may quote secret content.
        let document: Document = serde_json::from_slice(&text).map_err(|error| {
            anyhow::anyhow!("its content is not a bundle of Keyward (column {})", error.column())
        })?;
        ensure!(document.kind == KIND, "its content is not a bundle of Keyward");
        if document.version != VERSION {
            bail!("the bundle has version {}, and this keyward reads version {VERSION}", document.version);
        }
        let decoded = |(key, value): (String, String)| {
            let value = Zeroizing::new(value);
            let bytes =
                STANDARD.decode(value.as_bytes()).ok().with_context(|| format!("{key} is not base64"))?;
            Ok((key, SecretBytes::new(bytes)))
        };
        let bundle = Self {
            revision: document.revision,
            created_at: document.created_at,
            highest_key_id: document.highest_key_id,
            data: document.data.into_iter().map(decoded).collect::<Result<_>>()?,
            key_checks: document
                .key_checks
                .into_iter()
                .map(|(key_id, key_check)| (KeyId(key_id), key_check))
                .collect(),
            keys: document.keys,
        };
        ensure!(
            bundle.content()?.hash() == document.config_hash,
            "the configuration does not match the hash that was exported"
        );
        Ok(bundle)
    }
}

#[cfg(test)]
mod tests {
    use age::secrecy::ExposeSecret as _;
    use keyward_core::formats::encryption_config::REVISION_ZERO;

    use super::*;

    fn bundle() -> Bundle {
        let data = [(names::CONFIG_KEY.to_owned(), SecretBytes::from(REVISION_ZERO.as_bytes()))];
        Bundle {
            revision: Revision(4),
            created_at: "2026-01-01T00:00:00Z".into(),
            highest_key_id: KeyId(2),
            data: data.into(),
            key_checks: BTreeMap::new(),
            keys: [("encryption-key-kube-apiserver-2".to_owned(), BTreeMap::new())].into(),
        }
    }

    #[test]
    fn bundle_opens_only_for_its_recipient() {
        let (ours, other) = (age::x25519::Identity::generate(), age::x25519::Identity::generate());
        let seal = Seal::to(&[ours.to_public().to_string()]).unwrap();
        let sealed = bundle().seal(&seal).unwrap();
        assert!(!sealed.windows(8).any(|part| part == b"identity"), "it is encrypted");
        let opened_by = |identity: &age::x25519::Identity| {
            let file = format!("# created by age-keygen\n{}\n", identity.to_string().expose_secret());
            Opener::identities(&file).unwrap()
        };
        let opened = Bundle::open(&sealed, &opened_by(&ours)).unwrap();
        assert_eq!(
            (opened.revision, opened.highest_key_id, opened.data),
            (Revision(4), KeyId(2), bundle().data)
        );
        assert!(
            Bundle::open(&sealed, &opened_by(&other))
                .unwrap_err()
                .to_string()
                .contains("not encrypted for this identity")
        );
        let mut broken = sealed.clone();
        *broken.last_mut().unwrap() ^= 1;
        assert!(Bundle::open(&broken, &opened_by(&ours)).is_err());
        assert!(Bundle::open(b"plain", &opened_by(&ours)).is_err());
        assert!(Seal::to(&[]).is_err() && Seal::to(&["age1nonsense".to_owned()]).is_err());
        assert!(Opener::identities("# nothing\n").is_err());
    }

    #[test]
    fn error_about_a_recipient_repeats_no_possible_secret() {
        let identity = age::x25519::Identity::generate().to_string();
        let identity = identity.expose_secret();
        for (given, why) in [
            (identity.to_owned(), "is an identity"),
            (identity.to_lowercase(), "is an identity"),
            (format!("key={identity}"), "is an identity"),
            ("correct horse battery staple".to_owned(), "begin with age1"),
            ("age1nonsense".to_owned(), "age1nonsense"),
        ] {
            let error = Seal::to(std::slice::from_ref(&given)).err().unwrap();
            let message = format!("{error:#} {error:?}");
            assert!(message.contains(why), "{message}");
            let repeated = message.to_lowercase().contains(&given.to_lowercase());
            assert_eq!(repeated, given.starts_with("age1"), "{why}");
        }
    }

    #[test]
    fn passphrase_is_the_first_line_of_its_file_and_is_in_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("passphrase");
        std::fs::write(&file, "correct horse battery staple\nnot this line\n").unwrap();
        let seal = Seal::by_passphrase(&file).unwrap();
        assert!(
            matches!(&seal, Seal::Passphrase(it) if it.expose_secret() == "correct horse battery staple")
        );
        std::fs::write(&file, "hunter2\n").unwrap();
        let error = format!("{:#}", Opener::by_passphrase(&file).err().unwrap());
        assert!(error.contains("--passphrase-file") && error.contains("fewer than 12"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn content_that_is_not_a_bundle_of_this_version_is_refused() {
        let own = age::x25519::Identity::generate();
        let seal = Seal::to(&[own.to_public().to_string()]).unwrap();
        let opener = Opener::identities(own.to_string().expose_secret()).unwrap();
        for (text, why) in [
            (r#"{"kind":"Other"}"#, "not a bundle of Keyward"),
            (
                r#"{"kind":"KeywardBundle","version":2,"revision":1,"configHash":"sha256:0","createdAt":"","highestKeyID":1,"data":{},"keyChecks":{}}"#,
                "version 2",
            ),
            (
                r#"{"kind":"KeywardBundle","version":1,"revision":1,"configHash":"sha256:0","createdAt":"","highestKeyID":1,"data":{},"keyChecks":{}}"#,
                "contains no configuration",
            ),
        ] {
            let error = Bundle::open(&seal.seal(text.as_bytes()).unwrap(), &opener).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
    }
}
