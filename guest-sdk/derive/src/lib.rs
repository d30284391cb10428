//! `#[derive(ProviderConfig)]` of keyward-guest.
//!
//! This crate translates an author's struct into the tables and glue that keyward-guest interprets
//! (`expand`), and patterns into tables (`pattern`). `attributes` parses the attributes of fields and
//! structs. Nothing here knows a KMS product or applies a rule to a configuration: the macro only records the
//! attributes, or refuses them.

mod attributes;
mod expand;
mod pattern;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Derives a module's configuration, or a nested part of it, from a struct; a type with its own rules from a
/// struct around one value; or a closed set of values from an enum without fields. `keyward_guest::config`
/// documents the attributes.
#[proc_macro_derive(ProviderConfig, attributes(keyward))]
pub fn derive_provider_config(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand::expand(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}
