//! The keeper's side: a process of its own that does what is on its standard input, answers, and ends.
//!
//! sled begins threads that never end and wake every second, and a damaged file may abort its process. Neither
//! is to happen to a node.

use std::io::{self, BufRead, Read as _, Write};
use std::path::Path;
use std::process;
use std::thread;

use super::database::{Database, DatabaseError};
use super::message::{Answer, Change, LINE_MAX, Request, line};
use super::{KEEPER_WITHIN, REQUESTS_MAX};

/// How much longer than the node a keeper waits for itself, for when no node is there to end it.
const OWN_LIMIT_FACTOR: u32 = 2;
/// What a process ends with that ended itself for being late.
const LATE: i32 = 1;

/// Why a keeper could not even answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeeperError {
    /// The input is not what a node says.
    #[error("the request is not understood: {0}")]
    Request(String),
    /// Whoever asked is gone.
    #[error("cannot answer: {0}")]
    Answer(#[from] io::Error),
}

/// Keeps the index in `folder`: reads requests to the end of `input`, does them, answers on `output`.
///
/// Ends the process if that takes twice as long as a node waits.
///
/// # Errors
/// [`KeeperError`]; an index that cannot be used is an answer, not an error.
pub(crate) fn keep(folder: &Path, input: impl BufRead, output: impl Write) -> Result<(), KeeperError> {
    thread::spawn(|| {
        thread::sleep(OWN_LIMIT_FACTOR * KEEPER_WITHIN);
        process::exit(LATE);
    });
    serve(folder, input, output)
}

/// [`keep`] without its time limit.
pub(super) fn serve(folder: &Path, input: impl BufRead, output: impl Write) -> Result<(), KeeperError> {
    let mut output = io::BufWriter::new(output);
    let requests = read(input)?;
    let mut tell = |answer: &Answer| {
        let line = line(answer).map_err(io::Error::from)?;
        output.write_all(&line)
    };
    let last = match serve_all(folder, requests, &mut tell) {
        Ok(()) => Answer::Done,
        Err(Stop::Database(error)) => Answer::Unusable(error.to_string()),
        Err(Stop::Gone(error)) => return Err(error.into()),
    };
    tell(&last)?;
    Ok(output.flush()?)
}

enum Stop {
    Database(DatabaseError),
    Gone(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Gone(error)
    }
}

fn serve_all(
    folder: &Path,
    requests: Vec<Request>,
    tell: &mut impl FnMut(&Answer) -> io::Result<()>,
) -> Result<(), Stop> {
    let (mut changes, mut recalls): (Vec<Change>, _) = (Vec::new(), Vec::new());
    for request in requests {
        match request {
            Request::Change(change) => changes.push(change),
            Request::Recall(vpi) => recalls.push(vpi),
        }
    }
    let (mut database, aside) = Database::open(folder).map_err(Stop::Database)?;
    if let Some(path) = aside {
        tell(&set_aside(&path))?;
    }
    if !changes.is_empty() {
        tell_if_set_aside(database.write(&changes), tell)?.map_or_else(
            // It began empty: what was to be remembered still is.
            || database.write(&changes).map_err(Stop::Database),
            Ok,
        )?;
    }
    for vpi in recalls {
        for fact in tell_if_set_aside(database.recall(&vpi), tell)?.unwrap_or_default() {
            tell(&Answer::Fact(fact))?;
        }
    }
    Ok(())
}

/// The result of a call; `None`, once that is told, if the index was set aside during it.
fn tell_if_set_aside<T>(
    result: Result<T, DatabaseError>,
    tell: &mut impl FnMut(&Answer) -> io::Result<()>,
) -> Result<Option<T>, Stop> {
    match result {
        Ok(done) => Ok(Some(done)),
        Err(DatabaseError::SetAside(path)) => {
            tell(&set_aside(&path))?;
            Ok(None)
        }
        Err(error @ DatabaseError::Unusable { .. }) => Err(Stop::Database(error)),
    }
}

fn set_aside(path: &Path) -> Answer {
    Answer::SetAside(path.display().to_string())
}

fn read(mut input: impl BufRead) -> Result<Vec<Request>, KeeperError> {
    let mut requests = Vec::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = input.by_ref().take(LINE_MAX as u64).read_until(b'\n', &mut line)?;
        if length == 0 {
            return Ok(requests);
        }
        if line.last() != Some(&b'\n') {
            if length < LINE_MAX {
                // The node ended in the middle of it.
                return Ok(requests);
            }
            return Err(KeeperError::Request(format!("a line is longer than {LINE_MAX} bytes")));
        }
        if requests.len() == REQUESTS_MAX {
            return Err(KeeperError::Request(format!("more than {REQUESTS_MAX} requests")));
        }
        let request = serde_json::from_slice(&line);
        requests.push(request.map_err(|error| KeeperError::Request(error.to_string()))?);
    }
}
