//! "Did you mean": the known name that is closest to a misspelled one.

/// The closest name of `known`, if at most a third of its letters differ. Case is ignored.
pub(crate) fn closest<'k>(written: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let wanted = written.to_ascii_lowercase();
    known
        .map(|name| (distance(&wanted, &name.to_ascii_lowercase()), name))
        .filter(|(distance, name)| *distance <= name.len().min(written.len()) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// The number of insertions, deletions and replacements of bytes between two texts.
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, left) in from.bytes().enumerate() {
        let mut diagonal = line;
        let mut before = line + 1;
        let mut cells = row.iter_mut();
        if let Some(first) = cells.next() {
            *first = before;
        }
        for (cell, right) in cells.zip(to.bytes()) {
            let replaced = diagonal + usize::from(left != right);
            diagonal = *cell;
            before = replaced.min(before + 1).min(diagonal + 1);
            *cell = before;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{closest, distance};

    #[test]
    fn distance_counts_edits() {
        for (from, to, edits) in
            [("", "abc", 3), ("abc", "abc", 0), ("kitten", "sitting", 3), ("tsl", "tls", 2), ("a", "", 1)]
        {
            assert_eq!(distance(from, to), edits, "{from} → {to}");
        }
    }

    #[test]
    fn only_a_close_name_is_suggested() {
        let known = ["vaultAddress", "vaultNamespace", "tls"];
        for (written, meant) in [
            ("vaultAdress", Some("vaultAddress")),
            ("VAULTNAMESPACE", Some("vaultNamespace")),
            ("TLS", Some("tls")),
            ("ssl", None),
            ("serverName", None),
            ("", None),
        ] {
            assert_eq!(closest(written, known.into_iter()), meant, "{written}");
        }
    }
}
