//! The socket in a network namespace of its own.

use tokio::time::timeout;

use super::*;
use crate::loopback::lab::{in_own_namespace_async, run};

fn two_networks() {
    run("ip link add eth0 type veth peer name far && ip link set far up && ip link set eth0 up");
    run("ip address add 192.0.2.1/24 dev eth0 && ip address add 192.0.2.2/24 dev eth0");
    run("ip address add 198.51.100.1/24 dev far");
}

#[test]
fn networks_are_devices_that_multicast_and_are_no_vpis() {
    in_own_namespace_async(|| async {
        two_networks();
        run(
            "ip link add vpi-home type veth peer name vpi-far && ip link set vpi-home up && ip link set vpi-far up",
        );
        run("ip address add 127.80.1.1/32 dev vpi-home");
        run("ip link add down0 type veth peer name down1 && ip address add 203.0.113.1/24 dev down0");
        let found: Vec<_> = networks().await.unwrap().into_iter().map(|network| network.address).collect();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found.contains(&[192, 0, 2, 1].into()) && found.contains(&[198, 51, 100, 1].into()),
            "{found:?}"
        );
    });
}

#[test]
fn a_flood_is_read_at_a_bounded_rate() {
    in_own_namespace_async(|| async {
        let mut lan = Lan::open().unwrap();
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (start, mut read) = (Instant::now(), 0.0);
        while start.elapsed() < Duration::from_millis(500) {
            for _ in 0..20 {
                sender.send_to(&[0; 600], ("127.0.0.1", PORT)).unwrap();
            }
            read += f64::from(u8::from(timeout(Duration::from_millis(1), lan.receive()).await.is_ok()));
        }
        let most = AT_ONCE + start.elapsed().as_secs_f64() * PER_SECOND + 1.0;
        assert!(read <= most && read > AT_ONCE, "{read} of at most {most}");
    });
}
