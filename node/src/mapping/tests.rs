//! Gateways that are not as miniupnpd is, in a namespace of their own.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use protocol::path::portmap::LEASE;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};

use super::*;
use crate::loopback::lab::{in_own_namespace_async, run};

const GATEWAY: Ipv4Addr = Ipv4Addr::LOCALHOST;
const OUTSIDE: [u8; 4] = [11, 0, 1, 2];

fn ask(way: Way) -> Ask {
    let gateway = Gateway { address: GATEWAY, own: GATEWAY };
    let outside = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 41_414);
    Ask { gateway, way, port: 41_414, outside, lease: LEASE, nonce: [7; 12] }
}

async fn outcome(ask: &Ask) -> Outcome {
    carry_out(ask, None).await.0
}

/// Answers every request at this place, by status and body, and keeps the connection.
async fn serve(web: TcpListener, answer: impl Fn(&str) -> (u16, String)) {
    let mut kept = Vec::new();
    loop {
        let (mut stream, _) = web.accept().await.unwrap();
        let (mut request, mut part) = (String::new(), [0; 2_000]);
        while !request.contains("\r\n\r\n")
            || request.contains("SOAPAction") && !request.contains("</s:Envelope>")
        {
            let length = stream.read(&mut part).await.unwrap();
            request.push_str(std::str::from_utf8(&part[..length]).unwrap());
        }
        let (status, body) = answer(&request);
        let length = body.len();
        // None at all is no answer.
        if status != 0 {
            let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).await.unwrap();
            kept.push(stream);
        }
    }
}

fn described(kinds: &[&str]) -> String {
    let service = |kind: &&str| {
        format!(
            "<service><serviceType>urn:schemas-upnp-org:service:{kind}</serviceType><controlURL>c</controlURL></service>"
        )
    };
    kinds.iter().map(service).collect()
}

fn external(address: &str) -> (u16, String) {
    (200, format!("<u:R xmlns:u=\"x\"><NewExternalIPAddress>{address}</NewExternalIPAddress></u:R>"))
}

const FAULT: &str = "<s:Fault><errorCode>501</errorCode></s:Fault>";

/// A gateway whose device has these services, found while the task runs that is returned, and what they were asked: the device
/// answers by service and action.
async fn device(
    kinds: &'static [&'static str],
    answer: impl Fn(&str) -> (u16, String) + Send + 'static,
) -> (JoinHandle<()>, Arc<Mutex<Vec<String>>>) {
    let web = TcpListener::bind((GATEWAY, 0)).await.unwrap();
    let port = web.local_addr().unwrap().port();
    let search = UdpSocket::bind((GATEWAY, 1_900)).await.unwrap();
    let found = tokio::spawn(async move {
        let mut question = [0; 500];
        loop {
            let (_, from) = search.recv_from(&mut question).await.unwrap();
            let said = format!("HTTP/1.1 200 OK\r\nLocation: http://127.0.0.1:{port}/d\r\n\r\n");
            search.send_to(said.as_bytes(), from).await.unwrap();
        }
    });
    let asked = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&asked);
    tokio::spawn(serve(web, move |request| {
        let Some((_, rest)) = request.split_once("SOAPAction: \"urn:schemas-upnp-org:service:") else {
            return (200, described(kinds));
        };
        let action = rest.split('"').next().unwrap();
        notes.lock().unwrap().push(action.to_owned());
        answer(action)
    }));
    (found, asked)
}

/// What the entry of a port says.
fn entry(client: &str, port: u16) -> (u16, String) {
    let said = format!(
        "<r><NewInternalPort>{port}</NewInternalPort><NewInternalClient>{client}</NewInternalClient></r>"
    );
    (200, said)
}

#[test]
fn a_gateway_that_speaks_nat_pmp_only_refuses_pcp_at_once_and_maps() {
    in_own_namespace_async(|| async {
        let server = UdpSocket::bind((GATEWAY, SERVER_PORT)).await.unwrap();
        tokio::spawn(async move {
            let mut request = [0; 100];
            loop {
                let (_, from) = server.recv_from(&mut request).await.unwrap();
                let answer: &[u8] = match request {
                    [0, 0, ..] => &[0, 0x80, 0, 0, 0, 0, 0, 9, 11, 0, 1, 2],
                    [0, 1, ..] => &[0, 0x81, 0, 0, 0, 0, 0, 9, 0xa1, 0xc6, 0xc3, 0x51, 0, 0, 0, 120],
                    _ => &[0, 0x80 | 1, 0, 1, 0, 0, 0, 9],
                };
                server.send_to(answer, from).await.unwrap();
            }
        });
        assert_eq!(outcome(&ask(Way::Pcp)).await, Outcome::Refused(1));
        let outside = SocketAddrV4::new(OUTSIDE.into(), 0xc351);
        let lease = Duration::from_secs(120);
        assert_eq!(outcome(&ask(Way::NatPmp)).await, Outcome::Mapped { outside, lease });
    });
}

#[test]
fn where_nobody_answers_or_nobody_is_it_is_silent_within_seconds() {
    in_own_namespace_async(|| async {
        let since = std::time::Instant::now();
        for way in Way::ALL {
            assert_eq!(outcome(&ask(way)).await, Outcome::Silent, "{way:?}: nobody has the port");
        }
        let _mute = UdpSocket::bind((GATEWAY, SERVER_PORT)).await.unwrap();
        assert_eq!(outcome(&ask(Way::Pcp)).await, Outcome::Silent);
        assert!(since.elapsed() < Duration::from_secs(12), "{:?}", since.elapsed());
    });
}

/// It answers to everybody only, keeps its connections, refuses the first service, and is asked by what a neighbour says first.
#[test]
fn an_old_upnp_gateway_is_found_by_multicast_and_a_neighbours_word_is_not_taken() {
    in_own_namespace_async(|| async {
        run("ip link set lo multicast on && ip route add 224.0.0.0/4 dev lo");
        let web = TcpListener::bind((GATEWAY, 0)).await.unwrap();
        let port = web.local_addr().unwrap().port();
        let group = UdpSocket::bind((Ipv4Addr::new(239, 255, 255, 250), 1_900)).await.unwrap();
        group.join_multicast_v4(Ipv4Addr::new(239, 255, 255, 250), GATEWAY).unwrap();
        tokio::spawn(async move {
            let neighbour = UdpSocket::bind("127.0.0.9:0").await.unwrap();
            let gateway = UdpSocket::bind((GATEWAY, 0)).await.unwrap();
            let mut question = [0; 500];
            let (_, from) = group.recv_from(&mut question).await.unwrap();
            let said = |place: String| format!("HTTP/1.1 200 OK\r\nLocation: http://{place}/d\r\n\r\n");
            neighbour.send_to(said("127.0.0.9:9".to_owned()).as_bytes(), from).await.unwrap();
            neighbour.send_to(said(format!("127.0.0.1:{port}")).as_bytes(), from).await.unwrap();
            gateway.send_to(said("127.0.0.9:9".to_owned()).as_bytes(), from).await.unwrap();
            gateway.send_to(said(format!("127.0.0.1:{port}")).as_bytes(), from).await.unwrap();
        });
        tokio::spawn(serve(web, |request| {
            if request.starts_with("GET /d ") {
                (200, described(&["WANIPConnection:1", "WANPPPConnection:1"]))
            } else if request.contains("WANPPPConnection:1#AddPortMapping")
                && request.contains("<NewLeaseDuration>3600<")
            {
                (200, String::new())
            } else if request.contains("WANPPPConnection:1#GetExternalIPAddress") {
                external("11.0.1.2")
            } else {
                (500, "<s:Fault><errorCode>725</errorCode></s:Fault>".to_owned())
            }
        }));
        let outside = SocketAddrV4::new(OUTSIDE.into(), 41_414);
        assert_eq!(outcome(&ask(Way::Upnp)).await, Outcome::Mapped { outside, lease: LEASE });
    });
}

#[test]
fn only_what_is_this_devices_is_given_back() {
    in_own_namespace_async(|| async {
        let asked_of = |client: &'static str, port: u16| async move {
            let (found, asked) =
                device(&["WANIPConnection:1"], move |action| match action.split_once('#').unwrap().1 {
                    "GetSpecificPortMappingEntry" if client.is_empty() => (500, FAULT.to_owned()),
                    "GetSpecificPortMappingEntry" => entry(client, port),
                    _ => (200, String::new()),
                })
                .await;
            let release = Ask { lease: Duration::ZERO, ..ask(Way::Upnp) };
            assert!(release.is_release());
            carry_out(&release, None).await;
            found.abort();
            let _ = found.await;
            asked.lock().unwrap().iter().filter(|action| action.contains("DeletePortMapping")).count()
        };
        assert_eq!(asked_of("127.0.0.9", 41_414).await, 0, "another machine has the port");
        assert_eq!(asked_of("127.0.0.1", 41_415).await, 0, "another program of this one");
        assert_eq!(asked_of("", 0).await, 0, "nobody");
        assert_eq!(asked_of("127.0.0.1", 41_414).await, 1);
    });
}

/// One at a time, of which the first is not connected, as the pair of an ADSL router's.
#[test]
fn a_service_that_is_not_connected_is_asked_for_no_port_and_the_next_is() {
    in_own_namespace_async(|| async {
        for nowhere in ["0.0.0.0", "", "10.1.2.3"] {
            let (found, asked) =
                device(&["WANIPConnection:1", "WANPPPConnection:1"], move |action| match action {
                    "WANIPConnection:1#GetExternalIPAddress" => external(nowhere),
                    "WANPPPConnection:1#GetExternalIPAddress" => external("11.0.1.2"),
                    _ => (200, String::new()),
                })
                .await;
            let outside = SocketAddrV4::new(OUTSIDE.into(), 41_414);
            assert_eq!(outcome(&ask(Way::Upnp)).await, Outcome::Mapped { outside, lease: LEASE });
            let added: Vec<String> = asked
                .lock()
                .unwrap()
                .iter()
                .filter(|action| action.contains("AddPortMapping"))
                .cloned()
                .collect();
            assert_eq!(added, ["WANPPPConnection:1#AddPortMapping"]);
            found.abort();
            let _ = found.await;
        }
    });
}

#[test]
fn where_a_gateway_does_not_say_where_it_is_nothing_is_mapped() {
    in_own_namespace_async(|| async {
        let (_found, asked) = device(&["WANIPConnection:1"], |action| match action {
            "WANIPConnection:1#GetExternalIPAddress" => (0, String::new()),
            _ => (200, String::new()),
        })
        .await;
        assert_eq!(outcome(&ask(Way::Upnp)).await, Outcome::Silent);
        assert_eq!(*asked.lock().unwrap(), ["WANIPConnection:1#GetExternalIPAddress"]);
    });
}

#[test]
fn a_mapping_is_renewed_and_given_back_without_a_search() {
    in_own_namespace_async(|| async {
        let (found, asked) =
            device(&["WANIPConnection:1"], |action| match action.split_once('#').unwrap().1 {
                "GetExternalIPAddress" => external("11.0.1.2"),
                "GetSpecificPortMappingEntry" => entry("127.0.0.1", 41_414),
                _ => (200, String::new()),
            })
            .await;
        let (mut mappings, vpi) = (Mappings::new(), VpiId::from([1; 32]));
        mappings.ask(vpi, ask(Way::Upnp));
        assert!(matches!(mappings.told().await.2, Outcome::Mapped { .. }));
        found.abort();
        let _ = found.await;
        mappings.ask(vpi, ask(Way::Upnp));
        assert!(matches!(mappings.told().await.2, Outcome::Mapped { .. }), "renewed");
        mappings.ask(vpi, Ask { lease: Duration::ZERO, ..ask(Way::Upnp) });
        mappings.close(Duration::from_secs(10)).await;
        assert_eq!(asked.lock().unwrap().last().unwrap(), "WANIPConnection:1#DeletePortMapping");
    });
}

/// It does not say how long a description is, nor ends the connection.
#[test]
fn what_came_until_the_end_of_the_time_is_looked_at() {
    in_own_namespace_async(|| async {
        let web = TcpListener::bind((GATEWAY, 0)).await.unwrap();
        let place = format!("http://{}/d", web.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = web.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n<root/>").await.unwrap();
            std::future::pending::<()>().await;
        });
        let place = http::Url::read(&place, GATEWAY).unwrap();
        assert_eq!(http::get(&place).await.unwrap(), (200, "<root/>".to_owned()));
    });
}
