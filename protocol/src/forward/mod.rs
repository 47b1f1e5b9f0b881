//! The fast path: packets ⇄ data datagrams of running sessions.
//!
//! One [`Forwarder`] for each thread that moves packets; it owns the openers of its sessions and shares their sealers
//! with the engine. The engine tells it what changed by [`Update`]s; it tells the engine what it saw by [`Note`]s, at
//! most one of a sort a second and link, so that a busy link costs the slow path nothing and an idle one has no timer.
//! No lock, and no allocation for each packet, but for what goes over a stream. A packet of a member that may not be let in is
//! answered by an error, so that an application does not wait (RFC 1812 §5.2.7.1); no other drop is answered.
//!
//! ```text
//! out   packet → filter → link of the destination → its Access → 127.0.0.1 to own → cut to the path → seal → Egress
//! on    relayed datagram → its circuit → label of the other end → the socket again
//! in    datagram → receiver of the index → open → filter → the link's Access → rewrite to (peer's alias → target) → TUN
//! ```

mod answers;
mod fragment;
mod offload;
mod outbound;
mod refusal;
mod relayed;
mod traffic;

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::alias;
use crate::bucket::{Bucket, Rate};
use crate::drop::DropReason;
use crate::filter::{self, Access, Flows, Share, Target};
use crate::path::{BASE_PACKET_BYTES, Remote};
use crate::tunnel::{OpenError, Opener, Sealer};
use crate::wire::ip::{ERROR_BYTES, Ipv4};
use crate::wire::{header, message, stun};

pub use answers::{Outcome, Service};
pub use offload::{Offload, whole_packets};
pub use outbound::{Outbound, send_packet};
pub use relayed::End;
pub use traffic::Traffic;

use answers::Answers;
use relayed::{Relayed, Whose};

/// The pause between two notes of one sort about one link.
const NOTE_PAUSE: Duration = Duration::from_secs(1);

/// Packets from this size on show whether a path carries its base size.
const LARGE_BYTES: usize = BASE_PACKET_BYTES as usize - header::RELAY_HEADER_BYTES;

/// In-session messages of one member: this many at once, and this many a second. A full exchange of a large VPI with
/// a near member stays below it; and no member fills the queue behind which all others wait.
const MESSAGES: Rate = Rate { per_second: 2_048.0, burst: 1_024.0 };

/// Names a link between engine and forwarder; never reused while the engine lives.
pub type LinkId = u32;

/// Takes datagrams to send.
pub trait Egress {
    /// What follows leaves by this socket beside the own one, or again by the own one (`None`); by that at first. Whoever has
    /// no other may leave this out.
    fn leave_by(&mut self, side: Option<u32>) {
        let _ = side;
    }

    /// Lets `fill` write a datagram of `bytes` bytes for `to`; what `fill` leaves with `false` is not sent. Returns
    /// whether there was room.
    fn datagram(&mut self, to: SocketAddr, bytes: usize, fill: impl FnOnce(&mut [u8]) -> bool) -> bool;

    /// The same for the stream of this number. Whoever has none may leave this out.
    fn carried(&mut self, number: u32, bytes: usize, fill: impl FnOnce(&mut [u8]) -> bool) -> bool {
        let _ = (number, bytes, fill);
        false
    }
}

/// What packets to one member need.
#[derive(Clone, Debug)]
pub struct Route {
    /// The session's sending half.
    pub sealer: Arc<Sealer>,
    /// The selected path.
    pub remote: Remote,
    /// The largest inner packet that the path is known to carry, in bytes.
    pub packet_bytes: u16,
    /// Nothing larger is being tried: what does not fit may be told so.
    pub is_size_settled: bool,
}

/// What changed.
#[derive(Debug)]
pub enum Update {
    /// A member got a link.
    Link {
        /// The link's name.
        link: LinkId,
        /// The member's alias; `None` while this node is itself not a member, and nothing can pass.
        alias: Option<Ipv4Addr>,
        /// Where the link's bytes are counted.
        traffic: Arc<Traffic>,
    },
    /// What the member of a link may reach; by default everything on the own alias.
    Reach {
        /// The link's name.
        link: LinkId,
        /// The member's share.
        share: Share,
    },
    /// A member's link is gone, with all its sessions.
    Unlink {
        /// The link's name.
        link: LinkId,
    },
    /// A session can receive.
    Open {
        /// Its receiver index.
        index: u32,
        /// Its link.
        link: LinkId,
        /// Its receiving half.
        opener: Box<Opener>,
        /// Packets pass; else only in-session messages.
        packets: bool,
    },
    /// From now on packets pass on a session.
    Allow {
        /// Its receiver index.
        index: u32,
    },
    /// A session is gone.
    Forget {
        /// Its receiver index.
        index: u32,
    },
    /// What is veiled under one of these tags goes to the engine, and nothing else that is veiled.
    Veils {
        /// At most 33: of held epochs, and of the token by which this device joins.
        tags: Vec<[u8; 2]>,
    },
    /// Requests to STUN servers wait for their responses, or none does any more.
    Stun {
        /// What may be a response goes to the engine.
        is_open: bool,
    },
    /// Datagrams are passed on between two members from here on, or from elsewhere.
    Join {
        /// The members.
        ends: [End; 2],
        /// Where the bytes that are passed on are counted.
        traffic: Arc<Traffic>,
    },
    /// Nothing is passed on under these labels any more.
    Part {
        /// Of the two ends.
        labels: [u32; 2],
    },
    /// What comes under this label from there is this node's own, by way of another; or not any more.
    Leg {
        /// Where the other is.
        via: SocketAddr,
        /// What it calls the way.
        label: u32,
        /// It is.
        is_open: bool,
    },
    /// How packets to a member are sent; `None`: they are held.
    Send {
        /// The member's link.
        link: LinkId,
        /// Session and path.
        route: Option<Route>,
    },
}

/// What the engine should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// Packets are sent on this link.
    Sent(LinkId),
    /// Packets as large as the base size of paths, or larger, are sent on this link.
    Large(LinkId),
    /// What came of it when an application asked for something.
    Outcome {
        /// The link.
        link: LinkId,
        /// What it asked for.
        service: Service,
        /// What came of it.
        outcome: Outcome,
    },
    /// Datagrams arrive on this link.
    Received {
        /// The link.
        link: LinkId,
        /// Packets are among them.
        packets: bool,
    },
    /// The first datagram of a session opened.
    Opened {
        /// Its receiver index.
        index: u32,
    },
    /// Datagrams are passed on under this label.
    Relayed {
        /// One end's.
        label: u32,
    },
    /// An authentic packet or keepalive came from another address than the selected path's. For messages the engine sees
    /// that itself.
    Source {
        /// The link.
        link: LinkId,
        /// Where it came from.
        from: Remote,
        /// Its size.
        bytes: usize,
    },
}

/// What becomes of a datagram.
#[derive(Debug, PartialEq, Eq)]
pub enum Inbound<'d> {
    /// A packet for the TUN device.
    Packet(&'d mut [u8]),
    /// An in-session message for the engine.
    Message {
        /// The session's receiver index.
        index: u32,
        /// Where it came from.
        from: Remote,
        /// The message, decrypted.
        bytes: &'d mut [u8],
    },
    /// A veiled datagram for the engine, as it came.
    Veiled {
        /// Where it came from.
        from: Remote,
        /// The whole datagram.
        bytes: &'d mut [u8],
    },
    /// What may answer a STUN request, for the engine, as it came.
    Stun {
        /// Where it came from.
        from: Remote,
        /// The whole datagram.
        bytes: &'d mut [u8],
    },
    /// A datagram of one member's for another, to be sent on as it is.
    PassOn {
        /// Where to.
        to: SocketAddr,
        /// The whole datagram.
        bytes: &'d mut [u8],
    },
    /// A keepalive: nothing to do.
    Keepalive,
    /// Silence.
    Drop(DropReason),
}

#[derive(Debug)]
struct Receiver {
    link: LinkId,
    opener: Box<Opener>,
    packets: bool,
    /// Nothing opened yet.
    is_new: bool,
}

#[derive(Debug)]
struct Link {
    alias: Option<Ipv4Addr>,
    route: Option<Route>,
    traffic: Arc<Traffic>,
    access: Access,
    sent_noted_at: Option<Instant>,
    /// Something was sent since the last note of something received: the answer is worth a note at once.
    is_answer_due: bool,
    received_noted_at: Option<Instant>,
    packets_noted_at: Option<Instant>,
    large_noted_at: Option<Instant>,
    source_noted_at: Option<Instant>,
    /// Messages that are within bounds, and since when.
    messages: Bucket,
    answers: Answers,
    refusals: Bucket,
}

/// Moves the packets of one VPI.
#[derive(Debug)]
pub struct Forwarder {
    own: Ipv4Addr,
    receivers: BTreeMap<u32, Receiver>,
    links: BTreeMap<LinkId, Link>,
    by_alias: BTreeMap<Ipv4Addr, LinkId>,
    flows: Flows,
    notes: VecDeque<Note>,
    /// What is to be said about packets that members sent and that may not be let in.
    refusals: VecDeque<(LinkId, [u8; ERROR_BYTES])>,
    relayed: Relayed,
    /// Of veiled datagrams that the engine may be able to open.
    tags: Vec<[u8; 2]>,
    /// A STUN request waits for its response.
    is_stun_open: bool,
}

impl Forwarder {
    /// A forwarder of the node whose own alias is `own`, with no link yet.
    #[must_use]
    pub fn new(own: Ipv4Addr) -> Self {
        Self {
            own,
            receivers: BTreeMap::new(),
            links: BTreeMap::new(),
            by_alias: BTreeMap::new(),
            flows: Flows::default(),
            notes: VecDeque::new(),
            refusals: VecDeque::new(),
            relayed: Relayed::default(),
            tags: Vec::new(),
            is_stun_open: false,
        }
    }

    /// Takes in what changed.
    pub fn apply(&mut self, update: Update) {
        match update {
            Update::Link { link, alias, traffic } => self.on_link(link, alias, traffic),
            Update::Unlink { link } => {
                self.receivers.retain(|_, receiver| receiver.link != link);
                self.flows.forget(link);
                let gone = self.links.remove(&link);
                if let Some(alias) = gone.and_then(|gone| gone.alias) {
                    self.by_alias.remove(&alias);
                }
            }
            Update::Reach { link, share } => {
                if let Some(known) = self.links.get_mut(&link) {
                    let is_used = known.traffic.received_bytes() > 0;
                    known.access.set(share, (link, &mut self.flows), is_used);
                }
            }
            Update::Open { index, link, opener, packets } => {
                self.receivers.insert(index, Receiver { link, opener, packets, is_new: true });
            }
            Update::Allow { index } => {
                if let Some(receiver) = self.receivers.get_mut(&index) {
                    receiver.packets = true;
                }
            }
            Update::Forget { index } => {
                self.receivers.remove(&index);
            }
            Update::Veils { tags } => self.tags = tags,
            Update::Stun { is_open } => self.is_stun_open = is_open,
            Update::Join { ends, traffic } => self.relayed.join(ends, &traffic),
            Update::Part { labels } => self.relayed.part(labels),
            Update::Leg { via, label, is_open } => self.relayed.set_leg((via, label), is_open),
            Update::Send { link, route } => {
                if let Some(link) = self.links.get_mut(&link) {
                    link.route = route;
                }
            }
        }
    }

    /// The next thing that the engine should know.
    pub fn poll_note(&mut self) -> Option<Note> {
        self.notes.pop_front()
    }

    /// Takes in one datagram from `from`: opens, filters and rewrites it in place.
    ///
    /// `datagram` is the whole UDP payload, of any length; the result lies within it.
    pub fn inbound<'d>(
        &mut self,
        from: impl Into<Remote>,
        datagram: &'d mut [u8],
        now: Instant,
    ) -> Inbound<'d> {
        let from = from.into();
        if stun::is_message(datagram) {
            return match self.is_stun_open {
                true => Inbound::Stun { from, bytes: datagram },
                false => Inbound::Drop(DropReason::StunUnasked),
            };
        }
        if datagram.first() != Some(&header::RELAYED) {
            return self.passed_on(from, datagram, now);
        }
        // A member that relays knows this device by its own socket.
        let Remote::Udp(from) = from else { return Inbound::Drop(DropReason::Malformed) };
        match self.relayed.look(from, datagram, &mut self.notes, now) {
            Ok(Whose::Others(to)) => Inbound::PassOn { to, bytes: datagram },
            Ok(Whose::Own(label)) => {
                let (_, inner) = datagram.split_at_mut(header::RELAY_HEADER_BYTES);
                self.passed_on(Remote::Relayed { via: from, label }, inner, now)
            }
            Err(reason) => Inbound::Drop(reason),
        }
    }

    /// Takes in one datagram, veiled or of a session, that came straight or by way of somebody else. By way of a circuit
    /// come no packets: what carries them is a stream.
    pub fn passed_on<'d>(&mut self, from: Remote, datagram: &'d mut [u8], now: Instant) -> Inbound<'d> {
        if datagram.first() == Some(&header::VEILED) {
            return match header::veil_tag(datagram) {
                Some(tag) if self.tags.contains(&tag) => Inbound::Veiled { from, bytes: datagram },
                Some(_) => Inbound::Drop(DropReason::UnknownEpoch),
                None => Inbound::Drop(DropReason::Malformed),
            };
        }
        let Some((index, _)) = header::read_data_header(datagram) else {
            return Inbound::Drop(DropReason::Malformed);
        };
        let Some(receiver) = self.receivers.get_mut(&index) else {
            return Inbound::Drop(DropReason::UnknownIndex);
        };
        let bytes = datagram.len();
        let plaintext = match receiver.opener.open(datagram) {
            Ok(plaintext) => plaintext,
            Err(OpenError::Malformed) => return Inbound::Drop(DropReason::Malformed),
            Err(OpenError::Replayed) => return Inbound::Drop(DropReason::Replayed),
            Err(OpenError::Forged) => return Inbound::Drop(DropReason::Forged),
        };
        let Some(link) = self.links.get_mut(&receiver.link) else {
            return Inbound::Drop(DropReason::UnknownIndex);
        };
        if std::mem::take(&mut receiver.is_new) {
            self.notes.push_back(Note::Opened { index });
        }
        let (first, packets) = (plaintext.first().copied(), receiver.packets);
        let is_message = first.is_some_and(|first| message::TYPES.contains(&first));
        link.note_received((receiver.link, is_message), (from, bytes), now, &mut self.notes);
        match first {
            None => Inbound::Keepalive,
            Some(_) if is_message => {
                if link.messages.take(now) {
                    Inbound::Message { index, from, bytes: plaintext }
                } else {
                    Inbound::Drop(DropReason::MessageFlood)
                }
            }
            Some(_) if !packets || matches!(from, Remote::Circuit(_)) => {
                Inbound::Drop(DropReason::ControlOnly)
            }
            Some(_) => {
                let Some(alias) = link.alias else { return Inbound::Drop(DropReason::ControlOnly) };
                let own = self.own;
                if let Err(reason) = link.admit(plaintext, (alias, own), (receiver.link, &self.flows), now) {
                    if reason == DropReason::PacketPolicy {
                        self.refuse(index, plaintext, now);
                    }
                    return Inbound::Drop(reason);
                }
                let outcome =
                    Ipv4::parse(plaintext).ok().and_then(|packet| link.answers.on_received(&packet, now));
                self.notes.extend(outcome.map(|outcome| note_of(receiver.link, outcome)));
                link.traffic.count_received(bytes);
                if due(&mut link.packets_noted_at, now) {
                    self.notes.push_back(Note::Received { link: receiver.link, packets: true });
                }
                Inbound::Packet(plaintext)
            }
        }
    }

    /// Takes in one packet from an application, or a super-packet, and hands its datagrams to `egress`.
    ///
    /// `offload` says what the device left undone; a checksum is completed in place, and so is 127.0.0.1 as source made
    /// the own alias. What must be held ([`Outbound::Hold`]) is otherwise left as it was, and the engine gets it as
    /// [`whole_packets`].
    pub fn outbound(
        &mut self,
        packet: &mut [u8],
        offload: Offload,
        egress: &mut impl Egress,
        now: Instant,
    ) -> Outbound {
        let (view, from) = match filter::outgoing(packet, self.own) {
            Ok(judged) => judged,
            Err(reason) => return Outbound::Drop(reason),
        };
        let destination = view.destination();
        let Some((id, link)) =
            self.by_alias.get(&destination).and_then(|id| Some((*id, self.links.get_mut(id)?)))
        else {
            return Outbound::Drop(DropReason::PacketUnknownAlias);
        };
        if let Err(reason) = link.access.outbound(&view, from, (id, &mut self.flows), now) {
            return Outbound::Drop(reason);
        }
        let outcome = link.answers.on_sent(&view, now);
        self.notes.extend(outcome.map(|outcome| note_of(id, outcome)));
        if from == Target::Localhost {
            let is_partial = offload.has_partial_checksum || offload.segment_bytes.is_some();
            if let Err(error) = alias::rewrite_source(packet, self.own, is_partial) {
                return Outbound::Drop(error.into());
            }
        }
        let Some(route) = &link.route else { return Outbound::Hold };
        if offload.has_partial_checksum && offload.segment_bytes.is_none() {
            offload::complete_checksum(packet);
        }
        let mut outcome = match offload.segment_bytes {
            None => send_packet(packet, route, &link.traffic, egress),
            Some(bytes) => outbound::send_super_packet(packet, bytes, (route, &link.traffic), egress),
        };
        if from == Target::Localhost && !outcome.redirect(destination, Ipv4Addr::LOCALHOST) {
            outcome = Outbound::Drop(DropReason::PacketTooLarge);
        }
        link.traffic.on_sent(now);
        if due(&mut link.sent_noted_at, now) {
            link.is_answer_due = true;
            self.notes.push_back(Note::Sent(id));
        }
        if packet.len() >= LARGE_BYTES && due(&mut link.large_noted_at, now) {
            self.notes.push_back(Note::Large(id));
        }
        outcome
    }

    fn on_link(&mut self, id: LinkId, alias: Option<Ipv4Addr>, traffic: Arc<Traffic>) {
        if let Some(alias) = alias {
            self.by_alias.insert(alias, id);
        }
        if let Some(known) = self.links.get_mut(&id) {
            known.alias = alias;
            return;
        }
        let link = Link {
            alias,
            route: None,
            traffic,
            access: Access::default(),
            sent_noted_at: None,
            is_answer_due: false,
            received_noted_at: None,
            packets_noted_at: None,
            large_noted_at: None,
            source_noted_at: None,
            messages: Bucket::new(MESSAGES),
            answers: Answers::default(),
            refusals: Bucket::new(refusal::RATE),
        };
        self.links.insert(id, link);
    }
}

impl Link {
    /// Filters a packet that came through the tunnel, and gives it the addresses that the session stands for.
    fn admit(
        &mut self,
        packet: &mut [u8],
        (peer, own): (Ipv4Addr, Ipv4Addr),
        flows: (LinkId, &Flows),
        now: Instant,
    ) -> Result<(), DropReason> {
        let target = self.access.inbound(&filter::inbound(packet)?, flows, now)?;
        alias::rewrite(packet, peer, target.address(own)).map_err(DropReason::from)
    }

    fn note_received(
        &mut self,
        (id, is_message): (LinkId, bool),
        (from, bytes): (Remote, usize),
        now: Instant,
        notes: &mut VecDeque<Note>,
    ) {
        let elsewhere = self.route.as_ref().is_some_and(|route| route.remote != from);
        // What comes by another way does not say that what is sent arrives.
        if !elsewhere {
            self.traffic.on_heard();
        }
        let is_answer = std::mem::take(&mut self.is_answer_due);
        if due(&mut self.received_noted_at, now) || is_answer {
            notes.push_back(Note::Received { link: id, packets: false });
        }
        if elsewhere && !is_message && due(&mut self.source_noted_at, now) {
            notes.push_back(Note::Source { link: id, from, bytes });
        }
    }
}

fn note_of(link: LinkId, (service, outcome): (Service, Outcome)) -> Note {
    Note::Outcome { link, service, outcome }
}

/// Says whether a note may be made again, and remembers that it is.
fn due(noted_at: &mut Option<Instant>, now: Instant) -> bool {
    let due = noted_at.is_none_or(|at| now >= at + NOTE_PAUSE);
    if due {
        *noted_at = Some(now);
    }
    due
}

#[cfg(test)]
mod tests;
