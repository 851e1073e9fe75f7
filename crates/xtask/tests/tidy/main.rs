//! Rules about the repository itself, checked with every `cargo test`.
//!
//! Each test collects everything that breaks its rule before it fails, so that one run tells all.

mod arrows;
mod bans;
mod manifest;
mod papers;
mod repository;
mod rust;
mod shape;

/// Fails with the list of everything that breaks the rule.
#[track_caller]
fn assert_none(rule: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{rule}:\n  {}\n", broken.join("\n  "));
}
