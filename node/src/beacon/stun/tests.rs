//! Known bytes of RFC 5769, and silence to everything else.

use data_encoding::HEXLOWER;

use super::*;

/// RFC 5769 §2.1, with its attributes: software, priority, ICE, username, integrity, fingerprint.
const REQUEST: &str = "000100582112a442b7e7a701bc34d686fa87dfae\
    802200105354554e207465737420636c69656e74\
    002400046e0001ff80290008932ff9b151263b36\
    000600096576746a3a68367659202020\
    000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2\
    80280004e57a3bcf";
/// The attribute XOR-MAPPED-ADDRESS of RFC 5769 §2.2: 192.0.2.1, port 32853.
const MAPPED_V4: &str = "002000080001a147e112a643";
/// That of §2.3: 2001:db8:1234:5678:11:2233:4455:6677, port 32853.
const MAPPED_V6: &str = "002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9";

fn request() -> Vec<u8> {
    HEXLOWER.decode(REQUEST.as_bytes()).unwrap()
}

#[test]
fn the_request_of_rfc_5769_gets_the_mapped_addresses_of_rfc_5769() {
    let transaction = "b7e7a701bc34d686fa87dfae";
    let v4 = answer(&request(), "192.0.2.1:32853".parse().unwrap()).unwrap();
    assert_eq!(HEXLOWER.encode(&v4), format!("0101000c2112a442{transaction}{MAPPED_V4}"));
    let v6 = "[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().unwrap();
    let v6 = answer(&request(), v6).unwrap();
    assert_eq!(HEXLOWER.encode(&v6), format!("010100182112a442{transaction}{MAPPED_V6}"));
    let inside = answer(&request(), "[::ffff:192.0.2.1]:32853".parse().unwrap()).unwrap();
    assert_eq!(inside, v4);
}

#[test]
fn a_bare_request_is_answered_in_32_bytes() {
    let mut bare = request()[..20].to_vec();
    bare[2..4].copy_from_slice(&[0, 0]);
    assert_eq!(answer(&bare, "192.0.2.1:1".parse().unwrap()).unwrap().len(), 32);
}

#[test]
fn truncated_and_flipped_requests_get_no_answer() {
    let (whole, from) = (request(), "192.0.2.1:1".parse().unwrap());
    for length in 0..whole.len() {
        assert!(answer(&whole[..length], from).is_none(), "{length} bytes");
    }
    // The fingerprint covers every bit; without it, or swallowed by a longer attribute, it is none.
    let heads = [20, 40, 48, 60, 76, 100].map(|at| at..at + 4);
    for byte in (0..whole.len()).filter(|byte| !heads.iter().any(|head| head.contains(byte))) {
        for bit in 0..8 {
            let mut flipped = whole.clone();
            flipped[byte] ^= 1 << bit;
            assert!(answer(&flipped, from).is_none(), "byte {byte}, bit {bit}");
        }
    }
}

#[test]
fn responses_indications_other_methods_and_long_requests_get_no_answer() {
    let from = "192.0.2.1:1".parse().unwrap();
    for kind in [[0x01, 0x01], [0x01, 0x11], [0x00, 0x11], [0x00, 0x03], [0x40, 0x01], [0xff, 0xff]] {
        let mut other = request()[..20].to_vec();
        other[..4].copy_from_slice(&[kind[0], kind[1], 0, 0]);
        assert!(answer(&other, from).is_none(), "{kind:?}");
    }
    let mut long = request()[..20].to_vec();
    // One unknown optional attribute that fills the rest.
    long.extend([0x80, 0x22, 0x02, 0x10]);
    long.resize(20 + 4 + 528, 0);
    long[2..4].copy_from_slice(&532_u16.to_be_bytes());
    assert!(answer(&long, from).is_none(), "552 bytes");
}

#[test]
fn a_network_and_all_together_are_answered_within_their_rates() {
    let (mut rates, now) = (Rates::new(), Instant::now());
    let mut answered = |ip: &str| (0..1_000).filter(|_| rates.allow(ip.parse().unwrap(), now)).count();
    assert_eq!(answered("192.0.2.1"), 200);
    assert_eq!(answered("192.0.2.2"), 0);
    let others: usize = (0..20).map(|number| answered(&format!("198.51.{number}.1"))).sum();
    assert_eq!(others, 1_800);
    let later = now + Duration::from_secs(1);
    assert_eq!((0..1_000).filter(|_| rates.allow("192.0.2.1".parse().unwrap(), later)).count(), 50);
}
