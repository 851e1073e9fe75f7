//! The files of the repository, as the rules want to see them.
//!
//! Paths are relative to the workspace and written with `/`. Hidden folders, build output and data
//! folders are no part of it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::rust;

/// A text file.
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl File {
    /// The name of the crate's folder, if the file belongs to a crate.
    pub(crate) fn crate_name(&self) -> Option<&str> {
        self.path.strip_prefix("crates/")?.split('/').next()
    }

    /// Its code without comments, and without what texts and characters say.
    pub(crate) fn code(&self) -> String {
        rust::code(&self.text)
    }

    /// Its code without the tests in it; nothing if all of it is a test.
    pub(crate) fn product_code(&self) -> String {
        match self.is_test() {
            true => String::new(),
            false => rust::without_tests(&self.code()),
        }
    }

    fn is_test(&self) -> bool {
        let mut parts = self.path.split('/');
        parts.any(|part| matches!(part, "tests" | "benches" | "examples" | "tests.rs"))
    }
}

/// All files with one of these endings, sorted by path.
pub(crate) fn files(endings: &[&str]) -> Vec<File> {
    let mut paths = Vec::new();
    walk(&root(), &mut paths);
    paths.sort();
    let wanted = paths.into_iter().filter(|path| {
        path.extension().is_some_and(|ending| endings.iter().any(|wanted| *wanted == ending))
    });
    wanted.map(|path| File { text: read(&path), path: relative(&path) }).collect()
}

/// All Rust sources.
pub(crate) fn sources() -> Vec<File> {
    files(&["rs"])
}

/// The text of a file, if there is one at this path.
pub(crate) fn find(path: &str) -> Option<String> {
    let path = root().join(path);
    path.is_file().then(|| read(&path))
}

/// Whether a file or a folder is at this path.
pub(crate) fn exists(path: &str) -> bool {
    root().join(path).exists()
}

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn relative(path: &Path) -> String {
    let path = path.strip_prefix(root()).expect("every path was found below the root");
    path.to_str().expect("names are UTF-8").to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    for entry in entries {
        let path = entry.expect("an entry of a readable folder").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_file() {
            found.push(path);
        } else if !name.starts_with('.') && name != "unanimous-data" && !is_build_output(&path) {
            walk(&path, found);
        }
    }
}

fn is_build_output(dir: &Path) -> bool {
    dir.ends_with("target") || dir.join("CACHEDIR.TAG").exists()
}
