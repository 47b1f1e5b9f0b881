//! Both ends of the control socket over a real one.

use std::{
    io::{Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

use protocol::identity::{DeviceId, VpiId};
use tokio::sync::mpsc;

use super::{
    Exit, Failure,
    client::{AskError, Door, door},
    members::*,
    protocol::*,
    reach::*,
    server::{BindError, Call, Caller, MAX_CONNECTIONS, Server, is_allowed},
    status::*,
    why::{Cause, Nats, Refused, Tried, Why},
};
use crate::{
    loopback::Transport,
    metrics::{Family, Kind},
    store::reach::{Policy, Service},
};

fn requests() -> Vec<Request> {
    let endpoints = vec!["192.0.2.1:41414".parse().unwrap(), "[2001:db8::1]:41414".parse().unwrap()];
    vec![
        Request::Hello,
        Request::Create(Create {
            name: "home".into(),
            member_name: "nas".into(),
            port: Some(41_414),
            beacons: vec!["/ip4/192.0.2.9/tcp/4001/p2p/12D3".into()],
            endpoints: endpoints.clone(),
        }),
        Request::Join(Join {
            token: Hidden("vpi1secret".into()),
            member_name: "laptop".into(),
            port: None,
            endpoints,
        }),
        Request::Attach { vpi: VpiId([7; 32]) },
        Request::Detach { vpi: None },
        Request::Invite(Invite {
            vpi: "home".into(),
            name: None,
            uses: 1_000,
            expires_s: 86_400,
            device: Some(DeviceId::from([9; 32])),
            offline: true,
        }),
        Request::Status { vpi: Some("home".into()), drops: true },
        Request::Ping { member: "nas.home".into(), count: 3 },
        Request::Shown { vpi: VpiId([7; 32]) },
        Request::Device,
        Request::Whois { alias: [127, 80, 3, 9].into() },
        Request::Why { member: "nas.home".into() },
        Request::Netcheck { vpi: None, looks: true },
        Request::Exposures { vpi: None },
        Request::Expose(Expose {
            vpi: "home".into(),
            service: service(),
            to: vec!["nas".into(), "laptop.home".into()],
        }),
        Request::Unexpose { vpi: "home".into(), service: service() },
        Request::Policy { vpi: "home".into(), policy: Policy::ExposedOnly },
        Request::Invites { vpi: "home".into() },
        Request::Remove(Remove {
            vpi: "home".into(),
            member: "nas".into(),
            reason: Reason::Lost,
            offline: true,
        }),
        Request::Revoke(Revoke { vpi: "home".into(), invite: "00ff".into(), offline: false }),
        Request::Leave { vpi: "home".into() },
        Request::Metrics,
    ]
}

fn service() -> Service {
    Service { proto: Transport::Udp, port: 53 }
}

fn reachable() -> Reachable {
    let named = Named { member: Some("nas.home".into()), id: "ab".repeat(32) };
    let nobody = Named { member: None, id: "cd".repeat(32) };
    let exposed = |port, to| Exposed { proto: Transport::Tcp, port, to };
    let exposures = vec![exposed(22, Some(vec![named, nobody])), exposed(80, None)];
    Reachable { vpi: "home".into(), policy: Policy::OwnAlias, exposures }
}

fn who() -> Who {
    let (vpi, member) = ("home".to_owned(), "nas.home".to_owned());
    Who { vpi, member, id: "ab".repeat(32), alias: [127, 80, 3, 9].into() }
}

fn why() -> Why {
    let tried = Tried { ago_s: 1.5, step: "gave_up".into(), text: "nobody answered".into() };
    let advice = "see that its node runs".to_owned();
    Why {
        member: "nas.home".into(),
        state: MemberState::Unreachable,
        path: None,
        cause: Cause::PeerSilent,
        packet_bytes: None,
        nats: Nats { own: "none".into(), theirs: "unknown".into() },
        refused: vec![Refused { service: "tcp/22".into(), by: "policy".into(), ago_s: 2.0 }],
        steps: vec![tried],
        advice,
    }
}

fn invites() -> Invites {
    let invite = InviteStatus {
        invite: "00ff".repeat(8),
        name: Some("nas".into()),
        device: None,
        admin: Some("laptop.home".into()),
        uses: 3,
        uses_left: 1,
        expires: Time::from_unix(1_767_225_600),
        state: InviteState::UsedUp,
    };
    Invites { vpi: "home".into(), invites: vec![invite] }
}

fn metrics() -> Vec<Family> {
    let mut family = Family::new("vpi_rtt_seconds", Kind::Gauge, "Round trip.");
    family.add(&[("member", "nas")], 0.25);
    vec![family]
}

fn status() -> Status {
    let path = PathStatus {
        kind: PathKind::Host,
        local: "192.0.2.1:41414".into(),
        remote: "192.0.2.2:41414".into(),
        via: None,
        rtt_ms: Some(8.4),
    };
    let member = MemberStatus {
        name: "nas".into(),
        id: "ab".repeat(32),
        alias: [127, 80, 3, 9].into(),
        alias_usual: true,
        state: MemberState::Own,
        path: Some(path),
        rx_bytes: 1,
        tx_bytes: 2,
        last_seen: Some(Time::from_unix(1_767_225_600)),
    };
    let vpi = VpiStatus {
        name: "home".into(),
        id: "cd".repeat(32),
        alias: [127, 80, 12, 7].into(),
        prefix: "127.80.0.0/16".into(),
        device: "vpi-home".into(),
        port: 41_414,
        epoch: 3,
        beacons: vec![BeaconStatus { address: "/ip4".into(), state: "connected".into(), rtt_ms: Some(12.1) }],
        members: vec![member],
        policy: Policy::OwnAlias,
        notices: vec!["look here".into()],
        drops: None,
    };
    Status { version: "0.1.0".into(), vpis: vec![vpi] }
}

fn replies() -> Vec<Reply> {
    let plan = Plan {
        device: "vpi-home".into(),
        prefix: [127, 80, 0, 0].into(),
        own: [127, 80, 12, 7].into(),
        exposed: vec![service()],
    };
    vec![
        Reply::Hello(super::hello().unwrap()),
        Reply::Progress("asking 203.0.113.5:41414 …\nagain".into()),
        Reply::Entered(Entered {
            name: "home".into(),
            id: VpiId([7; 32]),
            recovery: Some(Hidden("5ec4".repeat(16))),
            plan: plan.clone(),
        }),
        Reply::Detached(vec![plan.clone()]),
        Reply::Invited(Invited {
            token: Hidden("vpi1secret".into()),
            invite: "00ff".into(),
            expires: Time::from_unix(0),
            uses: 1,
        }),
        Reply::Status(status()),
        Reply::Pong(Pong { member: "nas.home".into(), rtt_ms: Some(0.25), path: Some(PathKind::Tcp) }),
        Reply::Device { id: "ab".repeat(32) },
        Reply::Who(who()),
        Reply::Why(why()),
        Reply::Reachable(vec![reachable()]),
        Reply::Opened(Opened { plan: plan.clone(), reach: reachable() }),
        Reply::Invites(invites()),
        Reply::Removed(Removed { vpi: "home".into(), member: "nas.home".into(), id: "ab".repeat(32) }),
        Reply::Revoked(Revoked { vpi: "home".into(), invite: "00ff".into() }),
        Reply::Left(Left { vpi: "home".into(), told: Some(2), plan }),
        Reply::Metrics(metrics()),
        Reply::Done,
        Reply::Failed(Failure::new(Exit::NotFound, "no member called x", "see `vpi status`")),
    ]
}

#[test]
fn every_request_arrives_as_it_was_sent() {
    let node = Node::start(|call| {
        let echo = format!("{:?}", call.request);
        call.answer(Reply::Progress(echo));
        call.answer(Reply::Done);
    });
    for request in requests() {
        let mut seen = Vec::new();
        let last = node.door.ask(&request, |reply| {
            seen.push(reply);
            Ok(())
        });
        assert_eq!(last.unwrap(), Reply::Done);
        assert_eq!(seen, [Reply::Progress(format!("{request:?}"))]);
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
    }
}

#[test]
fn every_reply_arrives_as_it_was_sent() {
    let node = Node::start(|call| {
        let Request::Ping { count, .. } = call.request else { return };
        call.answer(replies().swap_remove(count as usize));
        call.answer(Reply::Done);
    });
    for (index, reply) in replies().into_iter().enumerate() {
        let request = Request::Ping { member: String::new(), count: index as u32 };
        let mut seen = Vec::new();
        let last = node.door.ask(&request, |reply| {
            seen.push(reply);
            Ok(())
        });
        match reply {
            Reply::Failed(failure) => assert!(matches!(last, Err(AskError::Failed(seen)) if seen == failure)),
            reply if reply.is_last() => assert_eq!(last.unwrap(), reply),
            reply => assert_eq!((last.unwrap(), seen), (Reply::Done, vec![reply])),
        }
    }
}

#[test]
fn the_status_is_the_promised_json() {
    let promised = serde_json::json!({"version": "0.1.0", "vpis": [{
        "name": "home", "id": "cd".repeat(32), "alias": "127.80.12.7", "prefix": "127.80.0.0/16",
        "device": "vpi-home", "port": 41414, "epoch": 3,
        "beacons": [{"address": "/ip4", "state": "connected", "rtt_ms": 12.1}],
        "members": [{"name": "nas", "id": "ab".repeat(32), "alias": "127.80.3.9", "alias_usual": true,
            "state": "self",
            "path": {"kind": "host", "local": "192.0.2.1:41414", "remote": "192.0.2.2:41414", "via": null, "rtt_ms": 8.4},
            "rx_bytes": 1, "tx_bytes": 2, "last_seen": "2026-01-01T00:00:00Z"}],
        "policy": "own-alias", "notices": ["look here"]}]});
    assert_eq!(serde_json::to_value(status()).unwrap(), promised);
}

#[test]
fn what_members_reach_is_the_promised_json() {
    let promised = serde_json::json!({"vpi": "home", "policy": "own-alias", "exposures": [
        {"proto": "tcp", "port": 22, "to": [
            {"member": "nas.home", "id": "ab".repeat(32)}, {"member": null, "id": "cd".repeat(32)}]},
        {"proto": "tcp", "port": 80, "to": null}]});
    assert_eq!(serde_json::to_value(reachable()).unwrap(), promised);
}

#[test]
fn invites_are_the_promised_json() {
    let promised = serde_json::json!({"vpi": "home", "invites": [{
        "invite": "00ff".repeat(8), "name": "nas", "device": null, "admin": "laptop.home",
        "uses": 3, "uses_left": 1, "expires": "2026-01-01T00:00:00Z", "state": "used_up"}]});
    assert_eq!(serde_json::to_value(invites()).unwrap(), promised);
}

#[test]
fn whois_is_the_promised_json() {
    let promised = serde_json::json!(
        {"vpi": "home", "member": "nas.home", "id": "ab".repeat(32), "alias": "127.80.3.9"});
    assert_eq!(serde_json::to_value(who()).unwrap(), promised);
}

#[test]
fn times_beyond_the_year_9999_do_not_overflow() {
    assert_eq!(Time::from_unix(u64::MAX).to_string(), "9999-12-30T22:00:00Z");
}

#[test]
fn secrets_do_not_print() {
    let printed = format!("{:?} {:?}", requests(), replies());
    assert!(!printed.contains("secret") && !printed.contains("5ec4"), "{printed}");
}

#[test]
fn whoever_holds_the_line_does_not_keep_others_out() {
    let node = Node::start(|call| {
        call.answer(Reply::Done);
    });
    let _silent = UnixStream::connect(&node.door.socket).unwrap();
    let mut slow = UnixStream::connect(&node.door.socket).unwrap();
    slow.write_all(b"{\"ping\":").unwrap();
    assert_eq!(node.ask(), Ok(Exit::Done));
}

#[test]
fn what_is_no_request_is_refused_and_the_node_goes_on() {
    let node = Node::start(|call| {
        call.answer(Reply::Done);
    });
    for bytes in
        [&b"\n"[..], b"{}\n", b"\"Hello\"\n", b"{\"ping\":{\"member\":1,\"count\":1}}\n", b"\xff\xfe\n"]
    {
        let answer = exchange(&node.door.socket, bytes);
        assert!(answer.contains("does not understand"), "{answer}");
    }
    let nested = format!("{}\n", "[".repeat(60_000));
    assert!(exchange(&node.door.socket, nested.as_bytes()).contains("does not understand"));
    assert_eq!(node.ask(), Ok(Exit::Done));
}

#[test]
fn a_request_without_end_is_cut_off() {
    let node = Node::start(|call| {
        call.answer(Reply::Done);
    });
    assert_eq!(exchange(&node.door.socket, &vec![b'x'; 4 * MAX_REQUEST_BYTES]), "");
    assert_eq!(node.ask(), Ok(Exit::Done));
}

#[test]
fn a_command_too_many_is_turned_away_until_the_silent_ones_are_cut_off() {
    let node = Node::start(|call| {
        call.answer(Reply::Done);
    });
    let _silent: Vec<_> =
        (0..MAX_CONNECTIONS).map(|_| UnixStream::connect(&node.door.socket).unwrap()).collect();
    assert_eq!(node.ask(), Err(Exit::Failed));
    let is_free = (0..1_000).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        node.ask() == Ok(Exit::Done)
    });
    assert!(is_free);
}

#[test]
fn a_command_that_leaves_ends_its_call() {
    let (left, gone) = std::sync::mpsc::channel();
    let node = Node::start(move |call| {
        let left = left.clone();
        tokio::spawn(async move {
            call.reply.closed().await;
            left.send(()).unwrap();
        });
    });
    let mut stream = UnixStream::connect(&node.door.socket).unwrap();
    stream.write_all(b"\"hello\"\n").unwrap();
    drop(stream);
    gone.recv_timeout(Duration::from_secs(10)).unwrap();
}

#[test]
fn a_call_that_nobody_answers_fails() {
    let node = Node::start(drop);
    assert_eq!(node.ask(), Err(Exit::Failed));
}

#[test]
fn nobody_listening_means_no_node() {
    let dir = tempfile::tempdir().unwrap();
    let door = door(dir.path(), None);
    let failure = Failure::from(door.ask(&Request::Hello, |_| Ok(())).unwrap_err());
    assert_eq!(failure.exit, Exit::NoNode);
    assert!(failure.message.contains(&*dir.path().to_string_lossy()) && failure.advice.contains("vpi up"));

    drop(std::os::unix::net::UnixListener::bind(&door.socket).unwrap());
    assert_eq!(Failure::from(door.ask(&Request::Hello, |_| Ok(())).unwrap_err()).exit, Exit::NoNode);
}

#[test]
fn a_socket_left_by_a_dead_node_is_replaced_and_a_live_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let runtime = runtime();
    let _inside = runtime.enter();

    let first = Server::bind(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o660);
    assert!(matches!(Server::bind(&path), Err(BindError::InUse(_))));
    drop(first);
    assert!(!path.exists());

    std::fs::write(&path, "mine").unwrap();
    assert!(matches!(Server::bind(&path), Err(BindError::NotASocket(_))));
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
}

#[test]
fn only_root_and_the_node_change_anything() {
    let by = |uid| Caller { uid, pid: None };
    for request in requests() {
        let reads = matches!(
            request,
            Request::Hello
                | Request::Status { .. }
                | Request::Ping { .. }
                | Request::Device
                | Request::Whois { .. }
                | Request::Why { .. }
                | Request::Netcheck { .. }
                | Request::Exposures { .. }
                | Request::Invites { .. }
                | Request::Metrics
        );
        assert!(is_allowed(&request, by(0), 990) && is_allowed(&request, by(990), 990));
        assert_eq!(is_allowed(&request, by(1_000), 990), reads, "{request:?}");
    }
}

/// A node whose driver is one function, on a thread of its own.
struct Node {
    door: Door,
    _dir: tempfile::TempDir,
    _stop: tokio::sync::oneshot::Sender<()>,
}

impl Node {
    fn start(mut driver: impl FnMut(Call) + Send + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let door = door(dir.path(), None);
        let (stop, mut stopped) = tokio::sync::oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let socket: PathBuf = door.socket.clone();
        std::thread::spawn(move || {
            runtime().block_on(async {
                let (calls, mut waiting) = mpsc::channel(MAX_CONNECTIONS);
                tokio::spawn(Server::bind(&socket).unwrap().serve(calls));
                ready.send(()).unwrap();
                loop {
                    tokio::select! {
                        Some(call) = waiting.recv() => driver(call),
                        _ = &mut stopped => return,
                    }
                }
            });
        });
        is_ready.recv().unwrap();
        Self { door, _dir: dir, _stop: stop }
    }

    fn ask(&self) -> Result<Exit, Exit> {
        let answer = self.door.ask(&Request::Hello, |_| Ok(()));
        answer.map(|_| Exit::Done).map_err(|error| Failure::from(error).exit)
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Writes `bytes` and returns everything that comes back before the node closes.
fn exchange(socket: &Path, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    // The node may close before it has read everything.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}
