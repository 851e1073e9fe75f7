//! One step of the checks: a cargo command, run to its end and summed up.
//!
//! A step that runs tests has passed only if at least one test ran: a filter that matches nothing
//! is a mistake, not a success.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::components::{self, Component};

/// A cargo command with what it needs.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) depth: Depth,
    pub(crate) kind: Kind,
    /// Without one of these the step cannot run.
    pub(crate) needs: &'static [Component],
    /// Without one of these some of its tests skip themselves.
    pub(crate) wants: &'static [Component],
    pub(crate) env: &'static [(&'static str, &'static str)],
    pub(crate) args: &'static [&'static str],
}

/// How much is checked. Each includes the ones before it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Depth {
    /// What needs no other program and little time.
    Quick,
    /// What every change has to pass.
    Usual,
    /// What needs a database from the network too.
    Full,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// Passed if the command succeeds.
    Check,
    /// Runs tests, whose results are counted.
    Tests,
}

/// What to make of a component that is missing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Strictness {
    /// On somebody's machine: skipped, loudly.
    Lenient,
    /// In CI: failed.
    Strict,
}

#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

/// What became of a step.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) outcome: Outcome,
    pub(crate) took: Duration,
    pub(crate) tally: Tally,
}

/// The results of all test programs of a step.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
    /// Names of the tests that failed.
    pub(crate) failures: Vec<String>,
}

impl Step {
    /// The line to type in order to run this step alone.
    pub(crate) fn command_line(&self) -> String {
        let env = self.env.iter().map(|(key, value)| format!("{key}='{value}' "));
        format!("{}cargo {}", env.collect::<String>(), self.args.join(" "))
    }

    /// Installs what is needed, runs the command and shows its output as it comes.
    pub(crate) fn run(&self, strictness: Strictness, depth: Depth) -> Report {
        let start = Instant::now();
        let mut tally = Tally::default();
        let outcome = match self.prepare(strictness, depth) {
            Ok(()) => self.perform(&mut tally),
            Err(outcome) => outcome,
        };
        Report { outcome, took: start.elapsed(), tally }
    }

    fn prepare(&self, strictness: Strictness, depth: Depth) -> Result<(), Outcome> {
        for component in self.needs {
            components::ensure(component).map_err(|why| match strictness {
                Strictness::Lenient => Outcome::Skipped(why),
                Strictness::Strict => Outcome::Failed(why),
            })?;
        }
        if depth == Depth::Quick {
            return Ok(());
        }
        for component in self.wants {
            match (components::ensure(component), strictness) {
                (Ok(()), _) => {}
                (Err(why), Strictness::Strict) => return Err(Outcome::Failed(why)),
                (Err(why), Strictness::Lenient) => {
                    println!(
                        "   WITHOUT {}, some tests will skip themselves: {why}",
                        component.name
                    );
                }
            }
        }
        Ok(())
    }

    fn perform(&self, tally: &mut Tally) -> Outcome {
        let mut command = components::command("cargo");
        command.args(self.args).envs(self.env.iter().copied()).stdin(Stdio::null());
        let ended = match self.kind {
            Kind::Check => command.status(),
            Kind::Tests => command
                .stdout(Stdio::piped())
                .spawn()
                .and_then(|mut child| show(&mut child, tally).and(child.wait())),
        };
        match ended {
            Err(error) => Outcome::Failed(format!("cargo cannot be run: {error}")),
            Ok(status) if !status.success() => Outcome::Failed(format!("{status}")),
            Ok(_) if self.kind == Kind::Tests && tally.passed == 0 => {
                Outcome::Failed("no test ran".to_owned())
            }
            Ok(_) => Outcome::Passed,
        }
    }
}

fn show(child: &mut Child, tally: &mut Tally) -> io::Result<()> {
    let output = child.stdout.take().expect("the output is piped");
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    while output.read_until(b'\n', &mut line)? > 0 {
        io::stdout().write_all(&line)?;
        tally.count(String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
    io::stdout().flush()
}

impl Tally {
    /// Reads one line that a test program has printed.
    pub(crate) fn count(&mut self, line: &str) {
        if let Some(name) =
            line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            self.failures.push(name.to_owned());
        }
        let Some((_, result)) =
            line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for count in result.split("; ") {
            let Some((number, what)) = count.split_once(' ') else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                // Measured, filtered out and the time: summed up nowhere.
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Step = Step {
        name: "version",
        depth: Depth::Quick,
        kind: Kind::Check,
        needs: &[],
        wants: &[],
        env: &[("RUSTDOCFLAGS", "-D warnings")],
        args: &["--version"],
    };

    #[test]
    fn results_of_several_test_programs_are_added_up() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test gate::lets_go ... ok",
            "test gate::holds ... FAILED",
            "test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.00s",
            "test result: ok. 40 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 2.51s",
        ] {
            tally.count(line);
        }
        let failures = vec!["gate::holds".to_owned()];
        assert_eq!(tally, Tally { passed: 41, failed: 1, ignored: 1, failures });
    }

    #[test]
    fn the_command_line_can_be_pasted_into_a_shell() {
        assert_eq!(STEP.command_line(), "RUSTDOCFLAGS='-D warnings' cargo --version");
    }

    #[test]
    fn a_command_that_ends_with_an_error_fails_its_step() {
        let step = Step { args: &["expected-by-a-test"], ..STEP };
        let report = step.run(Strictness::Lenient, Depth::Quick);
        assert_eq!(report.outcome, Outcome::Failed("exit status: 101".to_owned()));
    }

    #[test]
    fn a_step_in_which_no_test_ran_has_failed() {
        let step = Step { kind: Kind::Tests, ..STEP };
        let report = step.run(Strictness::Lenient, Depth::Quick);
        assert_eq!(report.outcome, Outcome::Failed("no test ran".to_owned()));
    }

    #[test]
    fn a_missing_component_skips_its_step_and_in_ci_fails_it() {
        let step = Step { needs: &[components::MISSING], ..STEP };
        let why = "nothing is not there and cannot be installed: `cargo` ended with exit status: 1";
        let report = step.run(Strictness::Lenient, Depth::Usual);
        assert_eq!(report.outcome, Outcome::Skipped(why.to_owned()));
        let report = step.run(Strictness::Strict, Depth::Usual);
        assert_eq!(report.outcome, Outcome::Failed(why.to_owned()));
    }

    #[test]
    fn a_wanted_component_that_is_missing_fails_its_step_only_in_ci() {
        let step = Step { wants: &[components::MISSING], ..STEP };
        assert_eq!(step.run(Strictness::Lenient, Depth::Usual).outcome, Outcome::Passed);
        assert_eq!(step.run(Strictness::Strict, Depth::Quick).outcome, Outcome::Passed);
        let report = step.run(Strictness::Strict, Depth::Usual);
        assert!(matches!(report.outcome, Outcome::Failed(_)));
    }
}
