//! Files, written for this test, in the forms of Kubernetes' documentation, distributions and tutorials.

pub(crate) struct File {
    pub(crate) name: &'static str,
    pub(crate) text: &'static str,
    /// `understood`, `refused by both`, or the reason why only Keyward refuses it.
    pub(crate) expected: &'static str,
}

macro_rules! files {
    ($($name:literal: $expected:expr,)*) => {
        &[$(File { name: $name, text: include_str!(concat!("corpus/", $name)), expected: $expected },)*]
    };
}

pub(crate) const ALL: &[File] = files! {
    "kubernetes-all-providers.yaml": "resources[0].providers[1].aesgcm.keys[0].name: is not a keyID: a positive number without leading zeros",
    "kubernetes-aescbc.yaml": "resources[0].providers[0].aescbc.keys[0].name: is not a keyID: a positive number without leading zeros",
    "kubernetes-kms-v2.yaml": "invalid plugin name \"myKmsPluginFoo\": expected format keyID_resourceName",
    "kubernetes-kms-v1.yaml": "invalid plugin name \"myKmsPluginFoo\": expected format keyID_resourceName",
    "kubernetes-everything.yaml": "resources[0].resources[0]: wildcards are not supported; name each resource",
    "kubernetes-decrypt.yaml": "understood",
    "k3s-first.json": "resources[0].providers[0].aescbc.keys[0].name: is not a keyID: a positive number without leading zeros",
    "k3s-rotated.json": "resources[0].providers[0].aescbc.keys[0].name: is not a keyID: a positive number without leading zeros",
    "rke2-secretbox.json": "resources[0].providers[0].secretbox.keys[0].name: is not a keyID: a positive number without leading zeros",
    "rke2-disabled.json": "resources[0].providers[1].aescbc.keys[0].name: is not a keyID: a positive number without leading zeros",
    "talos.yaml": "resources[0].providers[0].secretbox.keys[0].name: is not a keyID: a positive number without leading zeros",
    "hypershift-aescbc.json": "resources[0].providers[0].aescbc.keys[0].name: is not a keyID: a positive number without leading zeros",
    "hypershift-aws.json": "invalid plugin name \"awskmskey-1844674407\": expected format keyID_resourceName",
    "hypershift-azure-v1.json": "invalid plugin name \"azure-3b7f0c1a\": expected format keyID_resourceName",
    "kubespray.yaml": "resources[0].providers[0].secretbox.keys[0].name: is not a keyID: a positive number without leading zeros",
    "old-kind.yaml": "it is not of kind EncryptionConfiguration and apiVersion apiserver.config.k8s.io/v1",
    "tutorial-azure-kms.yaml": "invalid plugin name \"azurekmsprovider\": expected format keyID_resourceName",
    "tutorial-aws-kms.yaml": "invalid plugin name \"aws-encryption-provider\": expected format keyID_resourceName",
    "tutorial-identity-without-braces.yaml": "refused by both",
    "tutorial-unquoted-number.yaml": "refused by both",
    "tutorial-block-scalar.yaml": "understood",
    "tutorial-anchors.yaml": "line 6: anchors, aliases and tags are not supported",
    "windows-line-endings.yaml": "understood",
    "openshift-aescbc.json": "understood",
    "openshift-kms.json": "understood",
    "keyward-kms.json": "understood",
};
