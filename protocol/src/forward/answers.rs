//! What came of it when an application asked for something at a member: for a person who asks why it does not work.
//!
//! In: packets as they leave and as they come. Out: outcomes, few. Only what begins a conversation is looked at, a TCP SYN or
//! an echo request, and what answers one: the datagrams of UDP need no answer. Nothing is decided by it.

use std::time::{Duration, Instant};

use crate::bucket::{Bucket, Rate};
use crate::wire::ip::{self, Ipv4};

/// Services that are waited for at once; the oldest gives way (chosen: what one page asks for).
const ASKED_MAX: usize = 8;
/// Who asks again after this long without an answer gets none (chosen: below the third SYN of a kernel, 3 s after the first).
const PATIENCE: Duration = Duration::from_secs(2);
/// Nobody waits for an answer for so long.
const GIVEN_UP: Duration = Duration::from_secs(60);
/// Outcomes that are told of one link.
const TOLD: Rate = Rate { per_second: 2.0, burst: 8.0 };

const FIN_SYN_RST_ACK: u8 = 0x17;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;

/// What is asked for at a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// [`ip::TCP`], [`ip::UDP`] or [`ip::ICMP`].
    pub protocol: u8,
    /// Its port; 0 of an echo.
    pub port: u16,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An answer.
    Answered,
    /// The member's node said that this device may not reach it.
    Forbidden,
    /// A firewall of its machine said so.
    Rejected,
    /// Nothing listens there.
    Closed,
    /// Silence, although it was asked for again.
    Silent,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    service: Service,
    since: Instant,
    last: Instant,
    /// The silence was told.
    is_told: bool,
}

/// What is waited for at one member.
#[derive(Debug)]
pub(super) struct Answers {
    asked: [Option<Asked>; ASKED_MAX],
    next: usize,
    /// Something other than an answer was told, which an answer takes back.
    has_refused: bool,
    told: Bucket,
}

impl Default for Answers {
    fn default() -> Self {
        Self { asked: [None; ASKED_MAX], next: 0, has_refused: false, told: Bucket::new(TOLD) }
    }
}

impl Answers {
    /// Takes in a packet of an application's, one that was let pass.
    #[inline]
    pub(super) fn on_sent(&mut self, packet: &Ipv4<'_>, now: Instant) -> Option<(Service, Outcome)> {
        let service = match packet.protocol() {
            ip::TCP if flags(packet) == SYN => Service { protocol: ip::TCP, port: packet.ports()?.1 },
            ip::ICMP if packet.icmp()?.0 == ip::ECHO_REQUEST => Service { protocol: ip::ICMP, port: 0 },
            _ => return None,
        };
        self.on_asked(service, now)
    }

    fn on_asked(&mut self, service: Service, now: Instant) -> Option<(Service, Outcome)> {
        let known = self.asked.iter_mut().flatten().find(|asked| asked.service == service);
        let Some(asked) = known.filter(|asked| now < asked.last + GIVEN_UP) else {
            self.forget(service);
            self.asked[self.next] = Some(Asked { service, since: now, last: now, is_told: false });
            self.next = (self.next + 1) % ASKED_MAX;
            return None;
        };
        asked.last = now;
        if asked.is_told || now < asked.since + PATIENCE {
            return None;
        }
        asked.is_told = true;
        self.tell(service, Outcome::Silent, now)
    }

    /// Takes in a packet of the member's, one that was let pass.
    #[inline]
    pub(super) fn on_received(&mut self, packet: &Ipv4<'_>, now: Instant) -> Option<(Service, Outcome)> {
        match packet.protocol() {
            ip::TCP => {
                let flags = flags(packet);
                if flags & (SYN | RST) == 0 || flags == SYN {
                    return None;
                }
                let service = Service { protocol: ip::TCP, port: packet.ports()?.0 };
                let is_asked = self.forget(service);
                match flags & RST == 0 {
                    true => self.on_answer(service, now),
                    // Connections end by it, too; only who just asked is refused.
                    false if is_asked => self.tell(service, Outcome::Closed, now),
                    false => None,
                }
            }
            ip::ICMP => match packet.icmp()? {
                (ip::ECHO_REPLY, _) => {
                    let service = Service { protocol: ip::ICMP, port: 0 };
                    self.forget(service);
                    self.on_answer(service, now)
                }
                (ip::UNREACHABLE, code) => self.on_error(packet, code, now),
                _ => None,
            },
            _ => None,
        }
    }

    /// An error about a packet that was sent. Of codes that forbid, the node's own is told by its hops.
    fn on_error(&mut self, packet: &Ipv4<'_>, code: u8, now: Instant) -> Option<(Service, Outcome)> {
        let quote = packet.quote()?;
        let port = quote.ports().map_or(0, |(_, port)| port);
        let service = Service { protocol: quote.protocol(), port };
        let outcome = match code {
            ip::PROHIBITED if packet.ttl() == ip::PROHIBITED_HOPS => Outcome::Forbidden,
            // A kernel answers a SYN that nothing listens for by a reset, so this is somebody's rule.
            3 if service.protocol == ip::TCP => Outcome::Rejected,
            3 => Outcome::Closed,
            9 | 10 | ip::PROHIBITED => Outcome::Rejected,
            _ => return None,
        };
        self.forget(service);
        self.tell(service, outcome, now)
    }

    fn on_answer(&mut self, service: Service, now: Instant) -> Option<(Service, Outcome)> {
        if self.has_refused { self.tell(service, Outcome::Answered, now) } else { None }
    }

    fn tell(&mut self, service: Service, outcome: Outcome, now: Instant) -> Option<(Service, Outcome)> {
        self.has_refused |= outcome != Outcome::Answered;
        self.told.take(now).then_some((service, outcome))
    }

    /// Waits for this no more; returns whether it was waited for.
    fn forget(&mut self, service: Service) -> bool {
        let slot = self.asked.iter_mut().find(|slot| slot.is_some_and(|asked| asked.service == service));
        slot.is_some_and(|slot| slot.take().is_some())
    }
}

#[inline]
fn flags(packet: &Ipv4<'_>) -> u8 {
    match packet.fragment_offset_bytes() {
        0 => packet.payload().get(13).map_or(0, |flags| flags & FIN_SYN_RST_ACK),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const HERE: Ipv4Addr = Ipv4Addr::new(127, 80, 0, 1);
    const THERE: Ipv4Addr = Ipv4Addr::new(127, 80, 0, 2);
    const WEB: Service = Service { protocol: ip::TCP, port: 80 };
    const ECHO: Service = Service { protocol: ip::ICMP, port: 0 };

    fn packet((from, to): (Ipv4Addr, Ipv4Addr), protocol: u8, payload: &[u8]) -> Vec<u8> {
        let total = (ip::HEADER_BYTES + payload.len()) as u16;
        let [high, low] = total.to_be_bytes();
        let mut bytes = vec![0x45, 0, high, low, 0, 0, 0, 0, 64, protocol, 0, 0];
        bytes.extend(from.octets().into_iter().chain(to.octets()).chain(payload.iter().copied()));
        bytes
    }

    fn tcp(ends: (Ipv4Addr, Ipv4Addr), ports: (u16, u16), flags: u8) -> Vec<u8> {
        let mut header = [0; ip::TCP_HEADER_BYTES];
        header[..2].copy_from_slice(&ports.0.to_be_bytes());
        header[2..4].copy_from_slice(&ports.1.to_be_bytes());
        (header[12], header[13]) = (0x50, flags);
        packet(ends, ip::TCP, &header)
    }

    fn view(bytes: &[u8]) -> Ipv4<'_> {
        Ipv4::parse(bytes).unwrap()
    }

    #[test]
    fn a_reset_refuses_who_asked_and_a_later_answer_takes_it_back() {
        let (mut answers, now) = (Answers::default(), Instant::now());
        let (syn, reset) =
            (tcp((HERE, THERE), (5_000, 80), SYN), tcp((THERE, HERE), (80, 5_000), RST | 0x10));
        assert_eq!(answers.on_received(&view(&reset), now), None, "nobody asked");
        assert_eq!(answers.on_sent(&view(&syn), now), None);
        assert_eq!(answers.on_received(&view(&reset), now), Some((WEB, Outcome::Closed)));
        let accepts = tcp((THERE, HERE), (80, 5_001), SYN | 0x10);
        answers.on_sent(&view(&syn), now);
        assert_eq!(answers.on_received(&view(&accepts), now), Some((WEB, Outcome::Answered)));
    }

    #[test]
    fn silence_is_told_once_somebody_asked_again_for_a_while() {
        let (mut answers, now) = (Answers::default(), Instant::now());
        let at = |ms| now + Duration::from_millis(ms);
        let syn = tcp((HERE, THERE), (5_000, 80), SYN);
        let ping = packet((HERE, THERE), ip::ICMP, &[8, 0, 0, 0, 0, 1, 0, 1]);
        for (bytes, service) in [(&syn, WEB), (&ping, ECHO)] {
            assert_eq!(answers.on_sent(&view(bytes), at(0)), None);
            assert_eq!(answers.on_sent(&view(bytes), at(1_000)), None);
            assert_eq!(answers.on_sent(&view(bytes), at(3_000)), Some((service, Outcome::Silent)));
            assert_eq!(answers.on_sent(&view(bytes), at(7_000)), None, "once");
        }
    }

    #[test]
    fn what_the_nodes_own_error_says_is_told_from_what_a_firewall_says() {
        let (mut answers, now) = (Answers::default(), Instant::now());
        let syn = tcp((HERE, THERE), (5_000, 80), SYN);
        let mut error = ip::prohibited(&view(&syn)).unwrap();
        assert_eq!(answers.on_received(&view(&error), now), Some((WEB, Outcome::Forbidden)));
        error[8] = 64;
        assert_eq!(answers.on_received(&view(&error), now), Some((WEB, Outcome::Rejected)));
    }
}
