//! `[invariants.NAME]`: queries whose values belong together, as they are written and checked.

use std::collections::BTreeMap;

use serde::Deserialize;
use unanimous_api::TIMEOUT_MS_MAX;
use unanimous_core::limits::NAME_LEN_MAX;
use unanimous_participants::{OpenError, Takes};

use super::rule::Relation;
use crate::config::{ConfigError, ResourceConfig, is_name};
use crate::limits::{INVARIANT_EVERY_MS_DEFAULT, INVARIANT_EVERY_MS_MIN, INVARIANT_QUERIES_MAX};
use crate::resources::Resources;

/// Queries whose values belong together.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct InvariantConfig {
    /// Queries of one number each, at least one.
    pub queries: Vec<QueryConfig>,
    /// How they belong together.
    pub relation: Relation,
    /// Milliseconds from the end of a check to the next; zero if it is checked on demand only.
    pub every_ms: u64,
}

/// A query of one number.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct QueryConfig {
    /// Where.
    pub resource: String,
    /// What.
    pub sql: String,
}

/// An invariant as the file has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileInvariant {
    queries: Vec<FileQuery>,
    relation: String,
    every_ms: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileQuery {
    resource: String,
    sql: String,
}

/// Checks invariants as far as that goes without the resources themselves.
pub(crate) fn invariants(
    file: BTreeMap<String, FileInvariant>,
    resources: &BTreeMap<String, ResourceConfig>,
) -> Result<BTreeMap<String, InvariantConfig>, ConfigError> {
    file.into_iter().map(|(name, file)| invariant(name, file, resources)).collect()
}

fn invariant(
    name: String,
    file: FileInvariant,
    resources: &BTreeMap<String, ResourceConfig>,
) -> Result<(String, InvariantConfig), ConfigError> {
    let key = format!("invariants.{name}");
    let wrong = |line: String| Err(ConfigError(line));
    if !is_name(&name) {
        return wrong(format!(
            "{key}: use 1 to {NAME_LEN_MAX} letters, digits, dashes, dots and underscores"
        ));
    }
    let FileInvariant { queries, relation: word, every_ms } = file;
    let Some(relation) = Relation::ALL.into_iter().find(|it| it.as_str() == word) else {
        let known = Relation::ALL.map(Relation::as_str).join(", ");
        return wrong(format!("{key}.relation = {word:?}: choose from {known}"));
    };
    let fewest = match relation {
        Relation::Equal => 2,
        Relation::SumZero | Relation::Zero => 1,
    };
    if !(fewest..=INVARIANT_QUERIES_MAX).contains(&queries.len()) {
        let count = queries.len();
        return wrong(format!(
            "{key}.queries has {count}: for relation = {word:?} write {fewest} to \
             {INVARIANT_QUERIES_MAX}"
        ));
    }
    for (index, query) in queries.iter().enumerate() {
        if !resources.contains_key(&query.resource) {
            let known: Vec<&str> = resources.keys().map(String::as_str).collect();
            return wrong(format!(
                "{key}.queries[{index}].resource = {:?}: no such resource; configured: {}",
                query.resource,
                known.join(", ")
            ));
        }
        if query.sql.trim().is_empty() {
            return wrong(format!("{key}.queries[{index}].sql is empty: write a query"));
        }
    }
    let every_ms = every_ms.unwrap_or(INVARIANT_EVERY_MS_DEFAULT);
    if every_ms != 0 && !(INVARIANT_EVERY_MS_MIN..=TIMEOUT_MS_MAX).contains(&every_ms) {
        return wrong(format!(
            "{key}.every_ms is {every_ms}: choose from {INVARIANT_EVERY_MS_MIN} to \
             {TIMEOUT_MS_MAX}, or 0 to check on demand only"
        ));
    }
    let query = |FileQuery { resource, sql }| QueryConfig { resource, sql };
    let queries = queries.into_iter().map(query).collect();
    Ok((name, InvariantConfig { queries, relation, every_ms }))
}

/// Refuses queries for a resource that takes no statements.
///
/// # Errors
///
/// [`OpenError`] names the first of them.
pub(crate) fn refuse_unreadable(
    invariants: &BTreeMap<String, InvariantConfig>,
    resources: &Resources,
) -> Result<(), OpenError> {
    for (name, invariant) in invariants {
        for (index, query) in invariant.queries.iter().enumerate() {
            let Some((_, resource)) = resources.get(&query.resource) else { continue };
            match resource.takes() {
                Takes::Statements => {}
                Takes::Body | Takes::Commands => {
                    let kind = resource.kind();
                    let problem = format!(
                        "invariants.{name}.queries[{index}] asks it, and a resource of the kind \
                         {kind} takes no statements: name a postgres or mysql resource"
                    );
                    return Err(OpenError { resource: query.resource.clone(), problem });
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use unanimous_participants::Unobserved;

    use super::*;
    use crate::config::{Config, Overrides};

    const RESOURCES: &str = "[resources.wallet]\nurl = 'postgres://u@127.0.0.1/w'\n\
        [resources.ledger]\nurl = 'mysql://u@127.0.0.1/l'\n\
        [resources.shop]\nurl = 'http://127.0.0.1:9'\n\
        [resources.stock]\nurl = 'redis://127.0.0.1:9/0'\n";

    fn parse(invariant: &str) -> Result<Config, String> {
        let text = format!("{RESOURCES}{invariant}");
        Config::parse(&text, Path::new("f"), Overrides::default(), &|_| None).map_err(|it| it.0)
    }

    fn open(invariant: &str) -> Result<Resources, String> {
        let observer = Arc::new(Unobserved) as _;
        Resources::open(&parse(invariant)?, &observer).map_err(|error| error.to_string())
    }

    const TWO: &str = "queries = [{resource = 'wallet', sql = 'SELECT 1'}, \
                       {resource = 'ledger', sql = 'SELECT 1'}]\n";

    #[test]
    fn an_invariant_is_checked_every_minute_unless_it_says_otherwise() {
        let config = parse(&format!("[invariants.books]\n{TWO}relation = 'equal'")).expect("valid");
        let books = &config.invariants["books"];
        assert_eq!((books.relation, books.every_ms), (Relation::Equal, 60_000));
        assert_eq!(books.queries[1].resource, "ledger");
        let text = format!("[invariants.books]\n{TWO}relation = 'sum_zero'\nevery_ms = 0");
        assert_eq!(parse(&text).expect("valid").invariants["books"].every_ms, 0);
        assert!(open(&text).is_ok());
    }

    #[test]
    fn every_mistake_gets_one_line_that_names_the_key() {
        let one = |resource: &str, sql: &str| {
            format!("queries = [{{resource = '{resource}', sql = '{sql}'}}]\nrelation = 'zero'")
        };
        let named = |name: &str, rest: &str| format!("[invariants.{name}]\n{rest}");
        let equal = format!("{TWO}relation = 'equal'");
        for (text, line) in [
            (named("\"a b\"", &equal), "invariants.a b: use 1 to"),
            (named("b", &one("walet", "x")), "invariants.b.queries[0].resource = \"walet\""),
            (named("b", &one("walet", "x")), "configured: ledger, shop, stock, wallet"),
            (named("b", &one("wallet", " ")), "invariants.b.queries[0].sql is empty"),
            (named("b", &one("shop", "x")), "shop: invariants.b.queries[0] asks it"),
            (named("b", &one("stock", "x")), "of the kind redis takes no statements"),
            (named("b", &format!("{TWO}relation = 'equl'")), "invariants.b.relation = \"equl\""),
            (named("b", &format!("{TWO}relation = 'x'")), "choose from equal, sum_zero, zero"),
            (
                named("b", &one("wallet", "x").replace("zero", "equal")),
                "invariants.b.queries has 1: for relation = \"equal\" write 2 to",
            ),
            (named("b", "queries = []\nrelation = 'zero'"), "invariants.b.queries has 0"),
            (named("b", &format!("{equal}\nevery_ms = 5")), "invariants.b.every_ms is 5"),
            (named("b", &format!("{equal}\nevery_ms = -1")), "line 12"),
            (named("b", &format!("{equal}\nevery = 5")), "every"),
            (named("b", TWO), "relation"),
            (named("b", "relation = 'zero'"), "queries"),
            (named("b", "queries = [{resource = 'wallet'}]\nrelation = 'zero'"), "sql"),
        ] {
            let said = open(&text).err().unwrap_or_else(|| panic!("{text} is taken"));
            assert!(said.contains(line), "{text}: {said}");
            assert!(!said.contains('\n'), "{said}");
        }
    }
}
