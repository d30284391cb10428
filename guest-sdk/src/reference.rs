//! References: the data keys of Secrets and ConfigMaps that a plugin needs. A module names them; it never
//! gets a byte of their values.

use crate::bindings::keyward::provider::types::{Exposure, KeyRef, Part, Reference, ReferenceKind};

impl Reference {
    /// One data key of a Secret: required, and mounted as a file.
    pub fn secret(name: &str, key: &str) -> Self {
        Self::to(ReferenceKind::Secret, name, key)
    }

    /// One data key of a ConfigMap: required, and mounted as a file.
    pub fn config_map(name: &str, key: &str) -> Self {
        Self::to(ReferenceKind::ConfigMap, name, key)
    }

    fn to(kind: ReferenceKind, name: &str, key: &str) -> Self {
        Self {
            source: KeyRef { kind, name: name.to_owned(), key: key.to_owned() },
            exposure: Exposure::File,
            required: true,
            field: String::new(),
        }
    }

    /// The field of the configuration that names the object. The host checks that this field of the normal
    /// form is the object's name, and that the configuration as the admin wrote it contains this name
    /// (provider-abi: references).
    #[must_use]
    pub fn from_field(mut self, field: &str) -> Self {
        field.clone_into(&mut self.field);
        self
    }

    /// The value is not secret and is allowed in arguments.
    #[must_use]
    pub fn as_public_value(mut self) -> Self {
        self.exposure = Exposure::PublicValue;
        self
    }

    /// The host puts the value into the environment or a rendered file.
    #[must_use]
    pub fn as_secret_value(mut self) -> Self {
        self.exposure = Exposure::SecretValue;
        self
    }

    /// The plugin can start without it.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.required = false;
        self
    }

    /// The path at which the host mounts it.
    pub fn path(&self) -> Part {
        Part::Path(self.source.clone())
    }

    /// The value itself, which the host fills in; allowed in arguments only for a public value.
    pub fn value(&self) -> Part {
        Part::Value(self.source.clone())
    }
}
