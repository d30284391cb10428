//! `#[derive(ProviderConfig)]` of keyward-guest.
//!
//! Here lives the translation of an author's struct into the tables and glue that keyward-guest interprets,
//! and of patterns into tables (`pattern`). What a field is allowed to say is in `attributes`; nothing here
//! knows a provider, and no rule is applied here: the macro only writes down what the author said, or refuses
//! to.

mod attributes;
mod expand;
mod pattern;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Makes a provider's configuration out of a struct, a value with rules of its own out of a struct around one
/// value, a part of one out of a nested struct, or a closed set of values out of an enum without fields. See
/// `keyward_guest::config` for what may be said of a field.
#[proc_macro_derive(ProviderConfig, attributes(keyward))]
pub fn derive_provider_config(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand::expand(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}
