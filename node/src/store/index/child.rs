//! The node's side of a keeper: starts one, asks, and sees to it that it ends.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, BufWriter};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::message::{Answer, LINE_MAX, Request, line};

/// How long a killed process may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(1);

/// Why a keeper gave nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChildError {
    #[error("its process cannot be started: {0}")]
    Start(io::Error),
    #[error("its process did not answer within {0:?} and was ended")]
    Slow(Duration),
    #[error("its process ended in the middle, {}", ending(*.0))]
    Ended(ExitStatus),
    #[error("its process said what is not understood: {0}")]
    Garbled(String),
    /// The index, by the keeper's word.
    #[error("{0}")]
    Unusable(String),
}

/// Starts `program`, gives it `requests`, and returns its answers: at most `most` of them, within `limit`. The process
/// is gone when this returns, and when it is dropped.
///
/// It gets three pipes or /dev/null and no other descriptor (all of this process close on exec), no environment, and a
/// process group of its own: the terminal's ^C is for the node, which has something to write then.
pub(super) async fn ask(
    (program, folder): (&Path, &Path),
    requests: &[Request],
    most: usize,
    limit: Duration,
) -> Result<Vec<Answer>, ChildError> {
    let mut command = Command::new(program);
    command.arg0("vpi").arg(super::KEEPER_COMMAND).arg(folder).env_clear().process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().map_err(ChildError::Start)?;
    let (input, output) = (child.stdin.take(), child.stdout.take());
    let (Some(input), Some(output)) = (input, output) else {
        return Err(ChildError::Start(io::ErrorKind::BrokenPipe.into()));
    };
    let outcome = match timeout(limit, talk(&mut child, (input, output), requests, most)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(ChildError::Slow(limit)),
    };
    // It ended by itself, or shall: only one that the kernel holds is left to the runtime.
    let _ = child.start_kill();
    let _ = timeout(GONE_WITHIN, child.wait()).await;
    outcome
}

async fn talk(
    child: &mut Child,
    (input, output): (ChildStdin, ChildStdout),
    requests: &[Request],
    most: usize,
) -> Result<Vec<Answer>, ChildError> {
    // One that ended without reading is judged by how it ended.
    let is_told = tell(input, requests).await.is_ok();
    let answers = hear(output, most).await?;
    match answers {
        Some(answers) if is_told => Ok(answers),
        _ => Err(ChildError::Ended(child.wait().await.map_err(ChildError::Start)?)),
    }
}

async fn tell(input: ChildStdin, requests: &[Request]) -> io::Result<()> {
    let mut input = BufWriter::new(input);
    for request in requests {
        input.write_all(&line(request)?).await?;
    }
    input.shutdown().await
}

/// Everything up to `done`; `None` if the output ends before it.
async fn hear(output: ChildStdout, most: usize) -> Result<Option<Vec<Answer>>, ChildError> {
    let garbled = |error: &dyn std::fmt::Display| ChildError::Garbled(error.to_string());
    let mut output = BufReader::new(output);
    let (mut answers, mut line) = (Vec::new(), Vec::new());
    loop {
        line.clear();
        let read = (&mut output).take(LINE_MAX as u64).read_until(b'\n', &mut line).await;
        let length = read.map_err(|error| garbled(&error))?;
        if line.last() != Some(&b'\n') {
            if length < LINE_MAX {
                return Ok(None);
            }
            return Err(garbled(&format!("a line longer than {LINE_MAX} bytes")));
        }
        match serde_json::from_slice(&line).map_err(|error| garbled(&error))? {
            Answer::Done => return Ok(Some(answers)),
            Answer::Unusable(reason) => return Err(ChildError::Unusable(reason)),
            Answer::SetAside(_) | Answer::Fact(_) if answers.len() == most => {
                return Err(garbled(&format!("more than {most} answers")));
            }
            answer @ (Answer::SetAside(_) | Answer::Fact(_)) => answers.push(answer),
        }
    }
}

fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("with code {code}"),
        (None, Some(signal)) => format!("by signal {signal}"),
        (None, None) => "for no reason that the system tells".to_owned(),
    }
}
