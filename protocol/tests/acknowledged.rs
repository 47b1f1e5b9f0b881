//! Nothing is acknowledged before it is on disk: neither an invite's token nor a join's answer leaves before `Stored`.

#![allow(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use protocol::engine::{Command, Config, Engine, Event, InviteRequest, Ticket, Time, Transmit};
use protocol::identity::{Secret, SigningSecret, StaticSecret, VpiId};
use protocol::membership::epoch::EpochSecret;
use protocol::membership::founding::{Founding, InviteWish, found};
use protocol::membership::join::{Joiner, Question};
use protocol::membership::token::Token;
use protocol::path::Remote;
use protocol::wire::hello::Suites;

const WALL_MS: u64 = 1_800_000_000_000;
const JOINER: ([u8; 4], u16) = ([192, 0, 2, 2], 41_414);

#[test]
fn token_and_answer_wait_for_the_disk() {
    let start = Instant::now();
    let at = |ms| Time { now: start + Duration::from_millis(ms), wall_ms: WALL_MS + ms };
    let mut witness = founder(at(0));

    let wish = InviteWish { name: None, max_uses: 1, seconds: None, bound_device: None };
    let members = vec![SocketAddr::from(([192, 0, 2, 1], 41_414))];
    let request = Box::new(InviteRequest { wish, members, offline: false });
    witness.handle_command(Command::Invite(7, request), at(10));
    let (stores, token) = drain(&mut witness);
    assert!(stores.len() == 1 && token.is_none(), "no token before its invite is on disk");
    witness.handle_command(Command::Stored(stores[0]), at(20));
    let (_, token) = drain(&mut witness);
    let token = token.expect("the token follows");

    let question = asked(&token, at(1_000));
    witness.handle_datagram(Remote::Udp(JOINER.into()), &question.datagram, at(1_000)).unwrap();
    let (stores, _) = drain(&mut witness);
    assert_eq!(stores.len(), 1, "invite, join and admit are one store");
    assert_eq!(witness.poll_transmit(), None, "no answer before the admission is on disk");
    witness.handle_command(Command::Stored(stores[0]), at(1_010));
    let answer = witness.poll_transmit().expect("the answer follows");
    assert_eq!(answer.to, Remote::Udp(JOINER.into()));
    assert!(answer.datagram.len() <= question.datagram.len(), "never longer than its question");
}

/// The question of a device that holds `token`.
fn asked(token: &Token, time: Time) -> Transmit {
    let (device, static_secret) = keys(2);
    let joiner = Joiner {
        device: &device,
        static_key: static_secret.public(),
        name: "nas",
        nonce: [2; 16],
        wall_secs: time.wall_ms / 1_000,
    };
    let question = Question::ask(token, &joiner).unwrap();
    let mut engine = Engine::joining(config(*token.vpi(), 2), token, question, time).unwrap();
    engine.handle_timeout(time);
    engine.poll_transmit().unwrap()
}

/// Takes out what is to be stored, and the token if one is told.
fn drain(engine: &mut Engine) -> (Vec<Ticket>, Option<Box<Token>>) {
    let (mut stores, mut token) = (Vec::new(), None);
    while let Some(event) = engine.poll_event() {
        match event {
            Event::Store { ticket, .. } => stores.push(ticket),
            Event::Invited { outcome, .. } => token = Some(outcome.unwrap()),
            _ => {}
        }
    }
    (stores, token)
}

fn founder(time: Time) -> Engine {
    let ((device, static_secret), secret) = (keys(1), Secret([100; 32]));
    let founded = found(&Founding {
        name: "home",
        device_name: "laptop",
        root: &SigningSecret::from_seed(&[101; 32]),
        recovery: &SigningSecret::from_seed(&[102; 32]),
        device: &device,
        static_key: static_secret.public(),
        secret: &secret,
        nonce: [7; 16],
        wall_secs: time.wall_ms / 1_000,
    })
    .unwrap();
    let epoch = EpochSecret::new(founded.vpi, 0, secret);
    Engine::member(config(founded.vpi, 1), founded.objects, [epoch], time).unwrap()
}

fn keys(n: u8) -> (SigningSecret, StaticSecret) {
    (SigningSecret::from_seed(&[n; 32]), StaticSecret::from_bytes([n + 50; 32]))
}

fn config(vpi: VpiId, n: u8) -> Config {
    let (device, static_secret) = keys(n);
    Config {
        vpi,
        device,
        static_secret,
        suites: Suites::BOTH,
        rekey_after: Duration::from_secs(120),
        idle_after: Duration::from_secs(900),
        prefix: Ipv4Addr::new(127, 80, 0, 0),
        pins: Vec::new(),
        seed: [n; 32],
    }
}
