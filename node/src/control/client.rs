//! A command's end of the control socket: one request, its replies, then an answer or the reason why not.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use crate::store::state::State;

use super::{
    Exit, Failure,
    protocol::{ANSWER_WITHIN, MAX_REPLY_BYTES, Reply, Request},
};

/// Where the node of one state folder is to be found.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    /// The control socket.
    pub socket: PathBuf,
    /// The state folder, to name it when nobody answers.
    pub state: PathBuf,
}

/// Why a command has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// Nobody listens.
    #[error("no node is running for state {0}")]
    NoNode(PathBuf),
    /// The socket's mode or its folder's keeps this user out.
    #[error("this user may not talk to the node at {0}")]
    Denied(PathBuf),
    /// The node fell silent.
    #[error("the node does not answer")]
    Silent,
    /// The connection broke, or what came is no reply.
    #[error("the connection to the node broke: {0}")]
    Broken(#[source] io::Error),
    /// The command could not pass on what came meanwhile.
    #[error("cannot write: {0}")]
    Output(#[source] io::Error),
    /// The node's own reason.
    #[error(transparent)]
    Failed(Failure),
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Self {
        let message = error.to_string();
        match error {
            AskError::NoNode(_) => Self::new(Exit::NoNode, message, "start one with `vpi up`"),
            AskError::Denied(_) => {
                Self::new(Exit::Failed, message, "use sudo, or become a member of the socket's group")
            }
            AskError::Silent => Self::new(Exit::Failed, message, "look at its log, then restart it"),
            AskError::Broken(_) => {
                Self::new(Exit::Failed, message, "see whether the node still runs and is of this version")
            }
            AskError::Output(_) => Self::new(Exit::Failed, message, ""),
            AskError::Failed(failure) => failure,
        }
    }
}

impl Door {
    /// Makes `request` and returns the last reply; the others go to `meanwhile` as they come.
    ///
    /// # Errors
    /// [`AskError::Failed`] with the node's reason; the others when there was no answer. An error of `meanwhile`
    /// withdraws the request and is returned as [`AskError::Output`].
    pub(crate) fn ask(
        &self,
        request: &Request,
        mut meanwhile: impl FnMut(Reply) -> io::Result<()>,
    ) -> Result<Reply, AskError> {
        let mut replies = self.send(request)?;
        loop {
            match read_reply(&mut replies)? {
                Reply::Failed(failure) => return Err(AskError::Failed(failure)),
                reply if reply.is_last() => return Ok(reply),
                reply => meanwhile(reply).map_err(AskError::Output)?,
            }
        }
    }

    fn send(&self, request: &Request) -> Result<BufReader<UnixStream>, AskError> {
        let mut stream = UnixStream::connect(&self.socket).map_err(|error| self.no_connection(error))?;
        let set = stream.set_read_timeout(Some(ANSWER_WITHIN));
        set.and_then(|()| stream.set_write_timeout(Some(ANSWER_WITHIN))).map_err(AskError::Broken)?;
        let mut line =
            Zeroizing::new(serde_json::to_vec(request).map_err(|error| AskError::Broken(error.into()))?);
        line.push(b'\n');
        // A node that turns a command away closes without reading: what it wrote is still there to be read.
        match stream.write_all(&line).map_err(|error| (error.kind(), error)) {
            Ok(()) | Err((io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset, _)) => {
                Ok(BufReader::new(stream))
            }
            Err((_, error)) => Err(AskError::Broken(error)),
        }
    }

    fn no_connection(&self, error: io::Error) -> AskError {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                AskError::NoNode(self.state.clone())
            }
            io::ErrorKind::PermissionDenied => AskError::Denied(self.socket.clone()),
            _ => AskError::Broken(error),
        }
    }
}

fn read_reply(stream: &mut BufReader<UnixStream>) -> Result<Reply, AskError> {
    let mut line = Zeroizing::new(Vec::new());
    let longest = u64::try_from(MAX_REPLY_BYTES).expect("a small constant") + 1;
    match stream.take(longest).read_until(b'\n', &mut line) {
        Ok(_) => {}
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            return Err(AskError::Silent);
        }
        Err(error) => return Err(AskError::Broken(error)),
    }
    if line.last() != Some(&b'\n') {
        return Err(AskError::Broken(io::ErrorKind::UnexpectedEof.into()));
    }
    serde_json::from_slice(&line).map_err(|error| AskError::Broken(error.into()))
}

/// The control socket of `state`, unless another place is given.
#[must_use]
pub(crate) fn door(state: &Path, socket: Option<&Path>) -> Door {
    Door {
        socket: socket.map_or_else(|| State::control_path(state), Path::to_owned),
        state: state.to_owned(),
    }
}
