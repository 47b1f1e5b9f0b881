//! One datagram, unlike the one before: in-session messages of every type, handshakes, joins, announcements.

use std::net::SocketAddr;

use anyhow::{Result, bail};
use protocol::identity::{InviteId, ObjectId, Secret};
use protocol::membership::epoch::EpochSecret;
use protocol::random;
use protocol::veil::{self, Veiled};
use protocol::wire::announcement::Announcement;
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
        _ => {
            let (to, _) = rogue.seal(&[])?;
            return Ok((to, veiled(rogue, sort, victim, &Pretence::default())?));
        }
    };
    rogue.seal(&message.encode())
}

/// A veiled datagram of `sort` to `victim`, for which no session is needed.
pub(crate) fn veiled(rogue: &mut Rogue, sort: &str, victim: &str, pretence: &Pretence) -> Result<Vec<u8>> {
    match sort {
        "initiation" => {
            let peer = rogue.state.static_key_of(&rogue.state.device_of(victim)?)?;
            let nothing = Digests { charter: ObjectId([0; 32]), removes: [0; 32], epoch_tag: [0; 2] };
            Ok(rogue.initiation(&peer, nothing, pretence)?.1)
        }
        // An invite that nobody made: every holder of the epoch's secret can seal a question.
        "question" => {
            let (invite, epoch) = (InviteId(random::bytes(&mut rogue.rng)), rogue.epoch(pretence)?);
            let body = random::bytes::<QUESTION_BYTES>(&mut rogue.rng).to_vec();
            let key = epoch.join_veil_key(&invite);
            sealed(rogue, (Class::Join(invite), veil::QUESTION), body, (&epoch, &key))
        }
        "announcement" => {
            let (device, epoch) = (rogue.state.device.public(), rogue.epoch(pretence)?);
            let addresses = vec![SocketAddr::from(([10, 77, 0, 99], 41_414))];
            let body = Announcement { device, addresses }.encode();
            sealed(rogue, (Class::Member, veil::ANNOUNCEMENT), body, (&epoch, &epoch.veil_key()))
        }
        _ => bail!("no such flood: {sort}"),
    }
}

fn sealed(
    rogue: &mut Rogue,
    (class, kind): (Class, u8),
    body: Vec<u8>,
    (epoch, key): (&EpochSecret, &Secret),
) -> Result<Vec<u8>> {
    let header = VeilHeader { class, epoch_tag: epoch.tag(), nonce: random::bytes(&mut rogue.rng) };
    Ok(Veiled { time_ms: wall_ms()?, kind, body }.seal(key, &header))
}
