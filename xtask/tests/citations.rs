//! Every citation in the repository resolves: `invariant: NAME`, `openshift: NAME`, `objects: NAME`, `kubernetes: NAME` and
//! `provider-abi: NAME` are anchors of the page, and `decision NNNN` is a page of docs/design. A page that is not in the
//! repository is cited nowhere, and the descriptions of the CRDs cite nothing.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test stops at the first surprise

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The pages that have anchors, by the word that cites them.
const PAGES: [(&str, &str); 5] = [
    ("invariant", "docs/invariants.md"),
    ("openshift", "docs/reference/openshift.md"),
    ("objects", "docs/reference/objects.md"),
    ("kubernetes", "docs/reference/kubernetes.md"),
    ("provider-abi", "docs/reference/provider-abi.md"),
];

/// How pages were cited that are in no clone. Each is in two parts, so that this file is no finding.
const ELSEWHERE: [(&str, &str); 9] = [
    ("CONT", "RACT"),
    ("DESI", "GN.md"),
    ("OBJEC", "TS.md"),
    ("FIE", "LD.md"),
    ("BUIL", "DING.md"),
    ("CL", "I.md"),
    ("READI", "NESS"),
    ("UPST", "REAM"),
    ("Decis", "ions "),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// What each word may cite.
struct Anchors {
    pages: BTreeMap<&'static str, BTreeSet<String>>,
    decisions: BTreeSet<String>,
}

impl Anchors {
    fn read(root: &Path) -> Self {
        let anchors = |page: &str| -> BTreeSet<String> {
            let text = fs::read_to_string(root.join(page)).unwrap();
            let names = text.split("<a id=\"").skip(1).filter_map(|rest| rest.split_once('"'));
            names.map(|(name, _)| name.to_owned()).collect()
        };
        let files = fs::read_dir(root.join("docs/design")).unwrap();
        let names = files.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        Self {
            pages: PAGES.into_iter().map(|(word, page)| (word, anchors(page))).collect(),
            decisions: names.filter_map(|name| Some(name.split_once('-')?.0.to_owned())).collect(),
        }
    }

    /// The citations of a text that lead nowhere.
    fn broken(&self, text: &str) -> Vec<String> {
        let mut broken = Vec::new();
        for (word, names) in &self.pages {
            for name in citations(text, &format!("{word}: ")) {
                if !names.contains(name) {
                    broken.push(format!("{word}: {name}"));
                }
            }
        }
        for number in citations(text, "decision ") {
            let is_number = number.len() == 4 && number.bytes().all(|byte| byte.is_ascii_digit());
            if is_number && !self.decisions.contains(number) {
                broken.push(format!("decision {number}"));
            }
        }
        broken
    }
}

/// The names that follow this word. A citation begins a parenthesis, or follows another one.
fn citations<'t>(text: &'t str, word: &str) -> Vec<&'t str> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices(word) {
        let before = text[..at].trim_end();
        let follows = before.ends_with(['(', ',', ';', '[', ':']) || before.ends_with(" and");
        let rest = &text[at + word.len()..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(rest.len());
        let name = rest[..end].trim_end_matches('-');
        if follows && !name.is_empty() {
            found.push(name);
        }
    }
    found
}

/// The comments of a file, one line each with what follows; all of a page.
fn prose(path: &Path, text: &str) -> Option<String> {
    let marker = match path.extension()?.to_str()? {
        "rs" | "go" | "wit" | "proto" => "//",
        "yaml" | "toml" | "sh" => "#",
        "md" => return Some(text.to_owned()),
        _ => return None,
    };
    let comments = text
        .lines()
        .filter_map(|line| line.split_once(marker))
        .map(|(_, comment)| comment.trim_start_matches(['/', '!', ' ']));
    Some(comments.collect::<Vec<_>>().join(" "))
}

/// Every file of the repository that people write.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !["target", ".git", "corpus", "node_modules"].contains(&name.as_str()) {
            files(&path, found);
        } else if path.is_file() {
            found.push(path);
        }
    }
}

fn texts() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    files(&root(), &mut found);
    found.into_iter().filter_map(|path| fs::read_to_string(&path).ok().map(|text| (path, text))).collect()
}

#[test]
fn every_citation_leads_to_an_anchor() {
    let anchors = Anchors::read(&root());
    let (mut broken, mut count) = (Vec::new(), 0);
    for (path, text) in texts() {
        let Some(prose) = prose(&path, &text) else { continue };
        count += PAGES.iter().map(|(word, _)| citations(&prose, &format!("{word}: ")).len()).sum::<usize>();
        broken.extend(anchors.broken(&prose).into_iter().map(|one| format!("{}: {one}", path.display())));
    }
    assert!(broken.is_empty(), "{} of {count} lead nowhere:\n{}", broken.len(), broken.join("\n"));
    assert!(count > 300, "only {count} citations were found: they are written in another way now");
}

#[test]
fn every_invariant_is_cited_by_the_code_that_keeps_it() {
    let anchors = Anchors::read(&root());
    let code: Vec<String> = texts()
        .into_iter()
        .filter(|(path, _)| path.extension().is_some_and(|extension| extension == "rs"))
        .filter_map(|(path, text)| prose(&path, &text))
        .collect();
    let cited: BTreeSet<&str> = code.iter().flat_map(|text| citations(text, "invariant: ")).collect();
    let missing: Vec<&String> =
        anchors.pages["invariant"].iter().filter(|name| !cited.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "no code cites {missing:?}");
}

#[test]
fn no_page_outside_the_repository_is_cited() {
    let mut found = Vec::new();
    for (path, text) in texts() {
        for (number, line) in text.lines().enumerate() {
            let cites = |(a, b): &(&str, &str)| {
                let name = format!("{a}{b}");
                let mut after = line.split(&name).skip(1);
                // `Decisions` alone is a word.
                after.any(|rest| !b.ends_with(' ') || rest.starts_with(|c: char| c.is_ascii_digit()))
            };
            if ELSEWHERE.iter().any(cites) && !path.ends_with("Cargo.lock") {
                found.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn descriptions_of_the_crds_cite_nothing() {
    let text = fs::read_to_string(root().join("deploy/crds.yaml")).unwrap();
    let cites = |line: &&str| {
        PAGES.iter().any(|(word, _)| !citations(line, &format!("{word}: ")).is_empty())
            || citations(line, "decision ").iter().any(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let found: Vec<&str> =
        text.lines().filter(|line| line.contains("\"description\"")).filter(cites).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn broken_citation_is_found() {
    let anchors = Anchors::read(&root());
    assert_eq!(anchors.broken("a write key (invariant: read-before-write, decision 0001)"), [""; 0]);
    assert_eq!(
        anchors.broken("a write key (invariant: write-before-read; openshift: no-such-rule), decision 9999"),
        ["invariant: write-before-read", "openshift: no-such-rule", "decision 9999"]
    );
}
