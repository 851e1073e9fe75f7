//! `cargo xtask test`: every check a change has to pass, the cheap ones first.
//!
//! All steps run even if one fails, so that one run tells everything. The last line is
//! `N passed, N failed`, where a step that was skipped is neither.

use std::time::Duration;

use crate::components::{
    C_COMPILER, CARGO_DENY, CLIPPY, ETCD, IPROUTE, MARIADB, POSTGRESQL, REDIS, RUSTFMT, STRACE,
};
use crate::step::{Depth, Kind, Outcome, Report, Step, Strictness};
use crate::{BadUsage, Verdict};

pub(crate) const HELP: &str = "  \
cargo xtask test [--quick | --full] [STEP...]
      Installs what is missing, builds, and runs every check, or only the steps named.
      --quick  leaves out what takes long or needs another program
      --full   also asks the advisory database, which is on the network, and checks the library alone
      STEP     fmt, tidy, clippy, doc, deny, advisories, library, journals, test, simulator, crash, demo or gate";

/// The steps in the order they run. A test that takes long is `#[ignore]`d with its reason: the
/// step `crash` runs it.
const STEPS: [Step; 13] = [
    Step { needs: &[RUSTFMT], args: &["fmt", "--all", "--", "--check"], ..check("fmt") },
    Step { args: &["test", "--package", "xtask"], ..tests("tidy") },
    Step {
        needs: &[CLIPPY, C_COMPILER],
        args: &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--all-features",
            "--",
            "--deny=warnings",
        ],
        ..check("clippy")
    },
    Step {
        needs: &[C_COMPILER],
        env: &[("RUSTDOCFLAGS", "--deny=warnings")],
        args: &["doc", "--workspace", "--no-deps"],
        ..check("doc")
    },
    Step {
        depth: Depth::Usual,
        needs: &[CARGO_DENY],
        args: &["deny", "check", "bans", "licenses", "sources"],
        ..check("deny")
    },
    Step {
        depth: Depth::Full,
        needs: &[CARGO_DENY],
        args: &["deny", "check", "advisories"],
        ..check("advisories")
    },
    // Who embeds a coordinator builds it without what the binary needs.
    Step {
        depth: Depth::Full,
        needs: &[C_COMPILER],
        args: &["check", "--package", "unanimous", "--lib", "--no-default-features"],
        ..check("library")
    },
    // What both journals on a server share is there for each of them alone. All else builds both.
    Step {
        depth: Depth::Usual,
        needs: &[C_COMPILER],
        args: &[
            "check",
            "--package",
            "unanimous-journal",
            "--no-default-features",
            "--features",
            "etcd",
        ],
        ..check("journals")
    },
    Step {
        needs: &[C_COMPILER],
        wants: &[STRACE, POSTGRESQL, MARIADB, REDIS, ETCD],
        // The step `simulator` runs more of them, and faster.
        env: &[("UNANIMOUS_SIM_SEEDS", "2000")],
        args: &["test", "--workspace", "--exclude", "xtask", "--no-fail-fast"],
        ..tests("test")
    },
    Step {
        depth: Depth::Usual,
        env: &[("UNANIMOUS_SIM_SEEDS", "20000")],
        args: &["test", "--release", "--package", "unanimous-sim", "--no-fail-fast"],
        ..tests("simulator")
    },
    Step {
        depth: Depth::Usual,
        needs: &[C_COMPILER, STRACE],
        wants: &[POSTGRESQL, MARIADB, REDIS, ETCD, IPROUTE],
        env: &[("UNANIMOUS_DATABASE_KILLS", "30"), ("UNANIMOUS_SHARED_KILLS", "60")],
        // Of the build of the step `test`: another one takes longer than what is gained by it.
        args: &[
            "test",
            "--workspace",
            "--exclude",
            "xtask",
            "--no-fail-fast",
            "--test",
            "crash",
            "--test",
            "bookings",
            "--",
            "--include-ignored",
        ],
        ..tests("crash")
    },
    Step {
        depth: Depth::Usual,
        needs: &[C_COMPILER],
        args: &["run", "--release", "--", "demo"],
        ..check("demo")
    },
    // The demo itself is checked: with a coordinator that tells too early it has to fail.
    Step {
        depth: Depth::Usual,
        needs: &[C_COMPILER],
        args: &[
            "test",
            "--workspace",
            "--exclude",
            "xtask",
            "--features",
            "unanimous/broken-gate",
            "--test",
            "demo",
        ],
        ..tests("gate")
    },
];

const fn check(name: &'static str) -> Step {
    let kind = Kind::Check;
    Step { name, depth: Depth::Quick, kind, needs: &[], wants: &[], env: &[], args: &[] }
}

const fn tests(name: &'static str) -> Step {
    Step { kind: Kind::Tests, ..check(name) }
}

/// Runs the steps asked for and prints what became of them.
///
/// # Errors
///
/// [`BadUsage`] if an argument is neither an option nor the name of a step.
pub(crate) fn run(args: &[String]) -> Result<Verdict, BadUsage> {
    let asked = Asked::parse(args)?;
    let strictness = match std::env::var("CI").as_deref() {
        Ok("true" | "1") => Strictness::Strict,
        Ok(_) | Err(_) => Strictness::Lenient,
    };
    let mut reports = Vec::new();
    for step in STEPS.iter().filter(|step| asked.includes(step)) {
        println!("── {}: {}", step.name, step.command_line());
        let report = step.run(strictness, asked.depth);
        println!("── {}\n", line(step, &report));
        reports.push((step, report));
    }
    let left_out: Vec<&str> =
        STEPS.iter().filter(|step| !asked.includes(step)).map(|step| step.name).collect();
    println!("{}", summary(&reports, &left_out));
    match reports.iter().any(|(_, report)| matches!(report.outcome, Outcome::Failed(_))) {
        true => Ok(Verdict::Failed),
        false => Ok(Verdict::Passed),
    }
}

#[derive(Debug)]
struct Asked {
    depth: Depth,
    /// Names of steps; all of that depth if none is named.
    names: Vec<String>,
}

impl Asked {
    fn parse(args: &[String]) -> Result<Self, BadUsage> {
        let mut asked = Self { depth: Depth::Usual, names: Vec::new() };
        for arg in args {
            match arg.as_str() {
                "--quick" => asked.depth = Depth::Quick,
                "--full" => asked.depth = Depth::Full,
                name if STEPS.iter().any(|step| step.name == name) => asked.names.push(arg.clone()),
                _ => {
                    let steps: Vec<&str> = STEPS.iter().map(|step| step.name).collect();
                    let steps = steps.join(", ");
                    return Err(BadUsage(format!("`{arg}` is no option and no step of {steps}")));
                }
            }
        }
        Ok(asked)
    }

    fn includes(&self, step: &Step) -> bool {
        match self.names.is_empty() {
            true => step.depth <= self.depth,
            false => self.names.iter().any(|name| name == step.name),
        }
    }
}

fn summary(reports: &[(&Step, Report)], left_out: &[&str]) -> String {
    let mut lines: Vec<String> = Vec::new();
    for (step, report) in reports {
        lines.push(line(step, report));
        lines.extend(report.tally.failures.iter().map(|test| format!("             {test}")));
        if matches!(report.outcome, Outcome::Failed(_)) {
            lines.push(format!("             again: {}", step.command_line()));
        }
    }
    if !left_out.is_empty() {
        lines.push(format!("not asked for: {}", left_out.join(", ")));
    }
    let tests = reports.iter().filter(|(step, _)| step.kind == Kind::Tests);
    let results: Vec<String> = tests.map(|(step, report)| test_result(step, report)).collect();
    if !results.is_empty() {
        lines.push(String::new());
        lines.extend(results);
    }
    lines.push(String::new());
    let count = |wanted: fn(&Outcome) -> bool| {
        reports.iter().filter(|(_, report)| wanted(&report.outcome)).count()
    };
    let passed = count(|outcome| matches!(outcome, Outcome::Passed));
    let failed = count(|outcome| matches!(outcome, Outcome::Failed(_)));
    lines.push(format!("{passed} passed, {failed} failed"));
    lines.join("\n")
}

fn line(step: &Step, report: &Report) -> String {
    let (word, why) = match &report.outcome {
        Outcome::Passed => ("passed", ""),
        Outcome::Failed(why) => ("FAILED", why.as_str()),
        Outcome::Skipped(why) => ("SKIPPED", why.as_str()),
    };
    let line = format!("{:<11} {word:<8}{:>9}  {why}", step.name, seconds(report.took));
    line.trim_end().to_owned()
}

/// In the words of the test programs themselves, for whoever reads the end of a log.
fn test_result(step: &Step, report: &Report) -> String {
    let word = match report.outcome {
        Outcome::Passed => "ok",
        Outcome::Failed(_) => "FAILED",
        Outcome::Skipped(_) => "SKIPPED",
    };
    let tally = &report.tally;
    format!(
        "test result: {word}. {} passed; {} failed; {} ignored; finished in {} ({})",
        tally.passed,
        tally.failed,
        tally.ignored,
        seconds(report.took),
        step.name
    )
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step::Tally;

    fn asked(line: &str) -> Result<Vec<&'static str>, BadUsage> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let asked = Asked::parse(&args)?;
        Ok(STEPS.iter().filter(|step| asked.includes(step)).map(|step| step.name).collect())
    }

    #[test]
    fn each_depth_includes_the_ones_before_it() {
        assert_eq!(asked("--quick").expect("valid"), ["fmt", "tidy", "clippy", "doc", "test"]);
        assert_eq!(asked("--full").expect("valid").len(), STEPS.len());
        let only_full = ["advisories", "library"];
        assert_eq!(asked("").expect("valid").len(), STEPS.len() - only_full.len());
        assert!(!asked("").expect("valid").iter().any(|name| only_full.contains(name)));
    }

    #[test]
    fn the_help_names_every_step() {
        let (_, named) = HELP.rsplit_once("STEP ").expect("the help explains STEP");
        for step in &STEPS {
            assert!(named.split([' ', ',']).any(|name| name == step.name), "{}", step.name);
        }
    }

    #[test]
    fn named_steps_run_alone_and_unknown_ones_are_refused() {
        assert_eq!(asked("clippy fmt").expect("valid"), ["fmt", "clippy"]);
        let BadUsage(why) = asked("clipy").expect_err("no such step");
        assert!(why.starts_with("`clipy` is no option and no step of fmt, tidy"), "{why}");
    }

    #[test]
    fn the_summary_says_what_failed_and_how_to_run_it_again() {
        let took = Duration::from_millis(1_240);
        let failures = vec!["gate::holds".to_owned()];
        let tally = Tally { passed: 4, failed: 1, ignored: 0, failures };
        let failed = Outcome::Failed("exit status: 101".to_owned());
        let skipped = Outcome::Skipped("cargo-deny is not there".to_owned());
        let none = Tally::default;
        let reports = [
            (&STEPS[0], Report { outcome: Outcome::Passed, took, tally: none() }),
            (&STEPS[1], Report { outcome: failed, took, tally }),
            (&STEPS[4], Report { outcome: skipped, took, tally: none() }),
        ];
        let expected = "\
fmt         passed      1.2 s
tidy        FAILED      1.2 s  exit status: 101
             gate::holds
             again: cargo test --package xtask
deny        SKIPPED     1.2 s  cargo-deny is not there
not asked for: advisories

test result: FAILED. 4 passed; 1 failed; 0 ignored; finished in 1.2 s (tidy)

1 passed, 1 failed";
        assert_eq!(summary(&reports, &["advisories"]), expected);
    }
}
