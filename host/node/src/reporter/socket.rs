//! The plugins' sockets: the values of `--kms-sockets` (openshift: health-reporter).

use std::path::{Path, PathBuf};
use std::str::FromStr;

const PREFIX: &str = "unix://";
const FOLDER: &str = "/var/run/kmsplugin/kms-";
const SUFFIX: &str = ".sock";

/// One plugin's socket, and the key in its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KmsSocket {
    path: PathBuf,
    key_id: String,
}

/// The text is not the socket of a plugin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not the socket of a plugin; expected unix:///var/run/kmsplugin/kms-N.sock, where N is the keyID"
)]
pub struct NotASocket(String);

impl KmsSocket {
    /// The path of the socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The key number in the name of the socket.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }
}

impl FromStr for KmsSocket {
    type Err = NotASocket;

    fn from_str(text: &str) -> Result<Self, NotASocket> {
        let not = || NotASocket(text.to_owned());
        let path = text.strip_prefix(PREFIX).ok_or_else(not)?;
        let key_id = path.strip_prefix(FOLDER).and_then(|rest| rest.strip_suffix(SUFFIX)).ok_or_else(not)?;
        // The CRD accepts up to 512 characters (openshift: encryption-status), but a key number has at most
        // 20.
        let is_number = (1..=20).contains(&key_id.len()) && key_id.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number {
            return Err(not());
        }
        Ok(Self { path: PathBuf::from(path), key_id: key_id.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn the_name_of_a_socket_has_the_key_number() {
        let socket: KmsSocket = "unix:///var/run/kmsplugin/kms-12.sock".parse().unwrap();
        assert_eq!((socket.key_id(), socket.path().to_str()), ("12", Some("/var/run/kmsplugin/kms-12.sock")));
    }

    #[rstest]
    #[case::no_scheme("/var/run/kmsplugin/kms-1.sock")]
    #[case::elsewhere("unix:///tmp/kms-1.sock")]
    #[case::no_number("unix:///var/run/kmsplugin/kms-a.sock")]
    #[case::nothing("unix:///var/run/kmsplugin/kms-.sock")]
    #[case::folders("unix:///var/run/kmsplugin/kms-1/kms.sock")]
    #[case::up("unix:///var/run/kmsplugin/kms-../1.sock")]
    fn other_paths_are_refused(#[case] text: &str) {
        assert_eq!(text.parse::<KmsSocket>(), Err(NotASocket(text.to_owned())));
    }
}
