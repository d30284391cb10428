//! The names of one plugin instance on a node: its folders, its pod, its socket.

use std::fmt;

use crate::ids::{KeyId, PluginDigest, parse_decimal};

/// The folder of the sockets. The API servers' configurations name it, so no setting can move it.
pub const SOCKETS: &str = "/var/run/kmsplugin";

/// The first 16 hex digits of a plugin's digest (objects: digest).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(String);

impl Generation {
    /// The generation of this digest.
    pub fn of(digest: &PluginDigest) -> Self {
        Self(digest.short().to_owned())
    }

    /// Exactly 16 lower-case hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        (text.len() == 16 && hex).then(|| Self(text.to_owned()))
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One plugin with exactly these bytes of spec and files. An instance never changes; it is replaced by
/// another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instance {
    /// The key.
    pub key_id: KeyId,
    /// The generation, which names its bytes.
    pub generation: Generation,
}

impl Instance {
    /// The instance of this key and digest.
    pub fn new(key_id: KeyId, digest: &PluginDigest) -> Self {
        Self { key_id, generation: Generation::of(digest) }
    }

    /// `kms-1-0123456789abcdef`: the folder of its files.
    pub fn name(&self) -> String {
        format!("kms-{}-{}", self.key_id, self.generation)
    }

    /// The inverse of [`name`](Self::name).
    pub fn parse(name: &str) -> Option<Self> {
        let (key_id, generation) = name.strip_prefix("kms-")?.split_once('-')?;
        Some(Self { key_id: KeyId(parse_decimal(key_id)?), generation: Generation::parse(generation)? })
    }

    /// `keyward-kms-1-01234567`: its static pod, and the manifest's file.
    pub fn pod_name(&self) -> String {
        let short = self.generation.as_str().get(..8).unwrap_or_default();
        format!("keyward-kms-{}-{short}", self.key_id)
    }

    /// The folder that only its container mounts: an answer on the socket in it proves which instance runs.
    pub fn socket_folder(&self) -> String {
        format!("{SOCKETS}/kms-{}/g-{}", self.key_id, self.generation)
    }

    /// Its own socket.
    pub fn socket(&self) -> String {
        format!("{}/kms.sock", self.socket_folder())
    }

    /// The target of the key's link while this instance serves. It is relative, since the folder is mounted
    /// at other paths too.
    pub fn link_target(&self) -> String {
        format!("g-{}/kms.sock", self.generation)
    }

    /// The generation that a link with this target leads to.
    pub fn parse_link_target(target: &str) -> Option<Generation> {
        Generation::parse(target.strip_prefix("g-")?.strip_suffix("/kms.sock")?)
    }

    /// The key's socket, which the configuration names: `names::endpoint` without its scheme.
    pub fn link(key_id: KeyId) -> String {
        format!("{SOCKETS}/kms-{key_id}/kms.sock")
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names;

    #[test]
    fn a_name_is_parsed_to_the_same_instance() {
        let digest = PluginDigest("0123456789abcdef".repeat(4));
        let instance = Instance::new(KeyId(7), &digest);
        assert_eq!(instance.name(), "kms-7-0123456789abcdef");
        assert_eq!(Instance::parse(&instance.name()), Some(instance.clone()));
        assert_eq!(instance.pod_name(), "keyward-kms-7-01234567");
        assert_eq!(Instance::parse_link_target(&instance.link_target()), Some(instance.generation.clone()));
        assert_eq!(names::endpoint(KeyId(7)), format!("unix://{}", Instance::link(KeyId(7))));
        for other in ["kms-7", "kms-x-0123456789abcdef", "kms-7-0123456789ABCDEF", "kms-7-0123", ".kms-7-0"] {
            assert_eq!(Instance::parse(other), None, "{other}");
        }
    }
}
