//! The spelling that was probably meant.

/// The known word that is closest to this one. It may differ in letter case, in at most two letters, and in fewer than
/// half of the letters.
pub fn closest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let word = word.to_lowercase();
    let distances =
        known.into_iter().map(|candidate| (distance(&word, &candidate.to_lowercase()), candidate));
    let closest = distances.filter(|(distance, _)| *distance <= 2 && distance * 2 < word.chars().count());
    closest.min_by_key(|(distance, _)| *distance).map(|(_, candidate)| candidate)
}

/// The hint at the end of an error; empty if no known word is close.
pub fn hint<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> String {
    closest(word, known).map(|known| format!("; did you mean {known:?}?")).unwrap_or_default()
}

/// Number of letters to insert, delete or replace, and of neighbours to exchange.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    // The previous letter, and the row before the one of that letter.
    let mut before: Option<(char, Vec<usize>)> = None;
    for (i, letter) in one.chars().enumerate() {
        let mut next = vec![i.saturating_add(1)];
        for (j, ((expected, diagonal), above)) in other.iter().zip(&row).zip(row.iter().skip(1)).enumerate() {
            let left = next.last().copied().unwrap_or_default();
            let replaced = diagonal.saturating_add(usize::from(letter != *expected));
            let exchanged = before.as_ref().zip(j.checked_sub(1)).and_then(|((last, row), at)| {
                let crosses = *last == *expected && other.get(at) == Some(&letter);
                row.get(at).filter(|_| crosses).map(|cost| cost.saturating_add(1))
            });
            let changed = replaced.min(above.saturating_add(1)).min(left.saturating_add(1));
            next.push(exchanged.map_or(changed, |cost| cost.min(changed)));
        }
        before = Some((letter, std::mem::replace(&mut row, next)));
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letter_case_and_small_mistakes_are_recognized() {
        let modes = ["identity", "aescbc", "aesgcm", "secretbox", "KMS"];
        for (written, meant) in [
            ("kms", Some("KMS")),
            ("AESCBC", Some("aescbc")),
            ("Identity", Some("identity")),
            ("aescgm", Some("aesgcm")),
            ("secretbx", Some("secretbox")),
            ("rot13", None),
            ("", None),
        ] {
            assert_eq!(closest(written, modes), meant, "{written}");
        }
        let fields = ["encryption", "resources", "decrypt", "plugins"];
        for (written, meant) in [
            ("encrytion", "encryption"),
            ("ressources", "resources"),
            ("Decrypt", "decrypt"),
            ("plugin", "plugins"),
        ] {
            assert_eq!(closest(written, fields), Some(meant), "{written}");
        }
        assert_eq!(hint("encrytion", fields), "; did you mean \"encryption\"?");
        assert_eq!(hint("unrelated", fields), "");
    }
}
