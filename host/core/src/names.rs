//! Names that stand in stored objects: CONTRACT.md's for what OpenShift also reads, OBJECTS.md's for what is ours.

use crate::ids::{GroupResource, KeyId, Revision};

/// The label of control-plane nodes.
pub const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";
/// The operand on plain Kubernetes.
pub const KUBE_APISERVER: &str = "kube-apiserver";
/// Where key secrets, revisions and referenced objects live on plain Kubernetes.
pub const NAMESPACE: &str = "keyward-system";
/// Where key secrets and desired configurations live on OpenShift (CONTRACT 1.2, 1.3).
pub const MANAGED_NAMESPACE: &str = "openshift-config-managed";
/// Where referenced objects live on OpenShift (CONTRACT 1.8).
pub const CONFIG_NAMESPACE: &str = "openshift-config";
/// The operator's ServiceAccount in [`NAMESPACE`].
pub const OPERATOR_SERVICE_ACCOUNT: &str = "keyward-operator";
/// The name of the one `ClusterEncryption`.
pub const CLUSTER: &str = "cluster";
/// The API group of our CRDs.
pub const GROUP: &str = "encryption.keyward.dev";
/// What the operator does to every resource that it re-encrypts: it lists metadata, patches each object, and gets the
/// metadata of one that could not be patched.
pub const MIGRATION_VERBS: [&str; 3] = ["get", "list", "patch"];

/// The only selector of key secrets (CONTRACT 1.2).
pub const LABEL_COMPONENT: &str = "encryption.apiserver.operator.openshift.io/component";
/// Keeps a plain delete from removing a key secret or a revision.
pub const FINALIZER: &str = "encryption.apiserver.operator.openshift.io/deletion-protection";

/// The fixed warning on generated secrets.
pub const ANNOTATION_DESCRIPTION: &str = "kubernetes.io/description";
/// What that warning says.
pub const DESCRIPTION: &str = "WARNING: DO NOT EDIT.\nAltering of the encryption secrets will render you cluster inaccessible.\nCatastrophic data loss can occur from the most minor changes.";
/// The key's mode.
pub const ANNOTATION_MODE: &str = "encryption.apiserver.operator.openshift.io/mode";
/// Why the controller made the key.
pub const ANNOTATION_INTERNAL_REASON: &str = "encryption.apiserver.operator.openshift.io/internal-reason";
/// Why the admin asked for the key.
pub const ANNOTATION_EXTERNAL_REASON: &str = "encryption.apiserver.operator.openshift.io/external-reason";
/// When the last resource was recorded as migrated.
pub const ANNOTATION_MIGRATED_TIMESTAMP: &str =
    "encryption.apiserver.operator.openshift.io/migrated-timestamp";
/// Which resources are recorded as migrated.
pub const ANNOTATION_MIGRATED_RESOURCES: &str =
    "encryption.apiserver.operator.openshift.io/migrated-resources";
/// The remote key id up to which everything was re-encrypted (DESIGN.md, Decisions 6).
pub const ANNOTATION_KMS_KEY_ID: &str = "encryption.apiserver.operator.openshift.io/kms-key-id";
/// The key under which a StorageVersionMigration rewrites (CONTRACT 1.8).
pub const ANNOTATION_WRITE_KEY: &str = "encryption.apiserver.operator.openshift.io/write-key";
/// That key secret's UID on a StorageVersionMigration: a number may come back.
pub const ANNOTATION_KEY_SECRET_UID: &str = "encryption.keyward.dev/key-secret-uid";
/// The first revision in which the key stood first (Decisions 5).
pub const ANNOTATION_WRITE_PUBLISHED: &str = "encryption.keyward.dev/write-published";
/// When the key was superseded before any revision had it first (Decisions 5).
pub const ANNOTATION_ABANDONED: &str = "encryption.keyward.dev/abandoned";
/// On a referenced object, by whoever issued what is in it: when that expires, in RFC 3339.
pub const ANNOTATION_EXPIRES: &str = "encryption.keyward.dev/expires";
/// On a CustomResourceDefinition of Keyward or its namespace, by an admin: `true` where deploy/protect.yaml lets it be deleted.
pub const ANNOTATION_ALLOW_DELETION: &str = "encryption.keyward.dev/allow-deletion";
/// The module whose rendering was accepted.
pub const ANNOTATION_PROVIDER_DIGEST: &str = "encryption.keyward.dev/provider-digest";

/// Prefix of CONTRACT.md's data keys in key secrets.
pub const DATA_PREFIX: &str = "encryption.apiserver.operator.openshift.io-";
/// The key's bytes.
pub const DATA_KEY: &str = "encryption.apiserver.operator.openshift.io-key";
/// The KMS configuration in its envelope (CONTRACT 1.6).
pub const DATA_KMS_ENCRYPTION_CONFIG: &str =
    "encryption.apiserver.operator.openshift.io-kms-encryption-config";
/// The plugin's configuration in its envelope (CONTRACT 1.6).
pub const DATA_KMS_PLUGIN_CONFIG: &str = "encryption.apiserver.operator.openshift.io-kms-plugin-config";
/// One value of a referenced Secret.
pub const DATA_KMS_PLUGIN_SECRET: &str = "encryption.apiserver.operator.openshift.io-kms-plugin-secret-";
/// One value of a referenced ConfigMap.
pub const DATA_KMS_PLUGIN_CONFIGMAP: &str =
    "encryption.apiserver.operator.openshift.io-kms-plugin-configmap-";
/// The rendering that passed preflight.
pub const DATA_PLUGIN: &str = "encryption.keyward.dev-plugin";
/// The salt of the digest.
pub const DATA_SALT: &str = "encryption.keyward.dev-salt";
/// The key check.
pub const DATA_KEY_CHECK: &str = "encryption.keyward.dev-key-check";

/// The serialised EncryptionConfiguration in a revision.
pub const CONFIG_KEY: &str = "encryption-config";
/// The candidate of a preflight.
pub const PREFLIGHT_SECRET: &str = "encryption-preflight";
/// The writer's Lease.
pub const LEASE: &str = "keyward-operator";

/// Key secret's name (CONTRACT 1.2).
pub fn key_secret(component: &str, id: KeyId) -> String {
    format!("encryption-key-{component}-{id}")
}

/// A revision's name (CONTRACT 1.3).
pub fn revision_secret(revision: Revision) -> String {
    format!("encryption-config-{revision}")
}

/// The name of OpenShift's desired configuration (CONTRACT 1.3).
pub fn managed_config(component: &str) -> String {
    format!("encryption-config-{component}")
}

/// The revision of such a name, and of no other: `encryption-config-07` is another object than `encryption-config-7`.
pub fn parse_revision_secret(name: &str) -> Option<Revision> {
    let number = name.strip_prefix("encryption-config-").and_then(crate::ids::parse_decimal);
    number.map(Revision).filter(|revision| revision_secret(*revision) == name)
}

/// A migration's name (CONTRACT 1.8).
pub fn migration(resource: &GroupResource) -> String {
    format!("encryption-migration-{}-{}", resource.group_or_core(), resource.resource)
}

/// The endpoint of a key on plain Kubernetes (DESIGN.md, "Node agent").
pub fn endpoint(id: KeyId) -> String {
    format!("unix:///var/run/kmsplugin/kms-{id}/kms.sock")
}

/// The endpoint of a key on OpenShift (CONTRACT 1.4).
pub fn openshift_endpoint(id: KeyId) -> String {
    format!("unix:///var/run/kmsplugin/kms-{id}.sock")
}

/// CONTRACT 1.4 and DESIGN.md, Decisions 10: `{keyID}_{resource}`, with the group where the resource is not one of
/// CONTRACT 1.1's, since two groups may have resources of one name.
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
