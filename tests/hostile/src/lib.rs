//! Makes provider modules from data, for tests: sound ones with fixed answers, and hostile ones.
//!
//! A [`Forge`] has an answer for each function of the ABI. An answer is JSON that follows the WIT (kebab-case
//! names, `{"ok": …}` and `{"err": …}` for results, `{"case": payload}` or `"case"` for variants). The forge
//! stores it in a core module's memory, in the layout of the component model. So a module is a few lines of a
//! test, is built in milliseconds, and needs no wasm toolchain. Answers can contain values that no sound
//! module returns:
//!
//! | in place of a string or list | meaning |
//! |---|---|
//! | `{"$input": null}` | the configuration that the function was called with |
//! | `{"$bytes": [255, 254]}` | these bytes, UTF-8 or not |
//! | `{"$repeat": ["x", 1000]}` | a repeated text |
//! | `{"$raw": [pointer, length]}` | a place inside or outside of the memory |
//!
//! In scope: the WIT. Never in scope: the engine, whose tests use this crate.

mod layout;
mod wat_text;

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// The WIT of the ABI that a sound module is built for.
const WIT: &str = include_str!("../../../wit/v0/provider.wit");

/// The behavior of a function.
#[derive(Clone, Debug)]
pub enum Does {
    /// Returns this answer.
    Answer(Value),
    /// Returns the answer of the first case whose configuration is exactly the input (as compact JSON), else
    /// the last answer.
    Cases(Vec<(Value, Value)>, Value),
    /// Runs this WAT: the body of a core function with the parameters and result that the component model
    /// lowers to. It can use `$memory`, the mutable global `$heap` and the function `$cabi_realloc`.
    Wat(String),
}

/// A module under construction.
#[derive(Clone, Debug)]
pub struct Forge {
    functions: BTreeMap<String, Does>,
    extra: String,
}

impl Forge {
    /// A sound module. Every configuration is its own normal form and its own KEK identity. It refers to no
    /// object, and runs the image in the field `image`. Its fields are `image`, `key` and `token`.
    pub fn sound(provider_type: &str, config_field: &str) -> Self {
        let input = json!({"$input": null});
        let text = |text: &str| json!({"text": text});
        let schema = json!({"type": "object", "properties": {
            "image": {"type": "string"},
            "key": {"type": "string"},
            "token": {"type": "string"},
        }});
        let rule = |field: &str, effect: &str, reason: &str| json!({"field": field, "effect": effect, "reason": reason});
        let answers = [
            (
                "describe",
                json!({
                    "provider-type": provider_type, "config-field": config_field, "image-field": "image",
                    "config-schema": schema.to_string(),
                    "rules": [
                        rule("image", "in-place", "the plugin's program"),
                        rule("key", "new-key", "names another KEK"),
                        rule("token", "in-place", "credentials only"),
                    ],
                    "facts": [{"name": "status", "value": "constant"}],
                }),
            ),
            ("normalize", json!({"ok": {"config": input, "warnings": []}})),
            ("upgrade", json!({"ok": input})),
            ("kek-identity", json!({"key": [{"name": "config", "value": input}], "version": []})),
            ("references", json!([])),
            (
                "render",
                json!({"ok": {"managed": {
                    "command": [], "args": [[text("--listen="), {"host": "socket-uri"}]], "env": [], "files": [],
                    "ports": [], "health": null, "cpu-request-millis": 10, "memory-request-mib": 32, "settings": [],
                }}}),
            ),
            ("diagnose", json!(null)),
            ("requirements", json!(["permission to use the key"])),
        ];
        let functions =
            answers.into_iter().map(|(name, answer)| (name.to_owned(), Does::Answer(answer))).collect();
        Self { functions, extra: String::new() }
    }

    /// The same module with another behavior of one function.
    #[must_use]
    pub fn with(mut self, function: &str, does: Does) -> Self {
        self.functions.insert(function.to_owned(), does);
        self
    }

    /// The same module with another answer of one function.
    #[must_use]
    pub fn answering(self, function: &str, answer: Value) -> Self {
        self.with(function, Does::Answer(answer))
    }

    /// The same module with one changed value in an answer; `pointer` is a JSON pointer into the answer.
    #[must_use]
    pub fn changing(mut self, function: &str, pointer: &str, value: Value) -> Self {
        if let Some(Does::Answer(answer)) = self.functions.get_mut(function)
            && let Some(place) = answer.pointer_mut(pointer)
        {
            *place = value;
            return self;
        }
        // A wrong pointer must not go unnoticed: this text is not WAT, so building the module fails.
        self.with(function, Does::Wat(format!("the answer of {function} has no {pointer}")))
    }

    /// The same module with more fields in the core module (globals, start functions, memories).
    #[must_use]
    pub fn extra(mut self, wat: &str) -> Self {
        self.extra.push_str(wat);
        self
    }

    /// The component's bytes.
    pub fn component(&self) -> Result<Vec<u8>> {
        let mut resolve = Resolve::default();
        let package = resolve.push_str("provider.wit", WIT)?;
        let world = resolve.select_world(&[package], Some("provider"))?;
        let text = wat_text::core_module(&resolve, world, &self.functions, &self.extra)?;
        let mut core = wat::parse_str(&text).context("the core module's text")?;
        embed_component_metadata(&mut core, &resolve, world, StringEncoding::UTF8)?;
        ComponentEncoder::default().validate(true).module(&core)?.encode().context("encoding the component")
    }
}
