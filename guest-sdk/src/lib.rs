//! The SDK for authors of Keyward provider modules.
//!
//! A provider module knows one KMS product: how it is configured, which configurations name the same key
//! encryption key (KEK), how the product's plugin is started, what its failures mean. It is a WebAssembly
//! component that imports no function: its answer depends on its input alone. An author writes a struct (see
//! [`config`]), implements [`Provider`] for a type, and exports it with [`export!`].
//!
//! ```
//! use keyward_guest::prelude::*;
//!
//! /// The KMS, and the key to use in it.
//! #[derive(ProviderConfig)]
//! struct Config {
//!     /// The plugin's image, by digest.
//!     #[keyward(in_place = "the plugin's program, not the KEK")]
//!     image: String,
//!     /// Address of the KMS.
//!     #[keyward(new_key = "another KMS holds other keys", matches("^https://", "must use https"))]
//!     address: String,
//!     /// Name of the key that encrypts.
//!     #[keyward(new_key = "names another KEK", min_length = 1)]
//!     key: String,
//! }
//!
//! struct Example;
//!
//! impl Provider for Example {
//!     type Config = Config;
//!     const TYPE: &'static str = "Example";
//!     const FIELD: &'static str = "example";
//!     const IMAGE_FIELD: Option<&'static str> = Some("image");
//!
//!     fn facts() -> Facts {
//!         Facts {
//!             remote_key_id: RemoteKeyId::TracksRotation,
//!             status: Status::ProbesBackend,
//!             credentials: Credentials::Restart,
//!             docs: "https://kms.example.com/docs",
//!         }
//!     }
//!
//!     fn references(_: &Config) -> Vec<Reference> {
//!         Vec::new()
//!     }
//!
//!     fn render(config: &Config, _: &[Setting]) -> Result<Plugin, Vec<Violation>> {
//!         Ok(Managed::new().arg("--listen=", host::socket_uri()).arg("--address=", &config.address).into_plugin())
//!     }
//! }
//!
//! keyward_guest::export!(Example);
//!
//! let refused = Module::<Example>::normalize(r#"{"image": "i", "adress": "http://kms.example.com"}"#).unwrap_err();
//! let messages: Vec<String> = refused.iter().map(|v| format!("{}: {}", v.field, v.message)).collect();
//! assert_eq!(
//!     messages,
//!     ["adress: unknown field; did you mean address?", "address: Required value", "key: Required value"]
//! );
//! ```
//!
//! The README of this crate describes fixtures, the tests of a module.

#[cfg(target_arch = "wasm32")]
mod alloc;
pub mod bindings;
pub mod config;
mod kek;
mod module;
mod provider;
mod reference;
pub mod render;
mod report;

/// The JSON values that `upgrade` gets and returns.
pub use serde_json as json;

pub use bindings::keyward::provider::types::{
    Container, Descriptor, Diagnosis, Effect, EnvVar, Exposure, Failure, FieldRule, HttpProbe, Kek, KeyRef,
    Normalized, Part, Plugin, Reference, ReferenceKind, RenderedFile, Setting, Violation,
};
pub use config::ProviderConfig;
pub use keyward_guest_derive::ProviderConfig;
pub use module::Module;
pub use provider::{Content, Credentials, Facts, Provider, RemoteKeyId, Status};
pub use report::{Findings, Path, Report};

/// Everything that a module usually needs.
pub mod prelude {
    pub use crate::render::{Managed, Text, external, host, rendered};
    pub use crate::{
        Content, Credentials, Diagnosis, Facts, Failure, Findings, Kek, Module, Plugin, Provider,
        ProviderConfig, Reference, RemoteKeyId, Setting, Status, Violation,
    };
}
