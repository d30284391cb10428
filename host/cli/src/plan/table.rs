//! The table that `keyward plan` prints.

use std::fmt::Write as _;

use keyward_core::effect::FieldChange;
use keyward_core::provider::Effect;
use serde_json::Value;

use super::Plan;
use super::offline::PauseChange;
use crate::live::Live;

/// Maximum number of characters of a value, and how many of them are its end if it is shortened.
const WIDEST: usize = 56;
const TAIL: usize = 8;

/// Text for people. Nothing in it is secret: configurations contain names, not credentials.
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
    for line in total(plan) {
        let _ = writeln!(text, "{line}");
    }
    pause(&mut text, plan);
    unknown(&mut text, plan);
    if let Some(live) = &plan.live {
        around(&mut text, plan.makes_key, live);
    }
    if plan.makes_key && !plan.requirements.is_empty() {
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
        Effect::Pause => "pause",
        Effect::Resume => "resume",
        Effect::InPlace => "in place",
        Effect::ReEncrypt => "re-encrypt",
        Effect::NewKey => "new key",
        Effect::Decrypt => "decrypt",
        Effect::Forget => "forget",
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

/// A digest would make the table wider than a terminal. JSON has the full value.
fn shortened(text: &str) -> String {
    let length = text.chars().count();
    if length <= WIDEST {
        return text.to_owned();
    }
    let head: String = text.chars().take(WIDEST - TAIL - 1).collect();
    let tail: String = text.chars().skip(length - TAIL).collect();
    format!("{head}…{tail}")
}

fn total(plan: &Plan) -> Vec<String> {
    let provider = plan.provider.as_ref().map(|provider| format!(" ({provider})")).unwrap_or_default();
    let key = plan.live.as_ref().and_then(|live| live.key_id);
    let key = key.map_or_else(|| "a new key".to_owned(), |id| format!("new key {id}"));
    let mut lines = Vec::new();
    if plan.makes_key {
        lines.push(format!(
            "⇒ {key}{provider}; then {} re-encrypted under it",
            objects(plan, &plan.reencrypts)
        ));
    } else if !plan.reencrypts.is_empty() {
        lines.push(format!("⇒ no new key; {} re-encrypted", objects(plan, &plan.reencrypts)));
    } else if plan.effect == Some(Effect::InPlace) {
        lines.push(
            "⇒ in place: no new key, nothing is re-encrypted; the plugins are replaced one node at a time"
                .to_owned(),
        );
    }
    if !plan.decrypts.is_empty() {
        let names = plan.decrypts.join(", ");
        lines.push(format!("⇒ decrypt {names}: {} stored in plain text", objects(plan, &plan.decrypts)));
    } else if plan.effect == Some(Effect::Decrypt) {
        lines.push("⇒ decrypt: nothing is encrypted any more".to_owned());
    }
    for key in &plan.forgets {
        lines.push(format!("⇒ forget key {key}: what is stored under it becomes unreadable"));
    }
    let is_pause = matches!(plan.pause, Some(PauseChange::Begins | PauseChange::Ends));
    if !plan.unknown.is_empty() {
        // The stored object may differ from what is deployed.
        for line in &mut lines {
            line.push_str(" (based on the stored object alone)");
        }
    } else if lines.is_empty() && !is_pause {
        lines.push(match plan.provider {
            Some(_) => "⇒ nothing changes: the same KEK with the same connection".to_owned(),
            None => "⇒ nothing changes: stored objects stay as they are".to_owned(),
        });
    }
    lines
}

/// The writes that a pause withholds, and the writes that follow its end.
fn pause(text: &mut String, plan: &Plan) {
    let Some(change) = plan.pause else { return };
    let withheld = plan.live.as_ref().map(|live| live.withheld.as_slice());
    let line = match (change, withheld) {
        (PauseChange::Begins, None | Some([])) => {
            "⇒ pause: only the status is written until spec.paused is removed"
        }
        (PauseChange::Begins, Some(_)) => {
            "⇒ pause: only the status is written until spec.paused is removed; withheld:"
        }
        (PauseChange::Ends, None) => "⇒ resume: the withheld writes follow",
        (PauseChange::Ends, Some([])) => "⇒ resume: the pause withholds nothing now",
        (PauseChange::Ends, Some(_)) => "⇒ resume: the operator first writes:",
        // The planned change waits.
        (PauseChange::Stays, _) if plan.effect > Some(Effect::None) => {
            "⇒ paused: this change starts when spec.paused is removed"
        }
        (PauseChange::Stays, _) => return,
    };
    let _ = writeln!(text, "{line}");
    let listed = withheld.filter(|_| change != PauseChange::Stays).unwrap_or_default();
    for (number, write) in (1..).zip(listed) {
        let _ = writeln!(text, "    {number}. {write}");
    }
}

/// Why the effect is not known, and how to make it known.
fn unknown(text: &mut String, plan: &Plan) {
    if plan.unknown.is_empty() {
        return;
    }
    text.push_str("⇒ effect unknown: it is not known what is deployed\n");
    for unknown in &plan.unknown {
        let _ = writeln!(text, "error: {}: {}", unknown.what, unknown.why);
    }
    text.push_str(
        "if you are not allowed to read it, bind the ClusterRole keyward-plan and the Roles of that name in keyward-system and kube-system to your user (deploy/rbac/plan.yaml); otherwise make it readable first, see docs/recovery.md\n",
    );
}

/// How many objects of these resources are rewritten, and how long that takes if the rate of the last
/// migration is known.
fn objects(plan: &Plan, resources: &[String]) -> String {
    let Some(live) = &plan.live else { return "everything is".to_owned() };
    let plural = if resources.len() == 1 { "" } else { "s" };
    let number = resources.len();
    let counts = resources.iter().map(|resource| live.objects.get(resource).copied().flatten());
    let counted: Option<u64> = counts.sum();
    let Some(count) = counted else { return format!("everything in {number} resource{plural} is") };
    let time = live.objects_per_second.filter(|_| count > 0).map(|rate| {
        let seconds = count.div_ceil(rate);
        let about =
            if seconds < 90 { format!("{seconds} s") } else { format!("{} min", seconds.div_ceil(60)) };
        format!(" (about {about} at the last migration's {rate}/s)")
    });
    format!("{} objects in {number} resource{plural}{} are", grouped(count), time.unwrap_or_default())
}

/// A number with separated thousands.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Plugins and nodes, problems, and what the operator waits for.
fn around(text: &mut String, makes_key: bool, live: &Live) {
    let nodes = match live.nodes.len() {
        1 => "1 node".to_owned(),
        n => format!("{n} nodes"),
    };
    let running: Vec<String> = live.plugins.iter().map(ToString::to_string).collect();
    let mut plugins = Vec::new();
    if makes_key {
        if let Some(key) = live.key_id.filter(|_| live.plugin_starts) {
            plugins.push(format!("the plugin of key {key} starts on {nodes}"));
        }
        if !running.is_empty() {
            let (of, stay) =
                if running.len() == 1 { ("plugin of key", "stays") } else { ("plugins of keys", "stay") };
            let keys = running.join(", ");
            plugins.push(format!("the {of} {keys} {stay} for reading until the migration is done"));
        }
    }
    if !plugins.is_empty() {
        let _ = writeln!(text, "⇒ plugins: {}", plugins.join("; "));
    }
    for problem in &live.troubles {
        let _ = writeln!(text, "problem: {problem}");
    }
    if let Some(waiting) = &live.waiting {
        let _ = writeln!(text, "first waits for: {waiting}");
    }
}

#[cfg(test)]
mod tests {
    use keyward_core::ids::KeyId;

    use super::*;

    #[test]
    fn columns_are_aligned() {
        let change = |field: &str, effect, reason: &str| FieldChange {
            field: field.into(),
            from: None,
            to: Some(Value::String("x".into())),
            effect,
            reason: reason.into(),
        };
        let plan = Plan {
            effect: Some(Effect::NewKey),
            makes_key: true,
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
             ⇒ a new key; then everything is re-encrypted under it\n"
        );
    }

    #[test]
    fn plan_of_a_live_cluster_counts_objects_and_names_plugins_and_problems() {
        let live = Live {
            key_id: Some(KeyId(3)),
            plugins: vec![KeyId(2)],
            plugin_starts: true,
            objects: [("configmaps".to_owned(), Some(211)), ("secrets".to_owned(), Some(48_000))].into(),
            objects_per_second: Some(900),
            nodes: vec!["a".into(), "b".into(), "c".into()],
            troubles: vec!["secret vault-approle not found".into()],
            waiting: None,
            withheld: Vec::new(),
        };
        let plan = Plan {
            effect: Some(Effect::NewKey),
            makes_key: true,
            reencrypts: vec!["configmaps".into(), "secrets".into()],
            provider: Some("Vault".into()),
            live: Some(live),
            ..Plan::default()
        };
        assert_eq!(
            render(&plan),
            "⇒ new key 3 (Vault); then 48,211 objects in 2 resources (about 54 s at the last migration's 900/s) are re-encrypted under it\n\
             ⇒ plugins: the plugin of key 3 starts on 3 nodes; the plugin of key 2 stays for reading until the migration is done\n\
             problem: secret vault-approle not found\n"
        );
        assert_eq!(grouped(7), "7");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }
}
