//! Identifiers, each with a type of its own, so that a keyID is never mixed up with a remote key id.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Number of a key.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct KeyId(pub u64);

impl KeyId {
    /// The number after this one. `None` after the last: a number that repeats or wraps would name two keys.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        after(self.0).map(Self)
    }

    /// The text after the last `-` (or the whole string), base 10, unsigned (openshift: key-numbers).
    pub fn from_name(name: &str) -> Option<Self> {
        name.rsplit('-').next().and_then(parse_decimal).map(Self)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for KeyId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        parse_decimal(text).map(Self).ok_or_else(|| InvalidId(text.to_owned()))
    }
}

/// The highest number that an API object stores exactly: integers are signed (kubernetes: integers-are-signed).
pub const LAST: u64 = i64::MAX.unsigned_abs();

fn after(number: u64) -> Option<u64> {
    number.checked_add(1).filter(|next| *next <= LAST)
}

/// Digits only, without a sign, like Go's `ParseUint`.
pub(crate) fn parse_decimal(text: &str) -> Option<u64> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

/// The error for a text that is not a number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid keyID \"{0}\": must be a non-negative integer")]
pub struct InvalidId(pub String);

/// Number of a revision: `encryption-config-{n}`. Revision 0 is the configuration that `prepare` installs.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision after this one; `None` after the last.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        after(self.0).map(Self)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The `key_id` in the Status answer of a KMS v2 plugin: it identifies the KEK version in use. 1 to 1,024 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct RemoteKeyId(pub String);

impl fmt::Display for RemoteKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `sha256:` and the hex digest of a configuration file's bytes, as the API server's metric
/// `apiserver_encryption_config_controller_last_config_info` shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct ConfigHash(pub String);

impl ConfigHash {
    /// The hash of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(format!("sha256:{}", hex(&sha2::Sha256::digest(bytes))))
    }
}

impl fmt::Display for ConfigHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A keyed digest of the configuration and data of one plugin, in hex. It shows only whether two plugins have the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct PluginDigest(pub String);

impl PluginDigest {
    /// The first 16 hex digits: the name of the folder of a plugin instance.
    pub fn short(&self) -> &str {
        self.0.get(..16).unwrap_or(&self.0)
    }
}

impl fmt::Display for PluginDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from(if half < 10 { b'0' + half } else { b'a' + half - 10 });
    let mut text = String::with_capacity(bytes.len() * 2);
    text.extend(bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]));
    text
}

/// Mode of encryption of a key, in the spelling of OpenShift's API and key secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// Plain text.
    #[serde(rename = "identity")]
    Identity,
    /// AES-CBC with a local key.
    #[serde(rename = "aescbc")]
    Aescbc,
    /// AES-GCM with a local key.
    #[serde(rename = "aesgcm")]
    Aesgcm,
    /// XSalsa20 and Poly1305 with a local key.
    #[serde(rename = "secretbox")]
    Secretbox,
    /// Envelope encryption by a KMS v2 plugin.
    #[serde(rename = "KMS")]
    Kms,
}

impl Mode {
    /// All modes.
    pub const ALL: [Self; 5] = [Self::Identity, Self::Aescbc, Self::Aesgcm, Self::Secretbox, Self::Kms];

    /// The spelling in annotations and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Aescbc => "aescbc",
            Self::Aesgcm => "aesgcm",
            Self::Secretbox => "secretbox",
            Self::Kms => "KMS",
        }
    }

    /// The mode with this spelling; case matters.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == text)
    }

    /// The error for an unknown mode, with the spelling that was probably meant.
    pub fn unknown(text: &str) -> String {
        let hint = crate::spelling::hint(text, Self::ALL.map(Self::as_str));
        format!("unknown encryption mode configured: {text}{hint}")
    }

    /// Whether the bytes of the key are in the configuration (and so rotate weekly).
    pub fn is_local(self) -> bool {
        matches!(self, Self::Aescbc | Self::Aesgcm | Self::Secretbox)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One resource of one API group: `secrets`, `routes.route.openshift.io`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GroupResource {
    /// Empty for the core group.
    pub group: String,
    /// Plural, lower case.
    pub resource: String,
}

impl GroupResource {
    /// `resource` or `resource.group`, as kube-apiserver reads it: `secrets.` means `secrets`.
    pub fn parse(text: &str) -> Self {
        let (resource, group) = text.split_once('.').unwrap_or((text, ""));
        Self { group: group.to_owned(), resource: resource.to_owned() }
    }

    /// The same, for a resource that an admin wrote: a dot at the end stays, so that the text is not the name of a
    /// resource.
    pub fn as_written(text: &str) -> Self {
        match text.split_once('.') {
            Some((_, "")) => Self { group: String::new(), resource: text.to_owned() },
            _ => Self::parse(text),
        }
    }

    /// The group as migrations and messages write it: `core` if it is empty.
    pub fn group_or_core(&self) -> &str {
        if self.group.is_empty() { "core" } else { &self.group }
    }
}

impl fmt::Display for GroupResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.resource)?;
        if self.group.is_empty() { Ok(()) } else { write!(f, ".{}", self.group) }
    }
}

/// Entries are sorted by the string form (openshift: one-entry-per-resource). The comparison allocates no string,
/// because maps compare often.
impl Ord for GroupResource {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        fn text(of: &GroupResource) -> impl Iterator<Item = u8> {
            let dot = (!of.group.is_empty()).then_some(b'.');
            of.resource.bytes().chain(dot).chain(of.group.bytes())
        }
        if self.group.is_empty() && other.group.is_empty() {
            return self.resource.cmp(&other.resource);
        }
        text(self).cmp(text(other))
    }
}

impl PartialOrd for GroupResource {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn resources_are_sorted_by_their_string_form(
            one in ("[a-c.-]{0,3}", "[a-c.-]{0,3}"), other in ("[a-c.-]{0,3}", "[a-c.-]{0,3}"),
        ) {
            let [one, other] =
                [one, other].map(|(resource, group)| GroupResource { group, resource });
            prop_assert_eq!(one.cmp(&other), one.to_string().cmp(&other.to_string()));
        }
    }

    #[test]
    fn name_that_ends_with_a_dot_is_not_the_resource_without_the_dot() {
        for name in ["secrets.", "secrets.apps.", "."] {
            let written = GroupResource::as_written(name);
            assert_eq!(written.to_string(), name);
            assert_ne!(written, GroupResource::as_written(name.trim_end_matches('.')), "{name}");
        }
        assert_eq!(GroupResource::parse("secrets."), GroupResource::parse("secrets"));
        assert_eq!(GroupResource::as_written("a.b.c"), GroupResource::parse("a.b.c"));
    }

    #[test]
    fn hex_has_two_digits_per_byte() {
        assert_eq!(hex(&[0x00, 0x09, 0x0a, 0x9f, 0xa0, 0xff]), "00090a9fa0ff");
    }
}
