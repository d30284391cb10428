//! The code that the derive generates: tables of the attributes, and glue between fields and tables.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Data, DataEnum, DeriveInput, Error, Field, Fields, Ident, LitStr, Result};

use crate::attributes::{
    Bound, CelRule, Effect, FieldAttributes, StructAttributes, description, variant_name,
};
use crate::pattern;

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    if !input.generics.params.is_empty() {
        return Err(Error::new(input.generics.span(), "a configuration must not have type parameters"));
    }
    match &input.data {
        Data::Struct(data) => match &data.fields {
            Fields::Named(fields) => expand_struct(input, &fields.named.iter().collect::<Vec<_>>()),
            Fields::Unnamed(fields) => match fields.unnamed.first() {
                Some(inner) if fields.unnamed.len() == 1 => expand_newtype(input, inner),
                _ => Err(Error::new(
                    input.ident.span(),
                    "a type with its own rules must be a struct around one value",
                )),
            },
            Fields::Unit => {
                Err(Error::new(input.ident.span(), "a configuration must be a struct with named fields"))
            }
        },
        Data::Enum(data) => expand_enum(input, data),
        Data::Union(_) => Err(Error::new(
            input.ident.span(),
            "a configuration must be a struct; only a value can be an enum",
        )),
    }
}

fn expand_struct(input: &DeriveInput, fields: &[&Field]) -> Result<TokenStream> {
    let about = StructAttributes::parse(&input.attrs)?;
    let mut problems: Option<Error> = None;
    let mut parts = Vec::new();
    for (index, field) in fields.iter().enumerate() {
        match expand_field(index, field) {
            Ok(part) => parts.push(part),
            Err(error) => match &mut problems {
                Some(all) => all.combine(error),
                None => problems = Some(error),
            },
        }
    }
    if let Some(problems) = problems {
        return Err(problems);
    }

    let ident = &input.ident;
    let description = description(&input.attrs);
    let min_properties = bound_tokens(about.min_properties.as_ref());
    let cel = cel_tokens(&about.cel);
    let specs = parts.iter().map(|p| &p.spec);
    let reads = parts.iter().map(|p| &p.read);
    let writes = parts.iter().map(|p| &p.write);
    let identities = parts.iter().map(|p| &p.identify);
    let bounds = parts.iter().map(|p| &p.bound);
    let checks = about.check.iter().map(|path| quote! { object.check(|findings| #path(&this, findings)); });
    Ok(quote! {
        #[automatically_derived]
        impl ::keyward_guest::config::ProviderConfig for #ident {
            const OBJECT: &'static ::keyward_guest::config::ObjectSpec = &::keyward_guest::config::ObjectSpec {
                description: #description,
                min_properties: #min_properties,
                cel: #cel,
                fields: &[#(#specs),*],
            };
            fn read_fields(object: &mut ::keyward_guest::config::ObjectReader<'_, '_>) -> Self {
                let this = Self { #(#reads),* };
                #(#checks)*
                this
            }
            fn write_fields(&self, object: &mut ::keyward_guest::config::ObjectWriter) {
                #(#writes)*
            }
            fn identify_fields(&self, object: &mut ::keyward_guest::config::ObjectIdentity<'_, '_>) {
                #(#identities)*
            }
        }
        #(#bounds)*
    })
}

/// The generated code for one field.
struct FieldPart {
    spec: TokenStream,
    read: TokenStream,
    write: TokenStream,
    identify: TokenStream,
    bound: TokenStream,
}

fn expand_field(index: usize, field: &Field) -> Result<FieldPart> {
    let attributes = FieldAttributes::parse(&field.attrs)?;
    let Some(ident) = &field.ident else {
        return Err(Error::new(field.span(), "a configuration must be a struct with named fields"));
    };
    let kind = &field.ty;
    let effect = match (&attributes.effect, attributes.nested) {
        (Some((effect, reason)), _) => {
            let effect = effect_tokens(*effect);
            quote! { Some((#effect, #reason)) }
        }
        (None, Some(_)) => quote! { None },
        (None, None) => return Err(Error::new(ident.span(), missing_effect(ident))),
    };
    let name = attributes.name.as_ref().map_or_else(|| camel_case(&ident.to_string()), LitStr::value);
    let description = description(&field.attrs);
    let required = match &attributes.required {
        Some(message) => quote! { required: Some(#message), },
        None => quote! {},
    };
    let limits = limits_tokens(&attributes);
    let patterns = pattern_tokens(&attributes)?;
    let cel = cel_tokens(&attributes.cel);
    let read_check = check_tokens(&attributes);
    let plain =
        attributes.bounds.is_empty() && attributes.one_of.is_empty() && attributes.patterns.is_empty();
    let marker = if attributes.nested.is_some() { format_ident!("Nested") } else { format_ident!("Leaf") };
    let bound = quote_spanned! { kind.span() =>
        const _: () = {
            const fn fits<T: ::keyward_guest::config::#marker>() {}
            fits::<#kind>();
            assert!(
                #plain || !<#kind as ::keyward_guest::config::ConfigValue>::OWN_RULES,
                "this type has its own rules; move these attributes to the type"
            );
        };
    };
    Ok(FieldPart {
        spec: quote! {
            ::keyward_guest::config::FieldSpec {
                name: #name,
                description: #description,
                effect: #effect,
                #required
                limits: #limits,
                patterns: #patterns,
                cel: #cel,
                ..::keyward_guest::config::FieldSpec::of::<#kind>()
            }
        },
        read: quote! { #ident: object.field::<#kind>(#index, #read_check) },
        write: quote! { object.field(#name, &self.#ident); },
        identify: quote! { object.field(#index, &self.#ident); },
        bound,
    })
}

fn check_tokens(attributes: &FieldAttributes) -> TokenStream {
    let check = &attributes.check;
    if check.is_empty() {
        return quote! { |_, _| {} };
    }
    quote! { |value, findings| { #(#check(value, findings);)* } }
}

fn missing_effect(ident: &Ident) -> String {
    format!(
        "`{ident}` does not declare how a change of it affects stored objects; add one of\n\
         \x20 #[keyward(new_key = \"reason\")]     it names another KEK: a new key, and everything is re-encrypted under it\n\
         \x20 #[keyward(re_encrypt = \"reason\")]  another version of the same KEK: in place, then everything is re-encrypted\n\
         \x20 #[keyward(in_place = \"reason\")]    only the plugin changes; stored objects stay as they are\n\
         \x20 #[keyward(nested)]                 a struct whose own fields declare their effects\n\
         `keyward plan` shows the reason to admins"
    )
}

fn effect_tokens(effect: Effect) -> TokenStream {
    match effect {
        Effect::NewKey => quote! { ::keyward_guest::Effect::NewKey },
        Effect::ReEncrypt => quote! { ::keyward_guest::Effect::ReEncrypt },
        Effect::InPlace => quote! { ::keyward_guest::Effect::InPlace },
    }
}

fn bound_tokens(bound: Option<&Bound>) -> TokenStream {
    let Some(Bound { value, message }) = bound else { return quote! { None } };
    let message = option_tokens(message.as_ref());
    quote! { Some(::keyward_guest::config::Bound { value: #value, message: #message }) }
}

fn option_tokens(text: Option<&LitStr>) -> TokenStream {
    text.map_or_else(|| quote! { None }, |text| quote! { Some(#text) })
}

fn limits_tokens(attributes: &FieldAttributes) -> TokenStream {
    if attributes.bounds.is_empty() && attributes.one_of.is_empty() {
        return quote! { ::keyward_guest::config::Limits::NONE };
    }
    let bounds = attributes.bounds.iter().map(|(name, bound)| {
        let name = format_ident!("{name}");
        let bound = bound_tokens(Some(bound));
        quote! { #name: #bound, }
    });
    let one_of = &attributes.one_of;
    quote! {
        ::keyward_guest::config::Limits {
            #(#bounds)*
            one_of: &[#(#one_of),*],
            ..::keyward_guest::config::Limits::NONE
        }
    }
}

fn pattern_tokens(attributes: &FieldAttributes) -> Result<TokenStream> {
    let mut tokens = Vec::new();
    for rule in &attributes.patterns {
        let source = &rule.regex;
        let table =
            pattern::compile(&source.value()).map_err(|why| Error::new(source.span(), why))?.to_tokens();
        let wanted = rule.wanted;
        let message = option_tokens(rule.message.as_ref());
        tokens.push(quote! {
            ::keyward_guest::config::Pattern { source: #source, wanted: #wanted, message: #message, table: #table }
        });
    }
    Ok(quote! { &[#(#tokens),*] })
}

fn cel_tokens(rules: &[CelRule]) -> TokenStream {
    let rules = rules.iter().map(|CelRule { rule, message }| {
        quote! { ::keyward_guest::config::Cel { rule: #rule, message: #message } }
    });
    quote! { &[#(#rules),*] }
}

/// A type with its own rules: a struct around one value.
fn expand_newtype(input: &DeriveInput, inner: &Field) -> Result<TokenStream> {
    let attributes = FieldAttributes::parse(&input.attrs)?;
    if attributes.effect.is_some()
        || attributes.nested.is_some()
        || attributes.name.is_some()
        || attributes.required.is_some()
    {
        let problem = "effect, name and required belong to the fields of this type";
        return Err(Error::new(input.ident.span(), problem));
    }
    let ident = &input.ident;
    let kind = &inner.ty;
    let limits = limits_tokens(&attributes);
    let patterns = pattern_tokens(&attributes)?;
    let cel = cel_tokens(&attributes.cel);
    let check = check_tokens(&attributes);
    Ok(quote! {
        #[automatically_derived]
        impl ::keyward_guest::config::ConfigNewtype for #ident {
            type Inner = #kind;
            const SPEC: &'static ::keyward_guest::config::FieldSpec = &::keyward_guest::config::FieldSpec {
                limits: #limits,
                patterns: #patterns,
                cel: #cel,
                ..::keyward_guest::config::FieldSpec::of::<#kind>()
            };
            fn wrap(inner: #kind) -> Self {
                Self(inner)
            }
            fn inner(&self) -> &#kind {
                &self.0
            }
            fn check(
                value: &<#kind as ::keyward_guest::config::ConfigValue>::Checked,
                findings: &mut ::keyward_guest::Findings<'_>,
            ) {
                (#check)(value, findings)
            }
        }
        ::keyward_guest::__config_newtype!(#ident);
    })
}

/// A closed set of values: an enum whose variants have no fields.
fn expand_enum(input: &DeriveInput, data: &DataEnum) -> Result<TokenStream> {
    let ident = &input.ident;
    let mut names = Vec::new();
    let mut variants = Vec::new();
    for variant in &data.variants {
        if !matches!(variant.fields, Fields::Unit) {
            return Err(Error::new(variant.span(), "a variant of a closed set must not have fields"));
        }
        names.push(
            variant_name(&variant.attrs)?.map_or_else(|| variant.ident.to_string(), |name| name.value()),
        );
        variants.push(&variant.ident);
    }
    let Some(first) = variants.first() else {
        return Err(Error::new(ident.span(), "a closed set must have at least one value"));
    };
    Ok(quote! {
        #[automatically_derived]
        impl ::keyward_guest::config::ConfigEnum for #ident {
            const VARIANTS: &'static [(&'static str, Self)] = &[#((#names, Self::#variants)),*];
            const FIRST: Self = Self::#first;
        }
        ::keyward_guest::__config_enum!(#ident);
    })
}

/// `vault_key_path` → `vaultKeyPath`.
fn camel_case(name: &str) -> String {
    let mut result = String::new();
    let mut upper = false;
    for character in name.trim_start_matches("r#").chars() {
        if character == '_' {
            upper = true;
        } else if upper {
            result.extend(character.to_uppercase());
            upper = false;
        } else {
            result.push(character);
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use syn::parse_quote;

    use super::{camel_case, expand};

    fn refusal(input: &syn::DeriveInput) -> String {
        expand(input).unwrap_err().into_iter().map(|e| e.to_string()).collect::<Vec<_>>().join("\n---\n")
    }

    #[test]
    fn the_error_for_a_field_without_an_effect_lists_the_attributes_to_choose_from() {
        let error = refusal(&parse_quote! {
            struct Config {
                address: String,
                #[keyward(in_place = "connection only")]
                server_name: Option<String>,
                key: String,
            }
        });
        assert!(
            error.contains("`address` does not declare how a change of it affects stored objects"),
            "{error}"
        );
        assert!(error.contains("#[keyward(new_key = \"reason\")]"), "{error}");
        assert!(error.contains("`key` does not declare"), "all such fields are named: {error}");
        assert!(!error.contains("server_name"), "{error}");
    }

    #[test]
    fn an_effect_needs_a_reason() {
        let error = refusal(&parse_quote! { struct Config { #[keyward(new_key)] key: String } });
        assert!(error.contains("a reason is required"), "{error}");
        let error = refusal(&parse_quote! { struct Config { #[keyward(new_key = " ")] key: String } });
        assert!(error.contains("must not be empty"), "{error}");
    }

    #[test]
    fn two_effects_are_refused() {
        for input in [
            parse_quote! { struct Config { #[keyward(new_key = "a", in_place = "b")] key: String } },
            parse_quote! { struct Config { #[keyward(new_key = "a")] #[keyward(nested)] key: String } },
            parse_quote! { struct Config { #[keyward(nested, in_place = "a")] key: String } },
        ] {
            let error = refusal(&input);
            assert!(error.contains("exactly one of"), "{error}");
        }
    }

    #[test]
    fn an_unknown_attribute_and_a_pattern_that_does_not_compile_are_refused() {
        let error = refusal(
            &parse_quote! { struct Config { #[keyward(in_place = "a", minlength = 1)] key: String } },
        );
        assert!(error.contains("unknown attribute") && error.contains("min_length"), "{error}");
        let error =
            refusal(&parse_quote! { struct Config { #[keyward(in_place = "a", matches("("))] key: String } });
        assert!(error.contains("not a valid pattern"), "{error}");
    }

    #[test]
    fn a_type_with_its_own_rules_has_no_effect() {
        let error = refusal(&parse_quote! { #[keyward(in_place = "x")] struct Image(String); });
        assert!(error.contains("belong to the fields"), "{error}");
        assert!(expand(&parse_quote! { #[keyward(min_length = 1)] struct Image(String); }).is_ok());
    }

    #[test]
    fn field_names_become_camel_case() {
        assert_eq!(camel_case("vault_key_path"), "vaultKeyPath");
        assert_eq!(camel_case("tls"), "tls");
        assert_eq!(camel_case("r#type"), "type");
    }
}
