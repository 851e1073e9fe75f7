//! Runs the tests and checks of this repository: `cargo xtask help`.
//!
//! Depends on nothing, not even on our own crates: it builds in a second, before anything else.

mod bench;
mod components;
mod step;
mod test;

use std::path::PathBuf;
use std::process::ExitCode;

/// What can be asked for, in the order of the help text.
const COMMANDS: [Command; 2] = [
    Command { name: "test", help: test::HELP, run: test::run },
    Command { name: "bench", help: bench::HELP, run: bench::run },
];

struct Command {
    name: &'static str,
    /// Usage and purpose; each line becomes a line of the help text.
    help: &'static str,
    run: fn(&[String]) -> Result<Verdict, BadUsage>,
}

/// How the thing asked for came out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    Passed,
    Failed,
}

/// What is wrong with the arguments, in one line.
#[derive(Debug)]
pub(crate) struct BadUsage(pub(crate) String);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(Verdict::Passed) => ExitCode::SUCCESS,
        Ok(Verdict::Failed) => ExitCode::from(1),
        Err(BadUsage(why)) => {
            eprintln!("{why}\n\n{}", help());
            ExitCode::from(2)
        }
    }
}

fn run(args: &[String]) -> Result<Verdict, BadUsage> {
    let Some((name, rest)) = args.split_first() else {
        return Err(BadUsage("a command is missing".to_owned()));
    };
    if matches!(name.as_str(), "help" | "--help" | "-h") {
        println!("{}", help());
        return Ok(Verdict::Passed);
    }
    match COMMANDS.iter().find(|command| command.name == name) {
        Some(command) => (command.run)(rest),
        None => Err(BadUsage(format!("there is no command `{name}`"))),
    }
}

fn help() -> String {
    let commands: Vec<&str> = COMMANDS.iter().map(|command| command.help).collect();
    format!("Usage: cargo xtask <command>\n\n{}", commands.join("\n\n"))
}

/// The folder of the workspace.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn unknown_commands_are_refused_by_name() {
        let BadUsage(why) = run(&args("tset --quick")).expect_err("no such command");
        assert_eq!(why, "there is no command `tset`");
    }

    #[test]
    fn the_help_names_every_command() {
        for command in COMMANDS {
            assert!(help().contains(&format!("cargo xtask {}", command.name)));
        }
    }
}
