//! Makes provider modules out of data, for tests: sound ones with fixed answers, and hostile ones.
//!
//! A [`Forge`] holds an answer for each function of the ABI, as JSON that follows the WIT (kebab-case names, `{"ok": …}`
//! and `{"err": …}` for results, `{"case": payload}` or `"case"` for variants), and lays it out in a core module's
//! memory as the component model wants it. So a module is a few lines of a test, is built in milliseconds, and needs
//! no wasm toolchain. Answers may hold what no honest module returns:
//!
//! | in place of a string or list | is |
//! |---|---|
//! | `{"$input": null}` | the configuration that the function was given |
//! | `{"$bytes": [255, 254]}` | these bytes, UTF-8 or not |
//! | `{"$repeat": ["x", 1000]}` | a text, repeated |
//! | `{"$raw": [pointer, length]}` | a place in memory, in it or not |
//!
//! What may come in: the WIT. What never does: the engine; its tests use this.

mod layout;
mod wat_text;

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// The ABI's text; what a sound module is built for.
const WIT: &str = include_str!("../../../wit/v0/provider.wit");

/// What a function does.
#[derive(Clone, Debug)]
pub enum Does {
    /// Returns this.
    Answer(Value),
    /// Returns the answer of the first case whose configuration is exactly the input (as compact JSON), else the last.
    Cases(Vec<(Value, Value)>, Value),
    /// Is this WAT: the body of a core function with parameters and result as the component model lowers them. There
    /// are `$memory`, the mutable global `$heap` and, to call, `$cabi_realloc`.
    Wat(String),
}

/// A module in the making.
#[derive(Clone, Debug)]
pub struct Forge {
    functions: BTreeMap<String, Does>,
    extra: String,
}

impl Forge {
    /// A sound module: it takes any configuration for its own normal form, names a KEK by the whole of it, refers to
    /// nothing, and runs the image in the field `image`. Its fields are `image` and `key`.
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

    /// The same with another behaviour of one function.
    #[must_use]
    pub fn with(mut self, function: &str, does: Does) -> Self {
        self.functions.insert(function.to_owned(), does);
        self
    }

    /// The same with another answer of one function.
    #[must_use]
    pub fn answering(self, function: &str, answer: Value) -> Self {
        self.with(function, Does::Answer(answer))
    }

    /// The same with one value of an answer changed; `pointer` is a JSON pointer into it.
    #[must_use]
    pub fn changing(mut self, function: &str, pointer: &str, value: Value) -> Self {
        if let Some(Does::Answer(answer)) = self.functions.get_mut(function)
            && let Some(place) = answer.pointer_mut(pointer)
        {
            *place = value;
            return self;
        }
        // A test that changes nothing tests nothing.
        self.with(function, Does::Wat(format!("there is no {pointer} in the answer of {function}")))
    }

    /// The same with more fields in the core module (globals, start functions, memories).
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
