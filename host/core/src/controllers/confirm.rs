//! What is not decrypted because nobody confirmed it, and what is encrypted though it should not be.

use super::Turn;
use crate::snapshot::Snapshot;

/// Says which resources left the spec's list and stay encrypted, and what is missing.
pub(super) fn decide(snapshot: &Snapshot, turn: &mut Turn) {
    for notice in &snapshot.wanted.notices {
        turn.explain(notice.clone());
        turn.notice(true, "SpecQuestionable", notice.clone());
    }
    let Some(message) = message(&snapshot.wanted.unconfirmed) else { return };
    turn.explain(message.clone());
    turn.notice(true, "DecryptionNotConfirmed", message.clone());
    turn.wait_behind("DecryptionNotConfirmed", message);
}

/// The same words in `plan`.
pub fn message(unconfirmed: &[crate::ids::GroupResource]) -> Option<String> {
    let names: Vec<String> = unconfirmed.iter().map(ToString::to_string).collect();
    let (first, rest) = names.split_first()?;
    let stay = if rest.is_empty() { "stays" } else { "stay" };
    let names = names.join(", ");
    Some(format!(
        "{names} left spec.resources and {stay} encrypted; to confirm the decryption add {names} to spec.decrypt, or else put {} back in spec.resources",
        if rest.is_empty() { first } else { "them" }
    ))
}
