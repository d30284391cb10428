//! The known failures of Vault and its plugin, and the texts that identify them, the most specific first.
//!
//! `fixtures/diagnoses.yaml` has the messages of OpenBao 2.7 and of a plugin for each failure;
//! tests/kms-plugin compares them with the messages of a real run. The other texts are from the documentation
//! of Vault and of the plugin, and from the sources of Go and rustls. The texts about licenses need Vault
//! Enterprise and are not tested.

/// A known failure.
pub(crate) struct Symptom {
    /// The bounded label.
    pub(crate) cause: &'static str,
    /// The phases in which it can occur; empty for any.
    pub(crate) phases: &'static [&'static str],
    /// For each group, one of its texts must occur; in lower case.
    pub(crate) seen: &'static [&'static [&'static str]],
    /// One line; `{name}` is replaced from the configuration.
    pub(crate) summary: &'static str,
    /// What to do.
    pub(crate) remedy: &'static str,
    /// Whether a retry without any change can succeed.
    pub(crate) retryable: bool,
}

impl Symptom {
    /// Whether the failure is this one. `text` is a message about Vault, in lower case.
    pub(crate) fn fits(&self, phase: &str, text: &str) -> bool {
        (self.phases.is_empty() || self.phases.contains(&phase))
            && self.seen.iter().all(|group| group.iter().any(|part| text.contains(part)))
    }
}

/// Vault's texts for a denial.
const DENIED: &[&str] = &["permission denied", "code: 403", "403 forbidden", "status 403"];
/// Texts that identify a login.
const LOGIN: &[&str] = &["/login", "login failed", "failed to log in", "login:"];

/// Resolvers' texts for an unknown host.
const UNKNOWN_HOST: &[&str] = &[
    "no such host",
    "dns error",
    "failed to lookup address",
    "name resolution",
    "name or service not known",
    "server misbehaving",
];
/// Texts for a server that refuses or times out connections.
const UNREACHABLE: &[&str] =
    &["connection refused", "no such host", "i/o timeout", "deadline exceeded", "no route to host"];
/// Added to a message that names a server of Vault's API other than the configured one: a standby redirects
/// to its active node. No program writes this text.
pub(crate) const ELSEWHERE: &str = "\u{1}another server\u{1}";

/// Programs' texts for an unknown argument.
pub(crate) const UNKNOWN_FLAG: &[&str] =
    &["flag provided but not defined", "unknown flag", "unexpected argument", "unrecognized option"];

/// The first symptom that fits is the diagnosis.
pub(crate) const SYMPTOMS: &[Symptom] = &[
    Symptom {
        cause: "image",
        phases: &["image"],
        seen: &[],
        summary: "the plugin's image cannot be pulled",
        remedy: "check that the image in {image} exists with this digest, and that the node is allowed to \
                 pull it",
        retryable: true,
    },
    Symptom {
        cause: "unknown-flag",
        phases: &[],
        seen: &[UNKNOWN_FLAG],
        summary: "the plugin does not know one of its arguments",
        remedy: "set {image} to a release of vault-kube-kms that supports -vault-key-path and -health-port",
        retryable: false,
    },
    Symptom {
        cause: "sealed",
        phases: &[],
        seen: &[&["vault is sealed", "barrier is sealed", "server is sealed"]],
        summary: "Vault at {address} is sealed",
        remedy: "unseal Vault; nothing has to be changed in the cluster",
        retryable: true,
    },
    Symptom {
        cause: "namespace-locked",
        phases: &[],
        seen: &[&["locked by an administrator"]],
        summary: "an administrator has locked a namespace of Vault at {address}",
        remedy: "unlock {namespace}, {auth-namespace} or one above them (vault namespace unlock); nothing \
                 has to be changed in the cluster",
        retryable: true,
    },
    Symptom {
        cause: "proxy-login",
        phases: &[],
        seen: &[&["proxy authentication required"]],
        summary: "the proxy requires a login, and the plugin has none",
        remedy: "configure the proxy to allow connections to {address} without a login, or add the host of \
                 that address to spec.plugins.proxy.noProxy",
        retryable: false,
    },
    Symptom {
        cause: "proxy-dns",
        phases: &[],
        seen: &[&["proxyconnect"], UNKNOWN_HOST],
        summary: "the control-plane nodes' DNS does not know the host of the proxy",
        remedy: "correct spec.plugins.proxy or the nodes' DNS (the plugin uses the DNS of the node, not of \
                 the cluster)",
        retryable: true,
    },
    Symptom {
        cause: "proxy-unreachable",
        phases: &[],
        seen: &[&["proxyconnect"]],
        summary: "the proxy cannot be reached",
        remedy: "check that the proxy of spec.plugins.proxy runs and that the control-plane nodes can \
                 connect to it, or add the host of {address} to spec.plugins.proxy.noProxy",
        retryable: true,
    },
    Symptom {
        cause: "no-active-node",
        phases: &[],
        seen: &[&[
            "active cluster node not found",
            "no active node",
            "not yet initialized",
            "not initialized",
        ]],
        summary: "Vault at {address} has no active node",
        remedy: "wait until Vault has elected an active node, or initialize Vault; vaultAddress must be the \
                 address of a working cluster",
        retryable: true,
    },
    Symptom {
        cause: "license-unreadable",
        phases: &[],
        seen: &[&["sys/license/status"], DENIED],
        summary: "the AppRole is not allowed to read Vault's license",
        remedy: "grant \"read\" on sys/license/status to the AppRole whose ids are in Secret {secret} \
                 ({secret-field})",
        retryable: true,
    },
    Symptom {
        cause: "license",
        phases: &[],
        seen: &[&[
            "community edition detected",
            "requires vault enterprise",
            "license is expired",
            "license expired",
            "license has expired",
            "license is not valid",
            "invalid license",
            "license termination",
        ]],
        summary: "Vault at {address} has no license that the plugin accepts",
        remedy: "install a valid Vault Enterprise license, or set vaultAddress to a Vault server that has \
                 one",
        retryable: false,
    },
    Symptom {
        cause: "license",
        phases: &[],
        // Only Enterprise has this path.
        seen: &[&["sys/license/status"], &["unsupported path", "code: 404"]],
        summary: "Vault at {address} is not Vault Enterprise, which the plugin requires",
        remedy: "set vaultAddress to a Vault Enterprise server",
        retryable: false,
    },
    Symptom {
        cause: "tls-ca-unreadable",
        phases: &[],
        seen: &[&[
            "no certificates found",
            "failed to parse ca",
            "error loading ca",
            "unable to load ca",
            "holds no certificate",
            "holds no pem",
            "invalid ca",
        ]],
        summary: "the CA bundle contains no certificate",
        remedy: "put PEM certificates into data key ca-bundle.crt of the ConfigMap that tls.caBundle.name \
                 names",
        retryable: false,
    },
    Symptom {
        cause: "tls-client-certificate",
        phases: &[],
        seen: &[&["tls: certificate required"]],
        summary: "the server at {address} requires a client certificate, and the plugin has none",
        remedy: "set vaultAddress to a listener of Vault without tls_require_and_verify_client_cert: the \
                 plugin logs in with an AppRole",
        retryable: false,
    },
    Symptom {
        cause: "tls-no-san",
        phases: &[],
        seen: &[&["relies on legacy common name", "not valid for any names"]],
        summary: "Vault's certificate at {address} has no subject alternative name for a host",
        remedy: "issue the certificate again with the host of vaultAddress, or tls.serverName, as subject \
                 alternative name: a common name does not count",
        retryable: false,
    },
    Symptom {
        cause: "tls-expired",
        phases: &[],
        seen: &[&[
            "certificate has expired",
            "certificate expired",
            "peer certificate: expired",
            "not yet valid",
            "notvalidyet",
        ]],
        summary: "Vault's certificate at {address} has expired or is not valid yet",
        remedy: "renew Vault's certificate; if its dates are valid, check the clocks of Vault and of the \
                 node",
        retryable: true,
    },
    Symptom {
        cause: "tls-name",
        phases: &[],
        seen: &[&[
            "certificate is valid for",
            "certificate is not valid for",
            "certificate not valid for name",
            "notvalidforname",
            "doesn't contain any ip sans",
            "hostname mismatch",
        ]],
        summary: "Vault's certificate at {address} is for another name",
        remedy: "set tls.serverName to a name in Vault's certificate, or vaultAddress to a host that is in \
                 it",
        retryable: false,
    },
    Symptom {
        cause: "tls-unknown-ca",
        phases: &[],
        seen: &[&[
            "signed by unknown authority",
            "unknownissuer",
            "unknown issuer",
            "unknown ca",
            "self-signed certificate",
            "self signed certificate",
            "unable to get local issuer",
        ]],
        summary: "Vault's certificate at {address} is signed by a CA that the plugin does not know",
        remedy: "put the CA that signed it into data key ca-bundle.crt of the ConfigMap that \
                 tls.caBundle.name names",
        retryable: false,
    },
    Symptom {
        cause: "not-tls",
        phases: &[],
        seen: &[&[
            "http response to https client",
            "does not look like a tls handshake",
            "corrupt message of type invalidcontenttype",
            "wrong version number",
        ]],
        summary: "the server at {address} does not use TLS",
        remedy: "set vaultAddress to the port on which Vault serves https",
        retryable: false,
    },
    Symptom {
        cause: "not-vault",
        phases: &[],
        seen: &[&["looking for beginning of value"]],
        summary: "the server at {address} is not Vault: its response is not JSON",
        remedy: "set vaultAddress to Vault itself; a login page, a proxy or a load balancer may have \
                 responded instead",
        retryable: false,
    },
    Symptom {
        cause: "standby",
        phases: &[],
        seen: &[&[ELSEWHERE], UNREACHABLE],
        summary: "Vault at {address} is a standby, and its active node cannot be reached",
        remedy: "wait until Vault has elected an active node, or restore the active node; if it runs, allow \
                 the control-plane nodes to connect to its api_addr, to which a standby redirects",
        retryable: true,
    },
    Symptom {
        cause: "dns",
        phases: &[],
        seen: &[UNKNOWN_HOST],
        summary: "the control-plane nodes' DNS does not know the host of {address}",
        remedy: "correct vaultAddress or the nodes' DNS (the plugin uses the DNS of the node, not of the \
                 cluster)",
        retryable: true,
    },
    Symptom {
        cause: "lease-quota",
        phases: &[],
        seen: &[&["lease count quota exceeded"]],
        summary: "Vault at {address} has reached its lease count quota",
        remedy: "raise the lease count quota of {auth-namespace}, or revoke unused leases: every login takes \
                 one",
        retryable: true,
    },
    Symptom {
        cause: "rate-limited",
        phases: &[],
        seen: &[&["rate limit quota exceeded", "code: 429", "too many requests"]],
        summary: "Vault at {address} rejects the plugin's requests because of a rate limit",
        remedy: "raise Vault's rate limit quota for {namespace}, mount {mount}",
        retryable: true,
    },
    Symptom {
        cause: "namespace-unknown",
        phases: &[],
        seen: &[&[
            "namespace not found",
            "no such namespace",
            "namespace does not exist",
            "invalid namespace",
        ]],
        summary: "Vault at {address} does not know {namespace}",
        remedy: "correct vaultNamespace or vaultAuthNamespace",
        retryable: false,
    },
    Symptom {
        cause: "auth-not-mounted",
        phases: &[],
        seen: &[&["no handler for route", "unsupported path"], &["auth/approle", "approle/login"]],
        summary: "no AppRole auth method is mounted at approle/ in {auth-namespace}",
        remedy: "enable the auth method there, or correct vaultAuthNamespace",
        retryable: false,
    },
    Symptom {
        cause: "mount-not-found",
        phases: &[],
        seen: &[&["no handler for route", "unsupported path"]],
        summary: "no Transit engine is mounted at {mount} in {namespace}",
        remedy: "correct {key-field} or vaultNamespace, or mount the engine there",
        retryable: false,
    },
    Symptom {
        cause: "key-needs-context",
        phases: &[],
        seen: &[&["missing 'context' for key derivation"]],
        summary: "the Transit key {key} is derived: it needs a context in every request, and the plugin \
                  sends none",
        remedy: "create a key without derived=true and set {key-field} to it",
        retryable: false,
    },
    Symptom {
        cause: "key-cannot-encrypt",
        phases: &[],
        seen: &[&["message encryption not supported"]],
        summary: "the Transit key {key} is of a type that cannot encrypt",
        remedy: "create a key of type aes256-gcm96 and set {key-field} to it",
        retryable: false,
    },
    Symptom {
        cause: "key-version-refused",
        phases: &[],
        seen: &[&["disallowed by policy", "min_decryption_version", "version is too old"]],
        summary: "Vault no longer decrypts with the version of {key} that encrypted what is stored",
        remedy: "lower min_decryption_version of {key} until everything is re-encrypted, then raise it again",
        retryable: false,
    },
    Symptom {
        cause: "key-not-found",
        phases: &[],
        seen: &[&[
            "encryption key not found",
            "no existing key named",
            "key not found",
            "could not find key",
        ]],
        summary: "the Transit key {key} does not exist in {namespace}",
        remedy: "create the key, or correct {key-field}, vaultNamespace or vaultAddress; data that a deleted \
                 key encrypted cannot be read any more",
        retryable: false,
    },
    Symptom {
        cause: "key-not-found",
        phases: &[],
        // Vault's response to a read of a missing key has no text.
        seen: &[&["/keys/"], &["code: 404"]],
        summary: "the Transit key {key} does not exist in {namespace}",
        remedy: "create the key, or correct {key-field}, vaultNamespace or vaultAddress; data that a deleted \
                 key encrypted cannot be read any more",
        retryable: false,
    },
    Symptom {
        cause: "other-kek",
        phases: &[],
        seen: &[&["message authentication failed", "invalid ciphertext"]],
        summary: "the key {key} at {address} is not the one that encrypted what is stored",
        remedy: "restore that key under this name, or set {key-field}, vaultNamespace and vaultAddress back \
                 to it; the key may have been deleted and created again, or Vault may have been restored \
                 from another backup",
        retryable: false,
    },
    Symptom {
        cause: "address-refused",
        phases: &[],
        seen: &[&["by cidr restrictions", "through cidr restrictions"]],
        summary: "Vault does not permit the AppRole's login from this node's address",
        remedy: "add the control-plane nodes' addresses to secret_id_bound_cidrs of the AppRole and to \
                 cidr_list of its secret id in {auth-namespace}; if a proxy is between them, Vault sees the \
                 proxy's address",
        retryable: false,
    },
    Symptom {
        cause: "login-refused",
        phases: &[],
        seen: &[&[
            "invalid role or secret id",
            "invalid role id",
            "invalid role_id",
            "invalid secret id",
            "invalid secret_id",
            "failed to validate credentials",
            "secret id is expired",
            "missing role_id",
            "missing secret_id",
        ]],
        summary: "Vault refuses the AppRole's role id or secret id",
        remedy: "put a valid {role-id} and {secret-id} into Secret {secret} ({secret-field}); a secret id \
                 can expire or be used up; the AppRole must be in {auth-namespace}",
        retryable: false,
    },
    Symptom {
        cause: "login-refused",
        phases: &[],
        seen: &[LOGIN, DENIED],
        summary: "Vault refuses the AppRole's login",
        remedy: "put a valid {role-id} and {secret-id} into Secret {secret} ({secret-field}); the auth \
                 method must be mounted at approle/ in {auth-namespace} and allow logins from the nodes",
        retryable: false,
    },
    Symptom {
        cause: "token-refused",
        phases: &[],
        seen: &[&["invalid token", "bad token", "missing client token", "token expired"]],
        summary: "Vault no longer accepts the plugin's token",
        remedy: "when the plugin restarts, it logs in again; if that fails, renew {secret-id} in Secret \
                 {secret}",
        retryable: true,
    },
    Symptom {
        cause: "encrypt-denied",
        phases: &[],
        seen: &[&["/encrypt/"], DENIED],
        summary: "the AppRole is not allowed to encrypt with {key}",
        remedy: "grant \"update\" on {mount}/encrypt/{name} in {namespace} (an old key needs it too, until \
                 its plugin is removed), or correct {key-field}: Vault also denies access to a key that does \
                 not exist",
        retryable: true,
    },
    Symptom {
        cause: "decrypt-denied",
        phases: &[],
        seen: &[&["/decrypt/"], DENIED],
        summary: "the AppRole is not allowed to decrypt with {key}",
        remedy: "grant \"update\" on {mount}/decrypt/{name} in {namespace}, or correct {key-field}: Vault \
                 also denies access to a key that does not exist",
        retryable: true,
    },
    Symptom {
        cause: "read-denied",
        phases: &[],
        seen: &[&["/keys/"], DENIED],
        summary: "the AppRole is not allowed to read the key {key}",
        remedy: "grant \"read\" on {mount}/keys/{name} in {namespace}, or correct {key-field}: Vault also \
                 denies access to a key that does not exist; token_bound_cidrs of the AppRole must permit \
                 the control-plane nodes' addresses",
        retryable: true,
    },
    Symptom {
        cause: "login-refused",
        phases: &["login"],
        seen: &[DENIED],
        summary: "Vault refuses the AppRole's login",
        remedy: "put a valid {role-id} and {secret-id} into Secret {secret} ({secret-field}); the auth \
                 method must be mounted at approle/ in {auth-namespace} and allow logins from the nodes",
        retryable: false,
    },
    Symptom {
        cause: "encrypt-denied",
        phases: &["encrypt"],
        seen: &[DENIED],
        summary: "the AppRole is not allowed to encrypt with {key}",
        remedy: "grant \"update\" on {mount}/encrypt/{name} in {namespace} (an old key needs it too, until \
                 its plugin is removed), or correct {key-field}: Vault also denies access to a key that does \
                 not exist",
        retryable: true,
    },
    Symptom {
        cause: "decrypt-denied",
        phases: &["decrypt", "key-check"],
        seen: &[DENIED],
        summary: "the AppRole is not allowed to decrypt with {key}",
        remedy: "grant \"update\" on {mount}/decrypt/{name} in {namespace}, or correct {key-field}: Vault \
                 also denies access to a key that does not exist",
        retryable: true,
    },
    Symptom {
        cause: "permission-denied",
        phases: &[],
        seen: &[DENIED],
        summary: "the AppRole's policy does not permit the plugin's requests",
        remedy: "grant \"update\" on {mount}/encrypt/{name} and {mount}/decrypt/{name}, \"read\" on \
                 {mount}/keys/{name} and on sys/license/status, in {namespace}; or correct {key-field}",
        retryable: true,
    },
    Symptom {
        cause: "unreachable",
        phases: &[],
        seen: &[&[
            "connection refused",
            "i/o timeout",
            "deadline exceeded",
            "timed out",
            "timeout",
            "no route to host",
            "network is unreachable",
            "connection reset",
            "error trying to connect",
            "client error (connect)",
            "connection closed",
            "code: 503",
            "bad gateway",
            "service unavailable",
        ]],
        summary: "Vault cannot be reached at {address}",
        remedy: "check that Vault runs, that vaultAddress is correct, and that the control-plane nodes can \
                 connect to it",
        retryable: true,
    },
];
