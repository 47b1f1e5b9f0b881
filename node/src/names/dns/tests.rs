//! Queries as programs make them, answered over real sockets.

use std::io::{Read as _, Write as _};

use super::*;

fn table() -> Table {
    let entry = |alias: [u8; 4], name: &str| Entry { alias: alias.into(), name: name.into() };
    Table::new([entry([127, 80, 3, 9], "nas.home.vpi"), entry([127, 80, 12, 7], "laptop.home.vpi")])
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.id = 4_711;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn ask(message: &Message) -> Message {
    Message::from_vec(&answer(&message.to_vec().unwrap(), &table()).unwrap()).unwrap()
}

#[test]
fn a_hand_made_query_has_its_known_answer() {
    let question = b"\x03NAS\x04home\x03vpi\x00\x00\x01\x00\x01";
    let asked = [&b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"[..], question].concat();
    let record = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\x7f\x50\x03\x09";
    let expected = [&b"\x12\x34\x85\x00\x00\x01\x00\x01\x00\x00\x00\x00"[..], question, record].concat();
    assert_eq!(answer(&asked, &table()).unwrap(), expected);
}

#[test]
fn names_addresses_and_what_is_not_there_are_told_apart() {
    let (a, ptr, aaaa, soa) = (RecordType::A, RecordType::PTR, RecordType::AAAA, RecordType::SOA);
    for (name, kind, code, answers) in [
        ("nas.home.vpi.", a, ResponseCode::NoError, 1),
        ("NaS.HoMe.VpI.", a, ResponseCode::NoError, 1),
        ("nas.home.vpi.", aaaa, ResponseCode::NoError, 0),
        ("nas.home.vpi.", RecordType::ANY, ResponseCode::NoError, 1),
        ("home.vpi.", a, ResponseCode::NoError, 0),
        ("vpi.", soa, ResponseCode::NoError, 1),
        ("vpi.", a, ResponseCode::NoError, 0),
        ("tv.home.vpi.", a, ResponseCode::NXDomain, 0),
        ("x.nas.home.vpi.", a, ResponseCode::NXDomain, 0),
        ("as.home.vpi.", a, ResponseCode::NXDomain, 0),
        ("ome.vpi.", a, ResponseCode::NXDomain, 0),
        ("9.3.80.127.in-addr.arpa.", ptr, ResponseCode::NoError, 1),
        ("8.3.80.127.in-addr.arpa.", ptr, ResponseCode::NXDomain, 0),
        ("3.80.127.in-addr.arpa.", ptr, ResponseCode::NoError, 0),
        ("09.3.80.127.in-addr.arpa.", ptr, ResponseCode::NXDomain, 0),
        ("80.127.in-addr.arpa.", soa, ResponseCode::NoError, 1),
        ("1.0.0.127.in-addr.arpa.", ptr, ResponseCode::Refused, 0),
        ("1.0.128.127.in-addr.arpa.", ptr, ResponseCode::Refused, 0),
        ("example.com.", a, ResponseCode::Refused, 0),
        ("notvpi.", a, ResponseCode::Refused, 0),
        (".", soa, ResponseCode::Refused, 0),
    ] {
        let response = ask(&query(name, kind));
        let is_ours = code != ResponseCode::Refused;
        assert_eq!(
            (response.metadata.response_code, response.answers.len()),
            (code, answers),
            "{name} {kind}"
        );
        assert_eq!(response.metadata.authoritative, is_ours, "{name}");
        let has_soa = response.authorities.iter().any(|record| record.record_type() == soa);
        assert_eq!(
            has_soa,
            is_ours && answers == 0,
            "{name} {kind}: a negative answer says how long it holds"
        );
        assert!(!response.metadata.recursion_available && response.metadata.id == 4_711);
        let records = response.answers.iter().chain(&response.authorities);
        assert!(records.into_iter().all(|record| record.ttl == TTL_S), "{name}");
    }
    let pointed = ask(&query("9.3.80.127.in-addr.arpa.", ptr)).answers.remove(0);
    assert_eq!(pointed.data, RData::PTR(PTR(Name::from_ascii("nas.home.vpi.").unwrap())));
}

#[test]
fn what_is_no_plain_query_changes_nothing() {
    let good = query("nas.home.vpi.", RecordType::A);
    let mut response = good.clone();
    response.metadata.message_type = MessageType::Response;
    assert_eq!(answer(&response.to_vec().unwrap(), &table()), None, "or two servers would talk for ever");
    let mut update = good.clone();
    update.metadata.op_code = OpCode::Update;
    assert_eq!(ask(&update).metadata.response_code, ResponseCode::NotImp);
    let mut two = good.clone();
    two.add_query(Query::query(Name::root(), RecordType::A));
    assert_eq!(ask(&two).metadata.response_code, ResponseCode::FormErr);
    let mut chaos = good.clone();
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(ask(&chaos).metadata.response_code, ResponseCode::Refused);
    let mut edns = good.clone();
    edns.set_edns(Edns::new());
    assert!(ask(&edns).edns.is_some());
    edns.edns.as_mut().unwrap().set_version(1);
    let refused = ask(&edns);
    // The number 16 has two names (RFC 6891 §9, RFC 8945 §3).
    let code = u16::from(ResponseCode::BADVERS);
    assert_eq!((u16::from(refused.metadata.response_code), refused.answers.len()), (code, 0));
    let bytes = good.to_vec().unwrap();
    for cut in 0..bytes.len() {
        assert_eq!(answer(&bytes[..cut], &table()), None, "cut at {cut}");
    }
}

#[test]
fn no_answer_is_longer_than_a_datagram_without_options_may_be() {
    let label = "a".repeat(63);
    let longest = format!("{label}.{label}.{label}.{}.vpi.", "a".repeat(57));
    let answer = answer(&query(&longest, RecordType::A).to_vec().unwrap(), &table()).unwrap();
    assert!(answer.len() <= 512, "{}", answer.len());
}

#[test]
fn members_and_strangers_are_not_answered() {
    for (source, expected) in [
        ("127.0.0.1", true),
        ("127.0.0.53", true),
        ("::1", true),
        ("127.80.3.9", false),
        ("192.0.2.1", false),
        ("::ffff:127.0.0.1", false),
    ] {
        assert_eq!(is_asker(source.parse().unwrap()), expected, "{source}");
    }
}

#[tokio::test]
async fn both_sockets_answer_from_the_table_of_the_moment() {
    let sockets = Sockets::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = sockets.udp.local_addr().unwrap();
    let (sender, receiver) = watch::channel(Arc::new(Table::default()));
    let _serving = sockets.serve(&receiver).unwrap();
    let bytes = query("nas.home.vpi.", RecordType::A).to_vec().unwrap();
    for (known, code) in [(Table::default(), ResponseCode::NXDomain), (table(), ResponseCode::NoError)] {
        sender.send_replace(Arc::new(known));
        let bytes = bytes.clone();
        let replies =
            tokio::task::spawn_blocking(move || [over_udp(address, &bytes), over_tcp(address, &bytes)]);
        for reply in replies.await.unwrap() {
            assert_eq!(Message::from_vec(&reply).unwrap().metadata.response_code, code);
        }
    }
}

fn over_udp(to: SocketAddr, query: &[u8]) -> Vec<u8> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket.send_to(query, to).unwrap();
    let mut buffer = [0; 1_500];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    assert_eq!(from, to);
    buffer[..length].to_vec()
}

/// Two queries on one connection; returns the second answer.
fn over_tcp(to: SocketAddr, query: &[u8]) -> Vec<u8> {
    let mut stream = std::net::TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let framed = [&u16::try_from(query.len()).unwrap().to_be_bytes()[..], query].concat();
    stream.write_all(&framed.repeat(2)).unwrap();
    let mut answer = Vec::new();
    for _ in 0..2 {
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        answer = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut answer).unwrap();
    }
    answer
}
