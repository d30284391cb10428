//! Changes that people and programs make to a configuration: to its values, and to its text.

use serde_json::{Value, json};

use crate::random::Random;
use crate::write::AGAIN;

const NAMES: [&str; 12] =
    ["key1", "01", "+1", "0", "", "1a", "18446744073709551616", "yes", "1_0", " 1", "1:2", "7"];
const RESOURCES: [&str; 21] = [
    "*.",
    "*.*",
    "*.apps",
    "*.example.com",
    "*",
    "Secrets",
    "secrets.",
    "",
    "pods.*",
    "events.events.k8s.io",
    "ingresses.extensions",
    "serviceipallocations",
    ".apps",
    "secrets.v1",
    "s\u{e9}crets",
    "on",
    "null",
    "1",
    "secrets",
    "configmaps",
    "widgets.example.com",
];
const KMS_NAMES: [&str; 8] =
    ["vault", "1_secrets", "01_secrets", "1_", "_secrets", "1:secrets", "", "x_secrets"];
const ENDPOINTS: [&str; 12] = [
    "unix:///a.sock",
    "UNIX:///a.sock",
    "unix:a.sock",
    "unix://host/a",
    "unix://[::1/a",
    "unix:///a%zz",
    "unix:///a%20b",
    "unix:///a b",
    "http://localhost",
    "/a.sock",
    "",
    "unix:///@a?b#c",
];
const TIMEOUTS: [&str; 16] = [
    "3s",
    "0s",
    "0",
    "-3s",
    "+3s",
    "3",
    "",
    "1.5h",
    "1h0m3s",
    ".5s",
    "1.s",
    "3S",
    "3 s",
    "9999999999h",
    "100us",
    "100\u{b5}s",
];

/// Changes a few values.
pub(crate) fn values(random: &mut Random, config: &mut Value) {
    for _ in 0..=random.below(3) {
        match random.below(12) {
            0 => replace(random, config, "name", &NAMES),
            1 => resources(random, config),
            2 => again(random, config),
            3 | 4 => any_value(random, config),
            5 => fields(random, config),
            6 | 7 => kms(random, config),
            8 => secret(random, config),
            9 => header(random, config),
            10 => move_identity(random, config),
            _ => another_provider(random, config),
        }
    }
}

/// Every place in a value, as JSON pointers.
fn places(value: &Value, at: &str, all: &mut Vec<String>) {
    all.push(at.to_owned());
    match value {
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, item)| places(item, &format!("{at}/{i}"), all));
        }
        Value::Object(fields) => {
            fields.iter().for_each(|(name, field)| places(field, &format!("{at}/{name}"), all));
        }
        _ => {}
    }
}

fn any_place<'a>(
    random: &mut Random,
    config: &'a mut Value,
    fits: impl Fn(&str) -> bool,
) -> Option<&'a mut Value> {
    let mut all = Vec::new();
    places(config, "", &mut all);
    all.retain(|place| fits(place));
    if all.is_empty() {
        return None;
    }
    let place = all.swap_remove(random.below(all.len()));
    config.pointer_mut(&place)
}

fn replace(random: &mut Random, config: &mut Value, field: &str, by: &[&str]) {
    let ending = format!("/{field}");
    if let Some(value) = any_place(random, config, |place| place.ends_with(&ending)) {
        *value = json!(random.pick(by));
    }
}

fn names_of_resources(place: &str) -> bool {
    place.ends_with("/resources") && place != "/resources"
}

fn resources(random: &mut Random, config: &mut Value) {
    let name = json!(random.pick(&RESOURCES));
    let whole = random.percent(50);
    let Some(Value::Array(names)) = any_place(random, config, names_of_resources) else { return };
    if whole {
        *names = vec![name];
    } else {
        let at = random.below(names.len() + 1);
        names.insert(at, name);
    }
}

/// Inserts a copy of a list's item at another place in the list.
fn again(random: &mut Random, config: &mut Value) {
    let lists = |place: &str| ["resources", "providers", "keys"].iter().any(|list| place.ends_with(list));
    let Some(Value::Array(items)) = any_place(random, config, lists) else { return };
    if !items.is_empty() {
        let item = items[random.below(items.len())].clone();
        items.insert(random.below(items.len() + 1), item);
    }
}

fn any_value(random: &mut Random, config: &mut Value) {
    let value = [
        json!(null),
        json!([]),
        json!({}),
        json!(1),
        json!(-1),
        json!(1.5),
        json!(true),
        json!(""),
        json!("secrets"),
        json!([null]),
        json!({"identity": {}}),
    ];
    let value = value[random.below(value.len())].clone();
    if let Some(place) = any_place(random, config, |_| true) {
        *place = value;
    }
}

/// Removes a field, adds an unknown one, changes a field's case, or gives a field twice.
fn fields(random: &mut Random, config: &mut Value) {
    let how = random.below(5);
    let (a, b) = (random.next(), random.next());
    let Some(Value::Object(map)) = any_place(random, config, |place| !place.ends_with("/identity")) else {
        return;
    };
    let all: Vec<String> = map.keys().cloned().collect();
    let Some(name) = all.get(usize::try_from(a % 16).unwrap() % all.len().max(1)).cloned() else { return };
    match how {
        0 => drop(map.shift_remove(&name)),
        1 => {
            drop(map.insert(
                ["comment", "Keys", "<<", "1"][usize::try_from(b % 4).unwrap()].to_owned(),
                json!("x"),
            ));
        }
        2 => {
            let value = map.shift_remove(&name).unwrap();
            map.insert(name.to_uppercase(), value);
        }
        3 => {
            let value = map[&name].clone();
            map.insert(format!("{name}{AGAIN}"), value);
        }
        _ => drop(map.insert(format!("{name}{AGAIN}"), json!(null))),
    }
}

fn kms(random: &mut Random, config: &mut Value) {
    let Some(Value::Object(kms)) = any_place(random, config, |place| place.ends_with("/kms")) else {
        return;
    };
    match random.below(7) {
        0 => drop(kms.insert(
            "apiVersion".into(),
            [json!("v1"), json!("v3"), json!(""), json!(null), json!("V2")][random.below(5)].clone(),
        )),
        1 => drop(kms.insert("timeout".into(), json!(random.pick(&TIMEOUTS)))),
        2 => {
            let sizes = [
                json!(0),
                json!(-1),
                json!(5),
                json!(null),
                json!(2_147_483_648_i64),
                json!(1.0),
                json!("5"),
            ];
            kms.insert("cachesize".into(), sizes[random.below(sizes.len())].clone());
            if random.percent(60) {
                kms.insert("apiVersion".into(), json!("v1"));
            }
        }
        3 => drop(kms.insert("endpoint".into(), json!(random.pick(&ENDPOINTS)))),
        4 => drop(kms.insert("name".into(), json!(random.pick(&KMS_NAMES)))),
        5 => drop(kms.shift_remove("timeout")),
        _ => drop(kms.shift_remove("apiVersion")),
    }
}

fn secret(random: &mut Random, config: &mut Value) {
    let how = random.below(9);
    let at = random.below(16);
    let Some(Value::String(secret)) = any_place(random, config, |place| place.ends_with("/secret")) else {
        return;
    };
    let at = at.min(secret.len());
    match how {
        0 => secret.insert(at, '\n'),
        1 => secret.push('\n'),
        2 => secret.insert_str(at, "\r\n"),
        3 => *secret = secret.trim_end_matches('=').to_owned(),
        4 => *secret = secret.replace('+', "-").replace('/', "_"),
        5 => secret.insert(at, ' '),
        6 => *secret = secret.replace("A=", "B="),
        7 => secret.truncate(secret.len().saturating_sub(1)),
        _ => {
            ["", "AAAA", "AAAAAAAAAAAAAAAAAAAAAA==", "AAAAAAAAAAAAAAAAAAAAAB=="][at % 4].clone_into(secret);
        }
    }
}

fn header(random: &mut Random, config: &mut Value) {
    let (kind, version) = [
        ("EncryptionConfig", "v1"),
        ("EncryptionConfiguration", "v1"),
        ("EncryptionConfiguration", "apiserver.config.k8s.io/v1alpha1"),
        ("EncryptionConfiguration", "apiserver.k8s.io/v1"),
        ("encryptionconfiguration", "apiserver.config.k8s.io/v1"),
        ("AdmissionConfiguration", "apiserver.config.k8s.io/v1"),
        ("", ""),
    ][random.below(7)];
    if let Value::Object(fields) = config {
        fields.insert("kind".to_owned(), json!(kind));
        fields.insert("apiVersion".to_owned(), json!(version));
    }
}

fn move_identity(random: &mut Random, config: &mut Value) {
    let front = random.percent(50);
    let Some(Value::Array(list)) = any_place(random, config, |place| place.ends_with("/providers")) else {
        return;
    };
    list.retain(|provider| provider.get("identity").is_none());
    if front {
        list.insert(0, json!({"identity": {}}));
    }
}

fn another_provider(random: &mut Random, config: &mut Value) {
    let keys = json!({"keys": [{"name": "2", "secret": "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="}]});
    let provider = [
        json!({"aescbc": keys}),
        json!({"secretbox": keys, "identity": {}}),
        json!({"identity": null}),
        json!({"aesgcm": null, "secretbox": keys}),
        json!({"aesgcm": {"keys": [{"name": "9", "secret": "AAAAAAAAAAAAAAAAAAAAAA=="}]}}),
        json!({}),
    ][random.below(6)]
    .clone();
    let Some(Value::Array(list)) = any_place(random, config, |place| place.ends_with("/providers")) else {
        return;
    };
    let at = random.below(list.len() + 1);
    list.insert(at, provider);
}

const TOKENS: [&str; 34] = [
    "\t",
    " ",
    "#",
    " # ",
    ":",
    ": ",
    "- ",
    "{",
    "}",
    "[",
    "]",
    ",",
    "&a ",
    "*a",
    "!!str ",
    "!!binary ",
    "<<: ",
    "---\n",
    "...\n",
    "\n---\n{}\n",
    "%YAML 1.1\n",
    "\u{85}",
    "\u{2028}",
    "\u{feff}",
    "\r",
    "\0",
    "~",
    "null",
    "'",
    "\"",
    "\\x31",
    "\\/",
    "? ",
    "|\n",
];

/// Changes the text.
pub(crate) fn text(random: &mut Random, text: &mut String) {
    for _ in 0..=random.below(2) {
        let boundary = |text: &str, mut at: usize| {
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            at
        };
        let at = boundary(text, random.below(text.len() + 1));
        match random.below(5) {
            0 => text.insert_str(at, random.pick(&TOKENS)),
            1 => {
                let end = boundary(text, (at + 1 + random.below(12)).min(text.len()));
                text.replace_range(at..end.max(at), "");
            }
            2 => lines(text, random, |lines, at, _| lines.insert(at, lines[at].clone())),
            3 => lines(text, random, |lines, at, other| lines.swap(at, other)),
            _ => lines(text, random, |lines, at, other| {
                lines[at] =
                    if other % 2 == 0 { format!("  {}", lines[at]) } else { lines[at].replacen("  ", "", 1) };
            }),
        }
    }
}

fn lines(text: &mut String, random: &mut Random, change: impl Fn(&mut Vec<String>, usize, usize)) {
    let mut lines: Vec<String> = text.split('\n').map(ToOwned::to_owned).collect();
    let (at, other) = (random.below(lines.len()), random.below(lines.len()));
    change(&mut lines, at, other);
    *text = lines.join("\n");
}
