//! A member that misuses its keys: what it sends is delivered as its own, to what it may reach, or not at all.
//!
//! ```text
//!  a the victim ◄──── b the friend: a flow all the time
//!     ▲
//!     └────────────── c the rogue: its node is stopped, and a program uses its keys
//! ```

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::capture::{Capture, Frame};
use tests::rogue::packet::{self, Ends, ICMP, MORE_FRAGMENTS, TCP, UDP, UNREACHABLE};
use tests::traffic::{EchoServer, Flow};
use tests::{Host, Lab, Member, Rogue, one_at_a_time, scenario, wait};

/// What a packet says that must never reach an application.
const FORBIDDEN: &[u8] = b"must not pass";
/// What a packet says that may, as the rogue's own.
const ALLOWED: &[u8] = b"may pass as its own";
/// What a fragment says that never becomes part of a packet.
const LOST: &[u8] = b"half a packet";
/// Ports on the victim: of a service on every address, and of one on 127.0.0.1.
const OPEN: u16 = 7_001;
const LOCAL: u16 = 7_002;
/// How long a counter may take to move.
const COUNT_LIMIT: Duration = Duration::from_secs(5);
/// How much the victim may grow from the first order to the last.
const GROWTH_BYTES: u64 = 4 << 20;
/// The longest that the friend may go unserved, on a machine that others load as well.
const GAP_LIMIT: Duration = Duration::from_secs(2);
/// An alias-like address that nobody has.
const NOBODY: Ipv4Addr = Ipv4Addr::new(127, 80, 99, 99);

#[test]
fn packets_of_a_rogue_member_pass_as_its_own_or_not_at_all() {
    let _turn = one_at_a_time();
    scenario("rogue", 3, |lab| {
        let mut stage = Stage::set(lab)?;
        for (what, packets, counter) in stage.shapes() {
            let count = packets.len() as u64;
            stage.moves(what, &[(counter, count)], |rogue| rogue.say(&packets))?;
        }
        stage.whatever_address_it_writes()?;
        stage.fragments_that_never_make_a_packet()?;
        stage.a_forged_error_for_anothers_flow()?;
        stage.end()
    });
}

#[test]
fn datagrams_and_messages_of_a_rogue_member_are_counted_and_dropped() {
    let _turn = one_at_a_time();
    scenario("misuse", 3, |lab| {
        let mut stage = Stage::set(lab)?;
        stage.datagrams(lab)?;
        for (what, messages, counter) in messages() {
            let count = messages.len() as u64;
            stage.moves(what, &[(counter, count)], |rogue| rogue.say(&messages))?;
        }
        stage.handshakes()?;
        stage.end()
    });
}

#[test]
fn objects_that_a_rogue_member_may_not_sign_change_nothing() {
    let _turn = one_at_a_time();
    scenario("forged", 3, |lab| {
        let mut stage = Stage::set(lab)?;
        let before = stage.facts()?;
        // Whole, its own and harmless: kept as anybody's, and it counts for nothing.
        stage.moves("stolen static key", &[], |rogue| offer(rogue, "stolen static key"))?;
        for sort in ["epoch of no admin", "charter of no root", "members of its own making"] {
            stage.refuses(sort)?;
        }
        for (sort, counter, count) in [
            ("in another's name", "object_invalid", 2),
            ("one byte altered", "object_invalid", 1),
            ("oversize", "object_invalid", 1),
            ("unknown kind", "object_unknown", 1),
        ] {
            stage.moves(sort, &[(counter, count)], |rogue| offer(rogue, sort))?;
        }
        let after = stage.facts()?;
        ensure!(before == after, "the victim knew {before}, and knows {after}");
        // Whoever holds the friend's static key is still the friend, also in a new session.
        stage.friend.kill()?;
        let started_at = Instant::now();
        stage.friend.restart()?;
        stage.flow.first_echo_after(started_at, Duration::from_secs(5))?;
        // The rogue has signed its own key away: nobody need hear it any more.
        stage.nothing_else_passed()
    });
}

#[test]
fn floods_of_a_rogue_member_leave_memory_flat_and_others_served() {
    let _turn = one_at_a_time();
    scenario("floods", 3, |lab| {
        let mut stage = Stage::set(lab)?;
        for (sort, times, counter) in [
            ("probe", 10_000, "message_flood"),
            ("echo", 10_000, "message_flood"),
            ("ids", 10_000, "message_flood"),
            ("list", 10_000, "message_flood"),
            ("get", 10_000, "message_flood"),
            ("piece", 10_000, "message_flood"),
            ("settled", 10_000, "message_flood"),
            ("unknown", 10_000, "message_flood"),
            ("initiation", 2_000, "rate_limited"),
            ("question", 2_000, "rate_limited"),
        ] {
            let before = stage.drops()?;
            stage.rogue.order(&json!({"do": "flood", "sort": sort, "with": "a", "times": times}))?;
            let moved = wait::until(&format!("{counter} at a flood of {sort}"), COUNT_LIMIT, || {
                let moved = difference(&before, &stage.drops()?);
                Ok(moved.get(counter).copied())
            })?;
            println!("{times} × {sort}: {counter} {moved}, {} KiB", stage.victim_bytes()? >> 10);
        }
        // What nobody counts, because it says nothing: it must not cost anything either.
        stage.rogue.order(&json!({"do": "flood", "sort": "keepalive", "with": "a", "times": 50_000}))?;
        // Its bucket fills again, two a second: whoever stops is a member like any other.
        let at = stage.victim_at()?;
        wait::until("an answer to a handshake", Duration::from_secs(10), || {
            Ok(stage.rogue.handshake("a", at).ok())
        })?;
        stage.end()
    });
}

/// Victim, friend and rogue, with everything that watches them.
struct Stage {
    victim: Member,
    friend: Member,
    rogue: Rogue,
    /// The rogue's alias at the victim, and the friend's.
    rogue_alias: Ipv4Addr,
    friend_alias: Ipv4Addr,
    tunnel: Capture,
    loopback: Capture,
    open: UdpSocket,
    local: UdpSocket,
    flow: Flow,
    _echo: EchoServer,
    started_bytes: u64,
}

impl Stage {
    fn set(lab: &Lab) -> Result<Self> {
        let victim = Member::found(lab.host("a")?, &[])?;
        let friend = Member::join(lab.host("b")?, &victim.invite(&[])?, &[])?;
        let mut former = Member::join(lab.host("c")?, &victim.invite(&[])?, &[])?;
        let (friend_alias, rogue_alias) = (victim.alias_of("b")?, victim.alias_of("c")?);
        let echo = EchoServer::start(&victim.host, 0)?;
        let target = SocketAddr::from((friend.alias_of("a")?, echo.port));
        let flow = Flow::start(&friend.host, target, Duration::from_millis(20))?;
        flow.first_echo_after(Instant::now(), Duration::from_secs(5))?;
        former.alias_of("a")?;
        former.stop()?;
        let mut rogue = Rogue::start(&former.host, env!("CARGO_BIN_EXE_rogue"))?;
        let at = SocketAddr::from((victim.host.address, victim.port()?));
        rogue.handshake("a", at)?;
        let tunnel = Capture::on_device(lab, &victim.host, "vpi-home", "ip", "tunnel")?;
        let loopback = Capture::on_device(lab, &victim.host, "lo", "ip", "loopback")?;
        let (open, local) = victim
            .host
            .enter(|| Ok((UdpSocket::bind(("0.0.0.0", OPEN))?, UdpSocket::bind(("127.0.0.1", LOCAL))?)))?;
        for socket in [&open, &local] {
            socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        }
        let started_bytes = victim.node.as_ref().context("the victim runs")?.resident_bytes()?;
        Ok(Self {
            victim,
            friend,
            rogue,
            rogue_alias,
            friend_alias,
            tunnel,
            loopback,
            open,
            local,
            flow,
            _echo: echo,
            started_bytes,
        })
    }

    /// Has the rogue `act`, and waits until exactly the counters in `expected` have moved by so much.
    fn moves(
        &mut self,
        what: &str,
        expected: &[(&str, u64)],
        act: impl FnOnce(&mut Rogue) -> Result<Value>,
    ) -> Result<()> {
        let expected: BTreeMap<String, u64> =
            expected.iter().map(|(counter, count)| ((*counter).to_owned(), *count)).collect();
        let before = self.drops()?;
        act(&mut self.rogue).context(what.to_owned())?;
        let mut moved = BTreeMap::new();
        let waited = wait::until(what, COUNT_LIMIT, || {
            moved = difference(&before, &self.drops()?);
            Ok((moved == expected).then_some(()))
        });
        waited.with_context(|| format!("expected {expected:?}, moved {moved:?}"))?;
        println!("{what}: {expected:?}");
        Ok(())
    }

    /// Has the rogue offer objects that are whole and its own, of which the victim refuses at least one.
    fn refuses(&mut self, sort: &str) -> Result<()> {
        let before = self.drops()?;
        offer(&mut self.rogue, sort)?;
        let moved = wait::until(sort, COUNT_LIMIT, || {
            let moved = difference(&before, &self.drops()?);
            Ok((!moved.is_empty()).then_some(moved))
        })?;
        println!("{sort}: {moved:?}");
        let refusals = ["object_bound", "object_unknown"];
        ensure!(moved.keys().all(|reason| refusals.contains(&reason.as_str())), "{sort}: {moved:?}");
        Ok(())
    }

    /// Packets of shapes that are not carried, each with the counter that says so.
    fn shapes(&self) -> Vec<(&'static str, Vec<Vec<u8>>, &'static str)> {
        let ends = (self.rogue_alias, self.victim.alias);
        let datagram = packet::udp(9, OPEN, FORBIDDEN);
        let whole = packet::ipv4(UDP, ends, 0, &datagram);
        let inner = |protocol| packet::ipv4(protocol, ends, 0, &whole);
        let options = |options: &[u8]| packet::with_options(UDP, ends, 0, options, &datagram);
        let fragment = |protocol, fragment, body: &[u8]| packet::ipv4(protocol, ends, fragment, body);
        let mut shapes = vec![
            (
                "IP options: record route, timestamp, source route, router alert, the longest",
                vec![
                    options(&[7, 7, 4, 0, 0, 0, 0, 0]),
                    options(&[68, 8, 5, 0, 0, 0, 0, 0]),
                    options(&[131, 7, 4, 127, 0, 0, 1, 0]),
                    options(&[148, 4, 0, 0]),
                    options(&[1; 40]),
                ],
                "packet_options",
            ),
            ("IPv6, and IPv4 in it", vec![ipv6(UDP, &datagram), ipv6(4, &whole)], "packet_ipv6"),
            (
                "tunnels in the tunnel and other transports",
                [0, 2, 4, 41, 43, 44, 47, 50, 51, 60, 132, 255].map(inner).to_vec(),
                "packet_protocol",
            ),
            (
                "ICMP redirects, advertisements, source quench, timestamps, masks",
                [4, 5, 9, 10, 13, 14, 15, 17, 18]
                    .map(|kind| fragment(ICMP, 0, &packet::icmp(kind, 0, &whole)))
                    .to_vec(),
                "packet_icmp",
            ),
            ("ICMP errors with forged quotes", quotes(ends, self.friend_alias), "packet_quote"),
            (
                "fragments: tiny, overlapping a header, torn, empty, beyond the end, of an error",
                vec![
                    fragment(TCP, 1, FORBIDDEN),
                    fragment(TCP, MORE_FRAGMENTS | 7, &[0; 16]),
                    fragment(UDP, MORE_FRAGMENTS | 64, &[0; 7]),
                    fragment(UDP, 8, &[]),
                    fragment(UDP, 0x1fff, &[0; 64]),
                    fragment(ICMP, MORE_FRAGMENTS, &packet::icmp(UNREACHABLE, 3, &[0; 32])),
                ],
                "packet_fragment",
            ),
        ];
        shapes.push(("wrong lengths and versions", wrong_lengths(ends, &whole), "packet_malformed"));
        shapes
    }

    /// Packets with every address that a packet may claim come from the rogue and go to the victim, or nowhere.
    fn whatever_address_it_writes(&mut self) -> Result<()> {
        let (own, friend) = (self.victim.alias, self.friend_alias);
        let addresses = [
            own,
            friend,
            NOBODY,
            Ipv4Addr::LOCALHOST,
            Ipv4Addr::UNSPECIFIED,
            Ipv4Addr::BROADCAST,
            Ipv4Addr::new(127, 255, 255, 255),
            Ipv4Addr::new(224, 0, 0, 1),
            Ipv4Addr::new(239, 255, 86, 73),
            self.victim.host.address,
            self.friend.host.address,
        ];
        let pairs = addresses.iter().flat_map(|source| addresses.map(|to| (*source, to)));
        let to = |port: u16, says: &'static [u8]| {
            let datagram = packet::udp(9, port, says);
            pairs.clone().map(|ends| packet::ipv4(UDP, ends, 0, &datagram)).collect::<Vec<_>>()
        };
        let (open, local) = (to(OPEN, ALLOWED), to(LOCAL, FORBIDDEN));
        self.moves("any source, any destination", &[], |rogue| rogue.say(&open))?;
        let mut buffer = [0; 64];
        for number in 0..open.len() {
            let (length, from) =
                self.open.recv_from(&mut buffer).with_context(|| format!("packet {number} is missing"))?;
            ensure!(buffer[..length] == *ALLOWED && from.ip() == self.rogue_alias, "{from}");
        }
        self.moves("a service on 127.0.0.1", &[], |rogue| rogue.say(&local))
    }

    /// Fragments that overlap, and first fragments whose rest never comes: no application gets any of it.
    fn fragments_that_never_make_a_packet(&mut self) -> Result<()> {
        let ends = (self.rogue_alias, self.victim.alias);
        let mut body = packet::udp(9, OPEN, &[LOST, &[b'!'; 40]].concat());
        body.truncate(48);
        let overlapping =
            [(MORE_FRAGMENTS, &body[..32]), (MORE_FRAGMENTS | 2, &body[..32]), (4, &body[..16])];
        let overlapping = overlapping.map(|(at, part)| packet::ipv4(UDP, ends, at, part)).to_vec();
        let unfinished: Vec<_> = (0..1_000_u16)
            .map(|number| {
                let mut first = packet::ipv4(UDP, ends, MORE_FRAGMENTS, &body);
                first[4..6].copy_from_slice(&(number + 1).to_be_bytes());
                first
            })
            .collect();
        self.moves("fragments that overlap", &[], |rogue| rogue.say(&overlapping))?;
        self.moves("1,000 fragments without an end", &[], |rogue| rogue.say(&unfinished))
    }

    /// The rogue says that the friend's port is closed: the victim's socket, which talks to the friend, hears nothing.
    fn a_forged_error_for_anothers_flow(&mut self) -> Result<()> {
        let echo = EchoServer::start(&self.friend.host, 0)?;
        let socket = self.victim.host.enter(|| Ok(UdpSocket::bind(("0.0.0.0", 0))?))?;
        socket.connect((self.friend_alias, echo.port))?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut buffer = [0; 16];
        socket.send(b"before")?;
        socket.recv(&mut buffer).context("no echo before the forged error")?;
        let (own, friend) = (self.victim.alias, self.friend_alias);
        let sent = packet::udp(socket.local_addr()?.port(), echo.port, b"before");
        let errors = [own, Ipv4Addr::LOCALHOST].map(|own| {
            let quote = packet::ipv4(UDP, (own, friend), 0, &sent);
            packet::ipv4(ICMP, (friend, own), 0, &packet::icmp(UNREACHABLE, 3, &quote))
        });
        self.moves("errors about the friend's flow", &[], |rogue| rogue.say(&errors))?;
        socket.send(b"after")?;
        let length = socket.recv(&mut buffer).context("the forged error reached the socket")?;
        ensure!(buffer[..length] == *b"after");
        Ok(())
    }

    /// Data datagrams that no honest member sends.
    fn datagrams(&mut self, lab: &Lab) -> Result<()> {
        let port = self.victim.port()?;
        let wire = Capture::at_port(lab, "a", &format!("udp dst port {port}"), "indices", &[])?;
        let at = SocketAddr::from((self.victim.host.address, port));
        let friend = IpAddr::V4(self.friend.host.address);
        let index = wait::until("a datagram of the friend", COUNT_LIMIT, || {
            Ok(wire.frames()?.iter().find_map(|frame| data_index(frame, friend, at)))
        })?;
        // Counters far ahead: what verified them before the tag would shut the friend out.
        let says = |index: u32| json!({"do": "say", "plaintexts": [""], "index": index, "counter": u64::MAX >> 1, "times": 5});
        self.moves("the friend's session index", &[("forged", 5)], |rogue| rogue.order(&says(index)))?;
        // One in 2^32 that a session has it.
        self.moves("an index of no session", &[("unknown_index", 5)], |rogue| rogue.order(&says(!index)))?;
        self.moves("its own datagram again", &[("replayed", 7)], |rogue| {
            rogue.say(&[Vec::new()])?;
            rogue.order(&json!({"do": "replay", "times": 7}))
        })?;
        let large: Vec<Vec<u8>> = [2_017, 9_000, 65_475].map(|bytes| vec![0x45; bytes]).to_vec();
        self.moves("datagrams of 2,049 to 65,507 bytes", &[("malformed", 3)], |rogue| rogue.say(&large))
    }

    /// Handshakes by a key that is nobody's, once more the same, and one that knows nothing.
    fn handshakes(&mut self) -> Result<()> {
        let at = self.victim_at()?;
        let shake = |field: &str| json!({"do": "handshake", "with": "a", "to": at.to_string(), field: true});
        self.moves("a static key that is no member's", &[("not_member", 1)], |rogue| {
            let outcome = rogue.order(&shake("made_up_static"));
            ensure!(outcome.is_err(), "it was answered: {outcome:?}");
            Ok(Value::Null)
        })?;
        self.moves("an initiation again", &[("veil_replayed", 6)], |rogue| {
            rogue.order(&json!({"do": "replay initiation", "with": "a", "times": 6}))
        })?;
        let packet =
            packet::ipv4(UDP, (self.rogue_alias, self.victim.alias), 0, &packet::udp(9, OPEN, FORBIDDEN));
        self.moves("packets before the exchange", &[("control_only", 1)], |rogue| {
            rogue.order(&shake("holds_nothing"))?;
            rogue.say(&[packet])
        })?;
        self.rogue.handshake("a", at)?;
        Ok(())
    }

    /// What the victim knows of the VPI: its epoch, and who is who.
    fn facts(&self) -> Result<Value> {
        let status = self.victim.host.vpi(&["status", "--json"])?.json()?;
        let vpi = &status["vpis"][0];
        let members = vpi["members"].as_array().context("no members")?;
        let members = members.iter().map(|member| json!([member["name"], member["id"], member["alias"]]));
        Ok(json!({"epoch": vpi["epoch"], "members": members.collect::<Vec<_>>()}))
    }

    fn victim_at(&self) -> Result<SocketAddr> {
        Ok(SocketAddr::from((self.victim.host.address, self.victim.port()?)))
    }

    fn victim_bytes(&self) -> Result<u64> {
        self.victim.node.as_ref().context("the victim runs")?.resident_bytes()
    }

    fn drops(&self) -> Result<BTreeMap<String, u64>> {
        drops(&self.victim.host)
    }

    /// Checks what must hold whatever the rogue did: others were served, and so is the rogue as a member.
    fn end(mut self) -> Result<()> {
        let gap = self.flow.longest_gap()?;
        ensure!(gap < GAP_LIMIT, "the friend was not served for {gap:?}");
        self.serves_the_rogue_as_a_member()?;
        self.nothing_else_passed()
    }

    /// Checks that the friend is served, the victim's memory flat, and all that was delivered allowed.
    fn nothing_else_passed(self) -> Result<()> {
        self.flow.first_echo_after(Instant::now(), Duration::from_secs(5))?;
        let grown = self.victim_bytes()?.saturating_sub(self.started_bytes);
        println!("the victim grew by {} KiB from {} KiB", grown >> 10, self.started_bytes >> 10);
        ensure!(grown <= GROWTH_BYTES, "the victim grew by {grown} bytes");
        let mut buffer = [0; 64];
        ensure!(self.local.recv(&mut buffer).is_err(), "the service on 127.0.0.1 was reached");
        ensure!(self.open.recv(&mut buffer).is_err(), "the service got {buffer:02x?} besides");
        let (own, rogue, friend) = (self.victim.alias, self.rogue_alias, self.friend_alias);
        for frame in self.tunnel.finish()? {
            let ends = [frame.source.ip(), frame.destination.ip()];
            let allowed = [[rogue, own], [friend, own], [own, rogue], [own, friend]];
            ensure!(allowed.iter().any(|pair| pair.map(IpAddr::V4) == ends), "delivered: {frame:02x?}");
            let is_to_open = frame.destination == SocketAddr::from((own, OPEN));
            ensure!(!is_to_open || !holds(&frame.payload, FORBIDDEN), "delivered: {frame:02x?}");
        }
        let local = self.loopback.finish()?;
        ensure!(local.is_empty(), "on the loopback device: {:02x?}", local[0]);
        Ok(())
    }

    /// The control: what a member may send arrives, and is answered, in the very session that was misused.
    fn serves_the_rogue_as_a_member(&mut self) -> Result<()> {
        let ends = (self.rogue_alias, self.victim.alias);
        let ping = packet::ipv4(ICMP, ends, 0, &packet::icmp(8, 0, ALLOWED));
        self.rogue.order(&json!({"do": "listen", "ms": 50}))?;
        self.rogue.say(&[ping])?;
        let answered = wait::until("an answer to the rogue's ping", COUNT_LIMIT, || {
            let answer = self.rogue.order(&json!({"do": "listen", "ms": 50}))?;
            let packets = answer["packets"].as_array().context("no packets in the answer")?;
            Ok(packets.first().and_then(Value::as_str).map(str::to_owned))
        })?;
        let expected: String = ALLOWED.iter().map(|byte| format!("{byte:02x}")).collect();
        ensure!(answered.contains(&expected), "{answered}");
        Ok(())
    }
}

/// In-session messages that are known and do not fit, or are not known, by the counter that says so.
fn messages() -> Vec<(&'static str, Vec<Vec<u8>>, &'static str)> {
    let known: [(u8, usize); 8] =
        [(0x01, 8), (0x02, 8), (0x10, 3), (0x11, 3), (0x12, 34), (0x13, 36), (0x14, 1), (0x3f, 1)];
    let of = |first: u8, bytes: usize| [vec![first], vec![0; bytes]].concat();
    let short = known.map(|(first, bytes)| of(first, bytes - 1)).to_vec();
    // A probe may be of any length; a list and a piece are judged by what stands in them.
    let long = known[1..].iter().map(|(first, bytes)| of(*first, bytes + 1_001)).collect();
    let fields =
        vec![vec![0x14, 2], [of(0x13, 36), vec![1, 9, 9]].concat(), [of(0x11, 3), vec![7; 33 * 32]].concat()];
    let unknown = (0x24..=0x3e).flat_map(|first| [of(first, 0), of(first, 1_300)]).collect();
    vec![
        ("messages cut short", short, "message_malformed"),
        ("messages with more behind them", long, "message_malformed"),
        ("fields out of range", fields, "message_malformed"),
        ("unknown messages", unknown, "message_unknown"),
    ]
}

/// Packets whose lengths or version disagree with what is there.
fn wrong_lengths(ends: Ends, whole: &[u8]) -> Vec<Vec<u8>> {
    let with = |at: usize, bytes: &[u8]| {
        let mut packet = whole.to_vec();
        packet[at..at + bytes.len()].copy_from_slice(bytes);
        packet
    };
    let tcp = |words: u8| {
        let mut header = packet::syn(ends, 9, OPEN);
        header[12] = words << 4;
        packet::ipv4(TCP, ends, 0, &header)
    };
    vec![
        with(2, &[0xff, 0xff]),
        with(2, &[0, 20]),
        with(2, &[0, 0]),
        with(0, &[0x40]),
        with(0, &[0x44]),
        with(0, &[0x00]),
        with(0, &[0x75]),
        with(0, &[0xff]),
        with(24, &[0, 7]),
        with(24, &[0xff, 0xff]),
        whole[..19].to_vec(),
        whole[..whole.len() - 1].to_vec(),
        [whole, &[0]].concat(),
        vec![0x45],
        tcp(4),
        tcp(15),
        packet::ipv4(TCP, ends, 0, &[0x50; 19]),
        packet::ipv4(TCP, ends, MORE_FRAGMENTS, &[0x50; 16]),
        packet::ipv4(UDP, ends, 0, &[0; 7]),
        packet::ipv4(ICMP, ends, 0, &[8; 7]),
    ]
}

/// ICMP errors whose quote is not of a packet that the victim can have sent to the rogue.
fn quotes(ends: Ends, friend: Ipv4Addr) -> Vec<Vec<u8>> {
    let (rogue, own) = ends;
    let datagram = packet::udp(OPEN, 9, FORBIDDEN);
    let error = |quote: &[u8]| packet::ipv4(ICMP, ends, 0, &packet::icmp(UNREACHABLE, 3, quote));
    let quoted = |ends: Ends| packet::ipv4(UDP, ends, 0, &datagram);
    let mut six = quoted((own, rogue));
    six[0] = 0x65;
    vec![
        error(&quoted((own, friend))),
        error(&quoted((rogue, own))),
        error(&quoted((Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST))),
        error(&packet::with_options(UDP, (own, rogue), 0, &[1; 4], &datagram)),
        error(&packet::ipv4(47, (own, rogue), 0, &datagram)),
        error(&quoted((own, rogue))[..27]),
        error(&six),
        error(&[]),
    ]
}

/// An IPv6 packet from ::1 to ::1.
fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    let loopback = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    [&[0x60, 0, 0, 0][..], &length, &[next, 64], &loopback, &loopback, payload].concat()
}

fn offer(rogue: &mut Rogue, sort: &str) -> Result<Value> {
    let answer = rogue.order(&json!({"do": "offer", "sort": sort, "with": "b", "ms": 500}))?;
    ensure!(answer["pieces"].as_u64() > Some(0), "nothing of it was asked for: {answer}");
    Ok(answer)
}

/// The receiver index of a data datagram (protocol/README §2) from `source` to `destination`.
fn data_index(frame: &Frame, source: IpAddr, destination: SocketAddr) -> Option<u32> {
    let is_data = frame.payload.starts_with(&[0x80, 0, 0, 0]);
    let is_it = is_data && frame.source.ip() == source && frame.destination == destination;
    let index = frame.payload.get(4..8).filter(|_| is_it)?;
    Some(u32::from_be_bytes(index.try_into().ok()?))
}

fn holds(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|window| window == word)
}

/// What `vpi status --drops` counts on `host`.
fn drops(host: &Host) -> Result<BTreeMap<String, u64>> {
    let status = host.vpi(&["status", "--drops", "--json"])?.json()?;
    let drops = status["vpis"][0]["drops"].as_object().context("no drops in the status")?;
    Ok(drops.iter().filter_map(|(reason, count)| Some((reason.clone(), count.as_u64()?))).collect())
}

/// The counters that moved, by how much.
fn difference(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let moved = after.iter().map(|(reason, count)| (reason, count - before.get(reason).unwrap_or(&0)));
    moved.filter(|(_, count)| *count > 0).map(|(reason, count)| (reason.clone(), count)).collect()
}
