//! How a command ends: its exit code, and the reason in words.
//!
//! Owns the exit codes that node/README promises. The node names one in each failure that it reports, so that a
//! command passes on what the node decided.

use std::process::ExitCode;

use serde::{Deserialize, Serialize};

/// The exit codes of `vpi`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub(crate) enum Exit {
    /// Everything asked for was done.
    Done = 0,
    /// It failed; the reason is on standard error.
    Failed = 1,
    /// Wrong usage; `clap` uses the same code.
    Usage = 2,
    /// No node is running for this state folder.
    NoNode = 3,
    /// No such VPI, member or alias.
    NotFound = 4,
    /// Refused: expired, used up, removed, not allowed.
    Refused = 5,
    /// The member does not answer.
    Unreachable = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why something was not done: one sentence, then what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    /// The exit code of the command.
    pub exit: Exit,
    /// What is wrong; lower case, no full stop.
    pub message: String,
    /// What to do about it, same form; empty when nothing helps.
    pub advice: String,
}

impl Failure {
    /// A failure that ends the command with `exit`.
    pub(crate) fn new(exit: Exit, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { exit, message: message.into(), advice: advice.into() }
    }
}

/// An error and its causes as one sentence; a cause that its error has named already is not said again.
#[must_use]
pub(crate) fn sentence(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |said, cause| match cause.to_string() {
        cause if said.is_empty() => cause,
        cause if said.contains(&cause) => said,
        cause => format!("{said}: {cause}"),
    })
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_cause_that_was_named_is_not_said_twice() {
        let named = anyhow::Error::from(io::Error::other("disk full")).context("cannot write: disk full");
        assert_eq!(sentence(&named), "cannot write: disk full");
        let unnamed = anyhow::Error::from(io::Error::other("disk full")).context("cannot write");
        assert_eq!(sentence(&unnamed), "cannot write: disk full");
    }
}
