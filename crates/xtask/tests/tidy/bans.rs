//! Words that must not appear: in the core, in the product, anywhere.

use crate::assert_none;
use crate::repository::{File, files, sources};
use crate::rust::is_word;

/// What would let time, chance or the outside world into the protocols. A group import could hide
/// one of them, so the core imports from `std` one module a line.
const IN_CORE: [&str; 13] = [
    "std::net",
    "std::fs",
    "std::thread",
    "std::env",
    "std::time",
    "std::{",
    "Instant",
    "SystemTime",
    "HashMap",
    "HashSet",
    "async",
    ".await",
    "rand",
];

/// An `expect` says why it holds.
const IN_PRODUCT: [&str; 1] = [".unwrap()"];

/// What is left over from writing.
const ANYWHERE: [&str; 3] = ["todo!", "dbg!", "unimplemented!"];

/// Folders of one machine, by their first name: whoever clones the repository has others.
const MACHINE_FOLDERS: [&str; 4] = ["home", "root", "tmp", "work"];

#[test]
fn core_knows_no_clock_no_chance_and_no_io() {
    let core = sources().into_iter().filter(|file| file.path.starts_with("crates/core/src/"));
    let broken: Vec<String> =
        core.flat_map(|file| hits(&file, &file.product_code(), &IN_CORE)).collect();
    assert_none("banned in core", &broken);
}

#[test]
fn nothing_is_unwrapped_without_a_reason() {
    let broken: Vec<String> =
        sources().iter().flat_map(|file| hits(file, &file.product_code(), &IN_PRODUCT)).collect();
    assert_none("banned outside tests", &broken);
}

#[test]
fn nothing_is_left_unfinished() {
    let broken: Vec<String> =
        sources().iter().flat_map(|file| hits(file, &file.code(), &ANYWHERE)).collect();
    assert_none("banned everywhere", &broken);
}

#[test]
fn no_file_names_a_folder_of_one_machine() {
    let mut broken = Vec::new();
    for file in files(&["rs", "md", "toml", "sql", "sh", "proto", "html", "css", "js", "json"]) {
        for (number, line) in (1..).zip(file.text.lines()) {
            let folder = MACHINE_FOLDERS.iter().find(|folder| names_folder(line, folder));
            broken.extend(folder.map(|folder| format!("{}:{number}: /{folder}", file.path)));
        }
    }
    assert_none("folders of one machine", &broken);
}

/// Whether an absolute path in this line starts with the folder.
fn names_folder(line: &str, folder: &str) -> bool {
    let folder = format!("/{folder}/");
    line.match_indices(&folder).any(|(at, _)| {
        !line[..at]
            .ends_with(|c: char| is_word(c) || matches!(c, '.' | '-' | '/' | '}' | '~' | '*'))
    })
}

fn hits(file: &File, code: &str, banned: &[&str]) -> Vec<String> {
    let mut hits = Vec::new();
    for (number, line) in (1..).zip(code.lines()) {
        let found = banned.iter().filter(|banned| contains(line, banned));
        hits.extend(found.map(|banned| format!("{}:{number}: {banned}", file.path)));
    }
    hits
}

/// Whether the line contains what is banned, not as a part of a longer word.
fn contains(line: &str, banned: &str) -> bool {
    line.match_indices(banned).any(|(at, _)| {
        let starts = !banned.starts_with(is_word) || !line[..at].ends_with(is_word);
        let ends = !banned.ends_with(is_word) || !line[at + banned.len()..].starts_with(is_word);
        starts && ends
    })
}

#[test]
fn bans_hold_for_whole_words_only() {
    assert!(contains("use std::time::Duration;", "std::time"));
    assert!(contains("value.unwrap();", ".unwrap()"));
    assert!(contains("pub async fn run()", "async"));
    assert!(!contains("let rand_a = operand;", "rand"));
    assert!(!contains("value.unwrap_or(1)", ".unwrap()"));
}

#[test]
fn folders_count_only_at_the_start_of_a_path() {
    assert!(names_folder(&format!("let dir = \"{}tmp/x\";", '/'), "tmp"));
    assert!(!names_folder("target/tmp/x", "tmp"));
    assert!(!names_folder("{dir}/work/x", "work"));
}
