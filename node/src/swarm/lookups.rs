//! Asking the DHT, and putting into it.
//!
//! ```text
//! get:  GET_VALUE on the way to the 20 closest, and at these ─────────────────────► Found
//! put:  FIND_NODE likewise ─► PUT_VALUE at each of the 20, no publisher, and GET_VALUE ─► Stored
//! ```
//!
//! Whom to ask is decided in `search`. A lookup is never ended by its first value: then the beacon that answers first would decide.
//! It is over when the closest have answered; with something found, when most of them have and the others are late, or after
//! [`SETTLE`], or [`PATIENCE`] times what the first answer took where beacons are far; with nothing, after [`DEADLINE`]. What the
//! owner of the key has not signed is nothing: whoever makes it up gains no time by it. A put is read back because a beacon that
//! keeps nothing says the same as one that keeps all.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use libp2p::swarm::DialError;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{PeerId, Swarm};
use protocol::discovery::record::is_signed;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::Told;
use super::behaviour::Member;
use super::kademlia::{Answer, Named, Question, ask};
use super::roster::Roster;
use super::search::Search;
use crate::beacon::protocol::KAD;

/// Lookups and puts at once, and waiting (chosen: a member that starts looks for eight others at a time).
const RUNNING: usize = 8;
const WAITING: usize = 64;
/// Beacons a lookup starts from: as many as it looks for (Kademlia's k).
const SEEDS: usize = 20;
/// When a lookup ends with what it has, if it has something (chosen: beacons that stall cost no more than this, beacons that
/// answer have had time for three round trips to the far side of the world on a cold connection).
const SETTLE: Duration = Duration::from_millis(2_000);
/// In a lookup that starts from nothing, as many times the time to the first answer pass until the last (measured among 20 beacons:
/// three and a half). It is the nearest beacon's that counts, so that one which is slow on purpose prolongs nothing.
const PATIENCE: u32 = 4;
/// How often is looked who is late.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// When it ends with nothing (chosen: below the 10 s in which members find each other), and when one beacon has had enough time.
const DEADLINE: Duration = Duration::from_secs(8);
/// Distinct values of one lookup that are handed on (chosen: more than the twenty closest can have). All are signed for their
/// key, so none is longer than a record can be.
const VALUES: usize = 64;

struct Job {
    key: [u8; 32],
    purpose: Purpose,
}

enum Purpose {
    Get { ticket: u64 },
    Put { value: Vec<u8>, expires_at: Instant },
}

/// One that is under way. Dropped, it asks nobody any more.
struct Running {
    key: [u8; 32],
    stage: Stage,
    search: Search,
    values: Vec<Vec<u8>>,
    asked: u32,
    started_at: Instant,
    /// How long the first answer took, once there is one.
    first_after: Option<Duration>,
    dialling: BTreeSet<PeerId>,
    asking: JoinSet<()>,
}

enum Stage {
    Getting { ticket: u64 },
    Closest { value: Vec<u8>, expires_at: Instant },
    Storing { value: Vec<u8>, expires_at: Instant, open: BTreeSet<PeerId>, copies: u32 },
}

/// What came of asking one beacon.
pub(super) struct Answered {
    number: u64,
    peer: PeerId,
    answer: Option<Answer>,
    /// Questions that it took beyond the first.
    more: u32,
}

/// All that one peer id asks the DHT.
pub(super) struct Lookups {
    waiting: VecDeque<Job>,
    running: BTreeMap<u64, Running>,
    count: u64,
    answer: mpsc::Sender<Answered>,
    answered: mpsc::Receiver<Answered>,
}

impl Default for Lookups {
    fn default() -> Self {
        let (answer, answered) = mpsc::channel(RUNNING);
        Self { waiting: VecDeque::new(), running: BTreeMap::new(), count: 0, answer, answered }
    }
}

impl Lookups {
    /// Asks for all values under a key. Returns the answer at once where too much waits.
    pub(super) fn get(&mut self, ticket: u64, key: [u8; 32]) -> Option<Told> {
        self.add(Job { key, purpose: Purpose::Get { ticket } })
    }

    /// Puts a value; as [`Self::get`].
    pub(super) fn put(&mut self, key: [u8; 32], value: Vec<u8>, expires_at: Instant) -> Option<Told> {
        self.add(Job { key, purpose: Purpose::Put { value, expires_at } })
    }

    fn add(&mut self, job: Job) -> Option<Told> {
        if self.waiting.len() >= WAITING {
            return Some(nothing(&job));
        }
        self.waiting.push_back(job);
        None
    }

    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Waits for what comes of asking somebody. A call that is given up loses nothing.
    pub(super) async fn answered(&mut self) -> Answered {
        match self.answered.recv().await {
            Some(answered) => answered,
            // Never: the other end is kept here.
            None => std::future::pending().await,
        }
    }

    pub(super) fn on_answered(&mut self, answered: Answered, now: Instant) {
        if let Some(running) = self.running.get_mut(&answered.number) {
            running.asked = running.asked.saturating_add(answered.more);
            running.on_answer(&answered.peer, answered.answer, now);
        }
    }

    pub(super) fn on_connected(&mut self, peer: PeerId, swarm: &Swarm<Member>) {
        for (number, running) in &mut self.running {
            if running.dialling.remove(&peer) {
                running.ask((*number, peer), swarm, &self.answer);
            }
        }
    }

    pub(super) fn on_unreachable(&mut self, peer: PeerId, now: Instant) {
        for running in self.running.values_mut() {
            if running.dialling.remove(&peer) {
                running.on_answer(&peer, None, now);
            }
        }
    }

    /// When [`Self::tick`] has something to do of itself.
    pub(super) fn next_at(&self, now: Instant) -> Option<Instant> {
        (!self.running.is_empty()).then_some(now + LOOK_EVERY)
    }

    /// Starts what waits, as far as there is room, asks whom there is to ask, and tells what has come to an end.
    pub(super) fn tick(&mut self, swarm: &mut Swarm<Member>, roster: &Roster, now: Instant) -> Vec<Told> {
        let mut told = Vec::new();
        while self.running.len() < RUNNING
            && let Some(job) = self.waiting.pop_front()
        {
            if roster.peers().next().is_none() {
                told.push(nothing(&job));
                continue;
            }
            self.count += 1;
            self.running.insert(self.count, Running::new(job, roster, now));
        }
        for (number, running) in &mut self.running {
            running.go_on(*number, swarm, &self.answer, now);
        }
        let is_over = |running: &Running| running.is_over(now);
        for (number, mut running) in
            self.running.extract_if(.., |_, running| is_over(running)).collect::<Vec<_>>()
        {
            match running.store(now) {
                Some(closest) => {
                    for named in closest {
                        let peer = named.0;
                        if !running.call(number, named, swarm, &self.answer) {
                            running.on_answer(&peer, None, now);
                        }
                    }
                    self.running.insert(number, running);
                }
                None => told.push(running.told()),
            }
        }
        told
    }
}

impl Running {
    fn new(job: Job, roster: &Roster, now: Instant) -> Self {
        let known = roster.nearest_to_key(&job.key, SEEDS);
        let known: Vec<_> = known.into_iter().map(|(peer, address)| (peer, vec![address])).collect();
        let stage = match job.purpose {
            Purpose::Get { ticket } => Stage::Getting { ticket },
            Purpose::Put { value, expires_at } => Stage::Closest { value, expires_at },
        };
        Self {
            key: job.key,
            stage,
            search: Search::new(&job.key, &known),
            values: Vec::new(),
            asked: 0,
            started_at: now,
            first_after: None,
            dialling: BTreeSet::new(),
            asking: JoinSet::new(),
        }
    }

    /// Asks whom there is to ask.
    fn go_on(
        &mut self,
        number: u64,
        swarm: &mut Swarm<Member>,
        answer: &mpsc::Sender<Answered>,
        now: Instant,
    ) {
        if matches!(self.stage, Stage::Storing { .. }) {
            return;
        }
        while let Some(named) = self.search.next(now) {
            let peer = named.0;
            if !self.call(number, named, swarm, answer) {
                // There will be.
                return self.search.put_back(&peer);
            }
        }
    }

    /// Asks one, once it is connected. Says whether there is room for that.
    fn call(
        &mut self,
        number: u64,
        (peer, addresses): Named,
        swarm: &mut Swarm<Member>,
        answer: &mpsc::Sender<Answered>,
    ) -> bool {
        if swarm.is_connected(&peer) {
            self.ask((number, peer), swarm, answer);
            return true;
        }
        let dial = DialOpts::peer_id(peer).addresses(addresses).extend_addresses_through_behaviour();
        match swarm.dial(dial.condition(PeerCondition::DisconnectedAndNotDialing).build()) {
            Ok(()) | Err(DialError::DialPeerConditionFalse(_)) => {
                self.dialling.insert(peer);
                true
            }
            Err(DialError::Denied { .. }) => false,
            Err(_) => {
                self.on_answer(&peer, None, Instant::now());
                true
            }
        }
    }

    fn ask(&mut self, (number, peer): (u64, PeerId), swarm: &Swarm<Member>, answer: &mpsc::Sender<Answered>) {
        let (control, answer) = (swarm.behaviour().stream.new_control(), answer.clone());
        let questions = match &self.stage {
            Stage::Getting { .. } => vec![Question::Get],
            Stage::Closest { .. } => vec![Question::Find],
            Stage::Storing { value, expires_at, .. } => {
                let seconds = expires_at.saturating_duration_since(Instant::now()).as_secs();
                let seconds = usize::try_from(seconds).unwrap_or(usize::MAX);
                vec![Question::Put { value: value.clone(), seconds }, Question::Get]
            }
        };
        let key = self.key;
        self.asked = self.asked.saturating_add(1);
        self.asking.spawn(async move {
            let mut more = 0;
            let said = timeout(DEADLINE, say(peer, control, (&key, &questions), &mut more)).await;
            // Who asked may have gone.
            let _ = answer.send(Answered { number, peer, answer: said.ok().flatten(), more }).await;
        });
    }

    fn on_answer(&mut self, peer: &PeerId, said: Option<Answer>, now: Instant) {
        let Some(Answer { value: found, named }) = said else {
            self.search.on_failure(peer);
            if let Stage::Storing { open, .. } = &mut self.stage {
                open.remove(peer);
            }
            return;
        };
        self.first_after.get_or_insert(now.saturating_duration_since(self.started_at));
        if let Stage::Storing { value, open, copies, .. } = &mut self.stage {
            if open.remove(peer) && found.as_ref() == Some(value) {
                *copies += 1;
            }
            return;
        }
        if self.search.is_asked(peer) {
            self.search.on_answer(peer, &named, now);
        }
        if let Some(value) = found
            && self.values.len() < VALUES
            && !self.values.contains(&value)
            && is_signed(&self.key, &value)
        {
            self.values.push(value);
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        let is_enough = match &self.stage {
            Stage::Getting { .. } => {
                self.search.is_done(now) || (!self.values.is_empty() && self.search.is_enough(now))
            }
            Stage::Closest { .. } => {
                self.search.is_done(now) || (self.search.answered() > 0 && self.search.is_enough(now))
            }
            Stage::Storing { open, .. } => open.is_empty(),
        };
        is_enough || self.ends_at() <= now
    }

    fn ends_at(&self) -> Instant {
        let has_something = match self.stage {
            Stage::Getting { .. } => !self.values.is_empty(),
            // Those that answered so far are as good as any.
            Stage::Closest { .. } => true,
            Stage::Storing { copies, .. } => copies > 0,
        };
        let after = match self.first_after {
            Some(first) if has_something => (first * PATIENCE).clamp(SETTLE, DEADLINE),
            _ => DEADLINE,
        };
        self.started_at + after
    }

    /// The second step of a put: to those that are closest, if there are any. `None` if this was the last step.
    fn store(&mut self, now: Instant) -> Option<Vec<Named>> {
        let Stage::Closest { value, expires_at } = &mut self.stage else { return None };
        let closest = self.search.found();
        if closest.is_empty() {
            return None;
        }
        let (value, expires_at) = (std::mem::take(value), *expires_at);
        let open = closest.iter().map(|(peer, _)| *peer).collect();
        self.stage = Stage::Storing { value, expires_at, open, copies: 0 };
        (self.started_at, self.first_after) = (now, None);
        self.asking.abort_all();
        self.dialling.clear();
        Some(closest)
    }

    fn told(self) -> Told {
        let (key, answered, asked) = (self.key, self.search.answered(), self.asked);
        match self.stage {
            Stage::Getting { ticket } => Told::Found { ticket, values: self.values, answered, asked },
            Stage::Closest { .. } => Told::Stored { key, copies: 0, asked },
            Stage::Storing { copies, .. } => Told::Stored { key, copies, asked },
        }
    }
}

/// Asks one beacon a few things on one stream; gives its last answer. Each question but the first is counted in `more`.
async fn say(
    peer: PeerId,
    mut control: libp2p_stream::Control,
    (key, questions): (&[u8; 32], &[Question]),
    more: &mut u32,
) -> Option<Answer> {
    let mut stream = control.open_stream(peer, KAD).await.ok()?;
    let mut last = None;
    for question in questions {
        *more += u32::from(last.is_some());
        last = Some(ask(&mut stream, key, question).await?);
    }
    last
}

/// The answer of one that asked nobody.
fn nothing(job: &Job) -> Told {
    match job.purpose {
        Purpose::Get { ticket } => Told::Found { ticket, values: Vec::new(), answered: 0, asked: 0 },
        Purpose::Put { .. } => Told::Stored { key: job.key, copies: 0, asked: 0 },
    }
}
