//! How a command fails: one line, and the exit code that says what to do about it.

use std::process::ExitCode;

use serde_json::json;
use unanimous_api::Code;
use unanimous_client::Error;

use crate::output::{self, Format};

/// Why a command did not come out.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
    code: Option<Code>,
}

/// The exit codes of the contract.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Exit {
    /// What was asked for did not come out: aborted, refused, not healthy.
    NotDone = 1,
    /// The flags or the configuration are wrong.
    Usage = 2,
    /// The server does not answer.
    Unreachable = 3,
}

impl Failure {
    /// What was asked for did not come out.
    pub(crate) fn not_done(message: impl Into<String>) -> Self {
        Self { exit: Exit::NotDone, message: message.into(), code: None }
    }

    /// The result was shown already, and it is not the one that was asked for.
    pub(crate) fn shown() -> Self {
        Self::not_done("")
    }

    /// The flags or the configuration are wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, message: message.into(), code: None }
    }

    /// Says what went wrong, where the reader of this format looks for it.
    pub(crate) fn report(&self, format: Format) -> ExitCode {
        match (format, self.message.is_empty()) {
            (_, true) => {}
            (Format::Text, false) => eprintln!("error: {}", self.message),
            (Format::Json, false) => {
                let code = self.code.map(|code| code.info().code);
                output::json(&json!({ "error": self.message, "code": code }));
            }
        }
        ExitCode::from(self.exit as u8)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let exit = match &error {
            Error::Usage(_) => Exit::Usage,
            Error::Refused(_) if error.code().is_some_and(is_usage) => Exit::Usage,
            Error::Aborted(_)
            | Error::NotPrepared { .. }
            | Error::Compensated(_)
            | Error::NeedsAttention(_)
            | Error::Mixed(_)
            | Error::Refused(_)
            | Error::NotFound(_)
            | Error::Busy(_) => Exit::NotDone,
            Error::Unreachable { .. } | Error::NotACoordinator { .. } | Error::Unknown { .. } => {
                Exit::Unreachable
            }
        };
        Self { exit, message: error.to_string(), code: error.code() }
    }
}

/// Whether a code says that the command was wrong, and not what it was about.
fn is_usage(code: Code) -> bool {
    code == Code::Unauthorized || code.info().code.starts_with("UNA01")
}
