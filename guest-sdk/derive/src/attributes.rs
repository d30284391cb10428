//! Parses and checks the attributes `#[keyward(…)]`.

use proc_macro2::Span;
use quote::ToTokens;
use syn::meta::ParseNestedMeta;
use syn::{Attribute, Error, Expr, ExprLit, Lit, LitInt, LitStr, Meta, Path, Result, Token, parenthesized};

/// How a change of a field affects stored objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    NewKey,
    ReEncrypt,
    InPlace,
}

/// A bound and, if the author gave one, the message for a value beyond it.
pub(crate) struct Bound {
    pub(crate) value: LitInt,
    pub(crate) message: Option<LitStr>,
}

/// `matches(…)` or `never(…)`.
pub(crate) struct PatternRule {
    pub(crate) wanted: bool,
    pub(crate) regex: LitStr,
    pub(crate) message: Option<LitStr>,
}

/// `cel(rule, message)`: only the API server evaluates it.
pub(crate) struct CelRule {
    pub(crate) rule: LitStr,
    pub(crate) message: LitStr,
}

/// All attributes of one field.
#[derive(Default)]
pub(crate) struct FieldAttributes {
    pub(crate) name: Option<LitStr>,
    pub(crate) effect: Option<(Effect, LitStr)>,
    pub(crate) nested: Option<Span>,
    pub(crate) required: Option<LitStr>,
    pub(crate) bounds: Vec<(&'static str, Bound)>,
    pub(crate) one_of: Vec<LitStr>,
    pub(crate) patterns: Vec<PatternRule>,
    pub(crate) cel: Vec<CelRule>,
    pub(crate) check: Vec<Path>,
}

/// All attributes of a struct.
#[derive(Default)]
pub(crate) struct StructAttributes {
    pub(crate) min_properties: Option<Bound>,
    pub(crate) cel: Vec<CelRule>,
    pub(crate) check: Vec<Path>,
}

const BOUNDS: [&str; 6] = ["min_length", "max_length", "min", "max", "min_items", "max_items"];

impl FieldAttributes {
    pub(crate) fn parse(attributes: &[Attribute]) -> Result<Self> {
        let mut this = Self::default();
        for attribute in attributes.iter().filter(|a| a.path().is_ident("keyward")) {
            attribute.parse_nested_meta(|meta| this.parse_one(&meta))?;
        }
        Ok(this)
    }

    fn parse_one(&mut self, meta: &ParseNestedMeta<'_>) -> Result<()> {
        let name = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
        match name.as_str() {
            "new_key" => self.effect(Effect::NewKey, meta),
            "re_encrypt" => self.effect(Effect::ReEncrypt, meta),
            "in_place" => self.effect(Effect::InPlace, meta),
            "nested" => {
                self.nested = Some(meta.path.span());
                if self.effect.is_some() { Err(both(meta)) } else { Ok(()) }
            }
            "name" => set(&mut self.name, meta),
            "required" => set(&mut self.required, meta),
            "one_of" => {
                self.one_of.extend(texts(meta)?);
                Ok(())
            }
            "matches" => self.pattern(true, meta),
            "never" => self.pattern(false, meta),
            "cel" => {
                self.cel.push(cel(meta)?);
                Ok(())
            }
            "check" => {
                self.check.push(meta.value()?.parse()?);
                Ok(())
            }
            other => {
                if let Some(bound) = BOUNDS.iter().find(|b| **b == other) {
                    self.bounds.push((bound, parse_bound(meta)?));
                    return Ok(());
                }
                Err(meta.error(
                    "unknown attribute; a field has one of new_key, re_encrypt, in_place or nested, and optionally name, \
                     required, min_length, max_length, min, max, min_items, max_items, one_of, matches, never, cel, check",
                ))
            }
        }
    }

    fn effect(&mut self, effect: Effect, meta: &ParseNestedMeta<'_>) -> Result<()> {
        let reason: LitStr = meta
            .value()
            .and_then(syn::parse::ParseBuffer::parse)
            .map_err(|_| meta.error("a reason is required: `… = \"reason\"`; `keyward plan` shows it"))?;
        if reason.value().trim().is_empty() {
            return Err(Error::new(reason.span(), "the reason must not be empty: `keyward plan` shows it"));
        }
        if self.effect.is_some() || self.nested.is_some() {
            return Err(both(meta));
        }
        self.effect = Some((effect, reason));
        Ok(())
    }

    fn pattern(&mut self, wanted: bool, meta: &ParseNestedMeta<'_>) -> Result<()> {
        let mut given = texts(meta)?.into_iter();
        let (Some(regex), message, None) = (given.next(), given.next(), given.next()) else {
            return Err(meta.error("expected a pattern and optionally a message: (\"pattern\", \"message\")"));
        };
        self.patterns.push(PatternRule { wanted, regex, message });
        Ok(())
    }
}

impl StructAttributes {
    pub(crate) fn parse(attributes: &[Attribute]) -> Result<Self> {
        let mut this = Self::default();
        for attribute in attributes.iter().filter(|a| a.path().is_ident("keyward")) {
            attribute.parse_nested_meta(|meta| {
                if meta.path.is_ident("min_properties") {
                    this.min_properties = Some(parse_bound(&meta)?);
                } else if meta.path.is_ident("cel") {
                    this.cel.push(cel(&meta)?);
                } else if meta.path.is_ident("check") {
                    this.check.push(meta.value()?.parse()?);
                } else {
                    return Err(meta.error("unknown attribute; a struct can have min_properties, cel, check"));
                }
                Ok(())
            })?;
        }
        Ok(this)
    }
}

/// `#[keyward(name = "…")]` of a variant of an enum.
pub(crate) fn variant_name(attributes: &[Attribute]) -> Result<Option<LitStr>> {
    let mut name = None;
    for attribute in attributes.iter().filter(|a| a.path().is_ident("keyward")) {
        attribute.parse_nested_meta(|meta| {
            if meta.path.is_ident("name") {
                return set(&mut name, &meta);
            }
            Err(meta.error("unknown attribute; a variant can have name"))
        })?;
    }
    Ok(name)
}

/// The doc comment as one text, with joined lines and separate paragraphs.
pub(crate) fn description(attributes: &[Attribute]) -> String {
    let mut text = String::new();
    for attribute in attributes.iter().filter(|a| a.path().is_ident("doc")) {
        let Meta::NameValue(pair) = &attribute.meta else { continue };
        let Expr::Lit(ExprLit { lit: Lit::Str(line), .. }) = &pair.value else { continue };
        let line = line.value();
        let line = line.trim();
        if line.is_empty() {
            text.push_str("\n\n");
        } else {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push(' ');
            }
            text.push_str(line);
        }
    }
    text.trim().to_owned()
}

fn both(meta: &ParseNestedMeta<'_>) -> Error {
    meta.error("a field has exactly one of new_key, re_encrypt, in_place or nested")
}

fn set(slot: &mut Option<LitStr>, meta: &ParseNestedMeta<'_>) -> Result<()> {
    let value: LitStr = meta.value()?.parse()?;
    if slot.replace(value).is_some() {
        return Err(meta.error("given twice"));
    }
    Ok(())
}

/// `("a", "b", …)`.
fn texts(meta: &ParseNestedMeta<'_>) -> Result<Vec<LitStr>> {
    let content;
    parenthesized!(content in meta.input);
    Ok(content.parse_terminated(syn::parse::ParseBuffer::parse::<LitStr>, Token![,])?.into_iter().collect())
}

fn cel(meta: &ParseNestedMeta<'_>) -> Result<CelRule> {
    let mut given = texts(meta)?.into_iter();
    match (given.next(), given.next(), given.next()) {
        (Some(rule), Some(message), None) => Ok(CelRule { rule, message }),
        _ => Err(meta.error("expected a rule and its message: cel(\"rule\", \"message\")")),
    }
}

/// `= 1` or `(1, "message")`.
fn parse_bound(meta: &ParseNestedMeta<'_>) -> Result<Bound> {
    if meta.input.peek(Token![=]) {
        return Ok(Bound { value: meta.value()?.parse()?, message: None });
    }
    let content;
    parenthesized!(content in meta.input);
    let value = content.parse()?;
    let message = if content.parse::<Option<Token![,]>>()?.is_some() { Some(content.parse()?) } else { None };
    Ok(Bound { value, message })
}

trait Spanned {
    fn span(&self) -> Span;
}

impl<T: ToTokens> Spanned for T {
    fn span(&self) -> Span {
        syn::spanned::Spanned::span(self)
    }
}
