//! Reads `Cargo.toml` just far enough for the rules.
//!
//! Knows the three ways to write a dependency that are in use: `name = …`, `name.workspace = true`
//! and a table of its own, `[dependencies.name]`.

use crate::repository;

/// A dependency of a manifest.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Dependency {
    /// The kind of the table it stands in, such as `dependencies` or `dev-dependencies`.
    pub(crate) table: String,
    pub(crate) name: String,
}

/// A crate of the workspace.
pub(crate) struct Manifest {
    /// The name of its folder.
    pub(crate) name: String,
    pub(crate) text: String,
}

impl Manifest {
    pub(crate) fn dependencies(&self) -> Vec<Dependency> {
        dependencies(&self.text)
    }
}

/// All crates of the workspace.
pub(crate) fn manifests() -> Vec<Manifest> {
    let files = repository::files(&["toml"]).into_iter();
    let manifests = files.filter(|file| file.path.ends_with("/Cargo.toml"));
    let named = manifests.map(|file| {
        let name = file.crate_name().expect("every crate is in crates").to_owned();
        Manifest { name, text: file.text }
    });
    named.collect()
}

/// All dependencies of a manifest, of every table.
pub(crate) fn dependencies(text: &str) -> Vec<Dependency> {
    let mut found = Vec::new();
    let mut table = "";
    for line in text.lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[') {
            table = header.split(']').next().unwrap_or_default();
            if let Some((table, name)) = table.rsplit_once('.')
                && let Some(table) = kind(table)
            {
                found.push(Dependency { table, name: name.to_owned() });
            }
        } else if let Some(table) = kind(table)
            && let Some((key, _)) = line.split_once('=')
            && !key.starts_with('#')
        {
            let name = key.trim().split('.').next().unwrap_or_default().trim_matches('"');
            found.push(Dependency { table, name: name.to_owned() });
        }
    }
    found
}

/// The last part of a table's name, if its keys are dependencies.
fn kind(table: &str) -> Option<String> {
    let last = table.rsplit('.').next().unwrap_or_default();
    last.ends_with("dependencies").then(|| last.to_owned())
}

#[test]
fn dependencies_are_read_from_every_kind_of_table() {
    let text = "[package]\nname = \"x\"\n[dependencies]\n# no = \"1\"\na = \"1\"\nb.workspace = true\n\
                [target.'cfg(unix)'.dev-dependencies]\nc = { path = \"c\" }\n\
                [build-dependencies.d]\nversion = \"1\"\n[lints]\nworkspace = true\n";
    let found: Vec<String> =
        dependencies(text).into_iter().map(|it| format!("{}: {}", it.table, it.name)).collect();
    let expected =
        ["dependencies: a", "dependencies: b", "dev-dependencies: c", "build-dependencies: d"];
    assert_eq!(found, expected);
}
