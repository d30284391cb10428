//! The flags of HashiCorp's vault-kube-kms, with its names and defaults.

use std::time::Duration;

use crate::go_flag::{Flag, Set};

/// The parsed command line; [`Settings`](crate::settings::Settings) validates it.
#[derive(Debug, Clone)]
pub(crate) struct Flags {
    pub(crate) listen_address: String,
    pub(crate) vault_address: String,
    pub(crate) vault_namespace: String,
    pub(crate) vault_auth_namespace: String,
    pub(crate) vault_key_path: String,
    pub(crate) vault_connection_timeout: Duration,
    pub(crate) tls_ca_file: String,
    pub(crate) tls_sni: String,
    pub(crate) tls_skip_verify: bool,
    pub(crate) auth_mount: String,
    pub(crate) approle_role_id: String,
    pub(crate) approle_secret_id_path: String,
    pub(crate) zap_log_level: String,
    pub(crate) metrics_port: u16,
    pub(crate) health_port: u16,
}

impl Default for Flags {
    fn default() -> Self {
        Self {
            listen_address: "unix:///tmp/vault-kube-kms.socket".to_owned(),
            vault_address: String::new(),
            vault_namespace: String::new(),
            vault_auth_namespace: String::new(),
            vault_key_path: String::new(),
            vault_connection_timeout: Duration::from_secs(30),
            tls_ca_file: String::new(),
            tls_sni: String::new(),
            tls_skip_verify: false,
            auth_mount: "approle".to_owned(),
            approle_role_id: String::new(),
            approle_secret_id_path: String::new(),
            zap_log_level: "info".to_owned(),
            metrics_port: 9090,
            health_port: 8081,
        }
    }
}

/// All flags. The older names (`-auth-method`, `-transit-mount`, `-transit-key`, `-socket`) do not exist any
/// more.
pub(crate) const FLAGS: [Flag<Flags>; 16] = [
    Flag {
        name: "listen-address",
        default: "unix:///tmp/vault-kube-kms.socket",
        usage: "Unix socket to serve KMS v2 on",
        set: Set::Text(|flags, value| flags.listen_address = value),
    },
    Flag {
        name: "vault-address",
        default: "",
        usage: "Address of Vault, as https://host:port",
        set: Set::Text(|flags, value| flags.vault_address = value),
    },
    Flag {
        name: "vault-namespace",
        default: "",
        usage: "Namespace of the Transit mount",
        set: Set::Text(|flags, value| flags.vault_namespace = value),
    },
    Flag {
        name: "vault-auth-namespace",
        default: "",
        usage: "Namespace of the AppRole mount; the namespace of the Transit mount if not set",
        set: Set::Text(|flags, value| flags.vault_auth_namespace = value),
    },
    Flag {
        name: "vault-key-path",
        default: "",
        usage: "Transit key, as mount/keys/name",
        set: Set::Text(|flags, value| flags.vault_key_path = value),
    },
    Flag {
        name: "vault-connection-timeout",
        default: "30s",
        usage: "Deadline of a request to Vault, and of the first login with its retries",
        set: Set::Duration(|flags, value| flags.vault_connection_timeout = value),
    },
    Flag {
        name: "tls-ca-file",
        default: "",
        usage: "PEM file with the CAs that Vault's certificate is verified against; the system's CAs if not set",
        set: Set::Text(|flags, value| flags.tls_ca_file = value),
    },
    Flag {
        name: "tls-sni",
        default: "",
        usage: "Server name to send, and to verify Vault's certificate against, instead of the address's host",
        set: Set::Text(|flags, value| flags.tls_sni = value),
    },
    Flag {
        name: "tls-skip-verify",
        default: "",
        usage: "Do not verify Vault's certificate",
        set: Set::Switch(|flags, value| flags.tls_skip_verify = value),
    },
    Flag {
        name: "auth-mount",
        default: "approle",
        usage: "Mount of the AppRole auth method",
        set: Set::Text(|flags, value| flags.auth_mount = value),
    },
    Flag {
        name: "approle-role-id",
        default: "",
        usage: "AppRole role-id",
        set: Set::Text(|flags, value| flags.approle_role_id = value),
    },
    Flag {
        name: "approle-secret-id-path",
        default: "",
        usage: "File with the AppRole secret-id; read once, at start",
        set: Set::Text(|flags, value| flags.approle_secret_id_path = value),
    },
    Flag {
        name: "zap-log-level",
        default: "info",
        usage: "Lowest level to log: debug, info, warn, error, panic, or a number above 0 for more detail than debug",
        set: Set::Text(|flags, value| flags.zap_log_level = value),
    },
    Flag {
        name: "metrics-port",
        default: "9090",
        usage: "Port of /metrics; 0 for none",
        set: Set::Port(|flags, value| flags.metrics_port = value),
    },
    Flag {
        name: "disable-runtime-metrics",
        default: "",
        usage: "Leave out metrics of the Go runtime (accepted without effect: this is not a Go program)",
        set: Set::Switch(|_, _| {}),
    },
    Flag {
        name: "health-port",
        default: "8081",
        usage: "Port of /healthz; 0 for none",
        set: Set::Port(|flags, value| flags.health_port = value),
    },
];
