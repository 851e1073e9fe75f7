//! How long files and functions may be, and how a file starts.

use crate::assert_none;
use crate::repository::{files, sources};
use crate::rust::functions;

const FILE_LINES_MAX: usize = 600;

/// The aim is 60; what is between is for the reviewer to judge.
const FUNCTION_LINES_MAX: usize = 80;

#[test]
fn files_are_short() {
    let long = files(&["rs", "sql", "sh", "proto", "html", "css", "js"]).into_iter();
    let long = long.map(|file| (file.path, file.text.lines().count()));
    let long = long.filter(|(_, lines)| *lines > FILE_LINES_MAX);
    let broken: Vec<String> = long.map(|(path, lines)| format!("{path}: {lines} lines")).collect();
    assert_none("files of more than 600 lines", &broken);
}

#[test]
fn sources_say_first_what_they_are_for() {
    let silent = sources().into_iter().filter(|file| !file.text.starts_with("//! "));
    let broken: Vec<String> = silent.map(|file| file.path).collect();
    assert_none("sources that do not open with `//! `", &broken);
}

#[test]
fn functions_are_short() {
    let mut broken = Vec::new();
    for file in sources() {
        let long = functions(&file.code()).into_iter().filter(|it| it.lines > FUNCTION_LINES_MAX);
        let long =
            long.map(|it| format!("{}:{}: {}, {} lines", file.path, it.line, it.name, it.lines));
        broken.extend(long);
    }
    assert_none("functions of more than 80 lines", &broken);
}
