//! One other member, as this node sees it.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::bursts::{FORETELLS, Waiting};
use super::candidates::{PROMPT_SILENCE, Patience, UNKNOWN_RTT};
use super::carrying::Carrying;
use super::circuits::Circuit;
use super::epochs::Asking;
use super::keeping::Kept;
use super::lan::Heard;
use super::news::News;
use super::outbox::Ticket;
use super::relaying::Relays;
use super::trail::{Outcomes, Trail};
use crate::bucket::{Bucket, Rate};
use crate::forward::{LinkId, Route, Traffic};
use crate::identity::StaticKey;
use crate::membership::exchange::Exchange;
use crate::path::punch::Punch;
use crate::path::{Path, Remote};
use crate::tunnel::Sessions;
use crate::tunnel::handshake::Initiation;
use crate::tunnel::timers::{REJECT_AFTER, Timers};
use crate::wire::hello::Digests;

/// Packets held for one link until it is up (chosen: a burst of an application's first packets).
const MAX_HELD: usize = 64;
/// A packet held for longer is dropped: its sender has sent it again, or given up.
const HOLD_FOR: Duration = Duration::from_secs(10);
/// Pings that wait for one link at once.
const MAX_PINGS: usize = 16;
/// Objects taken from one member: this many at once, and this many a second. The burst is the exchange of a VPI of two
/// thousand; what is beyond comes with a later one. Each object costs signatures, a run of the reducer and a place in
/// the log, and a member can make them without end.
const OBJECTS: Rate = Rate { per_second: 4.0, burst: 8_192.0 };
/// Charters, Removes and Epochs taken from one member: the burst is the removals of a large VPI's life.
const URGENT_OBJECTS: Rate = Rate { per_second: 4.0, burst: 4_096.0 };
/// Initiations before their time, because a member turned out to be elsewhere (chosen: it may say so of itself without end).
const HASTENED: Rate = Rate { per_second: 1.0 / 5.0, burst: 4.0 };

/// Presences of one member of which others are told at once, and once in 20 s: a device that moves all the time is worth no
/// more, and each goes to everybody (chosen).
const PRESENCES: Rate = Rate { per_second: 1.0 / 20.0, burst: 8.0 };

/// An initiation that waits for its response.
pub(super) struct Attempt {
    pub(super) initiation: Initiation,
    /// What was sent.
    pub(super) datagram: Vec<u8>,
    /// SHA-256 of the secret of the epoch that it was made under.
    pub(super) epoch: [u8; 32],
    /// Our receiver index of the session to be.
    pub(super) index: u32,
    pub(super) sent_at: Instant,
    pub(super) retry_at: Instant,
    /// From 0.
    pub(super) number: u32,
}

/// How far the two ends have come in showing each other what decides who may be talked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settlement {
    /// Packets pass.
    Done,
    /// Control only, until each end has said `Settled` and heard it from the other.
    Open {
        /// The other end has said it.
        theirs: bool,
        /// When to say it again, once it is true.
        again_at: Instant,
    },
    /// Both have said it, on a session under an epoch that is not the newest: control only until the next handshake.
    Rekey,
}

/// Why a member has no link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Nothing was tried since the last link, if there was one.
    Unknown,
    /// The last handshake had no answer.
    Unreachable,
    /// It said that this device was removed, and has not answered since.
    Denied,
}

/// Whether the path that is used still answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quiet {
    /// As far as is known.
    No,
    /// It was asked at this moment, because this device moved: nothing may come back by the way that it knew.
    Moved(Instant),
    /// It was asked at this moment, because nothing came for a while.
    Asked(Instant),
    /// And once more since, because one question may be lost.
    AskedAgain(Instant),
    /// It did not since then: others are looked at. What is heard by way of others says nothing of it.
    Looking(Remote, Instant),
}

/// Everything about one other member but what the objects say.
pub(super) struct Peer {
    pub(super) link: LinkId,
    /// Whether this node's device key is the lower of the two.
    pub(super) is_lower: bool,
    pub(super) static_key: Option<StaticKey>,
    pub(super) alias: Option<Ipv4Addr>,
    pub(super) path: Path,
    /// Other addresses of its that are being checked.
    pub(super) punch: Punch,
    pub(super) quiet: Quiet,
    /// A better path is wanted.
    pub(super) is_looking: bool,
    /// When the direct path that is used is compared with others again, if it was; asked when an application uses the link.
    pub(super) compare_at: Option<Instant>,
    /// The path that is used, while it is to be kept in the NATs before this machine.
    pub(super) kept: Kept,
    /// When it was told this device's candidates.
    pub(super) told_at: Option<Instant>,
    /// The number of the set that it was told then.
    pub(super) told_set: Option<u32>,
    /// What waits until the own NAT's next port is known.
    pub(super) waiting: Waiting,
    /// The set of its candidates by which ports were foretold last.
    pub(super) foretold_set: Option<u32>,
    pub(super) foretells: Bucket,
    /// When it is looked whether many sockets are to be opened, while a better path is wanted.
    pub(super) birthday_at: Option<Instant>,
    /// When many were last, at either end.
    pub(super) had_birthday_at: Option<Instant>,
    pub(super) relays: Relays,
    /// Where it announced itself on the LAN.
    pub(super) heard: Heard,
    /// The own pipe to it.
    pub(super) circuit: Circuit,
    /// The stream to it.
    pub(super) carrying: Carrying,
    /// What was tried to reach it.
    pub(super) trail: Trail,
    /// What came of it when applications asked for something there.
    pub(super) outcomes: Outcomes,
    /// Handshakes begun anew because more became known of where it is.
    pub(super) hastened: Bucket,
    pub(super) sessions: Sessions,
    pub(super) attempt: Option<Attempt>,
    /// Where the initiation came from whose session waits to be confirmed, and that session's index.
    pub(super) answered: Option<(u32, Remote)>,
    pub(super) timers: Timers,
    pub(super) rekey_at: Option<Instant>,
    pub(super) exchange: Exchange,
    /// When that began.
    pub(super) exchange_at: Option<Instant>,
    /// In that it listed something of what this device signed.
    pub(super) knows_history: bool,
    /// Exchanges that were begun anew on this session because it had not.
    pub(super) asked_again: u8,
    pub(super) settlement: Settlement,
    pub(super) news: News,
    pub(super) asking: Asking,
    /// What it said of itself in the last handshake.
    pub(super) digests: Option<Digests>,
    /// It has answered or been answered before, so that it knows this device.
    pub(super) has_met: bool,
    held: VecDeque<(Instant, Vec<u8>)>,
    pub(super) pings: Pings,
    pub(super) reach: Reach,
    pub(super) traffic: Arc<Traffic>,
    /// When it is looked at next.
    pub(super) look_at: Option<Instant>,
    /// What had been sent and received at the last time.
    looked_at: [u64; 2],
    /// Where the last check came from that was not followed, and when.
    pub(super) checked_from: Option<(Remote, Instant)>,
    /// It was asked since packets came.
    pub(super) was_questioned: bool,
    /// Packets came by themselves lately: it shows soon if none does.
    pub(super) is_prompt: bool,
    pub(super) last_seen_secs: Option<u64>,
    /// The route that the forwarder has.
    pub(super) route: Option<Route>,
    /// Objects of this member's that may still be taken.
    pub(super) objects: Bucket,
    /// Those of them that decide who may be talked to: they never wait behind others.
    pub(super) urgent_objects: Bucket,
    /// Words of where it is of which others may still be told.
    pub(super) presences: Bucket,
}

/// Pings that somebody asked for.
#[derive(Default)]
pub(super) struct Pings {
    /// For the link to come up.
    pub(super) waiting: VecDeque<Ticket>,
    /// By the id of their probe.
    pub(super) sent: BTreeMap<u64, Ticket>,
}

impl Pings {
    /// Remembers a ping; the oldest gives way where there are too many.
    pub(super) fn wait(&mut self, ticket: Ticket) {
        if self.waiting.len() >= MAX_PINGS {
            self.waiting.pop_front();
        }
        self.waiting.push_back(ticket);
    }

    /// Remembers the probe that was sent for the ping that waited longest.
    pub(super) fn on_sent(&mut self, probe: u64) {
        let Some(ticket) = self.waiting.pop_front() else { return };
        if self.sent.len() >= MAX_PINGS {
            self.sent.pop_first();
        }
        self.sent.insert(probe, ticket);
    }
}

impl Peer {
    pub(super) fn new(link: LinkId, is_lower: bool) -> Self {
        Self {
            link,
            is_lower,
            static_key: None,
            alias: None,
            path: Path::default(),
            punch: Punch::default(),
            quiet: Quiet::No,
            is_looking: false,
            compare_at: None,
            kept: Kept::default(),
            told_at: None,
            told_set: None,
            waiting: Waiting::No,
            foretold_set: None,
            foretells: Bucket::new(FORETELLS),
            birthday_at: None,
            had_birthday_at: None,
            relays: Relays::default(),
            heard: Heard::default(),
            circuit: Circuit::default(),
            carrying: Carrying::default(),
            trail: Trail::default(),
            outcomes: Outcomes::default(),
            hastened: Bucket::new(HASTENED),
            sessions: Sessions::default(),
            attempt: None,
            answered: None,
            timers: Timers::default(),
            rekey_at: None,
            exchange: Exchange::default(),
            exchange_at: None,
            knows_history: false,
            asked_again: 0,
            settlement: Settlement::Done,
            news: News::default(),
            asking: Asking::default(),
            digests: None,
            has_met: false,
            held: VecDeque::new(),
            pings: Pings::default(),
            reach: Reach::Unknown,
            traffic: Arc::default(),
            look_at: None,
            looked_at: [0; 2],
            checked_from: None,
            was_questioned: false,
            is_prompt: false,
            last_seen_secs: None,
            route: None,
            objects: Bucket::new(OBJECTS),
            urgent_objects: Bucket::new(URGENT_OBJECTS),
            presences: Bucket::new(PRESENCES),
        }
    }

    /// Begins an exchange anew, and with it the questions for secrets.
    pub(super) fn begin_exchange(&mut self, now: Instant) {
        self.exchange = Exchange::start();
        self.exchange_at = Some(now);
        self.knows_history = false;
        self.asking.begin();
    }

    /// Sets what the objects say; returns whether the forwarder must be told.
    pub(super) fn set_identity(&mut self, static_key: Option<StaticKey>, alias: Option<Ipv4Addr>) -> bool {
        // An alias is never `None` for a member, so this is also true for a link that is new.
        let is_news = self.alias != alias || self.static_key.is_none();
        self.static_key = static_key;
        self.alias = alias;
        is_news
    }

    /// Holds a packet until the link is up; returns the one that gave way, if the bound is reached.
    pub(super) fn hold(&mut self, packet: Vec<u8>, now: Instant) -> Option<Vec<u8>> {
        self.held.push_back((now, packet));
        if self.held.len() > MAX_HELD { self.held.pop_front().map(|(_, packet)| packet) } else { None }
    }

    /// Takes the held packets out: those that are still worth sending, and how many are not.
    pub(super) fn take_held(&mut self, now: Instant) -> (Vec<Vec<u8>>, usize) {
        let held = std::mem::take(&mut self.held);
        let all = held.len();
        let fresh = held.into_iter().filter(|(since, _)| now < *since + HOLD_FOR);
        let fresh: Vec<_> = fresh.map(|(_, packet)| packet).collect();
        let stale = all - fresh.len();
        (fresh, stale)
    }

    /// Says whether a handshake goes by way of others, too: where no direct path answers.
    pub(super) fn goes_by_legs(&self) -> bool {
        self.is_silent() || self.path.remote().and_then(Remote::udp).is_none()
    }

    /// Says whether packets or pings wait for the link.
    pub(super) fn is_waited_for(&self) -> bool {
        !self.held.is_empty() || !self.pings.waiting.is_empty()
    }

    /// Says whether packets may pass on a session of this peer.
    pub(super) fn is_settled(&self) -> bool {
        self.settlement == Settlement::Done
    }

    /// How packets are to be sent now; `None`: not at all.
    pub(super) fn wanted_route(&self, now: Instant) -> Option<Route> {
        let session = self.sessions.current(now).filter(|_| self.is_settled() && self.alias.is_some())?;
        Some(Route {
            sealer: Arc::clone(&session.sealer),
            remote: self.path.remote().filter(|remote| !matches!(remote, Remote::Circuit(_)))?,
            packet_bytes: self.path.packet_bytes(),
            is_size_settled: self.path.is_size_settled(),
        })
    }

    /// How long the path that is used may take to answer after this device moved: three round trips, within what a busy machine
    /// takes and what a path is given otherwise (chosen).
    pub(super) fn moved_patience(&self) -> Duration {
        let rtt = self.path.rtt().unwrap_or(UNKNOWN_RTT);
        (3 * rtt).clamp(Duration::from_millis(300), Duration::from_millis(1_500))
    }

    /// When what was sent has gone unanswered for too long, unless something is heard. What is noted once a second says less
    /// than what the forwarder knows of packets.
    fn silent_at(&self, patience: Patience) -> Option<Instant> {
        let since = [self.timers.unanswered_since(), self.traffic.unanswered_since()];
        Some(since.into_iter().flatten().min()? + patience.silent_after)
    }

    /// Says whether it has; while packets are sent it is looked at again soon.
    pub(super) fn look(&mut self, patience: Patience, now: Instant) -> bool {
        // Whoever is due soon is looked at along, so that a hundred links do not wake the engine a hundred times.
        if self.look_at.take_if(|at| now + PROMPT_SILENCE / 4 >= *at).is_some() {
            let bytes = [self.traffic.sent_bytes(), self.traffic.received_bytes()];
            let before = std::mem::replace(&mut self.looked_at, bytes);
            if bytes[1] != before[1] {
                self.is_prompt = !std::mem::take(&mut self.was_questioned);
            }
            self.look_at = (bytes[0] != before[0]).then(|| now + PROMPT_SILENCE);
        }
        self.silent_at(patience).is_some_and(|at| now >= at)
    }

    /// When the path that is used is to be doubted, or looked at.
    fn doubt_at(&self) -> Option<Instant> {
        let patience = Patience::of(self, self.path.remote()?);
        let silent_at = self.silent_at(patience);
        let looked_at = silent_at.into_iter().chain(self.look_at).min();
        match self.quiet {
            Quiet::No => looked_at,
            Quiet::Moved(at) => Some(at + self.moved_patience()),
            Quiet::Asked(at) => Some(at + patience.asked_for / 2),
            Quiet::AskedAgain(at) => Some(at + patience.asked_for),
            Quiet::Looking(..) => None,
        }
    }

    /// When something is due, and what. A device that `may_settle` not is itself no member, or waits for a secret of this
    /// one.
    pub(super) fn poll_timeout(&self, may_settle: bool) -> Option<(Instant, &'static str)> {
        let settle = match self.settlement {
            Settlement::Open { again_at, .. }
                if may_settle && self.exchange.is_settled() && self.path.remote().is_some() =>
            {
                Some(again_at)
            }
            Settlement::Open { .. } | Settlement::Rekey | Settlement::Done => None,
        };
        // What is said in a session waits for one.
        let said = |at: Option<Instant>| at.filter(|_| self.path.remote().is_some());
        let expiry = self.sessions.iter().map(|session| session.began_at + REJECT_AFTER).min();
        let end = self.sessions.sends_until().filter(|_| self.path.remote().is_some());
        [
            (self.attempt.as_ref().map(|attempt| attempt.retry_at), "handshake"),
            (self.timers.keepalive_at(), "keepalive"),
            (said(self.keep_at()), "keep"),
            (self.timers.doubted_until(), "doubt"),
            (self.rekey_at, "rekey"),
            (self.path.poll_timeout(), "probe"),
            (said(self.punch.poll_timeout()), "check"),
            (
                said(self.punch.again_at().filter(|_| self.is_looking && self.waiting == Waiting::No)),
                "better path",
            ),
            (said(self.birthday_at), "birthday"),
            (said(self.doubt_at()), "silence"),
            (self.relays.legs.look_at(), "relay"),
            (said(self.carrying.look_at()), "stream"),
            (said(self.exchange.poll_timeout()), "exchange"),
            (said(self.news.poll_timeout()), "news"),
            (said(self.asking.poll_timeout()), "epoch secret"),
            (settle, "settle"),
            (end, "link's end"),
            (expiry, "session"),
        ]
        .into_iter()
        .filter_map(|(at, why)| Some((at?, why)))
        .min()
    }
}
