//! Resources that stay encrypted because their decryption is not confirmed
//! (invariant: decryption-is-confirmed), and resources that are encrypted although they should not be.

use super::Turn;
use crate::snapshot::Snapshot;

/// Reports which resources left the spec's list and stay encrypted, and how to confirm their decryption.
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

/// The message. `plan` shows the same one.
pub fn message(unconfirmed: &[crate::ids::GroupResource]) -> Option<String> {
    let names: Vec<String> = unconfirmed.iter().map(ToString::to_string).collect();
    let (first, rest) = names.split_first()?;
    let stay = if rest.is_empty() { "stays" } else { "stay" };
    let names = names.join(", ");
    Some(format!(
        "{names} left spec.resources but {stay} encrypted; to decrypt, add {names} to spec.decrypt; to keep the encryption, add {} to spec.resources again",
        if rest.is_empty() { first } else { "them" }
    ))
}
