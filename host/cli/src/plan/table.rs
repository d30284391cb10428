//! The table of DESIGN.md, "What an admin sees".

use std::fmt::Write as _;

use keyward_core::effect::FieldChange;
use keyward_core::provider::Effect;
use serde_json::Value;

use super::Plan;

/// Characters of a value, and of its end where it is cut.
const WIDEST: usize = 56;
const TAIL: usize = 8;

/// For people. Nothing in it is secret: configurations hold names, not credentials.
pub(super) fn render(plan: &Plan) -> String {
    let mut text = String::new();
    for violation in &plan.violations {
        let _ = writeln!(text, "error: {}: {}", violation.field, violation.message);
    }
    if !plan.violations.is_empty() {
        return text;
    }
    let rows: Vec<[String; 4]> = plan.fields.iter().map(row).collect();
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths = [width(0), width(1), width(2)];
    for [field, change, effect, reason] in &rows {
        let [a, b, c] = widths;
        let _ = writeln!(text, "{field:<a$}   {change:<b$}   {effect:<c$}   {reason}");
    }
    for warning in &plan.warnings {
        let at = if warning.field.is_empty() { String::new() } else { format!("{}: ", warning.field) };
        let _ = writeln!(text, "warning: {at}{}", warning.message);
    }
    let _ = writeln!(text, "{}", total(plan));
    if plan.effect == Some(Effect::NewKey) && !plan.requirements.is_empty() {
        let _ = writeln!(text, "the KMS must permit:");
        for requirement in &plan.requirements {
            let _ = writeln!(text, "  {requirement}");
        }
    }
    text
}

fn row(change: &FieldChange) -> [String; 4] {
    let effect = match change.effect {
        Effect::None => "no effect",
        Effect::InPlace => "in place",
        Effect::ReEncrypt => "re-encrypt",
        Effect::NewKey => "new key",
    };
    let pair = format!("{} → {}", shown(change.from.as_ref()), shown(change.to.as_ref()));
    [change.field.clone(), pair, effect.to_owned(), change.reason.clone()]
}

fn shown(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "–".to_owned(),
        Some(Value::String(text)) => shortened(text),
        Some(other) => shortened(&other.to_string()),
    }
}

/// A digest would make the table wider than any terminal; JSON has the whole of it.
fn shortened(text: &str) -> String {
    let length = text.chars().count();
    if length <= WIDEST {
        return text.to_owned();
    }
    let head: String = text.chars().take(WIDEST - TAIL - 1).collect();
    let tail: String = text.chars().skip(length - TAIL).collect();
    format!("{head}…{tail}")
}

fn total(plan: &Plan) -> String {
    let provider = plan.provider.as_ref().map(|provider| format!(" ({provider})")).unwrap_or_default();
    match plan.effect {
        None | Some(Effect::None) => "⇒ nothing changes: the same KEK, reached in the same way".to_owned(),
        Some(Effect::InPlace) => {
            "⇒ in place: no new key, nothing is re-encrypted; the plugins are replaced one node at a time"
                .to_owned()
        }
        Some(Effect::ReEncrypt) => "⇒ no new key; everything is re-encrypted".to_owned(),
        Some(Effect::NewKey) => format!("⇒ a new key{provider}, then everything is re-encrypted under it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let change = |field: &str, effect, reason: &str| FieldChange {
            field: field.into(),
            from: None,
            to: Some(Value::String("x".into())),
            effect,
            reason: reason.into(),
        };
        let plan = Plan {
            effect: Some(Effect::NewKey),
            fields: vec![
                change("vaultKeyPath", Effect::NewKey, "names another KEK"),
                change("tls.serverName", Effect::InPlace, "connection only"),
            ],
            ..Plan::default()
        };
        assert_eq!(
            render(&plan),
            "vaultKeyPath     – → x   new key    names another KEK\n\
             tls.serverName   – → x   in place   connection only\n\
             ⇒ a new key, then everything is re-encrypted under it\n"
        );
    }
}
