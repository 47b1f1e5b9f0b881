//! What keeps a member from being reached: one cause, and one sentence about it, by what this node can see itself.
//!
//! In: [`Facts`]. Out: the first cause that fits, from what is certain to what is only likely. What the other end alone knows,
//! such as the name of a rule in its firewall, the sentence says where to ask for.

use std::time::Duration;

use protocol::engine::{LookedUp, MemberState, Step, WayTo};
use protocol::forward::{Outcome, Service};
use protocol::path::nat::{Mapping, Nat};
use protocol::path::{FULL_PACKET_BYTES, Remote};
use protocol::wire::ip;

use crate::control::why::Cause;

/// What is older says nothing of how things stand.
const LATELY: Duration = Duration::from_secs(300);
/// Clocks that are further apart than this hear nothing of each other, in seconds (protocol/README §7).
const APART_SECS: u64 = 120;

/// Whether UDP passes at this end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Udp {
    /// Nobody was asked, or has answered yet.
    #[default]
    Unknown,
    /// A server answered.
    Passes,
    /// None did.
    Blocked,
}

/// What one end can see.
#[derive(Debug)]
pub(super) struct Facts<'f> {
    /// As a person knows it: `nas.home`.
    pub member: &'f str,
    /// The VPI's name here.
    pub vpi: &'f str,
    pub state: MemberState,
    /// By whom it is reached, in the states `Relayed` and `Carried`.
    pub via: String,
    /// The member that says that this device was removed; or this device knows itself.
    pub removed_here: Option<String>,
    pub has_network: bool,
    /// By how many seconds this machine's clock is ahead of beacons', where that is not made up for.
    pub clock_ahead_secs: Option<i64>,
    /// By how many seconds a member's clock is ahead of this machine's, if it was seen lately.
    pub other_ahead_secs: Option<i64>,
    pub has_beacons: bool,
    /// One answers.
    pub has_beacon: bool,
    pub udp: Udp,
    pub nat: Option<Nat>,
    pub way: WayTo,
    /// No beacon that is known carries packets.
    pub lacks_carrier: bool,
    pub outcomes: &'f [(Duration, Service, Outcome)],
    pub trail: &'f [(Duration, Step)],
}

impl Facts<'_> {
    fn has(&self, wanted: fn(&Step) -> bool) -> bool {
        self.trail.iter().any(|(ago, step)| *ago <= LATELY && wanted(step))
    }

    /// Says whether the last that is known of the search is that the member answered by way of its beacon.
    fn has_pipe(&self) -> bool {
        let is_end = |step: &&Step| matches!(step, Step::Up(_) | Step::Moved(_) | Step::GaveUp);
        let mut lately = self.trail.iter().rev().filter(|(ago, _)| *ago <= LATELY).map(|(_, step)| step);
        matches!(lately.find(is_end), Some(Step::Up(Remote::Circuit(_))))
    }

    /// Says whether it announced itself on this network and did not answer since.
    fn is_near(&self) -> bool {
        let mut lately = self.trail.iter().rev().filter(|(ago, _)| *ago <= LATELY).map(|(_, step)| step);
        matches!(lately.find(|step| matches!(step, Step::Up(_) | Step::Neighbour)), Some(Step::Neighbour))
    }

    /// What is wrong, and what would help.
    pub(super) fn judge(&self) -> (Cause, String) {
        let Self { member, vpi, .. } = self;
        match (self.state, &self.removed_here) {
            (MemberState::Myself, _) => (Cause::None, "this is the device that you are at".to_owned()),
            (_, Some(by)) => (
                Cause::RemovedHere,
                format!(
                    "{by} this device was removed from {vpi}, and nobody there answers it: ask an admin for an invite, `vpi leave \
                     {vpi}`, and join again"
                ),
            ),
            (MemberState::Removed, None) => (
                Cause::Removed,
                format!(
                    "{member} is no member any more: it was removed, or left; a new invite would let it in again"
                ),
            ),
            (MemberState::Joining | MemberState::Contested, None) => {
                (Cause::NotAdmitted, format!("{member} is not admitted yet: see `vpi status`"))
            }
            (MemberState::Direct | MemberState::Relayed | MemberState::Carried, None) => self.judge_link(),
            (MemberState::Idle, None) => (
                Cause::NotWanted,
                format!("nobody wants a link with {member}: `vpi ping {member}` makes one"),
            ),
            (MemberState::Connecting | MemberState::Unreachable, None) => self.judge_search(),
        }
    }

    /// There is a link: what does not pass over it.
    fn judge_link(&self) -> (Cause, String) {
        let (member, bytes) = (self.member, self.way.packet_bytes);
        if self.way.is_hole {
            let advice = format!(
                "{member} is connected, and large packets are lost: small datagrams pass, those of 1,200 bytes, which every path should \
                 carry, do not; raise the MTU of the tunnel or line between the two, or have its router send what is too large back"
            );
            return (Cause::MtuHole, advice);
        }
        if let Some(refused) = self.judge_outcomes() {
            return refused;
        }
        if self.state == MemberState::Relayed {
            let advice = format!(
                "{member} is connected by way of {}, another member, and a direct path is looked for: an --endpoint at one end, or a \
                 NAT that keeps its ports, would give one{}",
                self.via,
                self.of_nats()
            );
            return (Cause::None, advice);
        }
        if self.state == MemberState::Carried {
            let advice = format!(
                "{member} is carried by the beacon {}, slowly, as UDP passes on no path that was tried: a network that lets \
                 UDP out at both ends would give a direct one",
                self.via
            );
            return (Cause::None, advice);
        }
        if self.way.is_narrow {
            let advice = format!(
                "{member} is connected; packets above {bytes} of {FULL_PACKET_BYTES} bytes are lost on the way without a word, so they are cut \
                 to that: a larger MTU on the line between the two would make it faster"
            );
            return (Cause::NarrowPath, advice);
        }
        (Cause::None, format!("{member} is connected"))
    }

    /// What came of it last when an application asked for something.
    fn judge_outcomes(&self) -> Option<(Cause, String)> {
        let Self { member, vpi, .. } = self;
        let lately = self.outcomes.iter().filter(|(ago, ..)| *ago <= LATELY);
        let (_, service, outcome) = lately.min_by_key(|(ago, ..)| *ago)?;
        let what = name(*service);
        let (cause, text) = match outcome {
            Outcome::Answered => return None,
            Outcome::Forbidden => {
                let allow = match service.protocol {
                    ip::TCP | ip::UDP => format!("`vpi expose {vpi} {what}` or `vpi policy {vpi} own-alias`"),
                    _ => format!("`vpi policy {vpi} own-alias`"),
                };
                let text =
                    format!("by its policy does not let this device reach {what}: {allow} there allows it");
                (Cause::Policy, text)
            }
            Outcome::Closed => {
                let text = format!(
                    "nothing listens at {what} there: start the service, on its alias or on 0.0.0.0, or have it exposed there if it listens on \
                     127.0.0.1 only"
                );
                (Cause::NotListening, text)
            }
            Outcome::Rejected => {
                let text =
                    format!("a firewall on its machine rejects {what}: `vpi doctor` there names the rule");
                (Cause::Firewall, text)
            }
            Outcome::Silent => {
                let text = format!(
                    "its node answers, but nothing comes back from {what} there, not even a refusal: a firewall on its machine drops the \
                     packets; `vpi doctor` there names the rule"
                );
                (Cause::Firewall, text)
            }
        };
        Some((cause, format!("{member} is connected, and {text}")))
    }

    /// There is no link, and one is wanted.
    fn judge_search(&self) -> (Cause, String) {
        let member = self.member;
        if !self.has_network {
            return (Cause::NoNetwork, "this machine is on no network: connect it".to_owned());
        }
        if let Some(found) = self.judge_clocks().or_else(|| self.judge_pipe()) {
            return found;
        }
        if self.is_near() {
            let advice = format!(
                "{member} announces itself on this network, and does not answer: a firewall on its machine or on this one drops UDP \
                 to its node's port; `vpi doctor` on both names the rule"
            );
            return (Cause::Firewall, advice);
        }
        if self.has(|step| matches!(step, Step::LookedUp { answered: 0, .. })) && !self.has_beacon {
            let advice = "no beacon answers, and the member is not where it was: see that this machine has a network, may reach its \
                          beacons over TCP, and that they run (`vpi status --json`, beacons); another one can be named with `beacons` in \
                          the settings file";
            return (Cause::BeaconsSilent, advice.to_owned());
        }
        if self.udp == Udp::Blocked && self.has_beacon {
            return self.blocked_here();
        }
        if self.has(|step| matches!(step, Step::LookedUp { outcome: LookedUp::Known | LookedUp::News, .. })) {
            let advice = format!(
                "{member} was found, and does not answer: it is off, or was until shortly; see that its node runs"
            );
            return (Cause::PeerSilent, advice);
        }
        if self.has(|step| matches!(step, Step::LookedUp { .. })) {
            let advice = format!(
                "{member} tells beacons nothing: its node does not run, or reaches none of them; see that it runs and has a network"
            );
            return (Cause::PeerSilent, advice);
        }
        let mut advice = format!(
            "{member} does not answer where it was last: see that its node runs, that its machine has a network, and that no firewall \
             there drops UDP to it (`vpi doctor`)"
        );
        if !self.has_beacons {
            advice += "; no beacon is known that could tell more: name one (`beacons` in the settings file)";
        }
        (Cause::PeerSilent, advice)
    }

    fn judge_clocks(&self) -> Option<(Cause, String)> {
        let is_far = |secs: &i64| secs.unsigned_abs() >= APART_SECS;
        let word = |secs: i64| (secs.unsigned_abs(), if secs < 0 { "behind" } else { "ahead of" });
        if let Some(ahead) = self.clock_ahead_secs.filter(is_far) {
            let (secs, way) = word(ahead);
            let advice = format!(
                "this machine's clock is {secs} s {way} that of beacons, and members answer nothing that is more than {APART_SECS} s off: \
                 set it (`timedatectl set-ntp true`)"
            );
            return Some((Cause::ClockHere, advice));
        }
        let (secs, way) = word(self.other_ahead_secs.filter(is_far)?);
        let advice = format!(
            "a member's clock is {secs} s {way} this machine's, and what is more than {APART_SECS} s off is not answered: set whichever \
             is wrong, there or here (`timedatectl set-ntp true`)"
        );
        Some((Cause::Clocks, advice))
    }

    /// It answers by way of its beacon, and packets do not pass there.
    fn judge_pipe(&self) -> Option<(Cause, String)> {
        if !self.has_pipe() {
            return None;
        }
        if self.udp == Udp::Blocked {
            return Some(self.blocked_here());
        }
        let member = self.member;
        if self.udp == Udp::Passes && !self.way.is_seen {
            let advice = format!(
                "{member} answers by way of its beacon, UDP passes here, and no datagram of its own was ever seen by a server: its network, \
                 or a firewall on its machine (`vpi doctor` there), drops UDP; have it let through, or name {}",
                self.carrier()
            );
            return Some((Cause::UdpBlockedThere, advice));
        }
        let asked = match self.has(|step| matches!(step, Step::RelayAsked(_))) {
            true => "no member that was asked passes on to it",
            false => "no member that both reach passes on (`relay = true` in its settings)",
        };
        let is_hard = |nat: Option<Nat>| nat.is_some_and(|nat| !nat.is_endpoint_independent());
        if is_hard(self.nat) && is_hard(self.way.nat) {
            let advice = format!(
                "{member} answers by way of its beacon, the NATs at both ends give out another port for each target, so that neither finds the \
                 other, and {asked}: such a member, UDP forwarded to one end (--endpoint), or {}, helps",
                self.carrier()
            );
            return Some((Cause::HardNats, advice));
        }
        let advice = format!(
            "{member} answers by way of its beacon, no direct path to it was found yet{}, and {asked}: such a member, an --endpoint at one \
             end, or {}, helps",
            self.of_nats(),
            self.carrier()
        );
        Some((Cause::NoDirectPath, advice))
    }

    fn blocked_here(&self) -> (Cause, String) {
        let advice = format!(
            "beacons answer this machine over TCP and no server does over UDP: this network, or a firewall on this machine (`vpi doctor`), \
             drops UDP; have it let through, use another network, or name {}",
            self.carrier()
        );
        (Cause::UdpBlockedHere, advice)
    }

    fn carrier(&self) -> &'static str {
        match self.lacks_carrier {
            true => "a beacon that runs with --carry, which none that is known does",
            false => "a beacon that runs with --carry",
        }
    }

    /// The two NATs, in brackets, if anything is known of them.
    fn of_nats(&self) -> String {
        match (self.nat, self.way.nat) {
            (None, None) => String::new(),
            (own, theirs) => format!(" (NAT here: {}; there: {})", of_nat(own), of_nat(theirs)),
        }
    }
}

/// What a NAT is, in a word that stays.
pub(super) fn of_nat(nat: Option<Nat>) -> &'static str {
    match nat.map(|nat| nat.mapping) {
        None => "unknown",
        Some(Mapping::None) => "none",
        Some(Mapping::EndpointIndependent) => "endpoint-independent",
        Some(Mapping::AddressDependent) => "address-dependent",
        Some(Mapping::AddressAndPortDependent { step: Some(_) }) => "sequential",
        Some(Mapping::AddressAndPortDependent { step: None }) => "random",
    }
}

/// A service, as `vpi expose` has it.
pub(super) fn name(service: Service) -> String {
    match service.protocol {
        ip::TCP => format!("tcp/{}", service.port),
        ip::UDP => format!("udp/{}", service.port),
        _ => "echo".to_owned(),
    }
}

/// What came of it, in a word that stays.
pub(super) fn by(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Answered => "nobody",
        Outcome::Forbidden => "policy",
        Outcome::Rejected => "firewall",
        Outcome::Closed => "not_listening",
        Outcome::Silent => "no_answer",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANDOM: Nat =
        Nat { mapping: Mapping::AddressAndPortDependent { step: None }, preserves_port: false };
    const STEADY: Nat = Nat { mapping: Mapping::EndpointIndependent, preserves_port: true };
    const SECOND: Duration = Duration::from_secs(1);

    fn facts<'f>(
        state: MemberState,
        trail: &'f [(Duration, Step)],
        outcomes: &'f [(Duration, Service, Outcome)],
    ) -> Facts<'f> {
        Facts {
            member: "nas.home",
            vpi: "home",
            state,
            via: String::new(),
            removed_here: None,
            has_network: true,
            clock_ahead_secs: None,
            other_ahead_secs: None,
            has_beacons: true,
            has_beacon: true,
            udp: Udp::Passes,
            nat: Some(STEADY),
            way: WayTo { nat: Some(STEADY), is_seen: true, ..WayTo::default() },
            lacks_carrier: false,
            outcomes,
            trail,
        }
    }

    #[test]
    fn what_is_certain_comes_before_what_is_likely() {
        let pipe = [(SECOND, Step::Up(Remote::Circuit(1)))];
        let searched = || facts(MemberState::Connecting, &pipe, &[]);
        assert_eq!(searched().judge().0, Cause::NoDirectPath);
        let random = WayTo { nat: Some(RANDOM), is_seen: true, ..WayTo::default() };
        assert_eq!(Facts { nat: Some(RANDOM), way: random, ..searched() }.judge().0, Cause::HardNats);
        assert_eq!(Facts { way: random, ..searched() }.judge().0, Cause::NoDirectPath);
        assert_eq!(Facts { way: WayTo::default(), ..searched() }.judge().0, Cause::UdpBlockedThere);
        let blocked = Facts { udp: Udp::Blocked, way: WayTo::default(), ..searched() };
        assert_eq!(blocked.judge().0, Cause::UdpBlockedHere);
        assert_eq!(Facts { clock_ahead_secs: Some(-3_600), ..blocked }.judge().0, Cause::ClockHere);
        assert_eq!(Facts { other_ahead_secs: Some(500), ..searched() }.judge().0, Cause::Clocks);
        assert_eq!(Facts { has_network: false, ..searched() }.judge().0, Cause::NoNetwork);
        let removed = Facts { removed_here: Some("a says that".to_owned()), ..searched() };
        assert_eq!(removed.judge().0, Cause::RemovedHere);
    }

    #[test]
    fn a_silent_beacon_a_silent_member_and_a_firewall_next_door_are_told_apart() {
        let looked = |answered, outcome| [(SECOND, Step::LookedUp { answered, outcome })];
        let none = looked(0, LookedUp::Nothing);
        let silent = Facts { has_beacon: false, ..facts(MemberState::Unreachable, &none, &[]) };
        assert_eq!(silent.judge().0, Cause::BeaconsSilent);
        for outcome in [LookedUp::Nothing, LookedUp::Known] {
            let found = looked(3, outcome);
            assert_eq!(facts(MemberState::Unreachable, &found, &[]).judge().0, Cause::PeerSilent);
        }
        let near = [(SECOND, Step::Neighbour), (SECOND, Step::GaveUp)];
        assert_eq!(facts(MemberState::Unreachable, &near, &[]).judge().0, Cause::Firewall);
        let up = Step::Up(Remote::Udp(std::net::SocketAddr::from(([192, 0, 2, 1], 1))));
        let was_near = [(SECOND, Step::Neighbour), (SECOND, up), (SECOND, Step::Down)];
        assert_eq!(facts(MemberState::Unreachable, &was_near, &[]).judge().0, Cause::PeerSilent);
    }

    #[test]
    fn over_a_link_the_last_refusal_counts_and_only_lately() {
        let web = Service { protocol: ip::TCP, port: 80 };
        let of =
            |outcomes: &[(Duration, Service, Outcome)]| facts(MemberState::Direct, &[], outcomes).judge().0;
        assert_eq!(of(&[]), Cause::None);
        assert_eq!(
            of(&[(SECOND * 9, web, Outcome::Silent), (SECOND, web, Outcome::Forbidden)]),
            Cause::Policy
        );
        assert_eq!(of(&[(SECOND, web, Outcome::Closed)]), Cause::NotListening);
        assert_eq!(of(&[(SECOND, web, Outcome::Silent)]), Cause::Firewall);
        assert_eq!(of(&[(LATELY * 2, web, Outcome::Silent)]), Cause::None);
        let hole = WayTo { is_hole: true, ..WayTo::default() };
        assert_eq!(Facts { way: hole, ..facts(MemberState::Direct, &[], &[]) }.judge().0, Cause::MtuHole);
        let narrow = WayTo { is_narrow: true, packet_bytes: 1_168, ..WayTo::default() };
        assert_eq!(
            Facts { way: narrow, ..facts(MemberState::Direct, &[], &[]) }.judge().0,
            Cause::NarrowPath
        );
    }
}
