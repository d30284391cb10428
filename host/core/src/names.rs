//! Names in stored objects. OpenShift's controllers read some of them too; the others are only Keyward's
//! (objects: objects).

use crate::ids::{GroupResource, KeyId, Revision};

/// The label of control-plane nodes.
pub const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";
/// The component on plain Kubernetes.
pub const KUBE_APISERVER: &str = "kube-apiserver";
/// The namespace of key secrets, revisions and referenced objects on plain Kubernetes.
pub const NAMESPACE: &str = "keyward-system";
/// The namespace of key secrets and desired configurations on OpenShift (openshift: key-secret-name,
/// openshift: configuration-secrets).
pub const MANAGED_NAMESPACE: &str = "openshift-config-managed";
/// The namespace of referenced objects on OpenShift (openshift: referenced-objects).
pub const CONFIG_NAMESPACE: &str = "openshift-config";
/// The ServiceAccount of the operator in [`NAMESPACE`].
pub const OPERATOR_SERVICE_ACCOUNT: &str = "keyward-operator";
/// The name of the one `ClusterEncryption`.
pub const CLUSTER: &str = "cluster";
/// The API group of the CRDs.
pub const GROUP: &str = "encryption.keyward.dev";
/// The verbs that the operator needs on every resource that it re-encrypts: it lists metadata, patches each object, and
/// gets the metadata of an object that it could not patch.
pub const MIGRATION_VERBS: [&str; 3] = ["get", "list", "patch"];

/// The only selector of key secrets (openshift: find-key-secrets-by-label).
pub const LABEL_COMPONENT: &str = "encryption.apiserver.operator.openshift.io/component";
/// Prevents that a plain delete removes a key secret or a revision.
pub const FINALIZER: &str = "encryption.apiserver.operator.openshift.io/deletion-protection";

/// The fixed warning on generated secrets.
pub const ANNOTATION_DESCRIPTION: &str = "kubernetes.io/description";
/// The text of that warning.
pub const DESCRIPTION: &str = "WARNING: DO NOT EDIT.\nAltering of the encryption secrets will render you cluster inaccessible.\nCatastrophic data loss can occur from the most minor changes.";
/// The key's mode.
pub const ANNOTATION_MODE: &str = "encryption.apiserver.operator.openshift.io/mode";
/// Why the operator created the key.
pub const ANNOTATION_INTERNAL_REASON: &str = "encryption.apiserver.operator.openshift.io/internal-reason";
/// Why the admin requested the key.
pub const ANNOTATION_EXTERNAL_REASON: &str = "encryption.apiserver.operator.openshift.io/external-reason";
/// When the last resource was recorded as migrated.
pub const ANNOTATION_MIGRATED_TIMESTAMP: &str =
    "encryption.apiserver.operator.openshift.io/migrated-timestamp";
/// The resources that are recorded as migrated.
pub const ANNOTATION_MIGRATED_RESOURCES: &str =
    "encryption.apiserver.operator.openshift.io/migrated-resources";
/// The remote key id after the last rotation for which everything was re-encrypted (decision 0006).
pub const ANNOTATION_KMS_KEY_ID: &str = "encryption.apiserver.operator.openshift.io/kms-key-id";
/// The write key of a StorageVersionMigration (openshift: storage-version-migrations).
pub const ANNOTATION_WRITE_KEY: &str = "encryption.apiserver.operator.openshift.io/write-key";
/// The UID of the key secret of that key, on a StorageVersionMigration: a number can repeat.
pub const ANNOTATION_KEY_SECRET_UID: &str = "encryption.keyward.dev/key-secret-uid";
/// The last revision that makes, or may make, the key a write key (invariant: publication-first).
pub const ANNOTATION_WRITE_PUBLISHED: &str = "encryption.keyward.dev/write-published";
/// When the key was abandoned (decision 0005).
pub const ANNOTATION_ABANDONED: &str = "encryption.keyward.dev/abandoned";
/// On a referenced object, set by the issuer of its content: when the content expires, in RFC 3339.
pub const ANNOTATION_EXPIRES: &str = "encryption.keyward.dev/expires";
/// On a CustomResourceDefinition of Keyward or its namespace, set by an admin: with `true`, deploy/protect.yaml allows
/// its deletion.
pub const ANNOTATION_ALLOW_DELETION: &str = "encryption.keyward.dev/allow-deletion";
/// The digest of the provider module whose rendering was accepted.
pub const ANNOTATION_PROVIDER_DIGEST: &str = "encryption.keyward.dev/provider-digest";

/// Prefix of the data keys in key secrets that OpenShift also uses (openshift: key-secret-data).
pub const DATA_PREFIX: &str = "encryption.apiserver.operator.openshift.io-";
/// The bytes of the key.
pub const DATA_KEY: &str = "encryption.apiserver.operator.openshift.io-key";
/// The KMS configuration in its envelope (openshift: kms-configuration-envelope).
pub const DATA_KMS_ENCRYPTION_CONFIG: &str =
    "encryption.apiserver.operator.openshift.io-kms-encryption-config";
/// The plugin's configuration in its envelope (openshift: plugin-configuration-envelope).
pub const DATA_KMS_PLUGIN_CONFIG: &str = "encryption.apiserver.operator.openshift.io-kms-plugin-config";
/// One value of a referenced Secret.
pub const DATA_KMS_PLUGIN_SECRET: &str = "encryption.apiserver.operator.openshift.io-kms-plugin-secret-";
/// One value of a referenced ConfigMap.
pub const DATA_KMS_PLUGIN_CONFIGMAP: &str =
    "encryption.apiserver.operator.openshift.io-kms-plugin-configmap-";
/// The accepted rendering.
pub const DATA_PLUGIN: &str = "encryption.keyward.dev-plugin";
/// The salt of the digest.
pub const DATA_SALT: &str = "encryption.keyward.dev-salt";
/// The key check.
pub const DATA_KEY_CHECK: &str = "encryption.keyward.dev-key-check";

/// The serialised EncryptionConfiguration in a revision.
pub const CONFIG_KEY: &str = "encryption-config";
/// The candidate of a preflight.
pub const PREFLIGHT_SECRET: &str = "encryption-preflight";
/// The Lease of the operator that writes.
pub const LEASE: &str = "keyward-operator";

/// The name of a key secret (openshift: key-secret-name).
pub fn key_secret(component: &str, id: KeyId) -> String {
    format!("encryption-key-{component}-{id}")
}

/// The name of a revision (openshift: configuration-secrets).
pub fn revision_secret(revision: Revision) -> String {
    format!("encryption-config-{revision}")
}

/// The name of OpenShift's desired configuration (openshift: configuration-secrets).
pub fn managed_config(component: &str) -> String {
    format!("encryption-config-{component}")
}

/// The revision with exactly this name: `encryption-config-07` is another object than `encryption-config-7`.
pub fn parse_revision_secret(name: &str) -> Option<Revision> {
    let number = name.strip_prefix("encryption-config-").and_then(crate::ids::parse_decimal);
    number.map(Revision).filter(|revision| revision_secret(*revision) == name)
}

/// The name of a migration (openshift: storage-version-migrations).
pub fn migration(resource: &GroupResource) -> String {
    format!("encryption-migration-{}-{}", resource.group_or_core(), resource.resource)
}

/// The endpoint of a key on plain Kubernetes (decision 0042).
pub fn endpoint(id: KeyId) -> String {
    format!("unix:///var/run/kmsplugin/kms-{id}/kms.sock")
}

/// The endpoint of a key on OpenShift (openshift: kms-provider-entry).
pub fn openshift_endpoint(id: KeyId) -> String {
    format!("unix:///var/run/kmsplugin/kms-{id}.sock")
}

/// The name of a KMS provider: `{keyID}_{resource}` (openshift: kms-provider-names, decision 0010). It contains the
/// group if no component of OpenShift encrypts the resource, because two groups can have resources with the same name.
pub fn kms_provider(id: KeyId, resource: &GroupResource) -> String {
    const BARE: [&str; 5] = [
        "secrets",
        "configmaps",
        "routes.route.openshift.io",
        "oauthaccesstokens.oauth.openshift.io",
        "oauthauthorizetokens.oauth.openshift.io",
    ];
    if resource.group.is_empty() || BARE.contains(&resource.to_string().as_str()) {
        format!("{id}_{}", resource.resource)
    } else {
        format!("{id}_{resource}")
    }
}
