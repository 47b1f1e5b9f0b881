//! Sockets beside the own one, for as long as the engine wants them: a few hundred for some seconds, or one for a path.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};

use super::run::{Ready, Runner};
use crate::udp::Socket;

/// The sockets, by the engine's numbers.
pub(super) type Sides = BTreeMap<u32, Arc<Socket>>;

impl Runner {
    /// Takes in a socket, or lets it go.
    pub(super) fn set_side(&mut self, number: u32, socket: Option<Arc<Socket>>) {
        if self.outgoing.leaves_by == Some(number) {
            self.outgoing.flush();
        }
        match socket {
            Some(socket) => self.outgoing.sides.insert(number, socket),
            None => self.outgoing.sides.remove(&number),
        };
    }

    /// Waits as without them. It allocates, which a turn without them does not.
    pub(super) fn sleep_with_sides(&self, wake: &OwnedFd) -> io::Result<Ready> {
        let flags = |by: Option<u32>| {
            let mut udp = PollFlags::IN;
            udp.set(PollFlags::OUT, self.outgoing.is_blocked && self.outgoing.leaves_by == by);
            udp
        };
        let mut fds =
            vec![PollFd::new(wake, PollFlags::IN), PollFd::new(&*self.outgoing.socket, flags(None))];
        fds.extend(
            self.outgoing.sides.iter().map(|(number, side)| PollFd::new(&**side, flags(Some(*number)))),
        );
        if let Some(tun) = self.tun.as_ref().filter(|_| !self.outgoing.is_blocked) {
            fds.push(PollFd::from_borrowed_fd(tun.as_fd(), PollFlags::IN));
        }
        match poll(&mut fds, self.longest_sleep()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Ready::default()),
            Err(error) => return Err(error.into()),
        }
        let is_ready = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
        let sides = self.outgoing.sides.keys().enumerate().filter(|(at, _)| is_ready(2 + at));
        Ok(Ready {
            wake: is_ready(0),
            socket: is_ready(1),
            device: is_ready(2 + self.outgoing.sides.len()),
            sides: sides.map(|(_, number)| *number).collect(),
        })
    }
}
