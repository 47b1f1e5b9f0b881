//! How two members bring their objects together: the asking side (README §9).
//!
//! The asker does all the work: it asks for the ids of each kind, page by page, then for the pieces of what it does not
//! have, and asks again for what does not come. The answering side keeps no state. Kinds that decide who may be talked
//! to come first; once they are settled on both ends, packets pass.
//!
//! ```text
//!   ids(kind, page) ──►            get(id, offset) ──►            settled ──►
//!           ◄── list(kind, page, ids)      ◄── piece(…)            ◄── settled
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::identity::ObjectId;
use crate::random::{Rng, jittered};
use crate::wire::message::{Message, PAGE_IDS, PIECE_BYTES};

/// What is asked for, step by step: Charter, Remove and Epoch, which decide who may be talked to, with Invite and Confirm,
/// behind which an Epoch may stand in its chain; then Join, Rekey, Admit, Lease and Presence.
const STEPS: [&[u8]; 2] = [&[1, 5, 6, 2, 10], &[3, 7, 4, 9, 8]];
/// The kind on which the others of its step hang: it is asked for before all that waits.
const JOIN: u8 = 3;
/// The kind of which only the newest of a device is kept.
const PRESENCE: u8 = 8;
/// Steps after which packets may pass.
const URGENT_STEPS: usize = 1;

/// Questions that wait for an answer at most (specified: README §9).
const MAX_OUTSTANDING: usize = 16;
/// A question is asked again after this long, ± 20 %.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// A piece asked for this often without an answer counts as rejected: the peer listed what it does not give.
const MAX_ATTEMPTS: u32 = 10;
/// A list that does not come is asked for ever more rarely, down to once in so many pauses, and never given up: nobody may
/// keep a Remove from a member by keeping a datagram from it.
const SLOWEST: u32 = 10;
/// Questions that wait their turn at most: a VPI of 4,096 members has fewer objects worth asking for at once.
const MAX_WAITING: usize = 16_384;
/// Pages of one kind at most, 32 ids each.
const MAX_PAGES: u16 = 512;
/// The largest object, in bytes: a body of 2,048, 16 signatures, and their frame.
const MAX_OBJECT_BYTES: u16 = 4_096;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Question {
    Ids { kind: u8, page: u16 },
    Get { id: ObjectId, offset: u16 },
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    again_at: Instant,
    attempts: u32,
}

/// One exchange with one member. The default is one that asks for nothing but what it is told of.
#[derive(Debug)]
pub struct Exchange {
    waiting: VecDeque<Question>,
    outstanding: BTreeMap<Question, Asked>,
    /// The beginnings of objects larger than one piece.
    partial: BTreeMap<ObjectId, Vec<u8>>,
    /// Objects asked for and not complete, with their kinds.
    wanted: BTreeMap<ObjectId, u8>,
    /// Steps begun; all of them in an exchange that was never started.
    begun: usize,
    /// Something that was listed was not given.
    is_lacking: bool,
}

impl Default for Exchange {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            outstanding: BTreeMap::new(),
            partial: BTreeMap::new(),
            wanted: BTreeMap::new(),
            begun: STEPS.len(),
            is_lacking: false,
        }
    }
}

impl Exchange {
    /// An exchange from the start.
    #[must_use]
    pub fn start() -> Self {
        Self { begun: 0, ..Self::default() }
    }

    /// Says whether everything that decides who may be talked to was received or rejected.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.begun > URGENT_STEPS
    }

    /// Says whether nothing is left to ask.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.begun == STEPS.len() && self.waiting.is_empty() && self.outstanding.is_empty()
    }

    /// Says whether nothing is left to ask, and everything that was listed is here.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.is_done() && !self.is_lacking
    }

    /// Takes in a page of ids, asked for or not. `is_known` says which objects are held already.
    pub fn on_list(
        &mut self,
        (kind, page): (u8, u16),
        ids: &[ObjectId],
        is_known: impl Fn(&ObjectId) -> bool,
    ) {
        let asked = self.outstanding.remove(&Question::Ids { kind, page }).is_some();
        if asked && ids.len() == PAGE_IDS && page + 1 < MAX_PAGES {
            self.wait(kind, Question::Ids { kind, page: page + 1 });
        }
        for id in ids {
            if self.waiting.len() < MAX_WAITING && !is_known(id) && self.wanted.insert(*id, kind).is_none() {
                self.wait(kind, Question::Get { id: *id, offset: 0 });
            }
        }
    }

    fn wait(&mut self, kind: u8, question: Question) {
        if kind == JOIN {
            self.waiting.push_front(question);
        } else {
            self.waiting.push_back(question);
        }
    }

    /// Takes in a piece; returns the whole object's bytes once they are all here.
    pub fn on_piece(&mut self, id: ObjectId, (offset, total): (u16, u16), bytes: &[u8]) -> Option<Vec<u8>> {
        self.outstanding.remove(&Question::Get { id, offset })?;
        if total == 0 {
            // It gave way to another since it was listed: as if it had not been. What decides who may be talked to gives way to
            // nothing but bounds, and is missed.
            let kind = self.wanted.remove(&id);
            self.is_lacking |= kind.is_some_and(|kind| STEPS[0].contains(&kind));
            self.partial.remove(&id);
            return None;
        }
        let mut whole = self.partial.remove(&id).unwrap_or_default();
        if whole.len() != usize::from(offset) || total > MAX_OBJECT_BYTES {
            self.wanted.remove(&id);
            return None;
        }
        whole.extend_from_slice(bytes);
        if whole.len() < usize::from(total) {
            // Its pieces go before all that waits, so that few objects are in parts at once.
            self.waiting.push_front(Question::Get { id, offset: whole.len() as u16 });
            self.partial.insert(id, whole);
            return None;
        }
        self.wanted.remove(&id);
        Some(whole)
    }

    /// Notes that something that was listed and given was not taken: the exchange is not complete.
    pub fn on_refused(&mut self) {
        self.is_lacking = true;
    }

    /// The next question to send, if one is due.
    pub fn poll_question(&mut self, rng: &mut Rng, now: Instant) -> Option<Message<'static>> {
        self.advance();
        let again =
            self.outstanding.iter().find(|(_, asked)| now >= asked.again_at).map(|(question, _)| *question);
        let question = again.or_else(|| {
            (self.outstanding.len() < MAX_OUTSTANDING).then(|| self.waiting.pop_front()).flatten()
        })?;
        let attempts = self.outstanding.get(&question).map_or(0, |asked| asked.attempts) + 1;
        let again_at = now + jittered(RETRY_AFTER, rng) * attempts.min(SLOWEST);
        self.outstanding.insert(question, Asked { again_at, attempts });
        match question {
            Question::Ids { kind, page } => Some(Message::Ids { kind, page }),
            Question::Get { id, .. } if attempts > MAX_ATTEMPTS => {
                self.reject(id, question);
                self.poll_question(rng, now)
            }
            Question::Get { id, offset } => Some(Message::Get { id, offset }),
        }
    }

    /// When [`Exchange::poll_question`] is to be asked again, if nothing arrives.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.outstanding.values().map(|asked| asked.again_at).min()
    }

    fn reject(&mut self, id: ObjectId, question: Question) {
        self.outstanding.remove(&question);
        self.partial.remove(&id);
        // A Presence that a newer one replaced since it was listed is not missed.
        self.is_lacking |= self.wanted.remove(&id) != Some(PRESENCE);
        self.advance();
    }

    /// Once a step is done, goes on with the next.
    fn advance(&mut self) {
        if !self.waiting.is_empty() || !self.outstanding.is_empty() {
            return;
        }
        if let Some(kinds) = STEPS.get(self.begun) {
            self.begun += 1;
            self.waiting.extend(kinds.iter().map(|kind| Question::Ids { kind: *kind, page: 0 }));
        }
    }
}

/// The piece of `object` at `offset`, to answer a `get`; `None` beyond its end.
#[must_use]
pub fn piece<'o>(id: ObjectId, object: &'o [u8], offset: u16) -> Option<Message<'o>> {
    let rest = object.get(usize::from(offset)..).filter(|rest| !rest.is_empty())?;
    let bytes = &rest[..rest.len().min(PIECE_BYTES)];
    Some(Message::Piece { id, offset, total: u16::try_from(object.len()).ok()?, bytes })
}

#[cfg(test)]
mod tests {
    use rand_core::SeedableRng as _;

    use super::*;

    /// A peer that holds these objects, by kind, and loses every `lossy`-th question.
    struct Peer {
        objects: BTreeMap<u8, Vec<(ObjectId, Vec<u8>)>>,
        lossy: usize,
        asked: usize,
    }

    impl Peer {
        fn answer(&mut self, question: &Message<'_>, exchange: &mut Exchange, got: &mut Vec<Vec<u8>>) {
            self.asked += 1;
            if self.lossy > 0 && self.asked.is_multiple_of(self.lossy) {
                return;
            }
            match question {
                Message::Ids { kind, page } => {
                    let all = self.objects.get(kind).map(Vec::as_slice).unwrap_or_default();
                    let ids: Vec<_> = all.iter().map(|(id, _)| *id).collect();
                    let ids = ids.chunks(PAGE_IDS).nth(usize::from(*page)).unwrap_or_default();
                    exchange.on_list((*kind, *page), ids, |_| false);
                }
                Message::Get { id, offset } => {
                    let object = self.objects.values().flatten().find(|(known, _)| known == id).unwrap();
                    let Some(Message::Piece { id, offset, total, bytes }) = piece(*id, &object.1, *offset)
                    else {
                        panic!("asked beyond the end")
                    };
                    got.extend(exchange.on_piece(id, (offset, total), bytes));
                }
                other => panic!("not a question: {other:?}"),
            }
        }
    }

    fn run(peer: &mut Peer) -> (Exchange, Vec<Vec<u8>>, Duration) {
        let (start, mut rng) = (Instant::now(), Rng::from_seed([1; 32]));
        let (mut exchange, mut got, mut now) = (Exchange::start(), Vec::new(), start);
        loop {
            while let Some(question) = exchange.poll_question(&mut rng, now) {
                assert!(exchange.outstanding.len() <= MAX_OUTSTANDING);
                peer.answer(&question, &mut exchange, &mut got);
            }
            match exchange.poll_timeout() {
                Some(at) => now = at,
                None => return (exchange, got, now - start),
            }
        }
    }

    fn objects(count: usize) -> BTreeMap<u8, Vec<(ObjectId, Vec<u8>)>> {
        let object = |kind: u8, n: usize| {
            let bytes = vec![kind; 700 + 13 * n % 2_900];
            (ObjectId(crate::identity::sha256(&[&[kind], &n.to_be_bytes()])), bytes)
        };
        [1, 6, 3, 4].map(|kind| (kind, (0..count).map(|n| object(kind, n)).collect())).into()
    }

    #[test]
    fn everything_arrives_whatever_is_lost() {
        for lossy in [0, 2, 3, 7] {
            let mut peer = Peer { objects: objects(70), lossy, asked: 0 };
            let mut expected: Vec<_> =
                peer.objects.values().flatten().map(|(_, bytes)| bytes.clone()).collect();
            let (exchange, mut got, _) = run(&mut peer);
            expected.sort();
            got.sort();
            assert!(exchange.is_done() && got == expected, "one in {lossy} lost");
        }
    }

    #[test]
    fn joins_are_asked_for_before_all_that_hangs_on_them() {
        let mut peer = Peer { objects: objects(500), lossy: 0, asked: 0 };
        let (_, got, _) = run(&mut peer);
        // The first byte is the kind; but for what was outstanding when the lists came.
        let last_join = got.iter().rposition(|bytes| bytes[0] == 3).unwrap();
        let early = got.iter().take(last_join).filter(|bytes| bytes[0] == 4).count();
        assert!(early <= MAX_OUTSTANDING, "{early} of what hangs on Joins came before the last of these");
    }

    #[test]
    fn a_silent_peer_is_asked_ever_more_rarely_and_never_settles() {
        let (start, mut rng) = (Instant::now(), Rng::from_seed([1; 32]));
        let (mut exchange, mut now, mut asked) = (Exchange::start(), start, 0);
        while now < start + Duration::from_secs(600) {
            while exchange.poll_question(&mut rng, now).is_some() {
                asked += 1;
            }
            now = exchange.poll_timeout().unwrap();
        }
        assert!(!exchange.is_settled() && !exchange.is_complete());
        // Each kind of the first step once in 5 s, and somewhat more often at first.
        let rarest = 600 / 5 * STEPS[0].len();
        assert!((rarest..rarest * 5 / 4).contains(&asked), "{asked} in ten minutes");
    }

    #[test]
    fn an_object_that_is_listed_and_not_given_is_rejected_and_remembered_as_lacking() {
        let (mut rng, mut now) = (Rng::from_seed([1; 32]), Instant::now());
        let mut exchange = Exchange::start();
        loop {
            while let Some(question) = exchange.poll_question(&mut rng, now) {
                if let Message::Ids { kind, page } = question {
                    exchange.on_list(
                        (kind, page),
                        if kind == 1 { &[ObjectId([5; 32])] } else { &[] },
                        |_| false,
                    );
                }
            }
            match exchange.poll_timeout() {
                Some(at) => now = at,
                None => break,
            }
        }
        assert!(exchange.is_settled() && exchange.is_done() && !exchange.is_complete());
    }

    #[test]
    fn an_object_that_gave_way_since_it_was_listed_holds_nothing_up_and_is_missed_if_much_hangs_on_it() {
        for (given_way, is_complete) in [(8, true), (4, true), (3, true), (1, false), (5, false), (6, false)]
        {
            let (mut exchange, mut rng, now) = (Exchange::start(), Rng::from_seed([1; 32]), Instant::now());
            let id = ObjectId([5; 32]);
            while let Some(question) = exchange.poll_question(&mut rng, now) {
                match question {
                    Message::Ids { kind, page } => {
                        exchange.on_list((kind, page), &[id][..usize::from(kind == given_way)], |_| false);
                    }
                    Message::Get { offset, .. } => {
                        assert_eq!(exchange.on_piece(id, (offset, 0), b""), None);
                    }
                    other => panic!("not a question: {other:?}"),
                }
            }
            assert!(exchange.is_settled() && exchange.is_done());
            assert_eq!(exchange.is_complete(), is_complete, "kind {given_way}");
            exchange.on_list((given_way, 0), &[id], |_| false);
            let again = exchange.poll_question(&mut rng, now);
            assert_eq!(again, Some(Message::Get { id, offset: 0 }), "it is back");
        }
    }

    #[test]
    fn unasked_pieces_are_ignored_and_unasked_lists_are_asked_for() {
        let (mut exchange, mut rng, now) = (Exchange::default(), Rng::from_seed([1; 32]), Instant::now());
        let id = ObjectId([5; 32]);
        assert_eq!(exchange.on_piece(id, (0, 3), b"abc"), None);
        exchange.on_list((3, 0), &[id], |_| false);
        assert_eq!(exchange.poll_question(&mut rng, now), Some(Message::Get { id, offset: 0 }));
        assert_eq!(exchange.on_piece(id, (0, 3), b"abc"), Some(b"abc".to_vec()));
        exchange.on_list((3, 0), &[id], |_| true);
        assert_eq!(exchange.poll_question(&mut rng, now), None);
    }

    #[test]
    fn what_a_peer_makes_us_remember_is_bounded() {
        let mut exchange = Exchange::start();
        for n in 0..2_000u32 {
            let ids: Vec<_> = (0..32)
                .map(|m: u32| ObjectId(crate::identity::sha256(&[&n.to_be_bytes(), &m.to_be_bytes()])))
                .collect();
            exchange.on_list((3, 0), &ids, |_| false);
        }
        assert!(exchange.waiting.len() <= MAX_WAITING && exchange.wanted.len() <= MAX_WAITING);
        let id = ObjectId([5; 32]);
        exchange
            .outstanding
            .insert(Question::Get { id, offset: 0 }, Asked { again_at: Instant::now(), attempts: 1 });
        assert_eq!(exchange.on_piece(id, (0, u16::MAX), &[0; 1_000]), None);
        assert!(exchange.partial.is_empty());
    }
}
