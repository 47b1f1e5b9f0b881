//! The whole set-up against the real kernel, each test in a network namespace of its own.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, thread};

use socket2::{Domain, Protocol, Socket, Type};

use super::lab::{in_own_namespace_async, run};
use super::*;
use crate::tun::Tun;

const OWN: Ipv4Addr = Ipv4Addr::new(127, 80, 12, 7);
const PEER: Ipv4Addr = Ipv4Addr::new(127, 80, 3, 9);
const OTHER_PEER: Ipv4Addr = Ipv4Addr::new(127, 80, 3, 10);
const PREFIX: Ipv4Addr = Ipv4Addr::new(127, 80, 0, 0);
const PORT: u16 = 8080;

#[test]
fn plan_refuses_what_could_not_be_installed() {
    assert!(Plan::new("vpi-home", PREFIX, OWN).is_ok());
    assert!(Plan::new("vpi-eleven-char", PREFIX, OWN).is_ok());
    for device in
        ["", "vpi-", "home", "vpi-Home", "vpi-a b", "vpi-a;b", "vpi-twelve-chars", "vpi-é", "vpi-.."]
    {
        assert!(matches!(Plan::new(device, PREFIX, OWN), Err(LoopbackError::Device(_))), "{device:?}");
    }
    let outside = Ipv4Addr::new(127, 0, 0, 0);
    assert!(matches!(Plan::new("vpi-home", outside, OWN), Err(LoopbackError::Prefix(_))));
    for own in [[127, 81, 0, 1], [127, 80, 0, 0], [127, 80, 255, 255]].map(Ipv4Addr::from) {
        assert!(matches!(Plan::new("vpi-home", PREFIX, own), Err(LoopbackError::Own(_))), "{own}");
    }
}

#[test]
fn install_makes_what_the_design_says_and_nothing_else() {
    in_own_namespace_async(|| async {
        assert_eq!(install(&plan(), 1_000).await.unwrap(), Firewall::Loaded);

        assert_eq!(missing(&plan()).await.unwrap(), []);
        let routes = run("ip -4 route show table local");
        assert!(
            routes.contains("127.80.0.0/16 dev vpi-home proto static scope link src 127.80.12.7"),
            "{routes}"
        );
        assert!(routes.contains("unreachable 127.80.0.0/16 proto static metric 65535"), "{routes}");
        assert!(run("ip route get 127.80.3.9").contains("127.80.3.9 dev vpi-home src 127.80.12.7"));
        assert!(run("ip route get 127.80.12.7").contains("local 127.80.12.7 dev lo"));
        let device = run("ip -d address show vpi-home");
        assert!(device.contains("inet 127.80.12.7/32 scope host vpi-home"), "{device}");
        assert!(device.contains("mtu 1420") && device.contains("persist on") && !device.contains("inet6"));
        for untouched in
            ["ipv4/conf/all/route_localnet", "ipv4/conf/lo/route_localnet", "ipv6/conf/all/disable_ipv6"]
        {
            assert_eq!(fs::read_to_string(format!("/proc/sys/net/{untouched}")).unwrap().trim(), "0");
        }
        assert_eq!(run("ip rule | wc -l").trim(), "3");
        assert_eq!(run("nft list tables").trim(), "table ip vpi-home");
    });
}

#[test]
fn install_can_be_repeated_also_under_a_running_node_and_repairs_each_part() {
    in_own_namespace_async(|| async {
        install(&plan(), 0).await.unwrap();
        let state = state();
        let tun = Tun::attach("vpi-home").unwrap();
        let damages = [
            ("ip route del unreachable 127.80.0.0/16 table local metric 65535", vec![Missing::Guard]),
            ("ip route del 127.80.0.0/16 dev vpi-home table local", vec![Missing::Route]),
            ("ip address flush dev vpi-home", vec![Missing::Address, Missing::Route]),
            ("ip link set vpi-home down", vec![Missing::Link, Missing::Route]),
            ("ip link set vpi-home mtu 1300", vec![Missing::Link]),
            ("ip address add 127.80.1.1/32 dev vpi-home", vec![]),
            ("nft flush ruleset", vec![]),
            ("true", vec![]),
        ];
        for (damage, expected) in damages {
            run(damage);
            assert_eq!(missing(&plan()).await.unwrap(), expected, "{damage}");
            install(&plan(), 0).await.unwrap();
            assert_eq!(self::state(), state, "{damage}");
        }
        fs::write("/proc/sys/net/ipv4/conf/vpi-home/route_localnet", "0").unwrap();
        let setting = Missing::Setting("route_localnet");
        assert_eq!(missing(&plan()).await.unwrap(), [setting]);
        install(&plan(), 0).await.unwrap();
        drop(tun);
        run("ip link delete vpi-home");
        assert_eq!(missing(&plan()).await.unwrap(), [Missing::Device]);
        install(&plan(), 0).await.unwrap();
        assert_eq!(missing(&plan()).await.unwrap(), []);
    });
}

#[test]
fn remove_leaves_nothing_also_under_a_running_node_and_twice() {
    in_own_namespace_async(|| async {
        run("nft add table ip other");
        let before = state();
        install(&plan(), 0).await.unwrap();
        let tun = Tun::attach("vpi-home").unwrap();

        for _ in 0..2 {
            remove(&plan()).await.unwrap();
            assert_eq!(state(), before);
        }

        assert_eq!(tun.recv(&mut [0; 1500]).unwrap_err().raw_os_error(), Some(libc::EBADFD));
        assert_eq!(missing(&plan()).await.unwrap(), [Missing::Guard, Missing::Device]);
    });
}

#[test]
fn device_of_another_kind_is_left_alone() {
    in_own_namespace_async(|| async {
        run("ip link add vpi-home type veth peer name other");
        assert!(matches!(install(&plan(), 0).await, Err(LoopbackError::Tun(TunError::Foreign(_)))));
        assert!(matches!(remove(&plan()).await, Err(LoopbackError::Foreign(_))));
        run("ip link show vpi-home");
    });
}

#[test]
fn table_that_does_not_load_is_an_error() {
    in_own_namespace_async(|| async {
        run("mount -t tmpfs vpi-test /usr/sbin");
        fs::write("/usr/sbin/nft", "#!/bin/sh\necho 'no such chain type' >&2\nexit 1\n").unwrap();
        assert_eq!(Command::new("chmod").args(["+x", "/usr/sbin/nft"]).status().unwrap().code(), Some(0));

        let error = install(&plan(), 0).await.unwrap_err();

        assert_eq!(error.to_string(), "nft refused the table of vpi-home: no such chain type");
        fs::remove_file("/usr/sbin/nft").unwrap();
        assert_eq!(install(&plan(), 0).await.unwrap(), Firewall::NoNft);
        remove(&plan()).await.unwrap();
    });
}

#[test]
fn own_service_on_the_wildcard_does_not_catch_what_goes_to_a_peer() {
    in_own_namespace_async(|| async {
        install(&plan(), 0).await.unwrap();
        let own_service = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap();
        own_service.set_nonblocking(true).unwrap();
        let tun = Tun::attach("vpi-home").unwrap();

        let stream = connecting(PEER);

        let packet = next_packet(&tun);
        assert_eq!((packet[9], &packet[12..16], &packet[16..20]), (6, &OWN.octets()[..], &PEER.octets()[..]));
        assert_eq!(own_service.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(stream);
        TcpStream::connect((OWN, PORT)).expect("the own alias reaches the own service");
    });
}

#[test]
fn without_the_device_a_peers_alias_reaches_nobody() {
    in_own_namespace_async(|| async {
        install(&plan(), 0).await.unwrap();
        let impostor = forced_listener(PEER);
        run("ip link delete vpi-home");

        let refused = TcpStream::connect((PEER, PORT)).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EHOSTUNREACH));
        let refused = TcpStream::connect((OWN, PORT)).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EHOSTUNREACH));
        for alias in [PEER, OWN] {
            let refused = TcpListener::bind((alias, PORT + 1)).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::AddrNotAvailable);
        }
        assert_eq!(impostor.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    });
}

#[test]
fn without_a_node_a_peers_alias_reaches_nobody() {
    in_own_namespace_async(|| async {
        install(&plan(), 0).await.unwrap();
        let impostor = forced_listener(PEER);
        drop(Tun::attach("vpi-home").unwrap());

        let address = SocketAddr::from((PEER, PORT));
        let refused = TcpStream::connect_timeout(&address, Duration::from_millis(300)).unwrap_err();

        assert!(matches!(refused.kind(), ErrorKind::TimedOut | ErrorKind::HostUnreachable), "{refused}");
        assert_eq!(impostor.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        let refused = TcpListener::bind((PEER, PORT + 1)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::AddrNotAvailable);
        TcpListener::bind((OWN, PORT + 1)).expect("the own alias outlives the node");
    });
}

#[test]
fn packets_from_the_tunnel_are_answered_whatever_rp_filter_says() {
    in_own_namespace_async(|| async {
        for rp_filter in ["0", "1", "2"] {
            for device in ["all", "default"] {
                fs::write(format!("/proc/sys/net/ipv4/conf/{device}/rp_filter"), rp_filter).unwrap();
            }
            install(&plan(), 0).await.unwrap();
            let tun = Tun::attach("vpi-home").unwrap();
            // An exposed service may answer; this test has none, so the rules that keep it in go.
            run("nft flush chain ip vpi-home postrouting");
            run("nft flush chain ip vpi-home input");
            for to in [OWN, Ipv4Addr::LOCALHOST] {
                tun.send(&echo_request(PEER, to)).unwrap();
                let reply = next_packet(&tun);
                assert_eq!((&reply[12..16], &reply[16..20]), (&to.octets()[..], &PEER.octets()[..]));
                assert_eq!(reply[20], 0, "an echo reply under rp_filter {rp_filter}");
            }
            drop(tun);
            remove(&plan()).await.unwrap();
        }
    });
}

#[test]
fn firewall_keeps_127_0_0_1_from_answering_into_the_tunnel() {
    in_own_namespace_async(|| async {
        install(&plan(), 0).await.unwrap();
        let tun = Tun::attach("vpi-home").unwrap();
        tun.send(&echo_request(PEER, Ipv4Addr::LOCALHOST)).unwrap();
        tun.send(&echo_request(PEER, OWN)).unwrap();
        assert_eq!(&next_packet(&tun)[12..16], &OWN.octets());
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(socket.send_to(b"x", (PEER, 9)).unwrap_err().kind(), ErrorKind::PermissionDenied);
    });
}

#[test]
fn firewall_lets_exposed_services_of_127_0_0_1_through_and_follows_their_changes() {
    in_own_namespace_async(|| async {
        assert_eq!(expose(&plan()).await.unwrap(), None, "nothing is set up");
        install(&plan(), 0).await.unwrap();
        let tun = Tun::attach("vpi-home").unwrap();
        let service = UdpSocket::bind((Ipv4Addr::LOCALHOST, PORT)).unwrap();
        let unexposed = UdpSocket::bind((Ipv4Addr::LOCALHOST, PORT + 1)).unwrap();
        let call = || tun.send(&udp_datagram(PEER, Ipv4Addr::LOCALHOST)).unwrap();
        let answer = |socket: &UdpSocket| socket.send_to(b"answer", (PEER, PORT)).is_ok();

        call();
        assert!(is_silent(&service) && !answer(&service));

        let tcp_only = plan().exposing([(Transport::Tcp, PORT)]);
        assert_eq!(expose(&tcp_only).await.unwrap(), Some(Firewall::Loaded));
        call();
        assert!(is_silent(&service) && !answer(&service));

        let both = plan().exposing([(Transport::Tcp, PORT), (Transport::Udp, PORT), (Transport::Udp, 53)]);
        assert_eq!(expose(&both).await.unwrap(), Some(Firewall::Loaded));
        call();
        assert!(!is_silent(&service) && answer(&service) && !answer(&unexposed));
        assert_eq!(&next_packet(&tun)[12..16], &Ipv4Addr::LOCALHOST.octets());

        // Repeating the set-up with the same plan keeps what is exposed; without it, nothing is.
        install(&both, 0).await.unwrap();
        assert!(answer(&service));
        expose(&plan()).await.unwrap();
        call();
        assert!(is_silent(&service) && !answer(&service));
    });
}

#[test]
fn firewall_lets_nothing_in_by_the_device_but_to_the_own_alias() {
    in_own_namespace_async(|| async {
        install(&plan(), 0).await.unwrap();
        // Another address of this machine, which a rule of routing alone would not protect.
        run("ip address add 10.7.7.7/32 dev lo");
        let tun = Tun::attach("vpi-home").unwrap();
        let service = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap();
        let elsewhere = Ipv4Addr::new(10, 7, 7, 7);
        tun.send(&udp_datagram(PEER, elsewhere)).unwrap();
        assert!(is_silent(&service));
        tun.send(&udp_datagram(PEER, OWN)).unwrap();
        assert!(!is_silent(&service));

        // The control: without the table, it arrives.
        run("nft delete table ip vpi-home");
        tun.send(&udp_datagram(PEER, elsewhere)).unwrap();
        assert!(!is_silent(&service));
    });
}

#[test]
fn port_forwarding_of_others_does_not_swallow_packets_to_the_own_alias() {
    in_own_namespace_async(|| async {
        // As Docker publishes a port: on every local address.
        run("nft add table ip docker");
        run("nft 'add chain ip docker pre { type nat hook prerouting priority dstnat; }'");
        run("nft add rule ip docker pre fib daddr type local udp dport 8080 dnat to 10.9.9.9:80");
        install(&plan(), 0).await.unwrap();
        let tun = Tun::attach("vpi-home").unwrap();
        let service = UdpSocket::bind((OWN, PORT)).unwrap();
        service.set_read_timeout(Some(Duration::from_secs(2))).unwrap();

        tun.send(&udp_datagram(PEER, OWN)).unwrap();

        let (bytes, from) = service.recv_from(&mut [0; 100]).unwrap();
        assert_eq!((bytes, from), (5, SocketAddr::from((PEER, PORT))));

        // The control: without our rule, the next connection is swallowed.
        run("nft flush chain ip vpi-home prerouting");
        tun.send(&udp_datagram(OTHER_PEER, OWN)).unwrap();
        assert!(is_silent(&service));
    });
}

#[test]
fn firewall_lets_nothing_in_from_the_network_and_forwards_nothing() {
    in_own_namespace_async(|| async {
        install(&plan(), 0).await.unwrap();
        let tun = Tun::attach("vpi-home").unwrap();
        let service = UdpSocket::bind((OWN, PORT)).unwrap();
        let network = careless_network();
        let stranger = Ipv4Addr::new(10, 1, 1, 2);
        let send_both = || {
            network.send(&udp_datagram(stranger, OWN)).unwrap();
            network.send(&udp_datagram(stranger, PEER)).unwrap();
        };

        send_both();
        assert!(is_silent(&service));
        assert_eq!(tun.recv(&mut [0; 1500]).unwrap_err().kind(), ErrorKind::WouldBlock);

        // The control: without the table, both get through.
        run("nft delete table ip vpi-home");
        send_both();
        assert!(!is_silent(&service));
        assert_eq!(&next_packet(&tun)[12..16], &stranger.octets());
    });
}

#[test]
fn prefix_in_use_is_passed_over() {
    in_own_namespace_async(|| async {
        let prefix = |second| Ipv4Addr::new(127, second, 0, 0);
        run("ip address add 127.80.1.1/32 dev lo");
        let _tcp = TcpListener::bind("127.81.0.1:0").unwrap();
        let _udp = UdpSocket::bind("[::ffff:127.82.0.1]:0").unwrap();
        run("ip route add unreachable 127.83.0.0/16 table local metric 65535");
        let _wildcard = TcpListener::bind("0.0.0.0:0").unwrap();

        for used in 80..=83 {
            assert_ne!(choose(prefix(used), &[]).await.unwrap(), prefix(used), "{used}");
        }
        assert_eq!(choose(prefix(80), &[]).await.unwrap(), prefix(84));
        assert_eq!(choose(prefix(80), &[prefix(84)]).await.unwrap(), prefix(85));
        assert_eq!(choose(prefix(79), &[]).await.unwrap(), prefix(79));
        let all: Vec<_> = (64..128).map(prefix).collect();
        assert!(matches!(choose(prefix(80), &all).await, Err(LoopbackError::PoolExhausted)));
        assert!(matches!(choose(prefix(1), &[]).await, Err(LoopbackError::Prefix(_))));
    });
}

#[test]
fn without_root_install_says_so_and_missing_still_answers() {
    in_own_namespace_async(|| async {
        let machine = fs::metadata("/proc/self/ns/net").unwrap().ino();
        assert_ne!(net_namespace().unwrap(), machine);
        install(&plan(), 65_534).await.unwrap();
        rustix::thread::set_thread_uid(rustix::fs::Uid::from_raw(65_534)).unwrap();
        assert_eq!(missing(&plan()).await.unwrap(), []);
        let error = install(&plan(), 65_534).await.unwrap_err();
        assert_eq!(error.to_string(), "changing the guard route needs root");
    });
}

fn plan() -> Plan {
    Plan::new("vpi-home", PREFIX, OWN).unwrap()
}

/// Everything that the set-up may change, less what changes by itself: numbers, and whether a node is attached.
fn state() -> String {
    run("{ ip -4 route show table all; ip rule; nft list ruleset; ip -o address show; ip -o link show; } |
         sed -E 's/^[0-9]+: //; s/ linkdown//; s/NO-CARRIER,//; s/,LOWER_UP//; s/state [A-Z]+//; s/ +$//'")
}

/// Another device, on a machine that forwards and takes 127.x from anywhere.
fn careless_network() -> Tun {
    tun::create("vpi-network", 0).unwrap();
    run("echo 1 > /proc/sys/net/ipv4/ip_forward");
    run("echo 1 > /proc/sys/net/ipv4/conf/vpi-network/route_localnet");
    run("echo 1 > /proc/sys/net/ipv6/conf/vpi-network/disable_ipv6");
    run("ip address add 10.1.1.1/24 dev vpi-network && ip link set vpi-network up");
    Tun::attach("vpi-network").unwrap()
}

/// Whether nothing arrives for a while.
fn is_silent(service: &UdpSocket) -> bool {
    service.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    service.recv_from(&mut [0; 100]).is_err()
}

/// Starts to connect and does not wait.
fn connecting(to: Ipv4Addr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.set_nonblocking(true).unwrap();
    let error = socket.connect(&SocketAddr::from((to, PORT)).into()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINPROGRESS));
    socket
}

/// A listener on an address that is not this machine's, as an impostor would force it.
fn forced_listener(address: Ipv4Addr) -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.set_freebind_v4(true).unwrap();
    socket.bind(&SocketAddr::from((address, PORT)).into()).unwrap();
    socket.listen(1).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.into()
}

fn next_packet(tun: &Tun) -> Vec<u8> {
    let end = Instant::now() + Duration::from_secs(2);
    let mut packet = vec![0; 1500];
    loop {
        match tun.recv(&mut packet) {
            Ok((bytes, _)) => {
                packet.truncate(bytes);
                return packet;
            }
            Err(error) => assert!(Instant::now() < end, "no packet came: {error}"),
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn echo_request(from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let mut icmp = [8, 0, 0, 0, 0, 1, 0, 1];
    let sum = checksum(&icmp);
    icmp[2..4].copy_from_slice(&sum);
    ipv4(1, from, to, &icmp)
}

fn udp_datagram(from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let port = PORT.to_be_bytes();
    let head = [port[0], port[1], port[0], port[1], 0, 13, 0, 0];
    ipv4(17, from, to, &[&head[..], b"hello"].concat())
}

fn ipv4(protocol: u8, from: Ipv4Addr, to: Ipv4Addr, body: &[u8]) -> Vec<u8> {
    let bytes = u16::try_from(20 + body.len()).unwrap().to_be_bytes();
    let mut header = [0x45, 0, bytes[0], bytes[1], 0, 1, 0x40, 0, 64, protocol, 0, 0];
    let sum = checksum(&[&header[..], &from.octets(), &to.octets()].concat());
    header[10..12].copy_from_slice(&sum);
    [&header[..], &from.octets(), &to.octets(), body].concat()
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    (!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes()
}
