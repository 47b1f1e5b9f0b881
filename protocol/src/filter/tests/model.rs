//! The policy as README §13 *Reach* tells it, slowly and from the whole history, against what the filter does.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;

use super::{OWN, PEER};
use crate::drop::DropReason;
use crate::filter::{Access, Exposure, Flows, Policy, Protocol, Reach, Target, inbound, outgoing};
use crate::identity::{DeviceId, SigningSecret};
use crate::wire::ip::samples::packet;
use crate::wire::ip::{ECHO_REPLY, ECHO_REQUEST, ICMP, TCP, UDP, UNREACHABLE};

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// A packet by its meaning.
#[derive(Clone, Debug)]
enum Body {
    Tcp {
        from: u16,
        to: u16,
        flags: u8,
    },
    Udp {
        from: u16,
        to: u16,
    },
    Echo {
        kind: u8,
        identifier: u16,
    },
    /// An error about a packet that went the other way.
    Error {
        about: Box<Body>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Whole,
    First,
    Later,
}

#[derive(Clone, Debug)]
struct Sample {
    body: Body,
    part: Part,
    identification: u16,
    /// Of packets that an application sends.
    is_from_localhost: bool,
}

#[derive(Clone, Debug)]
enum Step {
    /// The owner says what is reachable: policy, and port with whether only link 0 may.
    Reach {
        is_exposed_only: bool,
        exposures: Vec<(bool, u16, bool)>,
    },
    Sent {
        link: usize,
        sample: Sample,
    },
    Received {
        link: usize,
        sample: Sample,
    },
    Wait {
        secs: u64,
    },
}

/// What happened on one link, and what its owner said last.
#[derive(Default)]
struct Model {
    exposed_only: bool,
    exposed: Vec<(u8, u16)>,
    /// A packet of the member's passed before the policy came.
    was_used: bool,
    is_used: bool,
    /// Since the policy came: own packets, with when.
    sent: Vec<(u64, Body)>,
    /// Since the owner spoke last: first fragments with what became of them.
    firsts_in: Vec<(u64, u16, u8, Option<Target>)>,
    firsts_out: Vec<(u64, u16, u8, bool)>,
}

impl Model {
    fn on_reach(&mut self, exposed_only: bool, exposed: Vec<(u8, u16)>) {
        if exposed_only != self.exposed_only {
            self.was_used = self.is_used;
            self.sent.clear();
        }
        (self.exposed_only, self.exposed) = (exposed_only, exposed);
        self.firsts_in.clear();
        self.firsts_out.clear();
    }

    fn received(&mut self, sample: &Sample, now: u64) -> Result<Target, DropReason> {
        let number = sample.body.number();
        let outcome = if sample.part == Part::Later {
            let first = self
                .firsts_in
                .iter()
                .rev()
                .find(|first| (first.1, first.2) == (sample.identification, number));
            match first.filter(|first| now < first.0 + 30).and_then(|first| first.3) {
                Some(target) => Ok(target),
                None if self.exposed_only => Err(DropReason::PacketFragmentLost),
                None => Ok(Target::Own),
            }
        } else {
            self.reached(&sample.body, now).ok_or(DropReason::PacketPolicy)
        };
        if sample.part == Part::First {
            self.firsts_in.push((now, sample.identification, number, outcome.ok()));
        }
        self.is_used |= outcome.is_ok();
        outcome
    }

    fn reached(&self, body: &Body, now: u64) -> Option<Target> {
        let to_service = match body {
            Body::Tcp { to, .. } | Body::Udp { to, .. } => self.exposed.contains(&(body.number(), *to)),
            Body::Echo { .. } => false,
            Body::Error { about } => match **about {
                Body::Tcp { from, .. } | Body::Udp { from, .. } => {
                    self.exposed.contains(&(about.number(), from))
                }
                _ => false,
            },
        };
        match (to_service, self.exposed_only) {
            (true, _) => Some(Target::Localhost),
            (false, false) => Some(Target::Own),
            (false, true) => self.is_answer(body, now).then_some(Target::Own),
        }
    }

    fn is_answer(&self, body: &Body, now: u64) -> bool {
        match *body {
            Body::Udp { from, to } => self.is_udp_open(to, from, now),
            Body::Tcp { from, to, .. } => self.is_tcp_open(to, from, now),
            Body::Echo { kind, identifier } => kind == ECHO_REPLY && self.is_echo_open(identifier, now),
            Body::Error { ref about } => match **about {
                Body::Udp { from, to } => self.is_udp_open(from, to, now),
                Body::Tcp { from, to, .. } => self.is_tcp_open(from, to, now),
                Body::Echo { kind, identifier } => kind == ECHO_REQUEST && self.is_echo_open(identifier, now),
                Body::Error { .. } => false,
            },
        }
    }

    fn is_udp_open(&self, own: u16, theirs: u16, now: u64) -> bool {
        let is_it = |body: &Body| matches!(body, Body::Udp { from, to } if (*from, *to) == (own, theirs));
        self.sent.iter().any(|(at, body)| is_it(body) && now < at + 180)
    }

    fn is_echo_open(&self, wanted: u16, now: u64) -> bool {
        let is_it = |body: &Body| matches!(body, Body::Echo { kind: ECHO_REQUEST, identifier } if *identifier == wanted);
        self.sent.iter().any(|(at, body)| is_it(body) && now < at + 60)
    }

    /// Follows the connection's own packets from the first one.
    fn is_tcp_open(&self, own: u16, theirs: u16, now: u64) -> bool {
        let mut ends_at = 0;
        let mut has_fin = false;
        for (at, body) in &self.sent {
            let Body::Tcp { from, to, flags } = body else { continue };
            if (*from, *to) != (own, theirs) || flags & RST != 0 || flags & (SYN | ACK) == SYN | ACK {
                continue;
            }
            let is_over = *at >= ends_at;
            if flags & SYN != 0 {
                has_fin = false;
            } else if is_over && self.was_used {
                continue;
            } else {
                has_fin = (has_fin && !is_over) || flags & FIN != 0;
            }
            ends_at = at + if flags & SYN != 0 || has_fin { 240 } else { 7_440 };
        }
        now < ends_at
    }

    fn sent(&mut self, sample: &Sample, now: u64) -> Result<(), DropReason> {
        if !sample.is_from_localhost {
            if sample.part != Part::Later {
                self.sent.push((now, sample.body.clone()));
            }
            return Ok(());
        }
        let number = sample.body.number();
        if sample.part == Part::Later {
            let first = self
                .firsts_out
                .iter()
                .rev()
                .find(|first| (first.1, first.2) == (sample.identification, number));
            let passed = first.is_some_and(|first| first.3 && now < first.0 + 30);
            return if passed { Ok(()) } else { Err(DropReason::PacketFragmentLost) };
        }
        let passes = match &sample.body {
            Body::Tcp { from, .. } | Body::Udp { from, .. } => self.exposed.contains(&(number, *from)),
            Body::Echo { .. } => false,
            Body::Error { about } => match **about {
                Body::Tcp { to, .. } | Body::Udp { to, .. } => self.exposed.contains(&(about.number(), to)),
                _ => false,
            },
        };
        if sample.part == Part::First {
            self.firsts_out.push((now, sample.identification, number, passes));
        }
        if passes { Ok(()) } else { Err(DropReason::PacketUnexposed) }
    }
}

impl Body {
    fn number(&self) -> u8 {
        match self {
            Self::Tcp { .. } => TCP,
            Self::Udp { .. } => UDP,
            Self::Echo { .. } | Self::Error { .. } => ICMP,
        }
    }

    fn payload(&self, source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
        let ports = |from: u16, to: u16| [from.to_be_bytes(), to.to_be_bytes()].concat();
        match self {
            Self::Tcp { from, to, flags } => {
                let rest = [0, 0, 0, 0, 0, 0, 0, 0, 0x50, *flags, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4];
                [&ports(*from, *to)[..], &rest].concat()
            }
            Self::Udp { from, to } => [&ports(*from, *to)[..], &[0, 16, 0, 0], &[7; 8]].concat(),
            Self::Echo { kind, identifier } => {
                [&[*kind, 0, 0, 0][..], &identifier.to_be_bytes(), &[0, 1], &[7; 8]].concat()
            }
            Self::Error { about } => {
                let quote =
                    packet(about.number(), destination, source, 0, &about.payload(destination, source));
                [&[UNREACHABLE, 3, 0, 0, 0, 0, 0, 0], &quote[..]].concat()
            }
        }
    }
}

impl Sample {
    fn build(&self, source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
        let (flags, payload) = match self.part {
            Part::Whole => (0, self.body.payload(source, destination)),
            // All of these have a multiple of 8 bytes, but TCP's 24 and errors, which are never cut.
            Part::First => (0x2000, self.body.payload(source, destination)),
            Part::Later => (8, vec![9; 16]),
        };
        let mut bytes = packet(self.body.number(), source, destination, flags, &payload);
        bytes[4..6].copy_from_slice(&self.identification.to_be_bytes());
        bytes
    }
}

fn port() -> impl Strategy<Value = u16> + Clone {
    prop_oneof![Just(22u16), Just(80), Just(6_379)]
}

fn plain() -> impl Strategy<Value = Body> + Clone {
    let flags =
        prop_oneof![Just(SYN), Just(SYN | ACK), Just(ACK), Just(FIN | ACK), Just(RST), Just(RST | ACK),];
    prop_oneof![
        3 => (port(), port(), flags).prop_map(|(from, to, flags)| Body::Tcp { from, to, flags }),
        3 => (port(), port()).prop_map(|(from, to)| Body::Udp { from, to }),
        1 => (prop_oneof![Just(ECHO_REQUEST), Just(ECHO_REPLY)], 1u16..3)
            .prop_map(|(kind, identifier)| Body::Echo { kind, identifier }),
    ]
}

fn sample() -> impl Strategy<Value = Sample> {
    let part = prop_oneof![3 => Just(Part::Whole), 1 => Just(Part::First), 1 => Just(Part::Later)];
    let body = prop_oneof![
        5 => (plain(), part),
        1 => plain().prop_map(|about| (Body::Error { about: Box::new(about) }, Part::Whole)),
    ];
    (body, 1u16..4, any::<bool>()).prop_map(|((body, part), identification, is_from_localhost)| Sample {
        body,
        part,
        identification,
        is_from_localhost,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let exposures = vec((any::<bool>(), port(), any::<bool>()), 0..3);
    prop_oneof![
        1 => (prop_oneof![1 => Just(false), 3 => Just(true)], exposures)
            .prop_map(|(is_exposed_only, exposures)| Step::Reach { is_exposed_only, exposures }),
        6 => (0usize..2, sample()).prop_map(|(link, sample)| Step::Sent { link, sample }),
        6 => (0usize..2, sample()).prop_map(|(link, sample)| Step::Received { link, sample }),
        2 => prop_oneof![1u64..40, 50u64..300, 7_000u64..7_500].prop_map(|secs| Step::Wait { secs }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_filter_does_what_the_text_says(steps in vec(step(), 1..60)) {
        let start = Instant::now();
        let devices = [device(1), device(2)];
        let mut accesses = [Access::default(), Access::default()];
        let mut models = [Model::default(), Model::default()];
        let mut flows = Flows::default();
        let mut secs = 0;
        for step in steps {
            let now = start + Duration::from_secs(secs);
            match step {
                Step::Wait { secs: passed } => secs += passed,
                Step::Reach { is_exposed_only, exposures } => {
                    let reach = reach(is_exposed_only, &exposures, devices[0]);
                    for link in 0..2 {
                        let share = reach.share(&devices[link]);
                        accesses[link].set(share, (link as u32, &mut flows), models[link].is_used);
                        let exposed = exposures.iter().filter(|exposure| !exposure.2 || link == 0);
                        let number = |is_tcp| if is_tcp { TCP } else { UDP };
                        models[link].on_reach(is_exposed_only, exposed.map(|e| (number(e.0), e.1)).collect());
                    }
                }
                Step::Sent { link, sample } => {
                    let source = if sample.is_from_localhost { Ipv4Addr::LOCALHOST } else { OWN };
                    let bytes = sample.build(source, PEER);
                    let (view, from) = outgoing(&bytes, OWN).unwrap();
                    let done = accesses[link].outbound(&view, from, (link as u32, &mut flows), now);
                    prop_assert_eq!(done, models[link].sent(&sample, secs), "{:?}", sample);
                }
                Step::Received { link, sample } => {
                    let bytes = sample.build(PEER, OWN);
                    let view = inbound(&bytes).unwrap();
                    let done = accesses[link].inbound(&view, (link as u32, &flows), now);
                    prop_assert_eq!(done, models[link].received(&sample, secs), "{:?}", sample);
                }
            }
        }
    }
}

fn reach(is_exposed_only: bool, exposures: &[(bool, u16, bool)], first: DeviceId) -> Reach {
    let exposures = exposures.iter().map(|&(is_tcp, port, is_for_first)| Exposure {
        protocol: if is_tcp { Protocol::Tcp } else { Protocol::Udp },
        port,
        to: is_for_first.then(|| [first].into()),
    });
    let policy = if is_exposed_only { Policy::ExposedOnly } else { Policy::OwnAlias };
    Reach { policy, exposures: exposures.collect() }
}

pub(super) fn device(n: u8) -> DeviceId {
    SigningSecret::from_seed(&[n; 32]).public()
}
