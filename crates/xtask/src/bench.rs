//! `cargo xtask bench`: builds the binary for release and has it measure itself.
//!
//! Each benchmark puts our figure beside its floor in one run. Nothing here asserts a time: what a
//! noisy machine shows is for people to read.

use std::process::Command;

use crate::{BadUsage, Verdict, root};

pub(crate) const HELP: &str = "  \
cargo xtask bench [coordinator | http | saga | sql | startup] [OPTION...]
      Measures decisions a second in one process against two bare loops, transactions over
      HTTP, sagas (also against others: saga --against NAMES), transfers between two PostgreSQL servers against two-phase commit by hand, and a start
      with a million transactions in the journal; all of them unless one is named. Options go to `unanimous bench NAME`, such as --seconds 5 or --json.";

const NAMES: [&str; 5] = ["coordinator", "http", "saga", "sql", "startup"];

pub(crate) fn run(args: &[String]) -> Result<Verdict, BadUsage> {
    let (names, options): (Vec<&str>, &[String]) = match args.split_first() {
        Some((name, rest)) if NAMES.contains(&name.as_str()) => (vec![name], rest),
        Some((other, _)) if !other.starts_with('-') => {
            return Err(BadUsage(format!("there is no benchmark `{other}`")));
        }
        Some(_) | None => (NAMES.to_vec(), args),
    };
    for name in names {
        println!("== {name}");
        let status = Command::new(env!("CARGO"))
            .current_dir(root())
            .args(["run", "--quiet", "--release", "--package", "unanimous", "--", "bench", name])
            .args(options)
            .status();
        match status {
            Ok(status) if status.success() => println!(),
            Ok(_) | Err(_) => return Ok(Verdict::Failed),
        }
    }
    Ok(Verdict::Passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_benchmark_is_refused_by_name() {
        let BadUsage(why) = run(&["speed".to_owned()]).expect_err("no such benchmark");
        assert_eq!(why, "there is no benchmark `speed`");
    }
}
