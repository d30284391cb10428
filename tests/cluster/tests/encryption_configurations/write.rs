//! Values as text, in the many spellings of JSON and YAML.

use serde_json::Value;

use crate::random::Random;

/// A suffix of a field's name that exists already. It is not written, so that the field is given twice.
pub(crate) const AGAIN: char = '\u{1}';

pub(crate) fn text(random: &mut Random, value: &Value) -> String {
    let mut text = String::new();
    if random.percent(35) {
        let pretty = random.percent(30).then_some(0);
        if random.percent(10) {
            text.push_str(" \n");
        }
        json(&mut text, value, pretty);
        if random.percent(70) {
            text.push('\n');
        }
        return text;
    }
    if random.percent(15) {
        text.push_str(random.pick(&["---\n", "# a comment\n", "\n", "--- # a comment\n"]));
    }
    Yaml { quote: random.below(4), compact: random.percent(50), flow: random.percent(20) }
        .block(&mut text, random, value, 0);
    if random.percent(5) {
        text.push_str("...\n");
    }
    if random.percent(5) { text.replace('\n', "\r\n") } else { text }
}

fn name(field: &str) -> &str {
    field.trim_end_matches(AGAIN)
}

fn json(text: &mut String, value: &Value, pretty: Option<usize>) {
    let line = |text: &mut String, depth: usize| {
        if pretty.is_some() {
            text.push('\n');
            text.push_str(&"  ".repeat(depth));
        }
    };
    let (open, close) = match value {
        Value::Array(_) => ('[', ']'),
        Value::Object(_) => ('{', '}'),
        scalar => return text.push_str(&scalar.to_string()),
    };
    let depth = pretty.unwrap_or_default();
    let deeper = pretty.map(|depth| depth + 1);
    text.push(open);
    let items: Vec<(Option<&String>, &Value)> = match value {
        Value::Object(fields) => fields.iter().map(|(name, field)| (Some(name), field)).collect(),
        other => other.as_array().into_iter().flatten().map(|item| (None, item)).collect(),
    };
    for (index, (field, item)) in items.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        line(text, depth + 1);
        if let Some(field) = field {
            text.push_str(&Value::from(name(field)).to_string());
            text.push_str(if pretty.is_some() { ": " } else { ":" });
        }
        json(text, item, deeper);
    }
    if !items.is_empty() {
        line(text, depth);
    }
    text.push(close);
}

struct Yaml {
    /// How strings are written: plain if possible, in single quotes, in double quotes, or in any of these
    /// ways.
    quote: usize,
    /// Whether a list is not indented below its field.
    compact: bool,
    flow: bool,
}

impl Yaml {
    fn block(&self, text: &mut String, random: &mut Random, value: &Value, depth: usize) {
        let indent = "  ".repeat(depth);
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                for (field, value) in fields {
                    text.push_str(&indent);
                    self.field(text, random, field, value, depth);
                }
            }
            Value::Array(items) if !items.is_empty() => {
                for item in items {
                    text.push_str(&indent);
                    text.push_str("- ");
                    self.item(text, random, item, depth);
                }
            }
            other => {
                text.push_str(&indent);
                self.inline(text, random, other);
                text.push('\n');
            }
        }
    }

    fn field(&self, text: &mut String, random: &mut Random, field: &str, value: &Value, depth: usize) {
        let quote = if random.percent(4) { "\"" } else { "" };
        text.push_str(&format!("{quote}{}{quote}:", name(field)));
        match value {
            Value::Array(items) if !items.is_empty() && !self.flows(random) => {
                text.push_str(random.pick(&["\n", "\n", "\n", " # a comment\n"]));
                self.block(text, random, value, if self.compact { depth } else { depth + 1 });
            }
            Value::Object(fields) if !fields.is_empty() && !self.flows(random) => {
                text.push('\n');
                self.block(text, random, value, depth + 1);
            }
            Value::Null if random.percent(50) => text.push('\n'),
            other => {
                text.push(' ');
                self.inline(text, random, other);
                text.push_str(random.pick(&["\n", "\n", "\n", "\n", "  \n", " # a comment\n"]));
            }
        }
    }

    /// The first field of a map is on the line of its dash.
    fn item(&self, text: &mut String, random: &mut Random, item: &Value, depth: usize) {
        match item {
            Value::Object(fields) if !fields.is_empty() && !self.flows(random) => {
                for (index, (field, value)) in fields.iter().enumerate() {
                    if index > 0 {
                        text.push_str(&"  ".repeat(depth + 1));
                    }
                    self.field(text, random, field, value, depth + 1);
                }
            }
            other => {
                self.inline(text, random, other);
                text.push('\n');
            }
        }
    }

    fn flows(&self, random: &mut Random) -> bool {
        self.flow && random.percent(60)
    }

    fn inline(&self, text: &mut String, random: &mut Random, value: &Value) {
        match value {
            Value::String(scalar) => self.scalar(text, random, scalar),
            Value::Null => text.push_str(random.pick(&["null", "~", "Null"])),
            Value::Array(items) => {
                text.push('[');
                for (index, item) in items.iter().enumerate() {
                    text.push_str(if index > 0 { ", " } else { "" });
                    self.inline(text, random, item);
                }
                text.push(']');
            }
            Value::Object(fields) => {
                text.push('{');
                for (index, (field, item)) in fields.iter().enumerate() {
                    text.push_str(if index > 0 { ", " } else { "" });
                    text.push_str(&format!("{}: ", name(field)));
                    self.inline(text, random, item);
                }
                text.push('}');
            }
            other => text.push_str(&other.to_string()),
        }
    }

    fn scalar(&self, text: &mut String, random: &mut Random, scalar: &str) {
        let how = if self.quote == 3 { random.below(3) } else { self.quote };
        // Correct in most cases: a name that is a number must be quoted.
        let ambiguous = scalar.parse::<f64>().is_ok() || ["yes", "on", "null", "1_0", ""].contains(&scalar);
        let special = |c: char| !c.is_alphanumeric() && !"._/=+-:".contains(c);
        let plain = !scalar.contains(special) && !scalar.ends_with(':') && !scalar.starts_with(['-', '=']);
        match how {
            0 if plain && (!ambiguous || random.percent(3)) => text.push_str(scalar),
            0 | 1 if !scalar.contains(['\n', '\r']) => {
                text.push_str(&format!("'{}'", scalar.replace('\'', "''")));
            }
            _ => text.push_str(&Value::from(scalar).to_string()),
        }
    }
}
