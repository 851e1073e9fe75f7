//! `cargo xtask bench`: builds the binary for release and has it measure itself.
//!
//! Each benchmark puts our figure beside its floor in one run. Nothing here asserts a time: what a
//! noisy machine shows is for people to read.

use std::process::Command;

use crate::{BadUsage, Verdict, root};

pub(crate) const HELP: &str = "  \
cargo xtask bench [coordinator | http | saga | sql | startup | journals | costs |
                   takeover] [OPTION...]
      Measures decisions a second in one process against two bare loops, transactions over HTTP, sagas
      (also against others: saga --against NAMES), transfers between two databases, PostgreSQL and
      MariaDB too, against two-phase commit by hand, and a start with a million transactions in the
      journal; all of these unless one is named. By name only, because they want etcd: a node on a journal in PostgreSQL and
      etcd, protocols side by side with their coordinator killed, and a row that is blocked until another node takes over.
      Options go to `unanimous bench NAME`, such as --seconds 5 or --json.";

const ALL: [&str; 5] = ["coordinator", "http", "saga", "sql", "startup"];

const BY_NAME: [&str; 3] = ["journals", "costs", "takeover"];

pub(crate) fn run(args: &[String]) -> Result<Verdict, BadUsage> {
    let (names, options): (Vec<&str>, &[String]) = match args.split_first() {
        Some((name, rest)) if ALL.iter().chain(&BY_NAME).any(|it| it == name) => (vec![name], rest),
        Some((other, _)) if !other.starts_with('-') => {
            return Err(BadUsage(format!("there is no benchmark `{other}`")));
        }
        Some(_) | None => (ALL.to_vec(), args),
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
