//! One member's packets, judged by what it may reach.
//!
//! In: packets of a shape that is carried, from the member or for it. Out: where they go, or the reason to drop them.
//! Addresses play no part inbound: the caller gives the packet those of the [`Target`]. README §13 *Reach*.
//!
//! Translation keeps no state: what goes to an exposed port is for 127.0.0.1, what comes from one is the own alias's.
//! Only fragments and, under [`Policy::ExposedOnly`], flows are remembered.

use std::net::Ipv4Addr;
use std::time::Instant;

use super::Flows;
use super::exposure::{Policy, Protocol, Share};
use super::flow::Key;
use super::fragment::Fragmented;
use crate::drop::DropReason;
use crate::wire::ip::{self, Ipv4};

/// Where a member's packet goes on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The own alias.
    Own,
    /// 127.0.0.1.
    Localhost,
}

impl Target {
    /// Its address, where `own` is the own alias.
    #[must_use]
    pub fn address(self, own: Ipv4Addr) -> Ipv4Addr {
        match self {
            Self::Own => own,
            Self::Localhost => Ipv4Addr::LOCALHOST,
        }
    }
}

/// What the member of one link may reach, and the little that is remembered for it.
#[derive(Debug, Default)]
pub struct Access {
    share: Share,
    received: Fragmented,
    sent: Fragmented,
    /// The policy was there before the member's first packet: what is open on the own alias, an application opened.
    picks_up: bool,
}

impl Access {
    /// Sets what the member may reach. `is_used`: packets of the member's have passed already.
    ///
    /// Fragments are judged anew. Flows stay while the policy does; when [`Policy::ExposedOnly`] comes into force on a
    /// link that is used, nobody can say who began a running TCP connection, and none on the own alias goes on.
    pub fn set(&mut self, share: Share, (link, flows): (u32, &mut Flows), is_used: bool) {
        if share.policy() != self.share.policy() {
            self.picks_up = !is_used;
            flows.forget(link);
        }
        let picks_up = self.picks_up;
        *self = Self { share, picks_up, ..Self::default() };
    }

    /// Judges a packet of the member's, which [`super::inbound`] let pass.
    ///
    /// # Errors
    /// [`DropReason::PacketPolicy`] if the member may not reach it; [`DropReason::PacketFragmentLost`] for a later
    /// fragment of what did not pass.
    #[inline]
    pub fn inbound(
        &mut self,
        packet: &Ipv4<'_>,
        (link, flows): (u32, &Flows),
        now: Instant,
    ) -> Result<Target, DropReason> {
        // All that the default policy costs: most links expose nothing.
        if self.share.is_plain() { Ok(Target::Own) } else { self.judge(packet, (link, flows), now) }
    }

    fn judge(
        &mut self,
        packet: &Ipv4<'_>,
        (link, flows): (u32, &Flows),
        now: Instant,
    ) -> Result<Target, DropReason> {
        if packet.fragment_offset_bytes() != 0 {
            return match (self.received.target(packet, now), self.share.policy()) {
                (Some(target), _) => Ok(target),
                (None, Policy::OwnAlias) => Ok(Target::Own),
                (None, Policy::ExposedOnly) => Err(DropReason::PacketFragmentLost),
            };
        }
        let target = self.reached(packet, (link, flows), now);
        if packet.more_fragments() {
            match target {
                Some(target) => self.received.on_first(packet, target, now),
                None => self.received.on_refused(packet, now),
            }
        }
        target.ok_or(DropReason::PacketPolicy)
    }

    /// Judges a packet for the member, which [`super::outgoing`] let pass; `from` is whose source address it has.
    ///
    /// # Errors
    /// [`DropReason::PacketUnexposed`] if it is from 127.0.0.1 and not from what the member may reach there;
    /// [`DropReason::PacketFragmentLost`] for a later fragment of what did not pass.
    #[inline]
    pub fn outbound(
        &mut self,
        packet: &Ipv4<'_>,
        from: Target,
        (link, flows): (u32, &mut Flows),
        now: Instant,
    ) -> Result<(), DropReason> {
        match (from, self.share.policy()) {
            (Target::Own, Policy::OwnAlias) => Ok(()),
            (Target::Own, Policy::ExposedOnly) => {
                flows.on_sent(link, packet, self.picks_up, now);
                Ok(())
            }
            (Target::Localhost, _) => self.judge_localhost(packet, now),
        }
    }

    /// Where a whole packet or first fragment goes; `None` if the member may not reach it.
    fn reached(&self, packet: &Ipv4<'_>, (link, flows): (u32, &Flows), now: Instant) -> Option<Target> {
        let is_exposed = match packet.icmp() {
            Some(_) => self.share.is_about_exposed(packet),
            None => self.exposes(packet.protocol(), packet.ports()?.1),
        };
        if is_exposed {
            return Some(Target::Localhost);
        }
        if self.share.policy() == Policy::OwnAlias {
            return Some(Target::Own);
        }
        let key = match packet.icmp() {
            Some((kind, _)) if ip::is_icmp_error(kind) => Key::of_sent(&packet.quote()?),
            _ => Key::of_received(packet),
        };
        key.is_some_and(|key| flows.holds(link, key, now)).then_some(Target::Own)
    }

    fn judge_localhost(&mut self, packet: &Ipv4<'_>, now: Instant) -> Result<(), DropReason> {
        if packet.fragment_offset_bytes() != 0 {
            return self.sent.target(packet, now).map(|_| ()).ok_or(DropReason::PacketFragmentLost);
        }
        let is_exposed = match packet.icmp() {
            // An error of the kernel's about what the member sent to an exposed port.
            Some(_) => packet.quote().is_some_and(|quote| {
                quote.destination() == Ipv4Addr::LOCALHOST
                    && quote.ports().is_some_and(|(_, port)| self.exposes(quote.protocol(), port))
            }),
            None => packet.ports().is_some_and(|(port, _)| self.exposes(packet.protocol(), port)),
        };
        match (is_exposed, packet.more_fragments()) {
            (true, true) => self.sent.on_first(packet, Target::Localhost, now),
            (false, true) => self.sent.on_refused(packet, now),
            (_, false) => {}
        }
        if is_exposed { Ok(()) } else { Err(DropReason::PacketUnexposed) }
    }

    fn exposes(&self, protocol: u8, port: u16) -> bool {
        Protocol::of(protocol).is_some_and(|protocol| self.share.exposes(protocol, port))
    }
}
