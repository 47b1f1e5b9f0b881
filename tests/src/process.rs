//! Runs a command to its end within a deadline, and keeps what it said.

use std::io::{Read, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::wait;

/// What a finished command left.
#[derive(Debug)]
pub struct Answer {
    /// The command as one would type it.
    pub command: String,
    /// The exit code; 128 + signal if a signal ended it, as a shell says it.
    pub code: i32,
    /// Standard output, whole.
    pub stdout: String,
    /// Standard error, whole.
    pub stderr: String,
}

impl Answer {
    /// The same answer, if the command succeeded.
    ///
    /// # Errors
    /// Shows the command, its code and what it said otherwise.
    pub fn success(self) -> Result<Self> {
        ensure!(self.code == 0, "{} ended with {}: {}{}", self.command, self.code, self.stderr, self.stdout);
        Ok(self)
    }

    /// Standard output as JSON, if the command succeeded.
    ///
    /// # Errors
    /// As [`Answer::success`], or the output is not one JSON value.
    pub fn json(self) -> Result<Value> {
        let answer = self.success()?;
        serde_json::from_str(&answer.stdout)
            .with_context(|| format!("{} printed no JSON: {}", answer.command, answer.stdout))
    }

    /// Checks a refusal: this exit code, and a short plain sentence on standard error that holds each of `words`
    /// (in either case).
    ///
    /// # Errors
    /// Shows the whole answer and what is wrong with it.
    pub fn refused(&self, code: i32, words: &[&str]) -> Result<()> {
        ensure!(self.code == code, "expected exit code {code}: {self:#?}");
        let said = self.stderr.trim();
        ensure!(!said.is_empty(), "no reason on standard error: {self:#?}");
        ensure!(said.lines().count() <= MAX_SENTENCE_LINES, "more than a sentence: {self:#?}");
        for noise in ["panicked", "RUST_BACKTRACE", "Os {", "Err(", "Some("] {
            ensure!(!said.contains(noise), "not a sentence for a user ({noise}): {self:#?}");
        }
        let lower = said.to_lowercase();
        for word in words {
            ensure!(lower.contains(&word.to_lowercase()), "the reason does not say {word:?}: {self:#?}");
        }
        Ok(())
    }
}

/// The sentence, what to do about it, and one line to spare.
const MAX_SENTENCE_LINES: usize = 3;

/// Runs `command` with `input` on its standard input, for at most `limit`.
///
/// # Errors
/// The command does not start, or is killed because `limit` has passed.
pub fn finish(mut command: Command, input: &str, limit: Duration) -> Result<Answer> {
    let words: Vec<_> =
        command.get_args().skip(ARGUMENTS_OF_IP).map(|word| word.to_string_lossy().into_owned()).collect();
    let text = words.join(" ");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("{text} does not start"))?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    if let Some(mut stdin) = child.stdin.take() {
        // A command that ends without reading its input closes the pipe: its answer counts, not that.
        let _ = stdin.write_all(input.as_bytes());
    }
    let ended = wait::until(&text, limit, || Ok(child.try_wait()?));
    if ended.is_err() {
        child.kill()?;
        child.wait()?;
    }
    let (stdout, stderr) = (stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default());
    let status = ended.with_context(|| format!("it said: {stdout}{stderr}"))?;
    Ok(Answer { command: text, code: exit_code(status), stdout, stderr })
}

/// `netns exec NAMESPACE`, which stands before the command itself.
const ARGUMENTS_OF_IP: usize = 3;

/// The exit code of a finished process; 128 + signal if a signal ended it.
#[must_use]
pub fn exit_code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What came before a broken pipe is all there is.
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
