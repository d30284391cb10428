//! Encrypting to age recipients or by a passphrase, and back.

use std::io::{Read as _, Write as _};
use std::str::FromStr as _;

use age::secrecy::SecretString;
use age::{Decryptor, Encryptor, Identity, Recipient, scrypt, x25519};
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use zeroize::Zeroizing;

/// A bundle is of kilobytes.
const LONGEST: u64 = 16 << 20;
/// What is shorter is guessed.
const SHORTEST_PASSPHRASE: usize = 12;

/// Who can open what is written.
pub(crate) enum Seal {
    To(Vec<x25519::Recipient>),
    Passphrase(SecretString),
}

impl Seal {
    /// These age recipients (`age1…`).
    pub(crate) fn to(recipients: &[String]) -> Result<Self> {
        ensure!(!recipients.is_empty(), "nobody could open it");
        let parse = |text: &String| {
            x25519::Recipient::from_str(text)
                .map_err(|why| anyhow!("{text:?} is no age recipient ({why}); age-keygen makes one"))
        };
        Ok(Self::To(recipients.iter().map(parse).collect::<Result<_>>()?))
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
    /// The identities of a file as `age-keygen` writes it.
    pub(crate) fn identities(file: &str) -> Result<Self> {
        let lines = file.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
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

    pub(crate) fn passphrase(passphrase: SecretString) -> Self {
        Self(vec![Box::new(scrypt::Identity::new(passphrase))])
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
        reader.take(LONGEST).read_to_end(&mut text).context("it is damaged")?;
        Ok(text)
    }
}

/// The first line of a file.
pub(crate) fn passphrase(file: &str) -> Result<SecretString> {
    let line = file.lines().next().unwrap_or_default();
    ensure!(
        line.chars().count() >= SHORTEST_PASSPHRASE,
        "the passphrase has less than {SHORTEST_PASSPHRASE} characters: whoever has the bundle would guess it"
    );
    Ok(SecretString::from(line.to_owned()))
}
