//! The node's end of the control socket.
//!
//! Owns the socket file, who may ask what, and the bounds that keep a slow or hostile local process from
//! holding the node up. Requests go to the driver as [`Call`]s; the driver never waits for a reader.
//!
//! Who may ask: the kernel lets only the owner, the group and root connect (mode 0660, unix(7)); requests that
//! change something are taken from root and the node's own user only, by the peer's credentials (SO_PEERCRED).

use std::{
    fs, io,
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::UnixStream as StdStream,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::{
    fs::Mode,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tracing::{debug, warn};
use zeroize::Zeroizing;

use super::{
    Exit, Failure,
    protocol::{MAX_REPLY_BYTES, MAX_REQUEST_BYTES, Reply, Request},
};

/// Commands served at once: far more than people start, few enough that their buffers stay under 3 MiB.
pub(crate) const MAX_CONNECTIONS: usize = 32;

/// Replies that may wait for one reader; a status is one reply, pings come one a second.
pub(crate) const MAX_WAITING_REPLIES: usize = 64;

/// How long a request may take to arrive, and a reply to be taken: both ends are on this machine.
const TRANSFER_WITHIN: Duration = Duration::from_secs(5);

/// Rest after a failed accept, so that a full file table does not spin the loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// One request on its way to the driver, and the way back.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// What is asked; already judged by [`is_allowed`].
    pub request: Request,
    /// Who asks.
    pub caller: Caller,
    /// Where replies go. Dropping it without a last reply tells the command that the node stopped.
    pub reply: mpsc::Sender<Reply>,
}

impl Call {
    /// Hands over one reply without waiting; `false` when the command is gone or reads too slowly, so that
    /// whoever streams can stop.
    pub(crate) fn answer(&self, reply: Reply) -> bool {
        self.reply.try_send(reply).is_ok()
    }

    /// Refuses or fails the request.
    pub(crate) fn fail(&self, exit: Exit, message: impl Into<String>, advice: impl Into<String>) {
        self.answer(Reply::Failed(Failure::new(exit, message, advice)));
    }
}

/// Who asks, as the kernel tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    /// Effective user when it connected.
    pub uid: u32,
    /// The process, if it is in a visible namespace.
    pub pid: Option<i32>,
}

/// Says whether `caller` may make `request` to a node that runs as `node_uid`.
#[must_use]
pub(crate) fn is_allowed(request: &Request, caller: Caller, node_uid: u32) -> bool {
    !request.is_change() || caller.uid == 0 || caller.uid == node_uid
}

/// Why the control socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BindError {
    /// A live node answers there.
    #[error("a node is already listening on {0}: stop it, or give this one another --state or --control")]
    InUse(PathBuf),
    /// Something else has the name.
    #[error("{0} exists and is not a socket: move it away, or choose another --control")]
    NotASocket(PathBuf),
    /// The system refused.
    #[error("cannot listen on {path}: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The listening socket; its file goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    listener: UnixListener,
    path: PathBuf,
    inode: (u64, u64),
    node_uid: u32,
}

impl Server {
    /// Listens on `path`, mode 0660; takes the place of a socket that a dead node left.
    ///
    /// To be called inside a tokio runtime, as the user that the node goes on running as: that user becomes the
    /// owner of the file and may ask for changes.
    ///
    /// # Errors
    /// [`BindError`] when a live node has the socket, or the file cannot be made.
    pub(crate) fn bind(path: &Path) -> Result<Self, BindError> {
        clear_stale(path)?;
        let failed = |source| BindError::Io { path: path.to_owned(), source };
        let listener = listen_on(path).map_err(failed)?;
        let file = fs::symlink_metadata(path).map_err(failed)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            inode: (file.dev(), file.ino()),
            node_uid: rustix::process::geteuid().as_raw(),
        })
    }

    /// Serves commands until the driver's end of `calls` is gone.
    ///
    /// A bound of [`MAX_CONNECTIONS`] on `calls` is enough: each connection makes one call.
    pub(crate) async fn serve(self, calls: mpsc::Sender<Call>) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = calls.closed() => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "control socket cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                turn_away(&stream);
                continue;
            };
            let (calls, node_uid) = (calls.clone(), self.node_uid);
            tokio::spawn(async move {
                if let Err(error) = converse(stream, node_uid, &calls).await {
                    debug!(%error, "control connection ended early");
                }
                drop(place);
            });
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Another node may have taken the name meanwhile; its file is not ours to remove.
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|file| (file.dev(), file.ino()) == self.inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            debug!(%error, "control socket file stays behind");
        }
    }
}

/// Removes a socket that nobody listens on.
fn clear_stale(path: &Path) -> Result<(), BindError> {
    let failed = |source| BindError::Io { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Ok(file) if !file.file_type().is_socket() => return Err(BindError::NotASocket(path.to_owned())),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    }
    match StdStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(failed(error)),
        // Connected, or its backlog is full: somebody is there.
        Ok(_) | Err(_) => Err(BindError::InUse(path.to_owned())),
    }
}

/// Binds and listens so that the file never has a wider mode than 0660.
fn listen_on(path: &Path) -> io::Result<UnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Linux gives the file the mode of the socket, less the umask: no moment in which others could connect.
    let mode = 0o660;
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(mode))?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    listen(&socket, i32::try_from(MAX_CONNECTIONS).expect("a small constant"))?;
    UnixListener::from_std(socket.into())
}

/// Tells one command too many, without ever waiting for it.
fn turn_away(stream: &UnixStream) {
    let failure = Failure::new(Exit::Failed, "the node is busy with other commands", "try again in a moment");
    // An empty socket buffer takes this line whole; whoever shrank it gets nothing.
    if let Ok(line) = encode(&Reply::Failed(failure)) {
        let _ = stream.try_write(&line);
    }
}

/// One connection: a request in, its replies out.
async fn converse(mut stream: UnixStream, node_uid: u32, calls: &mpsc::Sender<Call>) -> io::Result<()> {
    let peer = stream.peer_cred()?;
    let caller = Caller { uid: peer.uid(), pid: peer.pid() };
    let line =
        timeout(TRANSFER_WITHIN, read_request(&mut stream)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let request = match admit(&line, caller, node_uid) {
        Ok(request) => request,
        Err(failure) => return send(&mut stream, &Reply::Failed(failure)).await,
    };
    drop(line);
    let (reply, replies) = mpsc::channel(MAX_WAITING_REPLIES);
    if calls.send(Call { request, caller, reply }).await.is_err() {
        return send(&mut stream, &stopped()).await;
    }
    pass_on(stream, replies).await
}

/// Decodes a request and judges its caller.
fn admit(line: &[u8], caller: Caller, node_uid: u32) -> Result<Request, Failure> {
    let request = serde_json::from_slice::<Request>(line).map_err(|error| {
        // Position only: the text of the error may quote a token.
        debug!(column = error.column(), "control request does not decode");
        let advice = "use the command of the version that the node runs";
        Failure::new(Exit::Failed, "the node does not understand the request", advice)
    })?;
    if is_allowed(&request, caller, node_uid) {
        return Ok(request);
    }
    debug!(?caller, "control request not allowed");
    let message = "only root and the node's own user may change a VPI";
    Err(Failure::new(Exit::Failed, message, "run the command with sudo"))
}

/// Writes replies until the last one, or until the command goes.
async fn pass_on(mut stream: UnixStream, mut replies: mpsc::Receiver<Reply>) -> io::Result<()> {
    loop {
        let mut nothing_more = [0; 1];
        let reply = tokio::select! {
            biased;
            reply = replies.recv() => reply.unwrap_or_else(stopped),
            // A command says nothing after its request: whatever comes, it is over.
            _ = stream.read(&mut nothing_more) => return Ok(()),
        };
        send(&mut stream, &reply).await?;
        if reply.is_last() {
            return Ok(());
        }
    }
}

fn stopped() -> Reply {
    let message = "the node stopped before it answered";
    Reply::Failed(Failure::new(Exit::Failed, message, "start it with `vpi up` and look at its log"))
}

/// Reads up to the first line feed.
async fn read_request(stream: &mut UnixStream) -> io::Result<Zeroizing<Vec<u8>>> {
    // Sized once, so that no copy of a token stays behind in memory given back.
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_REQUEST_BYTES));
    while line.len() < MAX_REQUEST_BYTES {
        let start = line.len();
        if stream.read_buf(&mut *line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(end) = line.iter().skip(start).position(|byte| *byte == b'\n') {
            line.truncate(start + end);
            return Ok(line);
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "request is too long"))
}

async fn send(stream: &mut UnixStream, reply: &Reply) -> io::Result<()> {
    let line = encode(reply)?;
    timeout(TRANSFER_WITHIN, stream.write_all(&line)).await.map_err(|_| io::ErrorKind::TimedOut)?
}

/// One line; a reply that is too long becomes a failure that says so.
fn encode(reply: &Reply) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut line = Zeroizing::new(serde_json::to_vec(reply)?);
    if line.len() >= MAX_REPLY_BYTES {
        let failure = Failure::new(Exit::Failed, "the answer is too long", "ask for one VPI only");
        line = Zeroizing::new(serde_json::to_vec(&Reply::Failed(failure))?);
    }
    line.push(b'\n');
    Ok(line)
}
