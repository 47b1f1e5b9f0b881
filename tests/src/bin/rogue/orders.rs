//! Orders from standard input, an object of JSON a line; an answer for each on standard output.
//!
//! | `do` | fields | does |
//! |---|---|---|
//! | `handshake` | `with` NAME, `to` ADDRESS; may pretend: `made_up_static`, `holds_nothing` true, `epoch` NUMBER | a session, in the place of the one before |
//! | `say` | `plaintexts` [HEX]; `times`; `index`, `counter`: what to write over the session's own | seals and sends |
//! | `replay` | `times` | sends the datagram that was sealed last once more |
//! | `replay initiation` | `with`, `times` | sends one fresh initiation, and the same again |
//! | `flood` | `sort`, `with`, `times` | sends as fast as it can (flood.rs) |
//! | `make` | `sort` `initiation`, `question` or `announcement`; `with`, `times`; may pretend as `handshake` | seals, and sends nothing |
//! | `offer` | `sort`, `with`, `ms` | forges objects (forge.rs), lists them, and hands them out for so long |
//! | `listen` | `ms` | only listens |
//!
//! An answer is `{"packets": [HEX], "messages": {TYPE: COUNT}, "pieces": COUNT}`, all since the answer before,
//! `"datagrams"` [HEX], what was made, and `"index"`, where the victim finds the session; or `{"error": TEXT}`.

use std::io::{BufRead as _, Write as _, stdin, stdout};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use data_encoding::HEXLOWER;
use protocol::identity::ObjectId;
use protocol::wire::hello::Digests;
use protocol::wire::message::{Message, NEWS_PAGE};
use serde_json::{Value, json};

use crate::link::{Pretence, Rogue};
use crate::{flood, forge};

/// Datagrams between two looks at what comes back, so that the rogue's own queue does not overflow.
const BURST: u64 = 64;

/// Takes orders until the end of standard input.
pub(crate) fn take(mut rogue: Rogue) -> Result<()> {
    let mut last = Vec::new();
    for line in stdin().lock().lines() {
        let order: Value = serde_json::from_str(&line?)?;
        let answer = match obey(&mut rogue, &order, &mut last) {
            Ok(()) => answer(&mut rogue),
            Err(error) => json!({"error": format!("{error:#}")}),
        };
        let mut out = stdout().lock();
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}

/// `last` is the datagram that was sealed last.
fn obey(rogue: &mut Rogue, order: &Value, last: &mut Vec<u8>) -> Result<()> {
    let text =
        |field: &str| order[field].as_str().with_context(|| format!("the order has no {field}: {order}"));
    let times = order["times"].as_u64().unwrap_or(1);
    let patience = Duration::from_millis(order["ms"].as_u64().unwrap_or(0));
    let pretence = Pretence {
        made_up_static: order["made_up_static"] == true,
        epoch: order["epoch"].as_u64(),
        holds_nothing: order["holds_nothing"] == true,
    };
    match text("do")? {
        "handshake" => {
            let to: SocketAddr = text("to")?.parse()?;
            rogue.handshake(text("with")?, to, &pretence)?;
        }
        "say" => {
            for plaintext in order["plaintexts"].as_array().context("the order has no plaintexts")? {
                let plaintext = HEXLOWER.decode(plaintext.as_str().unwrap_or_default().as_bytes())?;
                for _ in 0..times {
                    let (to, mut datagram) = rogue.seal(&plaintext)?;
                    if let Some(index) = order["index"].as_u64() {
                        datagram[4..8].copy_from_slice(&u32::try_from(index)?.to_be_bytes());
                    }
                    if let Some(counter) = order["counter"].as_u64() {
                        datagram[8..16].copy_from_slice(&counter.to_be_bytes());
                    }
                    rogue.send(to, &datagram)?;
                    *last = datagram;
                }
            }
        }
        "replay" => {
            let to = rogue.session.as_ref().context("no session")?.to;
            (0..times).try_for_each(|_| rogue.send(to, last))?;
        }
        "replay initiation" => replay_initiation(rogue, text("with")?, times)?,
        "flood" => {
            let (sort, victim) = (text("sort")?, text("with")?);
            for number in 0..times {
                let (to, datagram) = flood::datagram(rogue, sort, victim)?;
                rogue.send(to, &datagram)?;
                if number % BURST == 0 {
                    rogue.receive()?;
                }
            }
        }
        "make" => {
            for _ in 0..times {
                let datagram = flood::veiled(rogue, text("sort")?, text("with")?, &pretence)?;
                rogue.made.push(datagram);
            }
        }
        "offer" => offer(rogue, text("sort")?, text("with")?)?,
        "listen" => {}
        other => bail!("no such order: {other}"),
    }
    rogue.listen_until(Instant::now() + patience)
}

fn replay_initiation(rogue: &mut Rogue, victim: &str, times: u64) -> Result<()> {
    let peer = rogue.state.static_key_of(&rogue.state.device_of(victim)?)?;
    let nothing = Digests { charter: ObjectId([0; 32]), removes: [0; 32], epoch_tag: [0; 2] };
    let (_, datagram, _) = rogue.initiation(&peer, nothing, &Pretence::default())?;
    let to = rogue.session.as_ref().context("no session")?.to;
    (0..=times).try_for_each(|_| rogue.send(to, &datagram))
}

fn offer(rogue: &mut Rogue, sort: &str, victim: &str) -> Result<()> {
    for object in forge::objects(&rogue.state, &mut rogue.rng, sort, victim)? {
        let (kind, id) = forge::id_of(&rogue.state, &object);
        rogue.offered.insert(id, object);
        rogue.say(&Message::List { kind, page: NEWS_PAGE, ids: vec![id] })?;
    }
    Ok(())
}

fn answer(rogue: &mut Rogue) -> Value {
    let heard = std::mem::take(&mut rogue.heard);
    let texts = |all: &[Vec<u8>]| all.iter().map(|bytes| HEXLOWER.encode(bytes)).collect::<Vec<_>>();
    let (packets, datagrams) = (texts(&heard.packets), texts(&std::mem::take(&mut rogue.made)));
    let index = rogue.session.as_ref().map(|session| session.their_index);
    json!({
        "packets": packets, "messages": heard.messages, "pieces": heard.pieces, "datagrams": datagrams, "index": index
    })
}
