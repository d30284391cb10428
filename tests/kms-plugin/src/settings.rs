//! The validated settings of the command line. Each error names its flag.

use std::{fmt, fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use keyward_kms::MAX_KEY_ID_BYTES;
use reqwest::Url;
use tracing::level_filters::LevelFilter;
use zeroize::Zeroizing;

use crate::flags::Flags;

/// A text that is never printed.
#[derive(Clone)]
pub(crate) struct Secret(Zeroizing<String>);

impl Secret {
    pub(crate) fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text, only for the header or body of a request.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// The path of the KEK: `{mount}/keys/{name}`. A mount may contain slashes, a name contains none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyPath {
    pub(crate) mount: String,
    pub(crate) name: String,
}

impl KeyPath {
    fn parse(path: &str) -> Option<Self> {
        let (mount, name) = path.rsplit_once("/keys/")?;
        let whole = |part: &str| !part.is_empty() && part.split('/').all(|segment| !segment.is_empty());
        (whole(mount) && whole(name) && !name.contains('/'))
            .then(|| Self { mount: mount.to_owned(), name: name.to_owned() })
    }

    /// The path of an action with the key: `{mount}/{action}/{name}`.
    pub(crate) fn to(&self, action: &str) -> String {
        format!("{}/{action}/{}", self.mount, self.name)
    }
}

/// How Vault's certificate is verified.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    /// PEM; without it, the system's CAs.
    pub(crate) ca_bundle: Option<Vec<u8>>,
    /// The name that is sent and verified instead of the address's host.
    pub(crate) server_name: Option<String>,
    pub(crate) skip_verify: bool,
}

/// All settings of the plugin.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) socket: PathBuf,
    pub(crate) address: Url,
    pub(crate) tls: Tls,
    pub(crate) timeout: Duration,
    /// Without slashes around it; empty for the root namespace.
    pub(crate) namespace: String,
    /// The namespace of the login.
    pub(crate) auth_namespace: String,
    pub(crate) auth_mount: String,
    pub(crate) role_id: String,
    pub(crate) secret_id: Secret,
    pub(crate) key: KeyPath,
    /// 0 for none.
    pub(crate) health_port: u16,
    /// 0 for none.
    pub(crate) metrics_port: u16,
}

impl Settings {
    /// Also reads the secret-id and CA files: later changes of them have no effect.
    pub(crate) fn read(flags: Flags) -> Result<Self> {
        let namespace = trimmed(&flags.vault_namespace);
        let auth_namespace = match trimmed(&flags.vault_auth_namespace) {
            none if none.is_empty() => namespace.clone(),
            given => given,
        };
        ensure!(!flags.approle_role_id.is_empty(), "-approle-role-id is required");
        ensure!(
            flags.vault_connection_timeout > Duration::ZERO,
            "-vault-connection-timeout must be positive"
        );
        let auth_mount = trimmed(&flags.auth_mount);
        ensure!(!auth_mount.is_empty(), "-auth-mount must not be empty");
        let key = KeyPath::parse(flags.vault_key_path.trim_matches('/')).with_context(|| {
            format!("-vault-key-path={:?} is not of the form mount/keys/name", flags.vault_key_path)
        })?;
        // The remote key id contains both, with a version and a time.
        ensure!(
            namespace.len() + flags.vault_key_path.len() + 64 <= MAX_KEY_ID_BYTES,
            "-vault-key-path and -vault-namespace are too long"
        );
        Ok(Self {
            socket: socket(&flags.listen_address)?,
            address: address(&flags.vault_address)?,
            tls: tls(&flags)?,
            timeout: flags.vault_connection_timeout,
            namespace,
            auth_namespace,
            auth_mount,
            secret_id: secret_id(&flags.approle_secret_id_path)?,
            role_id: flags.approle_role_id,
            key,
            health_port: flags.health_port,
            metrics_port: flags.metrics_port,
        })
    }
}

/// zap's names of levels; a number above 0 means more detail.
pub(crate) fn log_level(level: &str) -> Result<LevelFilter, String> {
    match (level.to_ascii_lowercase().as_str(), level.parse()) {
        ("debug", _) | (_, Ok(1_u8)) => Ok(LevelFilter::DEBUG),
        ("info", _) => Ok(LevelFilter::INFO),
        ("warn", _) => Ok(LevelFilter::WARN),
        ("error" | "dpanic" | "panic" | "fatal", _) => Ok(LevelFilter::ERROR),
        (_, Ok(2..)) => Ok(LevelFilter::TRACE),
        _ => Err(format!("invalid value {level:?} for flag -zap-log-level: invalid log level {level:?}")),
    }
}

/// Vault accepts namespaces and mounts with and without slashes around them.
fn trimmed(path: &str) -> String {
    path.trim_matches('/').to_owned()
}

fn socket(address: &str) -> Result<PathBuf> {
    match address.strip_prefix("unix://") {
        Some(path) if path.starts_with('/') => Ok(PathBuf::from(path)),
        _ => bail!("-listen-address={address:?} is not of the form unix:///path"),
    }
}

fn address(address: &str) -> Result<Url> {
    ensure!(!address.is_empty(), "-vault-address is required");
    let url = Url::parse(address).with_context(|| format!("-vault-address={address:?} is not a URL"))?;
    ensure!(
        matches!(url.scheme(), "http" | "https") && url.has_host(),
        "-vault-address={address:?} is not of the form https://host:port"
    );
    ensure!(
        url.username().is_empty() && url.password().is_none() && url.query().is_none(),
        "-vault-address must contain no credentials and no query"
    );
    Ok(url)
}

fn tls(flags: &Flags) -> Result<Tls> {
    let ca_bundle = match flags.tls_ca_file.as_str() {
        "" => None,
        path => Some(fs::read(path).with_context(|| format!("cannot read -tls-ca-file={path}"))?),
    };
    let server_name = Some(flags.tls_sni.clone()).filter(|name| !name.is_empty());
    if let Some(name) = &server_name {
        let is_domain = Url::parse(&format!("https://{name}/"))
            .is_ok_and(|url| url.domain().is_some_and(|domain| domain.eq_ignore_ascii_case(name)));
        ensure!(is_domain, "-tls-sni={name:?} is not a DNS name");
    }
    Ok(Tls { ca_bundle, server_name, skip_verify: flags.tls_skip_verify })
}

fn secret_id(path: &str) -> Result<Secret> {
    ensure!(!path.is_empty(), "-approle-secret-id-path is required");
    let text = Zeroizing::new(
        fs::read_to_string(path).with_context(|| format!("cannot read -approle-secret-id-path={path}"))?,
    );
    let secret_id = text.trim();
    ensure!(!secret_id.is_empty(), "the file of -approle-secret-id-path={path} is empty");
    Ok(Secret::new(secret_id.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut Flags);

    fn flags(folder: &tempfile::TempDir) -> Flags {
        let secret_id = folder.path().join("secret-id");
        fs::write(&secret_id, "s3cr3t\n").unwrap();
        Flags {
            vault_address: "https://vault.example.com:8200".into(),
            vault_key_path: "transit/keys/k".into(),
            approle_role_id: "role".into(),
            approle_secret_id_path: secret_id.display().to_string(),
            ..Flags::default()
        }
    }

    #[test]
    fn a_complete_command_line_is_accepted() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings::read(Flags { vault_namespace: "/a/b/".into(), ..flags(&folder) }).unwrap();
        assert_eq!(settings.secret_id.reveal(), "s3cr3t");
        assert_eq!((settings.namespace.as_str(), settings.auth_namespace.as_str()), ("a/b", "a/b"));
        assert!(!format!("{settings:?}").contains("s3cr3t"));

        let auth = Flags { vault_auth_namespace: "root".into(), ..flags(&folder) };
        assert_eq!(Settings::read(auth).unwrap().auth_namespace, "root");
    }

    #[test]
    fn a_key_path_names_mount_and_key() {
        let path = |mount: &str, name: &str| Some(KeyPath { mount: mount.into(), name: name.into() });
        assert_eq!(KeyPath::parse("transit/keys/k"), path("transit", "k"));
        assert_eq!(KeyPath::parse("team/a/keys/keys/k"), path("team/a/keys", "k"));
        for wrong in ["", "k", "transit/k", "transit/keys/", "/keys/k", "transit//keys/k", "transit/keys/a/b"]
        {
            assert_eq!(KeyPath::parse(wrong), None, "{wrong}");
        }
        assert_eq!(path("a/b", "k").unwrap().to("encrypt"), "a/b/encrypt/k");
    }

    #[test]
    fn each_error_names_its_flag() {
        let folder = tempfile::tempdir().unwrap();
        let changes: [(Change, &str); 11] = [
            (|f| f.vault_address.clear(), "-vault-address is required"),
            (|f| f.vault_address = "vault:8200".into(), "-vault-address=\"vault:8200\" is not of the form"),
            (|f| f.vault_address = "https://u:p@v".into(), "-vault-address must contain no credentials"),
            (|f| f.vault_key_path.clear(), "-vault-key-path=\"\" is not of the form mount/keys/name"),
            (|f| f.vault_key_path = format!("{}/keys/k", "a".repeat(1000)), "are too long"),
            (|f| f.approle_role_id.clear(), "-approle-role-id is required"),
            (|f| f.approle_secret_id_path.clear(), "-approle-secret-id-path is required"),
            (|f| f.approle_secret_id_path = "/nonexistent".into(), "cannot read -approle-secret-id-path"),
            (|f| f.listen_address = "/kms.sock".into(), "-listen-address=\"/kms.sock\" is not of the form"),
            (|f| f.tls_sni = "10.0.0.1".into(), "-tls-sni=\"10.0.0.1\" is not a DNS name"),
            (|f| f.tls_ca_file = "/nonexistent".into(), "cannot read -tls-ca-file"),
        ];
        for (change, message) in changes {
            let mut flags = flags(&folder);
            change(&mut flags);
            let error = format!("{:#}", Settings::read(flags).unwrap_err());
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn log_levels_have_zaps_names() {
        assert_eq!(log_level("Warn").unwrap(), LevelFilter::WARN);
        assert_eq!(log_level("1").unwrap(), LevelFilter::DEBUG);
        assert_eq!(log_level("5").unwrap(), LevelFilter::TRACE);
        assert!(log_level("loud").is_err());
        assert!(log_level("0").is_err());
    }
}
