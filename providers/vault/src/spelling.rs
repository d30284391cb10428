//! The earlier spelling of image, credentials and key.
//!
//! An earlier proposal of OpenShift's API had other fields (openshift: vault-earlier-spelling):
//!
//! | earlier | today |
//! |---|---|
//! | `vaultKMSPluginImage` | `kmsPluginImage` |
//! | `transitMount` (default `transit`), `transitKey` | `vaultKeyPath: MOUNT/keys/KEY` |
//! | `approleSecretRef.name`, data keys `roleID` and `secretID` | `authentication.appRole.secret.name`, data keys `role-id` and `secret-id` |
//!
//! Both spellings are valid, for each of the three separately and with the same rules; both at once for one
//! of them are refused. The rest of the module uses the functions of this file and knows one spelling.
//!
//! The normal form has today's image field, because the host reads the image from one field. It keeps the
//! spelling of credentials and key. The credentials need it, because the data keys differ. For the key, a
//! change of the spelling must be a change in place: the stored configuration then becomes one that
//! OpenShift's own controllers can read.

use keyward_guest::Findings;

use crate::config::Config;

/// The default of `transitMount`. It is a part of the KEK identity, so it never changes.
const DEFAULT_MOUNT: &str = "transit";

/// Checks that image, credentials and key each have exactly one spelling.
pub(crate) fn check(config: &Config, findings: &mut Findings<'_>) {
    let today = (
        config.kms_plugin_image.is_some() || findings.refused("kmsPluginImage"),
        config.authentication.is_some() || findings.refused("authentication"),
        config.vault_key_path.is_some() || findings.refused("vaultKeyPath"),
    );
    let earlier = (
        config.vault_kms_plugin_image.is_some() || findings.refused("vaultKMSPluginImage"),
        config.approle_secret_ref.is_some() || findings.refused("approleSecretRef"),
        config.transit_key.is_some() || findings.refused("transitKey"),
    );
    let mount = config.transit_mount.is_some() || findings.refused("transitMount");

    one_of(("kmsPluginImage", today.0), &[("vaultKMSPluginImage", earlier.0)], findings);
    one_of(("authentication", today.1), &[("approleSecretRef", earlier.1)], findings);
    if mount && !earlier.2 && !today.2 {
        findings.violation_at("transitKey", "Required value");
    } else {
        one_of(("vaultKeyPath", today.2), &[("transitMount", mount), ("transitKey", earlier.2)], findings);
    }
}

fn one_of(today: (&str, bool), earlier: &[(&str, bool)], findings: &mut Findings<'_>) {
    let (name, given) = today;
    if given {
        for (old, _) in earlier.iter().filter(|(_, given)| *given) {
            findings.violation_at(
                old,
                format!("{old} is the earlier spelling of {name}; set one of them, not both"),
            );
        }
    } else if earlier.iter().all(|(_, given)| !given) {
        findings.violation_at(name, "Required value");
    }
}

/// Converts an accepted configuration into its normal form, and warns about earlier spellings.
pub(crate) fn normalize(mut config: Config, findings: &mut Findings<'_>) -> Config {
    if config.kms_plugin_image.is_none() {
        config.kms_plugin_image = config.vault_kms_plugin_image.take();
        outdated("vaultKMSPluginImage", "kmsPluginImage", "", findings);
    }
    if config.approle_secret_ref.is_some() {
        let data_keys = ", with the data keys role-id and secret-id instead of roleID and secretID";
        outdated("approleSecretRef", "authentication.appRole.secret", data_keys, findings);
    }
    if let Some(key) = &config.transit_key {
        let mount = config.transit_mount.get_or_insert_with(|| DEFAULT_MOUNT.to_owned());
        outdated("transitKey", &format!("vaultKeyPath: {mount}/keys/{key}"), "", findings);
    }
    config
}

fn outdated(old: &str, new: &str, also: &str, findings: &mut Findings<'_>) {
    findings.warning_at(old, format!("earlier spelling; use {new}{also}; the KEK stays the same"));
}

/// The Transit key, in either spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TransitKey<'c> {
    /// Mount path of the engine.
    pub(crate) mount: &'c str,
    /// The key's name.
    pub(crate) name: &'c str,
    /// The field that messages about the key name.
    pub(crate) field: &'static str,
}

impl TransitKey<'_> {
    /// `MOUNT/keys/NAME`.
    pub(crate) fn path(&self) -> String {
        format!("{}/keys/{}", self.mount, self.name)
    }
}

/// The Secret with the AppRole's two ids, in either spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AppRoleIds<'c> {
    /// The Secret's name.
    pub(crate) secret: &'c str,
    /// The data key of the role id.
    pub(crate) role_id: &'static str,
    /// The data key of the secret id.
    pub(crate) secret_id: &'static str,
    /// The field that names the Secret.
    pub(crate) field: &'static str,
}

impl Config {
    /// The Transit key. Its name contains no slash, so it follows the last slash of the path.
    pub(crate) fn transit_key(&self) -> TransitKey<'_> {
        match (&self.vault_key_path, &self.transit_key) {
            (Some(path), _) => {
                let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
                let mount = above.strip_suffix("/keys").unwrap_or(above);
                TransitKey { mount, name, field: "vaultKeyPath" }
            }
            (None, key) => TransitKey {
                mount: self.transit_mount.as_deref().unwrap_or(DEFAULT_MOUNT),
                name: key.as_deref().unwrap_or_default(),
                field: "transitKey",
            },
        }
    }

    /// The Secret with the AppRole's ids.
    pub(crate) fn app_role_ids(&self) -> AppRoleIds<'_> {
        match &self.approle_secret_ref {
            Some(reference) => AppRoleIds {
                secret: &reference.name.0,
                role_id: "roleID",
                secret_id: "secretID",
                field: "approleSecretRef.name",
            },
            None => AppRoleIds {
                secret: self
                    .authentication
                    .as_ref()
                    .and_then(|authentication| authentication.app_role.as_ref())
                    .map_or("", |app_role| &app_role.secret.name.0),
                role_id: "role-id",
                secret_id: "secret-id",
                field: "authentication.appRole.secret.name",
            },
        }
    }
}
