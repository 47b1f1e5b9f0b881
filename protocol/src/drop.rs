//! Why something was dropped. The network learns nothing from it; the owner reads it as a counter.

use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)*) => {
        /// One cause for a silent discard. Each has its own counter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[$doc])* $name,)*
        }

        impl DropReason {
            /// Every reason, in the order of the counters.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name under which the counter is shown: lower case, words joined by `_`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

reasons! {
    // Datagrams, from anybody.
    /// Not of any known form: first byte, length or a reserved field is off.
    Malformed => "malformed",
    /// A STUN message that answers no request of ours.
    StunUnasked => "stun_unasked",
    /// A value from the DHT that is not the record it should be.
    RecordInvalid => "record_invalid",
    /// A data datagram for a receiver index that no session has.
    UnknownIndex => "unknown_index",
    /// A relayed datagram under a label that is not known, or not from the address that has it.
    RelayLabel => "relay_label",
    /// A frame that gave way to a later one, because the stream of a beacon that carries was slower.
    CarryQueue => "carry_queue",
    /// More relayed datagrams than one member's share of what this node passes on.
    RelayFlood => "relay_flood",
    /// The tag of a data datagram does not verify.
    Forged => "forged",
    /// A data counter that was seen, or that left the replay window.
    Replayed => "replayed",
    /// A veil under an epoch or an invite that this node does not hold.
    UnknownEpoch => "unknown_epoch",
    /// A veil whose tag does not verify.
    VeilForged => "veil_forged",
    /// A veiled question older or younger than the clock allows.
    VeilTime => "veil_time",
    /// A veiled question that was answered before.
    VeilReplayed => "veil_replayed",
    /// A veiled message of a type or class that is not known.
    VeilType => "veil_type",
    /// More handshakes or joins than one source or one peer may send.
    RateLimited => "rate_limited",
    /// A handshake whose Noise message does not verify.
    HandshakeForged => "handshake_forged",
    /// A handshake by a static key that is not a current member's.
    NotMember => "not_member",
    /// A response that answers no handshake of ours.
    UnexpectedResponse => "unexpected_response",
    /// A join that the rules of membership do not allow.
    JoinRefused => "join_refused",

    // In-session, from members.
    /// An in-session message that does not decode.
    MessageMalformed => "message_malformed",
    /// An in-session message of a type that is not known.
    MessageUnknown => "message_unknown",
    /// More in-session messages than a member may send.
    MessageFlood => "message_flood",
    /// An object that does not decode, or whose signatures do not verify.
    ObjectInvalid => "object_invalid",
    /// An object of a kind that is not known.
    ObjectUnknown => "object_unknown",
    /// An object dated far ahead of this node's clock.
    ObjectAhead => "object_ahead",
    /// An object beyond a bound of the set.
    ObjectBound => "object_bound",
    /// An epoch secret that is not the one that its Epoch names.
    SecretInvalid => "secret_invalid",
    /// A packet on a session that carries control messages only.
    ControlOnly => "control_only",

    // Packets, from the tunnel or from applications.
    /// Not IPv4, or lengths that do not fit.
    PacketMalformed => "packet_malformed",
    /// IPv6 in the tunnel.
    PacketIpv6 => "packet_ipv6",
    /// IP options.
    PacketOptions => "packet_options",
    /// A transport other than TCP, UDP and ICMP.
    PacketProtocol => "packet_protocol",
    /// An ICMP type that is not carried.
    PacketIcmp => "packet_icmp",
    /// An ICMP error whose quoted packet cannot be rewritten or is not between the two members.
    PacketQuote => "packet_quote",
    /// A fragment that cannot be filtered.
    PacketFragment => "packet_fragment",
    /// A later fragment whose first did not come before it, or did not pass.
    PacketFragmentLost => "packet_fragment_lost",
    /// A packet of a member's to what the policy does not let it reach.
    PacketPolicy => "packet_policy",
    /// A packet from 127.0.0.1, but from nothing that is exposed to the member it is for.
    PacketUnexposed => "packet_unexposed",
    /// A packet from an application with another source than the own alias or 127.0.0.1.
    PacketSource => "packet_source",
    /// A packet to an address that is no member's alias.
    PacketUnknownAlias => "packet_unknown_alias",
    /// A packet too large for the path that may not be cut.
    PacketTooLarge => "packet_too_large",
    /// A packet that waited, for a link or for the socket, longer or behind more others than the bound.
    PacketQueue => "packet_queue",
    /// The device or the socket did not take it.
    SendFailed => "send_failed",
}

impl DropReason {
    /// How many reasons there are.
    pub const COUNT: usize = Self::ALL.len();
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
