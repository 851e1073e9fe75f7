//! Which crate may depend on which: the picture in ARCHITECTURE.md, as a table.

use crate::manifest::{self, Dependency, manifests};
use crate::{assert_none, repository, rust};

/// Who may use which of our crates, in tests too. A crate may always use itself, as a test does
/// that wants another feature.
const ARROWS: [(&str, &[&str]); 9] = [
    ("api", &[]),
    ("client", &["api", "core"]),
    ("core", &[]),
    ("journal", &["core"]),
    ("participants", &["api", "core"]),
    ("server", &["api", "core", "journal", "participants"]),
    ("sim", &["core"]),
    ("unanimous", &["api", "client", "core", "journal", "participants", "server", "sim"]),
    ("xtask", &[]),
];

/// Crates that may use nothing from outside but what is named here, except in tests.
const OUTSIDE: [(&str, &[&str]); 3] =
    [("api", &["serde", "serde_json"]), ("core", &[]), ("xtask", &[])];

#[test]
fn crates_depend_only_along_the_drawn_arrows() {
    let mut broken = Vec::new();
    for manifest in manifests() {
        let Some((name, allowed)) = ARROWS.iter().find(|(name, _)| *name == manifest.name) else {
            broken.push(format!("{}: has no row in the table of arrows", manifest.name));
            continue;
        };
        let used = manifest.dependencies().into_iter();
        let ours = used.filter_map(|it| it.name.strip_prefix("unanimous-").map(str::to_owned));
        let wrong = ours.filter(|used| used != name && !allowed.contains(&used.as_str()));
        broken.extend(wrong.map(|used| format!("{name} must not depend on {used}")));
    }
    assert_none("arrows that are not drawn", &broken);
}

#[test]
fn the_innermost_crates_use_almost_nothing_from_outside() {
    let mut broken = Vec::new();
    for manifest in manifests() {
        let Some((name, allowed)) = OUTSIDE.iter().find(|(name, _)| *name == manifest.name) else {
            continue;
        };
        let used = manifest.dependencies().into_iter().filter(|it| it.table != "dev-dependencies");
        let wrong = used.filter(|it| !allowed.contains(&it.name.as_str()));
        broken.extend(wrong.map(|it| format!("{name} must not depend on {}", it.name)));
    }
    assert_none("dependencies where none are wanted", &broken);
}

#[test]
fn every_dependency_is_used() {
    let root = repository::find("Cargo.toml").expect("the workspace has a manifest");
    let crates = manifests();
    let used: Vec<Dependency> = crates.iter().flat_map(|it| it.dependencies()).collect();
    let unused = manifest::dependencies(&root).into_iter();
    let unused = unused.filter(|it| !used.iter().any(|used| used.name == it.name));
    let mut broken: Vec<String> =
        unused.map(|it| format!("Cargo.toml: no crate uses {}", it.name)).collect();

    let sources: Vec<(String, String)> = repository::sources()
        .iter()
        .filter_map(|file| Some((file.crate_name()?.to_owned(), file.code())))
        .collect();
    for manifest in crates {
        for Dependency { name, .. } in manifest.dependencies() {
            let word = name.replace('-', "_");
            let mut own = sources.iter().filter(|(owner, _)| *owner == manifest.name);
            if !own.any(|(_, code)| code.split(|c| !rust::is_word(c)).any(|it| it == word)) {
                broken.push(format!("{}: no source uses {name}", manifest.name));
            }
        }
    }
    assert_none("dependencies that nothing needs", &broken);
}

#[test]
fn every_crate_obeys_the_lints_of_the_workspace() {
    let lax = manifests().into_iter().filter(|it| !it.text.contains("[lints]\nworkspace = true"));
    let lax: Vec<String> = lax.map(|it| it.name).collect();
    assert_none("manifests without `[lints] workspace = true`", &lax);
}
