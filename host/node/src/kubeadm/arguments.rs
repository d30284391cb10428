//! The flags that Keyward needs.

use super::words::Flags;
use super::{CONFIG, Missing, Refusal};

const FILE: &str = "encryption-provider-config";
const RELOAD: &str = "encryption-provider-config-automatic-reload";

/// Keyward's flags that are not among these, and those that have another value.
pub(super) fn examine(flags: &Flags) -> (Vec<Missing>, Vec<Refusal>) {
    let (mut missing, mut refusals) = (Vec::new(), Vec::new());
    match flags.get(FILE) {
        None => missing.push(Missing::Flag { name: FILE, value: CONFIG }),
        Some(CONFIG) => {}
        Some(path) => refusals.push(Refusal::Foreign { path: path.to_owned() }),
    }
    match flags.get(RELOAD) {
        None => missing.push(Missing::Flag { name: RELOAD, value: "true" }),
        Some(value) if is_true(value) => {}
        Some(value) => {
            refusals.push(Refusal::Flag { name: RELOAD, value: value.to_owned(), wanted: "true" });
        }
    }
    (missing, refusals)
}

/// Keyward's flags that have several values, of which kubeadm versions choose different ones.
pub(super) fn ambiguous(flags: &Flags) -> Vec<Refusal> {
    let differs = |name: &&'static str| flags.all(name).any(|value| Some(value) != flags.get(name));
    [FILE, RELOAD].into_iter().filter(differs).map(|name| Refusal::Twice { name }).collect()
}

/// Whether Go reads the value as true.
fn is_true(value: &str) -> bool {
    matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True")
}
