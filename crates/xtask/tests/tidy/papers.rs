//! What the documents say must be so: links, error codes, names of tests.

use std::collections::BTreeSet;

use crate::repository::{File, exists, files, find, sources};
use crate::{assert_none, rust};

const ERROR_CODES: &str = "docs/error-codes.md";
const GUARANTEES: &str = "docs/guarantees.md";

#[test]
fn links_between_documents_lead_somewhere() {
    let mut broken = Vec::new();
    for file in files(&["md"]) {
        for (number, target) in links(&file.text) {
            if !target.contains("://") && !target.starts_with("mailto:") && !leads(&file, target) {
                broken.push(format!("{}:{number}: {target}", file.path));
            }
        }
    }
    assert_none("links that lead nowhere", &broken);
}

#[test]
fn documents_named_in_sources_exist() {
    let mut broken = Vec::new();
    // This file names documents that may be missing.
    for file in sources().into_iter().filter(|file| file.crate_name() != Some("xtask")) {
        for (number, line) in (1..).zip(file.text.lines()) {
            let words = line.split(|c: char| !rust::is_word(c) && !matches!(c, '/' | '-' | '.'));
            let papers = words.map(|word| word.trim_end_matches('.'));
            let papers = papers.filter(|word| word.starts_with("docs/") && word.ends_with(".md"));
            let missing = papers.filter(|paper| !exists(paper));
            broken.extend(missing.map(|paper| format!("{}:{number}: {paper}", file.path)));
        }
    }
    assert_none("documents that do not exist", &broken);
}

#[test]
fn error_codes_are_documented_and_documented_ones_exist() {
    let api = sources().into_iter().filter(|file| file.path.starts_with("crates/api/src/"));
    let used: BTreeSet<String> = api.flat_map(|file| error_codes(&file.text)).collect();
    let documented: BTreeSet<String> =
        error_codes(&find(ERROR_CODES).unwrap_or_default()).into_iter().collect();
    let silent = used.difference(&documented).map(|code| format!("{code}: not in {ERROR_CODES}"));
    let stale = documented.difference(&used).map(|code| format!("{code}: not in crates/api"));
    assert_none("error codes on one side only", &silent.chain(stale).collect::<Vec<_>>());
}

#[test]
fn tests_named_as_guarantees_exist() {
    let guarantees = find(GUARANTEES).unwrap_or_default();
    let sources: Vec<(File, Vec<String>)> = sources()
        .into_iter()
        .map(|file| {
            let tests = rust::test_names(&file.code());
            (file, tests)
        })
        .collect();
    let mut broken = Vec::new();
    for (number, span) in code_spans(&guarantees) {
        let Some((place, test)) = named_test(span) else { continue };
        let mut places = sources.iter().filter(|(file, _)| is_at(file, place));
        if !places.any(|(_, tests)| tests.iter().any(|name| name == test)) {
            broken.push(format!("{GUARANTEES}:{number}: {span}"));
        }
    }
    assert_none("tests that do not exist", &broken);
}

/// Line and target of each link.
fn links(markdown: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (number, line) in prose(markdown) {
        let mut rest = line;
        while let Some((_, after)) = rest.split_once("](") {
            let target = after.split([')', ' ']).next().unwrap_or_default();
            found.push((number, target));
            rest = after;
        }
    }
    found
}

/// The lines outside of code blocks, counted from one.
fn prose(markdown: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_block = false;
    (1..).zip(markdown.lines()).filter(move |(_, line)| {
        let is_fence = line.trim_start().starts_with("```");
        in_block ^= is_fence;
        !in_block && !is_fence
    })
}

fn leads(from: &File, target: &str) -> bool {
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let folder = from.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let path = match path {
        "" => from.path.clone(),
        path => format!("{folder}/{path}").trim_start_matches('/').to_owned(),
    };
    match anchor {
        "" => exists(&path),
        anchor => find(&path).is_some_and(|text| anchors(&text).iter().any(|it| it == anchor)),
    }
}

/// The names under which the headings can be linked to.
fn anchors(markdown: &str) -> Vec<String> {
    let headings = prose(markdown).filter(|(_, line)| line.starts_with('#'));
    let titles = headings.map(|(_, line)| line.trim_start_matches('#').trim().to_lowercase());
    let kept = |c: &char| rust::is_word(*c) || matches!(c, '-' | ' ');
    titles.map(|title| title.chars().filter(kept).collect::<String>().replace(' ', "-")).collect()
}

fn error_codes(text: &str) -> Vec<String> {
    let digits = text.match_indices("UNA").map(|(at, _)| &text[at + 3..]);
    let digits = digits.filter_map(|rest| rest.get(..4));
    digits
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
        .map(|digits| format!("UNA{digits}"))
        .collect()
}

/// Line and text of what stands between single backticks.
fn code_spans(markdown: &str) -> Vec<(usize, &str)> {
    let spans = |(number, line): (usize, _)| {
        str::split(line, '`').skip(1).step_by(2).map(move |span| (number, span))
    };
    prose(markdown).flat_map(spans).collect()
}

/// The crate or file, and the name, of a test written as `crate::module::test` or `file.rs::test`.
fn named_test(span: &str) -> Option<(&str, &str)> {
    let (place, rest) = span.split_once("::")?;
    let is_crate = exists(&format!("crates/{}", crate_folder(place)));
    let is_test = is_crate || place.ends_with(".rs");
    is_test.then(|| (place, rest.rsplit("::").next().unwrap_or(rest)))
}

fn is_at(file: &File, place: &str) -> bool {
    match place.ends_with(".rs") {
        true => format!("/{}", file.path).ends_with(&format!("/{place}")),
        false => file.crate_name() == Some(crate_folder(place)),
    }
}

fn crate_folder(name: &str) -> &str {
    name.strip_prefix("unanimous_").or(name.strip_prefix("unanimous-")).unwrap_or(name)
}

#[test]
fn links_and_headings_are_found_outside_of_code() {
    let markdown = "# On `Gate`, and time\n[a](b.md#c \"title\") [d](e)\n```\n[f](g)\n# h\n```\n";
    assert_eq!(links(markdown), [(2, "b.md#c"), (2, "e")]);
    assert_eq!(anchors(markdown), ["on-gate-and-time"]);
}

#[test]
fn tests_are_named_by_crate_or_by_file() {
    assert_eq!(named_test("core::gate::tests::holds"), Some(("core", "holds")));
    assert_eq!(named_test("tests/crash.rs::heals"), Some(("tests/crash.rs", "heals")));
    assert_eq!(named_test("Txn::handle"), None);
    assert_eq!(code_spans("a `b` c `d::e`"), [(1, "b"), (1, "d::e")]);
    assert_eq!(error_codes("UNA0104 and UNA99, UNA2001."), ["UNA0104", "UNA2001"]);
}
