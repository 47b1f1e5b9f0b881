//! A DNS server for names of members, on a loopback address of the owner's choice (the setting `dns`).
//!
//! ```text
//! vpi.                      authoritative: A for MEMBER.VPI.vpi; NXDOMAIN with SOA for what is not there
//! 64.127.in-addr.arpa. to 127.127.in-addr.arpa.    authoritative: PTR for aliases
//! anything else             REFUSED: this is no resolver
//! ```
//!
//! In: queries over UDP and TCP (RFC 1035, RFC 7766) from programs on this machine, and the table of names, which the
//! driver changes. Out: answers of at most 512 bytes. Members are not answered: they come from aliases. Messages are read
//! and written by `hickory-proto`; its server is not used because it holds as many connections as come and logs each
//! query.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, PTR, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::debug;

use super::{Entry, TOP, is_alias};

/// How long others may remember an answer, in seconds: a member that left or was renamed is gone after it.
const TTL_S: u32 = 5;
/// Largest query that is read: a question has at most 271 bytes, options a few dozen.
const MAX_QUERY_BYTES: usize = 1_232;
/// Largest answer over UDP that we say to take part in (RFC 9715 §3.2).
const MAX_PAYLOAD: u16 = 1_232;
/// TCP connections at once: resolvers hold one or two.
const MAX_CONNECTIONS: usize = 16;
/// How long a connection may be idle (RFC 7766 §6.2.3: a few seconds).
const IDLE: Duration = Duration::from_secs(5);
/// Rest after a failed call, so that a full file table does not spin the loop.
const PAUSE: Duration = Duration::from_millis(100);
/// Bytes before the questions.
const HEADER_BYTES: usize = 12;

/// Who is called what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    aliases: BTreeMap<String, Ipv4Addr>,
    names: BTreeMap<Ipv4Addr, String>,
}

impl Table {
    /// The table of these entries.
    pub(crate) fn new(entries: impl IntoIterator<Item = Entry>) -> Self {
        let mut table = Self::default();
        for Entry { alias, name } in entries {
            table.names.entry(alias).or_insert_with(|| name.clone());
            table.aliases.insert(name, alias);
        }
        table
    }

    /// Says whether there is a name that ends in `.suffix`.
    fn has_below(&self, suffix: &str) -> bool {
        self.aliases.keys().any(|name| name.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.')))
    }
}

/// Both sockets, bound while the process may bind low ports.
#[derive(Debug)]
pub(crate) struct Sockets {
    udp: std::net::UdpSocket,
    tcp: std::net::TcpListener,
}

impl Sockets {
    /// Binds `address`, which must be a loopback address.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn bind(address: SocketAddr) -> io::Result<Self> {
        let udp = std::net::UdpSocket::bind(address)?;
        // Another port for the asking is the same one for TCP.
        let tcp = std::net::TcpListener::bind(udp.local_addr()?)?;
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        Ok(Self { udp, tcp })
    }

    /// Serves from `table` until the returned set is dropped.
    ///
    /// # Errors
    /// If the runtime does not take the sockets.
    pub(crate) fn serve(self, table: &watch::Receiver<Arc<Table>>) -> io::Result<JoinSet<()>> {
        let (udp, tcp) = (UdpSocket::from_std(self.udp)?, TcpListener::from_std(self.tcp)?);
        let mut serving = JoinSet::new();
        serving.spawn(serve_udp(udp, table.clone()));
        serving.spawn(serve_tcp(tcp, table.clone()));
        Ok(serving)
    }
}

async fn serve_udp(socket: UdpSocket, table: watch::Receiver<Arc<Table>>) {
    let mut buffer = [0; MAX_QUERY_BYTES];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                debug!(%error, "the DNS socket cannot be read");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let known = Arc::clone(&table.borrow());
        let query = buffer.get(..length).unwrap_or_default();
        if let Some(answer) = is_asker(from.ip()).then(|| answer(query, &known)).flatten() {
            // A socket whose buffer is full loses it; the asker asks again.
            let _ = socket.try_send_to(&answer, from);
        }
    }
}

async fn serve_tcp(listener: TcpListener, table: watch::Receiver<Arc<Table>>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // Ends what it holds when it is dropped.
    let mut conversations = JoinSet::new();
    loop {
        // Who comes when all places are taken waits in the kernel's queue.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        while conversations.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, from)) if is_asker(from.ip()) => {
                let table = table.clone();
                conversations.spawn(async move {
                    // However it ends, the asker sees a closed connection.
                    let _ = converse(stream, &table).await;
                    drop(place);
                });
            }
            Ok(_) => {}
            Err(error) => {
                debug!(%error, "the DNS socket cannot accept");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Answers what one connection asks, each message behind its length u16, until it falls silent.
async fn converse(mut stream: TcpStream, table: &watch::Receiver<Arc<Table>>) -> io::Result<()> {
    loop {
        let length = usize::from(timeout(IDLE, stream.read_u16()).await??);
        let mut query = vec![0; length];
        if length > MAX_QUERY_BYTES {
            return Ok(());
        }
        timeout(IDLE, stream.read_exact(&mut query)).await??;
        let known = Arc::clone(&table.borrow());
        let Some(answer) = answer(&query, &known) else { return Ok(()) };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let framed = [&length.to_be_bytes()[..], &answer].concat();
        timeout(IDLE, stream.write_all(&framed)).await??;
    }
}

/// Says whether a query from `source` may be answered: programs of this machine only, and not a member's packets, which
/// come from its alias.
fn is_asker(source: IpAddr) -> bool {
    match source {
        IpAddr::V4(source) => source.is_loopback() && !is_alias(source),
        IpAddr::V6(source) => source.is_loopback(),
    }
}

/// The answer to the query in `bytes`; `None` if it is none, or an answer itself.
fn answer(bytes: &[u8], table: &Table) -> Option<Vec<u8>> {
    if bytes.len() < HEADER_BYTES {
        return None;
    }
    let query = Message::from_vec(bytes).ok()?;
    if query.metadata.message_type != MessageType::Query {
        return None;
    }
    let mut response = Message::response(query.metadata.id, query.metadata.op_code);
    response.metadata.recursion_desired = query.metadata.recursion_desired;
    response.add_queries(query.queries.iter().cloned());
    if let Some(asked) = &query.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_PAYLOAD).set_version(0);
        if asked.version() > 0 {
            edns.set_rcode_high(ResponseCode::BADVERS.high());
            response.metadata.response_code = ResponseCode::BADVERS;
            response.set_edns(edns);
            return response.to_vec().ok();
        }
        response.set_edns(edns);
    }
    response.metadata.response_code = match (query.metadata.op_code, query.queries.as_slice()) {
        (OpCode::Query, [question]) => judge(question, table, &mut response),
        (OpCode::Query, _) => ResponseCode::FormErr,
        _ => ResponseCode::NotImp,
    };
    response.to_vec().ok()
}

/// Puts what is known into `response`.
fn judge(question: &Query, table: &Table, response: &mut Message) -> ResponseCode {
    if !matches!(question.query_class(), DNSClass::IN | DNSClass::ANY) {
        return ResponseCode::Refused;
    }
    let asked = question.name().to_lowercase();
    let Some(found) = look_up(&asked, table) else { return ResponseCode::Refused };
    response.metadata.authoritative = true;
    let kind = question.query_type();
    match found.data {
        Some(data) if kind == data.record_type() || kind == RecordType::ANY => {
            response.add_answer(Record::from_rdata(question.name().clone(), TTL_S, data));
        }
        _ => {
            let soa = Record::from_rdata(found.zone.clone(), TTL_S, RData::SOA(start_of(&found.zone)));
            if kind == RecordType::SOA && asked == found.zone {
                response.add_answer(soa);
            } else {
                response.add_authority(soa);
            }
        }
    }
    if found.exists { ResponseCode::NoError } else { ResponseCode::NXDomain }
}

/// What a zone of ours has at a name.
struct Found {
    zone: Name,
    /// Something is at this name or below it.
    exists: bool,
    data: Option<RData>,
}

/// Looks `asked`, in lower case, up; `None` if it is in no zone of ours.
fn look_up(asked: &Name, table: &Table) -> Option<Found> {
    let text = asked.to_ascii();
    let text = text.trim_end_matches('.');
    if text == TOP || text.ends_with(&format!(".{TOP}")) {
        let data = table.aliases.get(text).map(|alias| RData::A(A(*alias)));
        let exists = data.is_some() || text == TOP || table.has_below(text);
        return Some(Found { zone: Name::from_ascii(format!("{TOP}.")).ok()?, exists, data });
    }
    // From the far end: in-addr.arpa, 127, the second byte, which makes the zone; then the rest of an address.
    let labels: Vec<&str> = text.split('.').collect();
    let (second, before) = match labels.as_slice() {
        [before @ .., second, "127", "in-addr", "arpa"] => (byte(second)?, before),
        _ => return None,
    };
    is_alias([127, second, 0, 0].into()).then_some(())?;
    let zone = Name::from_ascii(format!("{second}.127.in-addr.arpa.")).ok()?;
    let data = match before {
        [fourth, third] => {
            let address = byte(third).zip(byte(fourth)).map(|(third, fourth)| [127, second, third, fourth]);
            let name = address.and_then(|address| table.names.get(&Ipv4Addr::from(address)));
            name.and_then(|name| Name::from_ascii(format!("{name}.")).ok()).map(|name| RData::PTR(PTR(name)))
        }
        _ => None,
    };
    let is_above = |third: &str| {
        byte(third)
            .is_some_and(|third| table.names.keys().any(|alias| alias.octets()[1..3] == [second, third]))
    };
    let exists = match before {
        [] => true,
        [third] => is_above(third),
        _ => data.is_some(),
    };
    Some(Found { zone, exists, data })
}

/// A byte as a label of in-addr.arpa writes it.
fn byte(label: &str) -> Option<u8> {
    label.parse().ok().filter(|byte: &u8| byte.to_string() == label)
}

/// The start of a zone; its serial stands for nothing, because nobody copies it.
fn start_of(zone: &Name) -> SOA {
    SOA::new(zone.clone(), zone.clone(), 1, 3_600, 600, 86_400, TTL_S)
}

#[cfg(test)]
mod tests;
