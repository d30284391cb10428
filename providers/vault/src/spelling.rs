//! Two spellings of one thing.
//!
//! Before OpenShift settled on today's fields, its proposed API spelled four things differently:
//!
//! | earlier | today |
//! |---|---|
//! | `vaultKMSPluginImage` | `kmsPluginImage` |
//! | `transitMount` (`transit` where absent), `transitKey` | `vaultKeyPath: MOUNT/keys/KEY` |
//! | `approleSecretRef.name`, data keys `roleID` and `secretID` | `authentication.appRole.secret.name`, data keys `role-id` and `secret-id` |
//!
//! Both are understood, thing by thing, with the same rules for each part; both at once for one thing are
//! refused. The rest of the module asks here and knows one spelling.
//!
//! The canonical form has today's image field (the host takes the image from one place) and keeps the
//! spelling of the other two. Of the credentials it must, since the data keys differ; of the key it does so
//! that a change of spelling is a change, in place: the stored configuration then becomes one that
//! OpenShift's own controllers can read.

use keyward_guest::Findings;

use crate::config::Config;

/// Where Transit is mounted when `transitMount` is absent. It decides which KEK is meant, so it never
/// changes.
const DEFAULT_MOUNT: &str = "transit";

/// Exactly one spelling of each thing.
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
                format!("{old} is the earlier spelling of {name}: give one of them, not both"),
            );
        }
    } else if earlier.iter().all(|(_, given)| !given) {
        findings.violation_at(name, "Required value");
    }
}

/// Brings an accepted configuration into its canonical spelling, and says which parts have a better one.
pub(crate) fn settle(mut config: Config, findings: &mut Findings<'_>) -> Config {
    if config.kms_plugin_image.is_none() {
        config.kms_plugin_image = config.vault_kms_plugin_image.take();
        outdated("vaultKMSPluginImage", "kmsPluginImage", "", findings);
    }
    if config.approle_secret_ref.is_some() {
        let data_keys = ", with the data keys role-id and secret-id in place of roleID and secretID";
        outdated("approleSecretRef", "authentication.appRole.secret", data_keys, findings);
    }
    if let Some(key) = &config.transit_key {
        let mount = config.transit_mount.get_or_insert_with(|| DEFAULT_MOUNT.to_owned());
        outdated("transitKey", &format!("vaultKeyPath: {mount}/keys/{key}"), "", findings);
    }
    config
}

fn outdated(old: &str, new: &str, also: &str, findings: &mut Findings<'_>) {
    findings.warning_at(old, format!("earlier spelling; write {new}{also}: the KEK stays the same"));
}

/// The Transit key, in whichever spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TransitKey<'c> {
    /// Where the engine is mounted.
    pub(crate) mount: &'c str,
    /// The key's name.
    pub(crate) name: &'c str,
    /// The field to name when something is wrong with it.
    pub(crate) field: &'static str,
}

impl TransitKey<'_> {
    /// `MOUNT/keys/NAME`.
    pub(crate) fn path(&self) -> String {
        format!("{}/keys/{}", self.mount, self.name)
    }
}

/// The Secret with the AppRole's two ids, in whichever spelling.
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
    /// The Transit key. Its name has no slash: it is what follows the last one.
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
