//! Encrypting to age recipients or by a passphrase, and back.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::str::FromStr as _;

use age::secrecy::SecretString;
use age::{Decryptor, Encryptor, Identity, Recipient, scrypt, x25519};
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use zeroize::Zeroizing;

/// A bundle is of kilobytes.
const LONGEST: u64 = 16 << 20;
/// What is shorter is guessed.
const SHORTEST_PASSPHRASE: usize = 12;
const PASSPHRASE_FILE: &str = "--passphrase-file";

/// Who can open what is written.
pub(crate) enum Seal {
    To(Vec<x25519::Recipient>),
    Passphrase(SecretString),
}

impl Seal {
    /// These age recipients (`age1…`).
    pub(crate) fn to(recipients: &[String]) -> Result<Self> {
        ensure!(!recipients.is_empty(), "nobody could open it");
        Ok(Self::To(recipients.iter().map(|text| recipient(text)).collect::<Result<_>>()?))
    }

    /// Whoever has the passphrase that a file begins with.
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

/// Who opens it.
pub(crate) struct Opener(Vec<Box<dyn Identity + Send>>);

impl Opener {
    /// The identities of a file.
    pub(crate) fn by_identities(file: &Path) -> Result<Self> {
        read("--identity", file, Self::identities)
    }

    /// As `age-keygen` writes them.
    pub(super) fn identities(text: &str) -> Result<Self> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let mut found: Vec<Box<dyn Identity + Send>> = Vec::new();
        for line in lines {
            // The line is a secret: the error does not quote it.
            let identity = x25519::Identity::from_str(line)
                .map_err(|_| anyhow!("it holds something else than AGE-SECRET-KEY-1… lines"))?;
            found.push(Box::new(identity));
        }
        ensure!(!found.is_empty(), "it holds no identity");
        Ok(Self(found))
    }

    /// The passphrase that a file begins with.
    pub(crate) fn by_passphrase(file: &Path) -> Result<Self> {
        let passphrase = read(PASSPHRASE_FILE, file, passphrase)?;
        Ok(Self(vec![Box::new(scrypt::Identity::new(passphrase))]))
    }

    pub(super) fn open(&self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let decryptor = Decryptor::new(sealed).map_err(|error| anyhow!("it is no age file: {error}"))?;
        let identities = self.0.iter().map(|one| one.as_ref() as &dyn Identity);
        let reader = match decryptor.decrypt(identities) {
            Ok(reader) => reader,
            Err(age::DecryptError::NoMatchingKeys) => bail!("it is not for this identity"),
            Err(error) => bail!("it cannot be decrypted: {error}"),
        };
        let mut text = Zeroizing::new(Vec::with_capacity(sealed.len()));
        reader.take(LONGEST + 1).read_to_end(&mut text).context("it is damaged")?;
        ensure!(u64::try_from(text.len())? <= LONGEST, "it has more than {LONGEST} bytes");
        Ok(text)
    }
}

/// Who can open what is written for them. Only what is public by its beginning is repeated: somebody may have given the
/// identity, or a passphrase, in its place.
fn recipient(text: &str) -> Result<x25519::Recipient> {
    x25519::Recipient::from_str(text).map_err(|why| {
        if text.starts_with("age1") {
            anyhow!("{text:?} is no age recipient ({why}); age-keygen makes one")
        } else if text.to_ascii_uppercase().contains("AGE-SECRET-KEY-") {
            anyhow!(
                "what is given as a recipient is an identity (AGE-SECRET-KEY-1…), which stays secret: give its public half, \
                 age1…, which age-keygen -y tells. The identity stands in this shell's history now"
            )
        } else {
            anyhow!("a recipient begins with age1, and what is given does not; age-keygen makes one")
        }
    })
}

/// What a file holds, as `parse` understands it. It is a secret: it is wiped afterwards, and `parse` does not quote it.
fn read<T>(option: &str, file: &Path, parse: impl FnOnce(&str) -> Result<T>) -> Result<T> {
    let text = std::fs::read_to_string(file).map(Zeroizing::new);
    let parsed = text.map_err(Into::into).and_then(|text| parse(&text));
    parsed.with_context(|| format!("{option} {}", file.display()))
}

/// The first line.
fn passphrase(text: &str) -> Result<SecretString> {
    let line = text.lines().next().unwrap_or_default();
    ensure!(
        line.chars().count() >= SHORTEST_PASSPHRASE,
        "the passphrase has less than {SHORTEST_PASSPHRASE} characters: whoever has the bundle would guess it"
    );
    Ok(SecretString::from(line.to_owned()))
}
