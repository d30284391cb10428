//! Adds items to lists of a YAML text, line by line. Every other byte stays, including line endings. The
//! caller parses the result again to check its meaning.

/// A list under a key, whose items have one or more lines each.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct List {
    /// Spaces before each item's dash.
    indent: usize,
    /// The line on which each item begins.
    items: Vec<usize>,
    /// The first line after it.
    end: usize,
}

/// The only list under a key of this name. `None` if there are several, or if it has another form.
pub(super) fn list(lines: &[String], key: &str) -> Option<List> {
    let heading = format!("{key}:");
    let mut found = lines.iter().enumerate().filter_map(|(at, line)| {
        let text = bare(line);
        (text == heading).then_some((at, line.trim_end().len() - text.len()))
    });
    let (Some((at, column)), None) = (found.next(), found.next()) else { return None };
    let following = || lines.iter().enumerate().skip(at + 1).filter(|(_, line)| !is_comment(line));
    let indent = following().next().map(|(_, line)| spaces(line))?;
    if indent < column {
        return None;
    }
    let mut list = List { indent, items: Vec::new(), end: at + 1 };
    for (at, line) in following() {
        let begins = spaces(line) == indent && line.trim_start().starts_with("- ");
        if spaces(line) <= indent && !begins {
            break;
        }
        if begins {
            list.items.push(at);
        }
        list.end = at + 1;
    }
    (!list.items.is_empty()).then_some(list)
}

/// Inserts an item before the one with this index, or at the end. Further lines of the item bring their own
/// indentation.
pub(super) fn insert(lines: &mut Vec<String>, list: &List, before: usize, item: &[String]) {
    let at = list.items.get(before).copied().unwrap_or(list.end);
    let margin = " ".repeat(list.indent);
    let ending = ending(lines);
    let mut fresh: Vec<String> = item
        .iter()
        .enumerate()
        .map(|(n, line)| format!("{margin}{} {line}{ending}", if n == 0 { "-" } else { " " }))
        .collect();
    // If the last line has no line ending, the new last line has none either.
    if let (Some(last), Some(new)) = (at.checked_sub(1).and_then(|at| lines.get_mut(at)), fresh.last_mut())
        && !last.ends_with('\n')
    {
        last.push_str(ending);
        new.truncate(new.len() - ending.len());
    }
    lines.splice(at..at, fresh);
}

/// The line ending of this text.
pub(super) fn ending(lines: &[String]) -> &'static str {
    if lines.first().is_some_and(|line| line.ends_with("\r\n")) { "\r\n" } else { "\n" }
}

/// The index of a name in a list that is sorted by name.
pub(super) fn place<'a>(names: impl Iterator<Item = &'a str>, name: &str) -> usize {
    let mut count = 0;
    for (at, other) in names.enumerate() {
        if other > name {
            return at;
        }
        count = at + 1;
    }
    count
}

/// The lines, each with its line ending.
pub(super) fn of(text: &str) -> Vec<String> {
    text.split_inclusive('\n').map(str::to_owned).collect()
}

/// The line without indentation and without the dashes of lists that begin on it.
fn bare(line: &str) -> &str {
    let mut text = line.trim();
    while let Some(rest) = text.strip_prefix("- ") {
        text = rest.trim_start();
    }
    text
}

fn spaces(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}

fn is_comment(line: &str) -> bool {
    let text = line.trim();
    text.is_empty() || text.starts_with('#')
}
