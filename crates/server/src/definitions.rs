//! Sagas that are known by name: their steps stand in files, and requests only name them.
//!
//! A file is read and checked at the start. A saga that has begun has its steps in the journal, so it
//! goes on as it began, whatever the files say later.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::value::RawValue;
use unanimous_api::{DefinitionView, DefinitionsView, StepRequest};

use crate::config::{ConfigError, is_name};

/// Versions are small numbers that count up.
const VERSION_MAX: u32 = 1_000_000;

/// A saga that is known by name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SagaConfig {
    /// Its name.
    pub name: String,
    /// Which of that name.
    pub version: u32,
    /// Where its steps are.
    pub file: PathBuf,
    /// What stands there: an object with `steps`.
    pub text: String,
}

/// The same as the configuration has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileSaga {
    name: String,
    version: u32,
    file: PathBuf,
}

/// What stands in the file of a definition.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written<'a> {
    #[serde(borrow)]
    steps: Vec<StepRequest<&'a RawValue>>,
}

/// Reads the files of the configured sagas.
///
/// # Errors
///
/// [`ConfigError`] with one line that names the saga and what to do.
pub(crate) fn sagas(files: Vec<FileSaga>) -> Result<Vec<SagaConfig>, ConfigError> {
    let mut sagas: Vec<SagaConfig> = Vec::with_capacity(files.len());
    for FileSaga { name, version, file } in files {
        let wrong = |why: String| ConfigError(format!("saga {name}@{version}: {why}"));
        if !is_name(&name) {
            return Err(wrong("use letters, digits, dashes, dots and underscores".to_owned()));
        }
        if !(1..=VERSION_MAX).contains(&version) {
            return Err(wrong(format!("choose a version from 1 to {VERSION_MAX}")));
        }
        if sagas.iter().any(|other| other.name == name && other.version == version) {
            return Err(wrong("it is configured twice: remove one".to_owned()));
        }
        let text = std::fs::read_to_string(&file)
            .map_err(|error| wrong(format!("file = {:?}: {error}", file.display())))?;
        serde_json::from_str::<Written<'_>>(&text)
            .map_err(|error| wrong(format!("file = {:?}: {error}", file.display())))?;
        sagas.push(SagaConfig { name, version, file, text });
    }
    Ok(sagas)
}

/// The sagas that are known by name.
#[derive(Debug, Default)]
pub(crate) struct Definitions {
    by_name: BTreeMap<(String, u32), String>,
}

/// One of them.
#[derive(Clone, Copy)]
pub(crate) struct Definition<'a> {
    name: &'a str,
    version: u32,
    text: &'a str,
}

impl Definitions {
    pub(crate) fn new(sagas: &[SagaConfig]) -> Self {
        let entry = |saga: &SagaConfig| ((saga.name.clone(), saga.version), saga.text.clone());
        Self { by_name: sagas.iter().map(entry).collect() }
    }

    /// The saga of a name, or of a name and a version such as `booking@3`; of a name alone the newest.
    pub(crate) fn find(&self, named: &str) -> Option<Definition<'_>> {
        let (name, versions) = match named.split_once('@') {
            Some((name, version)) => {
                let version = version.parse().ok()?;
                (name, version..=version)
            }
            None => (named, 0..=u32::MAX),
        };
        let (from, to) = ((name.to_owned(), *versions.start()), (name.to_owned(), *versions.end()));
        self.all(from..=to).next_back()
    }

    fn all(
        &self,
        range: impl std::ops::RangeBounds<(String, u32)>,
    ) -> impl DoubleEndedIterator<Item = Definition<'_>> {
        let found = self.by_name.range(range);
        found.map(|((name, version), text)| Definition { name, version: *version, text })
    }

    /// All of them, with the names of their steps.
    pub(crate) fn view(&self) -> DefinitionsView {
        let view = |it: Definition<'_>| DefinitionView {
            name: it.name.to_owned(),
            version: it.version,
            steps: it.steps().into_iter().map(|step| step.name).collect(),
        };
        DefinitionsView { sagas: self.all(..).map(view).collect() }
    }

    /// Every one, to be checked.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Definition<'_>> {
        self.all(..)
    }
}

impl<'a> Definition<'a> {
    /// Its name with its version.
    pub(crate) fn label(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }

    pub(crate) fn steps(&self) -> Vec<StepRequest<&'a RawValue>> {
        let written = serde_json::from_str::<Written<'a>>(self.text);
        written.expect("it was read at the start").steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definitions() -> Definitions {
        let saga = |name: &str, version| SagaConfig {
            name: name.to_owned(),
            version,
            file: PathBuf::new(),
            text: format!(r#"{{"steps":[{{"name":"v{version}","pause_ms":1}}]}}"#),
        };
        Definitions::new(&[saga("booking", 2), saga("booking", 10), saga("bookings", 11)])
    }

    #[test]
    fn a_name_alone_is_the_newest_of_that_name_and_a_version_is_that_one_or_none() {
        let definitions = definitions();
        let found = |named: &str| definitions.find(named).map(|it| it.label());
        assert_eq!(found("booking").as_deref(), Some("booking@10"));
        assert_eq!(found("booking@2").as_deref(), Some("booking@2"));
        for none in ["booking@3", "book", "booking@", "booking@x", "@2", ""] {
            assert_eq!(found(none), None, "{none}");
        }
        assert_eq!(definitions.view().sagas[1].steps, ["v10"]);
    }

    #[test]
    fn what_is_wrong_with_a_definition_is_one_line_that_names_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let good = r#"{"steps":[{"name":"a","pause_ms":1}]}"#;
        let saga = |name: &str, version, text: &str| {
            let file = folder.path().join(format!("{}.json", text.len()));
            std::fs::write(&file, text).expect("written");
            FileSaga { name: name.to_owned(), version, file }
        };
        let lost = FileSaga { name: "a".into(), version: 1, file: "/nowhere/at/all".into() };
        for (files, why) in [
            (vec![saga("a b", 1, good)], "letters, digits"),
            (vec![saga("a", 0, good)], "from 1 to"),
            (vec![saga("a", 1, good), saga("a", 1, good)], "twice"),
            (vec![lost], "/nowhere/at/all"),
            (vec![saga("a", 1, "{}")], "missing field `steps`"),
            (vec![saga("a", 1, r#"{"steps":[],"more":1}"#)], "unknown field"),
        ] {
            let ConfigError(line) = sagas(files).expect_err(why);
            assert!(line.starts_with("saga a") && line.contains(why), "{line}");
        }
    }
}
