//! A provider's configuration: what `#[derive(ProviderConfig)]` says of a struct, and what is made of it.
//!
//! Here lives the reading of a configuration with all its violations, its canonical form, its schema, its
//! field rules and the default identity of its KEK. JSON comes in, and the tables that the derive wrote down.
//! No product's rule is in here, and a provider never reads JSON by hand.
//!
//! # What a field may say
//!
//! Each field has **exactly one** of these, or the struct does not compile:
//!
//! | attribute | a change of the field |
//! |---|---|
//! | `new_key = "reason"` | names another KEK: a new key, and everything is re-encrypted under it |
//! | `re_encrypt = "reason"` | names another version of the same KEK: in place, then everything is re-encrypted |
//! | `in_place = "reason"` | changes the plugin only |
//! | `nested` | is said by the fields of that struct |
//!
//! The reason is what an admin reads in `keyward plan`. A field is a `String`, `bool`, integer, an enum
//! without fields or a struct around one value (`struct Image(String);`, for rules that several fields share)
//! that derives `ProviderConfig` too, a nested struct, or an `Option`, `Vec` or `BTreeMap<String, _>` of one.
//! A field is required unless it is an `Option`, `Vec` or map. Its name is the camel case of the Rust name,
//! its description the doc comment.
//!
//! | attribute | means |
//! |---|---|
//! | `name = "vaultKMSPluginImage"` | another name than the camel case |
//! | `required = "message"` | the message when it is absent; makes a `Vec` or map required |
//! | `min_length`, `max_length` | characters of a text; `= 1` or `(1, "message")` |
//! | `min`, `max` | an integer's range |
//! | `min_items`, `max_items` | of a `Vec` or map |
//! | `one_of("a", "b")` | the only texts allowed; an enum is better |
//! | `matches("pattern", "message")` | the text must match. Kubernetes' pattern syntax; compiled by the macro, enforced by the API server too |
//! | `never("pattern", "message")` | the text must not match |
//! | `check = path` | `fn(&str, &mut Findings)` (`&T` for other types): whatever else |
//! | `cel("rule", "message")` | a CEL rule for the API server alone; a `check` must say the same, since the module is the authority |
//!
//! Limits and patterns of a `Vec` or map hold for each entry. A struct around one value says limits,
//! patterns, `check` and `cel` of that value; the fields that hold it say their effect. A struct with fields
//! may say `min_properties`, `cel` and `check` (`fn(&Self, &mut Findings)`). Checks always see the whole
//! value, even where a required part is missing (it is empty then), so that an admin learns everything at
//! once.
//!
//! ```
//! use keyward_guest::ProviderConfig;
//!
//! /// How to reach the KMS.
//! #[derive(ProviderConfig)]
//! struct Config {
//!     /// Where the KMS answers.
//!     #[keyward(new_key = "another KMS holds other keys", max_length = 512, matches("^https://", "must use https"))]
//!     address: String,
//!     /// The server's name, where it differs from the address.
//!     #[keyward(in_place = "connection only", max_length = 253)]
//!     server_name: Option<String>,
//! }
//! ```
//!
//! A field that says no effect does not compile:
//!
//! ```compile_fail
//! use keyward_guest::ProviderConfig;
//!
//! #[derive(ProviderConfig)]
//! struct Config {
//!     address: String,
//! }
//! ```
//!
//! Nor does a struct that is given an effect as a whole (each of its fields needs its own):
//!
//! ```compile_fail
//! use keyward_guest::ProviderConfig;
//!
//! #[derive(ProviderConfig)]
//! struct Config {
//!     #[keyward(in_place = "connection only")]
//!     tls: Option<Tls>,
//! }
//!
//! #[derive(ProviderConfig)]
//! struct Tls {
//!     #[keyward(in_place = "connection only")]
//!     server_name: String,
//! }
//! ```

mod declared;
mod object;
mod schema;
mod spec;
mod suggest;
mod value;

use serde_json::Value;

use crate::bindings::keyward::provider::types::{FieldRule, Kek};
use crate::report::{Path, Report};

pub use declared::{ConfigEnum, ConfigNewtype};
pub use object::{ObjectIdentity, ObjectReader, ObjectWriter, ProviderConfig};
pub use spec::{Bound, Cel, FieldSpec, Limits, ObjectSpec, Pattern, Table};
pub use value::{ConfigValue, Leaf, Nested};

/// Reads what an admin wrote. The report holds all violations; with any, what is returned is incomplete.
pub fn read<C: ProviderConfig>(config: &Value, report: &mut Report) -> C {
    C::read(config, FieldSpec::ROOT, &Path::Root, report).unwrap_or_else(C::placeholder)
}

/// The canonical form: sorted by key, nothing empty in it, no defaults added.
pub fn write<C: ProviderConfig>(config: &C) -> Value {
    config.write().unwrap_or_else(|| Value::Object(serde_json::Map::new()))
}

/// The Kubernetes structural schema, CEL rules included. It never holds a default.
pub fn schema<C: ProviderConfig>() -> Value {
    C::schema(FieldSpec::ROOT)
}

/// One rule for every leaf of the schema.
pub fn rules<C: ProviderConfig>() -> Vec<FieldRule> {
    let mut rules = Vec::new();
    C::rules(FieldSpec::ROOT, String::new(), &mut rules);
    rules
}

/// The default identity of the KEK: `key` is every `new_key` field by its path, `version` every `re_encrypt`
/// field.
pub fn identity<C: ProviderConfig>(config: &C) -> Kek {
    let mut kek = Kek { key: Vec::new(), version: Vec::new() };
    config.identify(FieldSpec::ROOT, &Path::Root, &mut kek);
    kek
}
