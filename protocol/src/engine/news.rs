//! What members with a live link are told unasked: that there are objects, until they say that they have them.
//!
//! ```text
//! list(kind, NEWS_PAGE, ids) ──►           ◄── have(ids), at once or after get … piece
//! ```
//!
//! Charters, Removes and Epochs decide who may be talked to: they, and what admins signed before them, are told again
//! until the member has them. All else is told once; what is lost comes with a later exchange.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{Engine, Time};
use crate::identity::{DeviceId, ObjectId};
use crate::membership::object::{Body, Kind, Object};
use crate::random::{Rng, jittered};
use crate::wire::message::{Message, NEWS_PAGE, PAGE_IDS};

/// Objects told to one member and not yet confirmed, at most (chosen: beyond it an exchange is the better way, and one
/// comes within a minute).
const MAX_UNTOLD: usize = 64;
/// The pause before telling again, ± 20 %, times the number of attempts.
const AGAIN_AFTER: Duration = Duration::from_millis(400);
/// A member that was told so often and says nothing is silent, or rejects what it was told.
const MAX_ATTEMPTS: u32 = 10;

/// Says whether objects of this kind decide who may be talked to.
pub(super) fn is_urgent(kind: Kind) -> bool {
    matches!(kind, Kind::Charter | Kind::Remove | Kind::Epoch)
}

/// Says whether an object is worth waking others for: one that decides who may be talked to, but for the word of who leaves,
/// who harms nobody, and could come and go all day.
pub(super) fn is_wake_worthy(object: &Object) -> bool {
    let is_leave = matches!(object.body(), Body::Remove(remove) if remove.is_leave());
    is_urgent(object.kind()) && !is_leave
}

/// Where objects came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// This device made them, or let their maker in.
    Own,
    /// A member told of them.
    Member(DeviceId),
    /// They were here, and their time has come.
    Elsewhere,
}

/// Says whether an object of this kind is told until it has arrived: an urgent one, or a link of a chain, without which
/// the links behind it do not count.
pub(super) fn is_kept_on(kind: Kind) -> bool {
    is_urgent(kind) || matches!(kind, Kind::Invite | Kind::Confirm)
}

#[derive(Debug)]
struct Telling {
    kind: u8,
    again_at: Instant,
    attempts: u32,
    /// The member asked for it: it did not have it before.
    is_fetched: bool,
}

/// What one member has been told and has not confirmed.
#[derive(Debug, Default)]
pub(super) struct News(BTreeMap<ObjectId, Telling>);

impl News {
    /// Remembers to tell of an object until the member has it.
    pub(super) fn add(&mut self, kind: u8, id: ObjectId, now: Instant) {
        if self.0.len() < MAX_UNTOLD {
            self.0.insert(id, Telling { kind, again_at: now, attempts: 0, is_fetched: false });
        }
    }

    /// The next list that is due.
    pub(super) fn poll(&mut self, rng: &mut Rng, now: Instant) -> Option<Message<'static>> {
        self.0.retain(|_, telling| telling.attempts < MAX_ATTEMPTS || now < telling.again_at);
        let kind = self.0.values().find(|telling| now >= telling.again_at)?.kind;
        let mut ids = Vec::new();
        let due = self.0.iter_mut().filter(|(_, telling)| telling.kind == kind && now >= telling.again_at);
        for (id, telling) in due.take(PAGE_IDS) {
            telling.attempts += 1;
            telling.again_at = now + jittered(AGAIN_AFTER, rng) * telling.attempts;
            ids.push(*id);
        }
        Some(Message::List { kind, page: NEWS_PAGE, ids })
    }

    /// When [`News::poll`] has something to say.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.0.values().map(|telling| telling.again_at).min()
    }

    /// Notes that the member asked for an object.
    pub(super) fn on_get(&mut self, id: &ObjectId) {
        if let Some(telling) = self.0.get_mut(id) {
            telling.is_fetched = true;
        }
    }

    /// Takes in what the member has; says of how much of it was told here, and whether it had some of that before.
    pub(super) fn on_have(&mut self, ids: &[ObjectId]) -> (usize, bool) {
        let told: Vec<Telling> = ids.iter().filter_map(|id| self.0.remove(id)).collect();
        (told.len(), told.iter().any(|telling| !telling.is_fetched))
    }
}

impl Engine {
    /// Tells every member with a live link, but the one they came from, that there are these objects.
    pub(super) fn tell(&mut self, news: &[(Kind, ObjectId)], from: Option<&DeviceId>, time: Time) {
        let devices: Vec<DeviceId> =
            self.peers.keys().filter(|device| Some(*device) != from).copied().collect();
        for device in devices {
            let Some(peer) = self.peers.get_mut(&device) else { continue };
            if peer.sessions.current(time.now).is_none() {
                continue;
            }
            let mut once: BTreeMap<u8, Vec<ObjectId>> = BTreeMap::new();
            for &(kind, id) in news {
                if is_kept_on(kind) {
                    peer.news.add(kind as u8, id, time.now);
                } else {
                    once.entry(kind as u8).or_default().push(id);
                }
            }
            for (kind, ids) in once {
                for ids in ids.chunks(PAGE_IDS) {
                    let list = Message::List { kind, page: NEWS_PAGE, ids: ids.to_vec() };
                    self.send_message(&device, &list, time);
                }
            }
            self.send_due_messages(&device, time);
        }
    }

    /// Takes in a list that nobody asked for: what is held is confirmed, the rest is asked for.
    pub(super) fn on_list(
        &mut self,
        device: &DeviceId,
        (kind, page): (u8, u16),
        ids: &[ObjectId],
        time: Time,
    ) {
        let Some(peer) = self.peers.get_mut(device) else { return };
        let roster = &self.roster;
        let own = self.config.device.public();
        peer.knows_history |= page != NEWS_PAGE && ids.iter().any(|id| roster.is_history_of(&own, id));
        peer.exchange.on_list((kind, page), ids, |id| roster.is_known(id));
        let held: Vec<ObjectId> =
            ids.iter().filter(|id| roster.objects().get(id).is_some()).copied().collect();
        if page == NEWS_PAGE && !held.is_empty() {
            self.send_message(device, &Message::Have { ids: held }, time);
        }
    }

    /// Takes in that a member has what it was told of.
    pub(super) fn on_have(&mut self, device: &DeviceId, ids: &[ObjectId], time: Time) {
        let Some(peer) = self.peers.get_mut(device) else { return };
        let (told, had_some) = peer.news.on_have(ids);
        if had_some {
            self.spread_was_known(device);
        }
        if told > 0 {
            self.on_told(ids, time);
        }
    }
}

#[cfg(test)]
mod tests {
    use rand_core::SeedableRng as _;

    use super::*;

    fn id(n: u8) -> ObjectId {
        ObjectId([n; 32])
    }

    fn told(news: &mut News, rng: &mut Rng, now: Instant) -> Vec<ObjectId> {
        match news.poll(rng, now) {
            Some(Message::List { page: NEWS_PAGE, ids, .. }) => ids,
            None => Vec::new(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_was_told_is_told_again_until_it_is_there() {
        let (mut news, mut rng, start) = (News::default(), Rng::from_seed([1; 32]), Instant::now());
        news.add(5, id(1), start);
        news.add(5, id(2), start);
        news.add(6, id(3), start);
        assert_eq!(told(&mut news, &mut rng, start), [id(1), id(2)], "one kind at a time");
        assert_eq!(told(&mut news, &mut rng, start), [id(3)]);
        assert_eq!(told(&mut news, &mut rng, start), []);
        news.on_get(&id(2));
        assert_eq!(news.on_have(&[id(2)]), (1, false), "it was fetched");
        assert_eq!(news.on_have(&[id(3), id(9)]), (1, true), "it was there before");
        let again = news.poll_timeout().unwrap();
        assert!(again <= start + AGAIN_AFTER.mul_f64(1.2));
        assert_eq!(told(&mut news, &mut rng, again), [id(1)]);
    }

    #[test]
    fn a_silent_member_is_told_for_a_while_and_what_is_kept_for_it_is_bounded() {
        let (mut news, mut rng, start) = (News::default(), Rng::from_seed([1; 32]), Instant::now());
        for n in 0..200 {
            news.add(5, id(n), start);
        }
        let (mut lists, mut now) = (0, start);
        while let Some(at) = news.poll_timeout() {
            now = now.max(at);
            while !told(&mut news, &mut rng, now).is_empty() {
                lists += 1;
            }
            if news.0.values().all(|telling| telling.attempts >= MAX_ATTEMPTS) {
                break;
            }
        }
        assert!(news.0.len() <= MAX_UNTOLD);
        let each = MAX_UNTOLD as u32 * MAX_ATTEMPTS;
        assert!((MAX_ATTEMPTS..=each).contains(&lists), "{lists} lists");
        now += AGAIN_AFTER * MAX_ATTEMPTS * 2;
        assert_eq!(told(&mut news, &mut rng, now), []);
        assert_eq!(news.poll_timeout(), None, "nothing wakes the node for it any more");
    }
}
