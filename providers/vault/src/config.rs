//! The configuration: the fields, limits and messages of OpenShift's `VaultKMSPluginConfig`
//! (openshift: vault-configuration), and the earlier spelling of image, credentials and key
//! (openshift: vault-earlier-spelling).

use keyward_guest::prelude::*;

use crate::address;
use crate::spelling;

/// A key of HashiCorp Vault's Transit engine, and the plugin that uses it.
#[derive(Debug, ProviderConfig)]
#[keyward(
    check = spelling::check,
    cel(
        "has(self.kmsPluginImage) != has(self.vaultKMSPluginImage)",
        "exactly one of kmsPluginImage and its earlier spelling vaultKMSPluginImage is required"
    ),
    cel(
        "has(self.authentication) != has(self.approleSecretRef)",
        "exactly one of authentication and its earlier spelling approleSecretRef is required"
    ),
    cel(
        "has(self.vaultKeyPath) != has(self.transitKey)",
        "exactly one of vaultKeyPath and its earlier spelling transitKey is required"
    ),
    cel("has(self.transitKey) || !has(self.transitMount)", "transitMount requires transitKey")
)]
pub struct Config {
    /// The image of HashiCorp's plugin (vault-kube-kms), by digest.
    #[keyward(in_place = "the plugin's program, not the KEK")]
    pub kms_plugin_image: Option<Image>,

    /// Address of Vault: `https://HOST[:PORT]`.
    #[keyward(
        new_key = "another Vault holds other keys",
        min_length = 1,
        max_length = 512,
        check = address::check,
        cel("isURL(self)", "must be a valid URL"),
        cel(
            "!isURL(self) || self.matches('^[^:/]+://([^/?#]*@)?([[][^]/?#@]+[]]|[a-zA-Z0-9_~!$&\\x27()*+,;=-]+([.][a-zA-Z0-9_~!$&\\x27()*+,;=-]+)*[.]?)(:(0*([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?)?([/?#]|$)')",
            "must be a valid URL"
        ),
        // A host whose last label is a number must be an IPv4 address of four decimal numbers.
        cel(
            "!isURL(self) || !self.matches('^[^:/]+://([^/?#]*@)?([^][/?#@:]*[.])?([0-9]+|0[xX][0-9a-fA-F]*)[.]?([:/?#]|$)') || self.matches('^[^:/]+://([^/?#]*@)?((25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])[.]){3}(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])([:/?#]|$)')",
            "must be a valid URL"
        ),
        cel("!isURL(self) || url(self).getScheme() == 'https'", "must use the 'https' scheme"),
        cel("!isURL(self) || url(self).getEscapedPath() in ['', '/']", "must not contain a path"),
        cel("!isURL(self) || url(self).getQuery() == {} && !self.matches('[?][^#]')", "must not have a query"),
        cel("self.find('#') == ''", "must not have a fragment"),
        cel("self.find('@') == ''", "must not have user info")
    )]
    pub vault_address: String,

    /// The Vault namespace of the Transit engine; default: the root namespace.
    #[keyward(
        new_key = "another namespace holds other keys",
        min_length = 1,
        max_length = 4096,
        never("^/+[^/]", "vaultNamespace cannot start with a forward slash"),
        never("/$", "vaultNamespace cannot end with a forward slash"),
        never("[^/]//+[^/]", "vaultNamespace cannot contain consecutive forward slashes"),
        never("(^|/)[.][.]?(/|$)", "vaultNamespace must not contain '.' or '..' path segments"),
        never(" ", "vaultNamespace cannot contain spaces"),
        never("[\\x00-\\x1f\\x7f]", "vaultNamespace cannot contain control characters"),
        never(
            "^(root|sys|audit|auth|cubbyhole|identity)$",
            "vaultNamespace cannot be a reserved string (root, sys, audit, auth, cubbyhole, identity)"
        )
    )]
    pub vault_namespace: Option<String>,

    /// The Vault namespace of the AppRole auth method; default: vaultNamespace.
    #[keyward(
        in_place = "where the plugin logs in, not where the key is",
        min_length = 1,
        max_length = 4096,
        never("^/+[^/]", "vaultAuthNamespace cannot start with a forward slash"),
        never("/$", "vaultAuthNamespace cannot end with a forward slash"),
        never("[^/]//+[^/]", "vaultAuthNamespace cannot contain consecutive forward slashes"),
        never("(^|/)[.][.]?(/|$)", "vaultAuthNamespace must not contain '.' or '..' path segments"),
        never(" ", "vaultAuthNamespace cannot contain spaces"),
        never("[\\x00-\\x1f\\x7f]", "vaultAuthNamespace cannot contain control characters"),
        never(
            "^(root|sys|audit|auth|cubbyhole|identity)$",
            "vaultAuthNamespace cannot be a reserved string (root, sys, audit, auth, cubbyhole, identity)"
        )
    )]
    pub vault_auth_namespace: Option<String>,

    /// How the plugin verifies Vault's certificate. Default: the system's CAs and the host of vaultAddress.
    #[keyward(nested)]
    pub tls: Option<Tls>,

    /// How the plugin logs in to Vault.
    #[keyward(nested)]
    pub authentication: Option<Authentication>,

    /// The Transit key: `MOUNT/keys/NAME`.
    #[keyward(
        new_key = "names another KEK",
        min_length = 8,
        max_length = 1542,
        never("^/+[^/]", "vaultKeyPath cannot start with a forward slash"),
        never("/$", "vaultKeyPath cannot end with a forward slash"),
        never("[^/]//+[^/]", "vaultKeyPath cannot contain consecutive forward slashes"),
        never(
            "[^a-zA-Z0-9._~/-]",
            "vaultKeyPath must only contain RFC 3986 unreserved characters (alphanumeric, hyphen, period, underscore, tilde) and forward slashes"
        ),
        never("(^|/)[.][.]?(/|$)", "vaultKeyPath must not contain '.' or '..' path segments"),
        matches(
            "^[a-zA-Z0-9._~-]+(/[a-zA-Z0-9._~-]+)*/keys/[a-zA-Z0-9_]([a-zA-Z0-9_.-]*[a-zA-Z0-9_])?$",
            "vaultKeyPath must follow the format <mount>/keys/<key-name> where the key name starts and ends with an alphanumeric character or underscore and may contain alphanumeric characters, underscores, hyphens, and periods"
        )
    )]
    pub vault_key_path: Option<String>,

    /// Earlier spelling of kmsPluginImage.
    #[keyward(in_place = "the plugin's program, not the KEK", name = "vaultKMSPluginImage")]
    pub vault_kms_plugin_image: Option<Image>,

    /// Earlier spelling of authentication, with the data keys roleID and secretID.
    #[keyward(nested)]
    pub approle_secret_ref: Option<AppRoleSecretRef>,

    /// Earlier spelling of vaultKeyPath, with transitKey: mount path of the Transit engine; default
    /// `transit`.
    #[keyward(
        new_key = "names another KEK",
        min_length = 1,
        max_length = 1024,
        never("^/+[^/]", "transitMount cannot start with a forward slash"),
        never("/$", "transitMount cannot end with a forward slash"),
        never("[^/]//+[^/]", "transitMount cannot contain consecutive forward slashes"),
        never(
            "[^a-zA-Z0-9._~/-]",
            "transitMount must only contain RFC 3986 unreserved characters (alphanumeric, hyphen, period, underscore, tilde) and forward slashes"
        ),
        never("(^|/)[.][.]?(/|$)", "transitMount must not contain '.' or '..' path segments")
    )]
    pub transit_mount: Option<String>,

    /// Earlier spelling of vaultKeyPath, with transitMount: the name of the key.
    #[keyward(
        new_key = "names another KEK",
        min_length = 1,
        max_length = 512,
        matches(
            "^[a-zA-Z0-9_]([a-zA-Z0-9_.-]*[a-zA-Z0-9_])?$",
            "transitKey must start and end with an alphanumeric character or underscore and may contain alphanumeric characters, underscores, hyphens, and periods"
        )
    )]
    pub transit_key: Option<String>,
}

/// An image by digest. Short names are not allowed, because they may resolve to a registry that somebody else
/// controls.
#[derive(Debug, ProviderConfig)]
#[keyward(
    min_length = 75,
    max_length = 447,
    matches(
        "^[^@]*@sha256:[a-f0-9]{64}$",
        "the OCI Image reference must end with a valid '@sha256:<digest>' suffix, where '<digest>' is 64 characters long"
    ),
    matches(
        "^([a-zA-Z0-9-]+[.])+[a-zA-Z0-9-]+(:[0-9]{2,5})?(/[a-zA-Z0-9_.-]+)+(@.*)?$",
        "the OCI Image name should follow the host[:port][/namespace]/name format, resembling a valid URL without the scheme. Short names are not allowed, the registry hostname must be included."
    )
)]
pub struct Image(pub String);

/// The name of a Secret or ConfigMap.
#[derive(Debug, ProviderConfig)]
#[keyward(
    min_length = 1,
    max_length = 253,
    matches(
        "^[a-z0-9]([a-z0-9-]*[a-z0-9])?([.][a-z0-9]([a-z0-9-]*[a-z0-9])?)*$",
        "name must be a valid DNS subdomain name: contain no more than 253 characters, contain only lowercase alphanumeric characters, '-' or '.', and start and end with an alphanumeric character"
    )
)]
pub struct ObjectName(pub String);

/// How the plugin verifies Vault's certificate.
#[derive(Debug, ProviderConfig)]
#[keyward(min_properties = 1)]
pub struct Tls {
    /// ConfigMap with the CAs that may have signed the certificate.
    #[keyward(nested)]
    pub ca_bundle: Option<CaBundle>,

    /// The name that the certificate must be valid for; also sent as SNI.
    #[keyward(
        in_place = "connection only",
        min_length = 1,
        max_length = 253,
        matches(
            "^[a-z0-9]([a-z0-9-]*[a-z0-9])?([.][a-z0-9]([a-z0-9-]*[a-z0-9])?)*$",
            "serverName must be a valid DNS hostname: contain no more than 253 characters, contain only lowercase alphanumeric characters, '-' or '.', and start and end with an alphanumeric character"
        )
    )]
    pub server_name: Option<String>,
}

/// A ConfigMap with the data key `ca-bundle.crt`.
#[derive(Debug, ProviderConfig)]
pub struct CaBundle {
    /// Name of the ConfigMap.
    #[keyward(in_place = "connection only")]
    pub name: ObjectName,
}

/// How the plugin logs in to Vault.
#[derive(Debug, ProviderConfig)]
#[keyward(
    check = app_role_goes_with_its_type,
    cel(
        "self.type == 'AppRole' ? has(self.appRole) : !has(self.appRole)",
        "appRole config is required when authentication type is AppRole, and forbidden otherwise"
    )
)]
pub struct Authentication {
    /// The auth method: `AppRole`.
    #[keyward(in_place = "how the plugin logs in", required = "Required value")]
    pub r#type: Option<AuthenticationType>,

    /// The AppRole.
    #[keyward(nested)]
    pub app_role: Option<AppRole>,
}

/// Auth methods of the plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ProviderConfig)]
pub enum AuthenticationType {
    /// A role id and a secret id.
    AppRole,
}

/// An AppRole of Vault.
#[derive(Debug, ProviderConfig)]
pub struct AppRole {
    /// The Secret with the role id and the secret id.
    #[keyward(nested)]
    pub secret: AppRoleSecret,
}

/// A Secret with the data keys `role-id` and `secret-id`.
#[derive(Debug, ProviderConfig)]
pub struct AppRoleSecret {
    /// Name of the Secret.
    #[keyward(in_place = "credentials only")]
    pub name: ObjectName,
}

/// A Secret with the data keys `roleID` and `secretID`.
#[derive(Debug, ProviderConfig)]
pub struct AppRoleSecretRef {
    /// Name of the Secret.
    #[keyward(in_place = "credentials only")]
    pub name: ObjectName,
}

/// The union of OpenShift (openshift: vault-authentication). There is only one type, so `appRole` is
/// required.
fn app_role_goes_with_its_type(authentication: &Authentication, findings: &mut Findings<'_>) {
    if authentication.r#type.is_some() && authentication.app_role.is_none() && !findings.refused("appRole") {
        findings.violation(
            "appRole config is required when authentication type is AppRole, and forbidden otherwise",
        );
    }
}
