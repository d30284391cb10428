//! Encryption and decryption with age recipients or a passphrase.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::str::FromStr as _;

use age::secrecy::SecretString;
use age::{Decryptor, Encryptor, Identity, Recipient, scrypt, x25519};
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use zeroize::Zeroizing;

/// At most this many decrypted bytes are read. Bundles have kilobytes.
const LONGEST: u64 = 16 << 20;
/// A shorter passphrase can be guessed.
const SHORTEST_PASSPHRASE: usize = 12;
const PASSPHRASE_FILE: &str = "--passphrase-file";

/// Who can open a bundle.
pub(crate) enum Seal {
    To(Vec<x25519::Recipient>),
    Passphrase(SecretString),
}

impl Seal {
    /// Encrypts for these age recipients (`age1…`).
    pub(crate) fn to(recipients: &[String]) -> Result<Self> {
        ensure!(!recipients.is_empty(), "no recipient is given, so nobody could open it");
        Ok(Self::To(recipients.iter().map(|text| recipient(text)).collect::<Result<_>>()?))
    }

    /// Encrypts with the passphrase in the first line of a file.
    pub(crate) fn by_passphrase(file: &Path) -> Result<Self> {
        Ok(Self::Passphrase(read(PASSPHRASE_FILE, file, passphrase)?))
    }

    pub(crate) fn seal(&self, text: &[u8]) -> Result<Vec<u8>> {
        let encryptor = match self {
            Self::To(recipients) => {
                Encryptor::with_recipients(recipients.iter().map(|one| one as &dyn Recipient))
                    .map_err(|error| anyhow!("encrypting: {error}"))?
            }
            Self::Passphrase(passphrase) => Encryptor::with_user_passphrase(passphrase.clone()),
        };
        let mut sealed = Vec::new();
        let mut writer = encryptor.wrap_output(&mut sealed)?;
        writer.write_all(text)?;
        writer.finish()?;
        Ok(sealed)
    }
}

/// The keys that open a bundle.
pub(crate) struct Opener(Vec<Box<dyn Identity + Send>>);

impl Opener {
    /// The identities in a file.
    pub(crate) fn by_identities(file: &Path) -> Result<Self> {
        read("--identity", file, Self::identities)
    }

    /// Identities in the format of `age-keygen`.
    pub(super) fn identities(text: &str) -> Result<Self> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let mut found: Vec<Box<dyn Identity + Send>> = Vec::new();
        for line in lines {
            // The line is secret, so the error does not quote it.
            let identity = x25519::Identity::from_str(line)
                .map_err(|_| anyhow!("it contains something other than AGE-SECRET-KEY-1… lines"))?;
            found.push(Box::new(identity));
        }
        ensure!(!found.is_empty(), "it contains no identity");
        Ok(Self(found))
    }

    /// The passphrase in the first line of a file.
    pub(crate) fn by_passphrase(file: &Path) -> Result<Self> {
        let passphrase = read(PASSPHRASE_FILE, file, passphrase)?;
        Ok(Self(vec![Box::new(scrypt::Identity::new(passphrase))]))
    }

    pub(super) fn open(&self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let decryptor = Decryptor::new(sealed).map_err(|error| anyhow!("it is not an age file: {error}"))?;
        let identities = self.0.iter().map(|one| one.as_ref() as &dyn Identity);
        let reader = match decryptor.decrypt(identities) {
            Ok(reader) => reader,
            Err(age::DecryptError::NoMatchingKeys) => bail!("it was not encrypted for this identity"),
            Err(error) => bail!("it cannot be decrypted: {error}"),
        };
        let mut text = Zeroizing::new(Vec::with_capacity(sealed.len()));
        reader.take(LONGEST + 1).read_to_end(&mut text).context("it is damaged")?;
        ensure!(u64::try_from(text.len())? <= LONGEST, "it has more than {LONGEST} bytes");
        Ok(text)
    }
}

/// Parses a recipient. The error repeats the text only if it begins as a recipient does: an admin may have
/// given the identity or a passphrase by mistake.
fn recipient(text: &str) -> Result<x25519::Recipient> {
    x25519::Recipient::from_str(text).map_err(|why| {
        if text.starts_with("age1") {
            anyhow!("{text:?} is not an age recipient ({why}); create one with age-keygen")
        } else if text.to_ascii_uppercase().contains("AGE-SECRET-KEY-") {
            anyhow!(
                "the recipient is an identity (AGE-SECRET-KEY-1…), which must stay secret; give its public key, age1…, \
                 which age-keygen -y prints. The identity is now in the history of this shell"
            )
        } else {
            anyhow!("a recipient must begin with age1; create one with age-keygen")
        }
    })
}

/// Reads and parses a file. The content is secret: it is wiped afterwards, and `parse` must not quote it.
fn read<T>(option: &str, file: &Path, parse: impl FnOnce(&str) -> Result<T>) -> Result<T> {
    let text = std::fs::read_to_string(file).map(Zeroizing::new);
    let parsed = text.map_err(Into::into).and_then(|text| parse(&text));
    parsed.with_context(|| format!("{option} {}", file.display()))
}

/// The passphrase in the first line.
fn passphrase(text: &str) -> Result<SecretString> {
    let line = text.lines().next().unwrap_or_default();
    ensure!(
        line.chars().count() >= SHORTEST_PASSPHRASE,
        "the passphrase has fewer than {SHORTEST_PASSPHRASE} characters: anyone who has the bundle could guess it"
    );
    Ok(SecretString::from(line.to_owned()))
}
