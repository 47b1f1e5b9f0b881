//! Up to three sessions with one member: previous, current, next (README §6 *Simultaneous start*).
//!
//! The initiator of a handshake sends on its session at once. The responder keeps it as *next* and sends on it only
//! after a datagram opened with it, which proves that the initiator has the keys. Of two handshakes that crossed, the
//! one initiated by the lower device key is sent on; the other only receives until it expires. Should the two ends
//! disagree on whether they crossed, each still receives what the other sends.

use std::sync::Arc;
use std::time::Instant;

use super::sealer::Sealer;
use super::timers::{REJECT_AFTER, SEND_UNTIL};

/// Which end of the handshake this node was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// This node sent the initiation.
    Initiator,
    /// This node answered it.
    Responder,
}

/// What the slow path keeps of a session; the opener lives in the forwarder.
#[derive(Clone, Debug)]
pub struct Session {
    /// Where this end finds the session: the receiver index of datagrams to us.
    pub index: u32,
    /// Which end this node was.
    pub role: Role,
    /// The sending half.
    pub sealer: Arc<Sealer>,
    /// SHA-256 of the epoch secret that the handshake was made under.
    pub epoch: [u8; 32],
    /// When the initiation was sent, or received.
    pub began_at: Instant,
    /// When the response was received (initiator), or the session's first datagram (responder; until then, when the
    /// response was sent).
    pub finished_at: Instant,
}

impl Session {
    /// Says whether the session may still receive.
    #[must_use]
    pub fn is_live(&self, now: Instant) -> bool {
        now < self.began_at + REJECT_AFTER
    }

    fn crossed(&self, other: &Self) -> bool {
        self.role != other.role && self.began_at <= other.finished_at && other.began_at <= self.finished_at
    }
}

/// The sessions with one member.
#[derive(Debug, Default)]
pub struct Sessions {
    previous: Option<Session>,
    current: Option<Session>,
    next: Option<Session>,
}

impl Sessions {
    /// The session to send on, if there is one that is not too old for it.
    #[must_use]
    pub fn current(&self, now: Instant) -> Option<&Session> {
        self.current.as_ref().filter(|session| now < session.began_at + SEND_UNTIL)
    }

    /// When the session to send on gets too old for it.
    #[must_use]
    pub fn sends_until(&self) -> Option<Instant> {
        self.current.as_ref().map(|session| session.began_at + SEND_UNTIL)
    }

    /// The session whose receiver index is `index`, in whichever slot.
    #[must_use]
    pub fn find(&self, index: u32) -> Option<&Session> {
        self.iter().find(|session| session.index == index)
    }

    /// All sessions: previous, current, next.
    pub fn iter(&self) -> impl Iterator<Item = &Session> {
        [&self.previous, &self.current, &self.next].into_iter().flatten()
    }

    /// Adds the session of a handshake that this node answered; it waits as *next*. Returns the session whose place it
    /// takes, which the caller must forget.
    pub fn add_responded(&mut self, session: Session) -> Option<Session> {
        self.next.replace(session)
    }

    /// Adds the session of a handshake that this node initiated. `is_lower` says whether this node's device key is the
    /// lower of the two. Returns the session that lost its place, which the caller must forget.
    pub fn add_initiated(&mut self, session: Session, is_lower: bool) -> Option<Session> {
        self.promote(session, is_lower)
    }

    /// Notes that a datagram opened with session `index`. If it confirms *next*, returns the session that lost its place
    /// to it, if any: `Some(None)` means confirmed, and nothing to forget.
    #[allow(clippy::option_option, reason = "two questions: was it confirmed, and is there one to forget")]
    pub fn on_opened(&mut self, index: u32, is_lower: bool, now: Instant) -> Option<Option<Session>> {
        let next = self.next.take_if(|next| next.index == index)?;
        Some(self.promote(Session { finished_at: now, ..next }, is_lower))
    }

    /// Takes out every session that is not live any more.
    pub fn expire(&mut self, now: Instant) -> Vec<Session> {
        [&mut self.previous, &mut self.current, &mut self.next]
            .into_iter()
            .filter_map(|slot| slot.take_if(|session| !session.is_live(now)))
            .collect()
    }

    /// Takes out every session.
    pub fn clear(&mut self) -> Vec<Session> {
        [self.previous.take(), self.current.take(), self.next.take()].into_iter().flatten().collect()
    }

    /// Puts a finished session into *current*, or into *previous* if it crossed with the current one and lost.
    fn promote(&mut self, session: Session, is_lower: bool) -> Option<Session> {
        let by_lower = (session.role == Role::Initiator) == is_lower;
        let loses = self.current.as_ref().is_some_and(|current| current.crossed(&session)) && !by_lower;
        if loses {
            return self.previous.replace(session);
        }
        let former = self.current.replace(session)?;
        self.previous.replace(former)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::suite::Suite;
    use super::*;

    fn session(index: u32, role: Role, (began, finished): (u64, u64), start: Instant) -> Session {
        let at = |ms| start + Duration::from_millis(ms);
        let sealer = Arc::new(Sealer::new(Suite::ChaCha20Poly1305, &[0; 32], index));
        Session { index, role, sealer, epoch: [0; 32], began_at: at(began), finished_at: at(finished) }
    }

    #[test]
    fn a_responder_sends_on_next_only_after_it_was_confirmed() {
        let start = Instant::now();
        let mut sessions = Sessions::default();
        assert!(sessions.add_responded(session(1, Role::Responder, (0, 0), start)).is_none());
        assert!(sessions.current(start).is_none());
        assert!(sessions.on_opened(7, true, start).is_none());
        assert!(matches!(sessions.on_opened(1, true, start), Some(None)));
        assert_eq!(sessions.current(start).unwrap().index, 1);
    }

    #[test]
    fn of_two_crossed_handshakes_the_lower_keys_is_sent_on_in_either_order() {
        let start = Instant::now();
        let own = || session(1, Role::Initiator, (0, 100), start);
        let theirs = || session(2, Role::Responder, (50, 50), start);
        for is_lower in [true, false] {
            let expected = if is_lower { 1 } else { 2 };
            let mut own_first = Sessions::default();
            own_first.add_responded(theirs());
            own_first.add_initiated(own(), is_lower);
            own_first.on_opened(2, is_lower, start + Duration::from_millis(150));
            assert_eq!(own_first.current(start).unwrap().index, expected);
            assert_eq!(own_first.iter().count(), 2, "the other still receives");

            let mut theirs_first = Sessions::default();
            theirs_first.add_responded(theirs());
            theirs_first.on_opened(2, is_lower, start + Duration::from_millis(80));
            theirs_first.add_initiated(own(), is_lower);
            assert_eq!(theirs_first.current(start).unwrap().index, expected);
            assert_eq!(theirs_first.iter().count(), 2, "the other still receives");
        }
    }

    #[test]
    fn a_later_rekey_wins_whoever_starts_it() {
        let start = Instant::now();
        for is_lower in [true, false] {
            let mut sessions = Sessions::default();
            sessions.add_initiated(session(1, Role::Initiator, (0, 100), start), is_lower);
            sessions.add_responded(session(2, Role::Responder, (5_000, 5_000), start));
            sessions.on_opened(2, is_lower, start + Duration::from_secs(6));
            assert_eq!(sessions.current(start).unwrap().index, 2);
            let forgotten =
                sessions.add_initiated(session(3, Role::Initiator, (9_000, 9_100), start), is_lower);
            assert_eq!(forgotten.unwrap().index, 1);
            assert_eq!(sessions.current(start).unwrap().index, 3);
        }
    }

    #[test]
    fn an_old_session_is_neither_sent_on_nor_kept() {
        let start = Instant::now();
        let mut sessions = Sessions::default();
        sessions.add_initiated(session(1, Role::Initiator, (0, 0), start), true);
        assert!(sessions.current(start + REJECT_AFTER).is_none());
        assert_eq!(sessions.expire(start + REJECT_AFTER)[0].index, 1);
        assert_eq!(sessions.iter().count(), 0);
    }
}
