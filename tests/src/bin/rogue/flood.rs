//! One datagram of a flood, unlike the one before: in-session messages of every type, packets, handshakes, joins.

use std::net::SocketAddr;

use anyhow::{Result, bail};
use protocol::identity::{InviteId, ObjectId};
use protocol::random;
use protocol::veil::{self, Veiled};
use protocol::wire::header::{Class, VeilHeader};
use protocol::wire::hello::Digests;
use protocol::wire::message::{Message, PAGE_IDS, PIECE_BYTES};
use rand_core::Rng as _;

use crate::link::{Pretence, Rogue, wall_ms};

/// The largest message that the path's full size carries.
const FULL_BYTES: usize = 1_420;
/// As long as a question with its two envelopes.
const QUESTION_BYTES: usize = 700;

/// A datagram of `sort` to the session's other end `victim`, sealed.
pub(crate) fn datagram(rogue: &mut Rogue, sort: &str, victim: &str) -> Result<(SocketAddr, Vec<u8>)> {
    let rng = &mut rogue.rng;
    let (id, kind) = (ObjectId(random::bytes(rng)), (rng.next_u32() % 12) as u8);
    let (number, page) = (rng.next_u64(), rng.next_u32() as u16);
    let noise: [u8; PIECE_BYTES] = random::bytes(rng);
    let message = match sort {
        "probe" => Message::Probe { id: number, length: FULL_BYTES },
        "echo" => Message::Echo { id: number, observed: None },
        "ids" => Message::Ids { kind, page: page % 4 },
        "list" => {
            let ids = (0..PAGE_IDS).map(|_| ObjectId(random::bytes(rng))).collect();
            Message::List { kind, page, ids }
        }
        "get" => Message::Get { id, offset: page },
        "piece" => Message::Piece { id, offset: 0, total: 4_000, bytes: &noise },
        "settled" => Message::Settled { heard: page.is_multiple_of(2) },
        "keepalive" => return rogue.seal(&[]),
        "unknown" => {
            // Types that this version does not have; 0x20 to 0x3e are far from all that it has.
            let first = 0x20 + (page % 0x1f) as u8;
            return rogue.seal(&[&[first], &noise[..usize::from(page % 900)]].concat());
        }
        "initiation" => return initiation(rogue, victim),
        "question" => return question(rogue),
        _ => bail!("no such flood: {sort}"),
    };
    rogue.seal(&message.encode())
}

fn initiation(rogue: &mut Rogue, victim: &str) -> Result<(SocketAddr, Vec<u8>)> {
    let peer = rogue.state.static_key_of(&rogue.state.device_of(victim)?)?;
    let nothing = Digests { charter: ObjectId([0; 32]), removes: [0; 32], epoch_tag: [0; 2] };
    let (_, datagram, _) = rogue.initiation(&peer, nothing, &Pretence::default())?;
    let (to, _) = rogue.seal(&[])?;
    Ok((to, datagram))
}

/// A join's question with an invite id that nobody made: every holder of the epoch's secret can seal one.
fn question(rogue: &mut Rogue) -> Result<(SocketAddr, Vec<u8>)> {
    let (invite, nonce) = (InviteId(random::bytes(&mut rogue.rng)), random::bytes(&mut rogue.rng));
    let epoch = rogue.state.epochs.last().expect("a member has an epoch secret");
    let header = VeilHeader { class: Class::Join(invite), epoch_tag: epoch.tag(), nonce };
    let body = random::bytes::<QUESTION_BYTES>(&mut rogue.rng).to_vec();
    let question = Veiled { time_ms: wall_ms()?, kind: veil::QUESTION, body };
    let datagram = question.seal(&epoch.join_veil_key(&invite), &header);
    let (to, _) = rogue.seal(&[])?;
    Ok((to, datagram))
}
