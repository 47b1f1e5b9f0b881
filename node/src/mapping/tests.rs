//! Gateways that are not as miniupnpd is, in a namespace of their own.

use std::net::{Ipv4Addr, SocketAddrV4};
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
        assert_eq!(carry_out(&ask(Way::Pcp)).await, Outcome::Refused(1));
        let outside = SocketAddrV4::new(OUTSIDE.into(), 0xc351);
        let lease = Duration::from_secs(120);
        assert_eq!(carry_out(&ask(Way::NatPmp)).await, Outcome::Mapped { outside, lease });
    });
}

#[test]
fn where_nobody_answers_or_nobody_is_it_is_silent_within_seconds() {
    in_own_namespace_async(|| async {
        let since = std::time::Instant::now();
        for way in Way::ALL {
            assert_eq!(carry_out(&ask(way)).await, Outcome::Silent, "{way:?}: nobody has the port");
        }
        let _mute = UdpSocket::bind((GATEWAY, SERVER_PORT)).await.unwrap();
        assert_eq!(carry_out(&ask(Way::Pcp)).await, Outcome::Silent);
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
        tokio::spawn(async move {
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
                let one = |kind: &str| {
                    format!(
                        "<service><serviceType>urn:schemas-upnp-org:service:{kind}</serviceType><controlURL>c</controlURL></service>"
                    )
                };
                let (status, body) = if request.starts_with("GET /d ") {
                    (200, [one("WANIPConnection:1"), one("WANPPPConnection:1")].concat())
                } else if request.contains("WANPPPConnection:1#AddPortMapping")
                    && request.contains("<NewLeaseDuration>3600<")
                {
                    (200, String::new())
                } else if request.contains("WANPPPConnection:1#GetExternalIPAddress") {
                    (
                        200,
                        "<u:R xmlns:u=\"x\"><NewExternalIPAddress>11.0.1.2</NewExternalIPAddress></u:R>"
                            .to_owned(),
                    )
                } else {
                    (500, "<s:Fault><errorCode>725</errorCode></s:Fault>".to_owned())
                };
                let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
                kept.push(stream);
            }
        });
        let outside = SocketAddrV4::new(OUTSIDE.into(), 41_414);
        assert_eq!(carry_out(&ask(Way::Upnp)).await, Outcome::Mapped { outside, lease: LEASE });
    });
}
