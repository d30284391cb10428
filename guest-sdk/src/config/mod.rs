//! The configuration of a provider module: the attributes of `#[derive(ProviderConfig)]`, and what follows
//! from them.
//!
//! This folder reads a configuration and reports all its violations, and makes its normal form, its schema,
//! its field rules and its default KEK identity. The input is JSON and the tables that the derive generated.
//! No file here contains a rule of a KMS product, and a module never parses JSON itself.
//!
//! # Attributes of a field
//!
//! Each field has **exactly one** of these; otherwise the struct does not compile:
//!
//! | attribute | a change of the field |
//! |---|---|
//! | `new_key = "reason"` | names another KEK: a new key, and everything is re-encrypted under it |
//! | `re_encrypt = "reason"` | names another version of the same KEK: in place, then everything is re-encrypted |
//! | `in_place = "reason"` | changes the plugin only |
//! | `nested` | has the effect of the changed field of that struct |
//!
//! An admin reads the reason in `keyward plan`. A field is a `String`, `bool`, integer, an enum without
//! fields or a struct around one value (`struct Image(String);`, for rules that several fields share) that
//! derives `ProviderConfig` too, a nested struct, or an `Option`, `Vec` or `BTreeMap<String, _>` of one. A
//! field is required unless it is an `Option`, `Vec` or map. Its name is the Rust name in camel case, its
//! description the doc comment.
//!
//! | attribute | meaning |
//! |---|---|
//! | `name = "vaultKMSPluginImage"` | replaces the name in camel case |
//! | `required = "message"` | the message if the field is absent; makes a `Vec` or map required |
//! | `min_length`, `max_length` | characters of a text; `= 1` or `(1, "message")` |
//! | `min`, `max` | the range of an integer |
//! | `min_items`, `max_items` | the number of entries of a `Vec` or map |
//! | `one_of("a", "b")` | the only texts allowed; prefer an enum |
//! | `matches("pattern", "message")` | the text must match. Kubernetes' pattern syntax; the macro compiles it, and the API server enforces it too |
//! | `never("pattern", "message")` | the text must not match |
//! | `check = path` | any other check: `fn(&str, &mut Findings)` (`&T` for other types) |
//! | `cel("rule", "message")` | a CEL rule for the API server only; a `check` must enforce the same, because the module decides what is valid |
//!
//! Limits and patterns of a `Vec` or map apply to each entry. A struct around one value has the limits,
//! patterns, `check` and `cel` of that value; the fields of this type have the effects. A struct with fields
//! can have `min_properties`, `cel` and `check` (`fn(&Self, &mut Findings)`). A check always gets the whole
//! value, even if a required part is missing (the part is empty then), so that an admin sees all violations
//! at once.
//!
//! ```
//! use keyward_guest::ProviderConfig;
//!
//! /// The connection to the KMS.
//! #[derive(ProviderConfig)]
//! struct Config {
//!     /// Address of the KMS.
//!     #[keyward(new_key = "another KMS holds other keys", max_length = 512, matches("^https://", "must use https"))]
//!     address: String,
//!     /// The server's name, if it differs from the address.
//!     #[keyward(in_place = "connection only", max_length = 253)]
//!     server_name: Option<String>,
//! }
//! ```
//!
//! A field without an effect does not compile:
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
//! A nested struct with an effect as a whole does not compile either (each of its fields needs its own):
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

/// Reads a configuration. The report contains all violations; if there are any, the result is incomplete.
pub fn read<C: ProviderConfig>(config: &Value, report: &mut Report) -> C {
    C::read(config, FieldSpec::ROOT, &Path::Root, report).unwrap_or_else(C::placeholder)
}

/// The configuration as JSON: sorted by key, without empty values, without added defaults.
pub fn write<C: ProviderConfig>(config: &C) -> Value {
    config.write().unwrap_or_else(|| Value::Object(serde_json::Map::new()))
}

/// The Kubernetes structural schema with CEL rules. It never contains a default.
pub fn schema<C: ProviderConfig>() -> Value {
    C::schema(FieldSpec::ROOT)
}

/// One rule for each leaf of the schema.
pub fn rules<C: ProviderConfig>() -> Vec<FieldRule> {
    let mut rules = Vec::new();
    C::rules(FieldSpec::ROOT, String::new(), &mut rules);
    rules
}

/// The default KEK identity: `key` has every `new_key` field by its path, `version` every `re_encrypt` field.
pub fn identity<C: ProviderConfig>(config: &C) -> Kek {
    let mut kek = Kek { key: Vec::new(), version: Vec::new() };
    config.identify(FieldSpec::ROOT, &Path::Root, &mut kek);
    kek
}
