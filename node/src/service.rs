//! What a service manager is told (sd_notify(3)).

use std::env;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use tracing::warn;

/// Tells the service manager, if there is one, that this process does its work.
pub(crate) fn tell_ready() {
    // A manager that is not there is no failure.
    if let Some(socket) = env::var_os("NOTIFY_SOCKET") {
        let told = UnixDatagram::unbound().and_then(|sender| sender.send_to(b"READY=1", Path::new(&socket)));
        if let Err(error) = told {
            warn!(%error, "the service manager could not be told");
        }
    }
}
