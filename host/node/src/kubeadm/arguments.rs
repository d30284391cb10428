//! The two flags.

use super::{CONFIG, Missing, Refusal};

const FILE: &str = "encryption-provider-config";
const RELOAD: &str = "encryption-provider-config-automatic-reload";

/// Which of the flags are not among these, given as name and value without the dashes.
pub(super) fn missing(given: &[(String, String)]) -> Result<Vec<Missing>, Refusal> {
    let mut missing = Vec::new();
    match value(given, FILE)? {
        None => missing.push(Missing::Flag { name: FILE, value: CONFIG }),
        Some(CONFIG) => {}
        Some(path) => return Err(Refusal::Foreign { path: path.to_owned() }),
    }
    match value(given, RELOAD)? {
        None => missing.push(Missing::Flag { name: RELOAD, value: "true" }),
        Some(value) if is_true(value) => {}
        Some(value) => {
            return Err(Refusal::Flag { name: RELOAD, value: value.to_owned(), wanted: "true" });
        }
    }
    Ok(missing)
}

fn value<'a>(given: &'a [(String, String)], flag: &'static str) -> Result<Option<&'a str>, Refusal> {
    let mut found = given.iter().filter(|(name, _)| name == flag);
    match (found.next(), found.next()) {
        (_, Some(_)) => Err(Refusal::Twice { name: flag }),
        (first, None) => Ok(first.map(|(_, value)| value.as_str())),
    }
}

/// As Go reads it.
fn is_true(value: &str) -> bool {
    matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

/// `--name=value` in its two parts; a flag without a value is a switch that is on.
pub(super) fn split(argument: &str) -> Option<(String, String)> {
    let flag = argument.strip_prefix("--")?;
    let (name, value) = flag.split_once('=').unwrap_or((flag, "true"));
    // pflag takes both.
    Some((name.replace('_', "-"), value.to_owned()))
}
