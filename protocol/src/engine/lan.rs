//! Members on the same network: told that this device is here, and heard.
//!
//! In: this machine's addresses, searches for members, announcements from the LAN socket. Out: [`Event::Announce`], one
//! veiled datagram for the multicast group; and initiations to the addresses *inside* an announcement. An announcement is
//! never answered to its source: whoever hears or replays one learns nothing from this node.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::outbox::Event;
use super::trail::Step;
use super::{Engine, Time};
use crate::bucket::{Bucket, Rate};
use crate::drop::DropReason;
use crate::gate::Question;
use crate::identity::DeviceId;
use crate::path::{Remote, is_candidate};
use crate::random::{self, Rng};
use crate::veil::{self, Veiled};
use crate::wire::announcement::{Announcement, MAX_ADDRESSES};
use crate::wire::header::{Class, VeilHeader};

/// Announcements at the start and at each change of addresses (specified: README §4): one may be lost.
const REPEATS: u8 = 3;
/// The wait before the first, so that nodes that get power at one moment do not all speak at once; ± 20 %.
const FIRST_AFTER: Duration = Duration::from_millis(100);
/// The pause between two; ± 20 %.
const PAUSE: Duration = Duration::from_secs(1);
/// Tries of a handshake without an answer before the LAN is searched (specified: README §4).
const TRIES_BEFORE_SEARCH: u32 = 2;
/// Announcements for searches, whoever is searched for: what a node sends while members are away for hours.
const SEARCHES: Rate = Rate { per_second: 1.0 / 20.0, burst: 4.0 };
/// Announcements of one member that lead to an initiation: those of a start, and of a change right after it.
const HEARD: Rate = Rate { per_second: 1.0 / 5.0, burst: 6.0 };
/// How long the addresses of an announcement are tried: as long as a handshake is.
const TRIED_FOR: Duration = Duration::from_secs(30);

/// What this device says on the LAN, and when.
pub(super) struct Lan {
    is_wanted: bool,
    addresses: Vec<SocketAddr>,
    /// How many more, and when the next.
    due: Option<(u8, Instant)>,
    searches: Bucket,
}

impl Default for Lan {
    fn default() -> Self {
        Self { is_wanted: false, addresses: Vec::new(), due: None, searches: Bucket::new(SEARCHES) }
    }
}

impl Lan {
    /// When the next announcement is due.
    pub(super) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.due.map(|(_, at)| (at, "announce"))
    }

    fn start(&mut self, rng: &mut Rng, now: Instant) {
        let is_silent = !self.is_wanted || self.addresses.is_empty();
        self.due = (!is_silent).then(|| (REPEATS, now + random::jittered(FIRST_AFTER, rng)));
    }
}

/// Where a member says on the LAN that it is.
pub(super) struct Heard {
    addresses: Vec<SocketAddr>,
    until: Option<Instant>,
    rate: Bucket,
}

impl Default for Heard {
    fn default() -> Self {
        Self { addresses: Vec::new(), until: None, rate: Bucket::new(HEARD) }
    }
}

impl Heard {
    /// The addresses to try beside those that are known. They never take the place of one of those: a member could claim
    /// to be another.
    pub(super) fn addresses(&self, now: Instant) -> impl Iterator<Item = SocketAddr> {
        let is_fresh = self.until.is_some_and(|until| now < until);
        self.addresses.iter().copied().filter(move |_| is_fresh)
    }
}

impl Engine {
    /// Announces this device from here on, or does not.
    pub(super) fn want_lan(&mut self, is_wanted: bool, time: Time) {
        if std::mem::replace(&mut self.lan.is_wanted, is_wanted) != is_wanted {
            self.lan.start(&mut self.rng, time.now);
        }
    }

    /// Takes in the addresses of this machine, the best first; a change is announced.
    pub(super) fn announce_addresses(&mut self, addresses: &[SocketAddr], time: Time) {
        let sensible = addresses.iter().copied().filter(is_sensible).take(MAX_ADDRESSES);
        let addresses: Vec<SocketAddr> = sensible.collect();
        if addresses != self.lan.addresses {
            self.lan.addresses = addresses;
            self.lan.start(&mut self.rng, time.now);
        }
    }

    /// Announces this device as it did at its start: it is a member only since this moment.
    pub(super) fn announce_start(&mut self, time: Time) {
        self.lan.start(&mut self.rng, time.now);
    }

    /// Sends the announcement that is due.
    pub(super) fn announce_due(&mut self, time: Time) {
        let Some((left, at)) = self.lan.due else { return };
        if time.now < at {
            return;
        }
        let next_at = time.now + random::jittered(PAUSE, &mut self.rng);
        self.lan.due = (left > 1).then(|| (left - 1, next_at));
        self.announce(time);
    }

    /// Calls for a member that did not answer `tries` attempts of a handshake: it may be near, under other addresses.
    /// Returns whether it did.
    pub(super) fn search_lan(&mut self, tries: u32, time: Time) -> bool {
        let lan = &mut self.lan;
        let is_silent = !lan.is_wanted || lan.addresses.is_empty();
        if tries >= TRIES_BEFORE_SEARCH && !is_silent && lan.due.is_none() && lan.searches.take(time.now) {
            self.announce(time);
            return true;
        }
        false
    }

    /// Says who is here, to whoever holds the newest epoch's secret.
    fn announce(&mut self, time: Time) {
        let own = self.config.device.public();
        if !self.is_member() || self.roster.membership().member(&own).is_none() {
            return;
        }
        let nonce = random::bytes(&mut self.rng);
        let Some(keys) = self.roster.newest_keys() else { return };
        let header = VeilHeader { class: Class::Member, epoch_tag: keys.tag, nonce };
        let body = Announcement { device: own, addresses: self.lan.addresses.clone() }.encode();
        let veiled = Veiled { time_ms: self.clocks.true_ms(time.wall_ms), kind: veil::ANNOUNCEMENT, body };
        let datagram = veiled.seal(&keys.veil, &header);
        self.out.events.push_back(Event::Announce(datagram));
    }

    /// Takes in a datagram from the LAN socket.
    pub(super) fn on_announcement(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        time: Time,
    ) -> Result<(), DropReason> {
        let (header, clear, sealed) = VeilHeader::split(datagram).ok_or(DropReason::Malformed)?;
        if header.class != Class::Member {
            return Err(DropReason::VeilType);
        }
        let keys = self.roster.newest_keys().filter(|keys| keys.tag == header.epoch_tag);
        let keys = keys.ok_or(DropReason::UnknownEpoch)?;
        let content = Veiled::open(&keys.veil, &header, clear, sealed).ok_or(DropReason::VeilForged)?;
        if content.kind != veil::ANNOUNCEMENT {
            return Err(DropReason::VeilType);
        }
        let heard = Announcement::decode(&content.body).ok_or(DropReason::Malformed)?;
        let own = self.config.device.public();
        if !self.is_member() || heard.device == own || !self.peers.contains_key(&heard.device) {
            return Err(DropReason::NotMember);
        }
        let question = Question { nonce: header.nonce, time_ms: content.time_ms, source: Remote::Udp(from) };
        self.gate.take_announcement(&question, self.clocks.true_ms(time.wall_ms), time.now)?;
        self.on_neighbour(heard, time)
    }

    /// A member says that it is near: it is called at the addresses that it names, unless a link with it lives there. One
    /// that was killed and lost its index cannot call by itself, and knows nothing of that link: it is asked whether it does.
    fn on_neighbour(&mut self, heard: Announcement, time: Time) -> Result<(), DropReason> {
        let device = heard.device;
        let Some(peer) = self.peers.get_mut(&device) else { return Err(DropReason::NotMember) };
        let addresses: Vec<SocketAddr> = heard.addresses.into_iter().filter(is_sensible).collect();
        let is_linked = peer.sessions.current(time.now).is_some() && !peer.timers.is_dead(time.now);
        if is_linked && peer.path.remote().and_then(Remote::udp).is_some_and(|used| addresses.contains(&used))
        {
            if peer.timers.on_doubt(&mut self.rng, time.now)
                && let Some(probe) = peer.path.ping(&mut self.rng, time.now)
            {
                self.send_probe(&device, probe, time);
            }
            return Ok(());
        }
        if addresses.is_empty() || !peer.heard.rate.take(time.now) {
            return Err(DropReason::RateLimited);
        }
        peer.heard.addresses = addresses;
        peer.heard.until = Some(time.now + TRIED_FOR);
        peer.trail.add(Step::Neighbour, time.now);
        // A handshake under way goes on at the addresses that were missing.
        let (number, retry_at) =
            peer.attempt.as_ref().map_or((0, None), |attempt| (attempt.number, Some(attempt.retry_at)));
        self.initiate(&device, number, time);
        // Whoever announces again and again does not put off the next attempt, and the end of all.
        let attempt = self.peers.get_mut(&device).and_then(|peer| peer.attempt.as_mut());
        if let Some((attempt, retry_at)) = attempt.zip(retry_at) {
            attempt.retry_at = retry_at;
        }
        Ok(())
    }

    /// Where to send an initiation to `device`: the addresses that are known, the used one first, and those that it
    /// announced; at most 16. Last the pipe to it, if there is one.
    pub(super) fn remotes(&self, device: &DeviceId, now: Instant) -> Vec<Remote> {
        let Some(peer) = self.peers.get(device) else { return Vec::new() };
        let mut remotes: Vec<Remote> = peer.path.remotes().collect();
        for remote in peer.heard.addresses(now).map(Remote::Udp).chain(peer.circuit.remote()) {
            if !remotes.contains(&remote) {
                remotes.push(remote);
            }
        }
        remotes
    }
}

/// Says whether an initiation may be sent to an address that somebody named: one host, and not this one. Link-local IPv6
/// is of no use without its device.
pub(super) fn is_sensible(address: &SocketAddr) -> bool {
    let is_useless = match address.ip() {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.to_ipv4_mapped().is_some(),
    };
    is_candidate(address) && !is_useless
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_one_other_host_are_sensible() {
        for good in [
            "192.168.1.5:41414",
            "10.0.0.1:1",
            "169.254.3.4:5",
            "203.0.113.5:5",
            "[fd00::1]:5",
            "[2001:db8::1]:5",
        ] {
            assert!(is_sensible(&good.parse().unwrap()), "{good}");
        }
        for bad in [
            "192.168.1.5:0",
            "0.0.0.0:5",
            "0.1.2.3:5",
            "127.0.0.1:5",
            "127.80.3.9:5",
            "224.0.0.1:5",
            "239.255.86.73:41413",
            "255.255.255.255:5",
            "240.0.0.1:5",
            "[::]:5",
            "[::1]:5",
            "[ff02::1]:5",
            "[fe80::1]:5",
            "[::ffff:127.0.0.1]:5",
        ] {
            assert!(!is_sensible(&bad.parse().unwrap()), "{bad}");
        }
    }
}
