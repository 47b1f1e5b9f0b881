//! What members ask of beacons: records, a place, the time.

use std::time::Duration;

use tokio::time::Instant;

use super::beacon::{Misuse, Silent, StockBeacon, Ways};
use super::*;
use crate::loopback::lab::{in_own_namespace_async, run};

const KEY: [u8; 32] = [7; 32];
/// A lookup of which some say nothing ends 2 s after its beginning, or after four times what the first answer took, which is more
/// on a busy machine; one that waited for all would end after 8 s.
const SETTLED: Duration = Duration::from_secs(7);

fn places(beacons: &[StockBeacon]) -> Vec<Beacon> {
    beacons.iter().map(|beacon| beacon.beacon).collect()
}

#[tokio::test]
async fn what_one_member_puts_another_gets_and_no_beacon_learns_a_publisher() {
    let beacons = StockBeacon::several(3).await;
    let Record { key, value, .. } = record(1);
    // One of three is enough to begin with: it names the others.
    let mut writer = Member::new(&places(&beacons)[2..]);
    assert_eq!(writer.put(key, &value).await, 3);
    let mut reader = Member::new(&places(&beacons));
    assert_eq!(reader.get(key).await, (vec![value.clone()], 3));
    for beacon in &beacons {
        let puts = beacon.puts.lock().unwrap();
        let [put] = &puts[..] else { panic!("{} puts", puts.len()) };
        assert_eq!((put.publisher, &put.value), (None, &value));
        assert!(put.expires.is_some());
    }
}

/// `beacon` behind an address whose connections hang for `delay` before they go on.
async fn far(beacon: Beacon, delay: Duration) -> Beacon {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                let mut there = tokio::net::TcpStream::connect(beacon.socket).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut there).await;
            });
        }
    });
    Beacon { socket, ..beacon }
}

#[tokio::test]
async fn a_put_is_not_given_up_before_a_beacon_that_is_far_has_answered() {
    let beacon = StockBeacon::start(Ways::default(), &[]).await;
    let Record { key, value, .. } = record(1);
    let mut member = Member::new(&[far(beacon.beacon, Duration::from_millis(2_500)).await]);
    assert_eq!(member.put(key, &value).await, 1);
    assert_eq!(member.get(key).await.0, [value]);
}

#[tokio::test]
async fn nothing_is_kept_here_of_what_was_put() {
    let beacon = StockBeacon::start(Ways { is_forgetful: true, ..Ways::default() }, &[]).await;
    let Record { key, value, .. } = record(1);
    let mut member = Member::new(&[beacon.beacon]);
    assert_eq!(member.put(key, &value).await, 0, "a beacon's yes is no copy");
    assert_eq!(beacon.puts.lock().unwrap().len(), 1);
    assert_eq!(member.get(key).await, (Vec::new(), 1));
}

/// A stock beacon that has `value` under the key of [`record`].
async fn holding(value: Vec<u8>, others: &[Beacon]) -> StockBeacon {
    StockBeacon::start(Ways { holds: vec![(record(0).key, value)], ..Ways::default() }, others).await
}

/// One that does something else with lookups.
async fn misusing(misuse: Misuse) -> StockBeacon {
    StockBeacon::start(Ways { kad: Some(misuse), ..Ways::default() }, &[]).await
}

#[tokio::test]
async fn every_distinct_value_that_was_signed_is_told_and_no_other() {
    let (old, new) = (record(1).value, record(2).value);
    let mut altered = new.clone();
    altered[40] ^= 1;
    let mut beacons = Vec::new();
    for value in [&old, &new, &old, &altered, &vec![0; 5_000], &b"new".to_vec()] {
        beacons.push(holding(value.clone(), &[]).await);
    }
    let mut member = Member::new(&places(&beacons));
    let (mut values, answered) = member.get(record(0).key).await;
    values.sort();
    assert_eq!((values, answered), (vec![old, new], 6));
}

#[tokio::test]
async fn beacons_that_stall_hold_a_lookup_up_for_two_seconds_and_not_to_its_end() {
    let honest = holding(record(2).value, &[]).await;
    let (silent, also_silent) = (Silent::start().await, Silent::start().await);
    let mute = misusing(Misuse::Stall).await;
    let liar = holding(record(1).value, &[silent.beacon, mute.beacon]).await;
    // One of five tells the truth, and one names the others who do not.
    let all = [silent.beacon, mute.beacon, liar.beacon, also_silent.beacon, honest.beacon];
    for others in [&all[3..], &all[..]] {
        let mut member = Member::new(others);
        let began_at = Instant::now();
        let (values, _) = member.get(record(0).key).await;
        assert!(began_at.elapsed() < SETTLED, "{:?}", began_at.elapsed());
        assert!(values.contains(&record(2).value), "{values:?}");
    }
}

/// Beacons that exist for nobody, behind an address that says nothing; among many, some are closer to any key than the others.
fn made_up(silent: &Silent) -> Vec<Beacon> {
    (0..200).map(|_| Beacon { peer: PeerId::random(), ..silent.beacon }).collect()
}

#[tokio::test]
async fn one_of_three_that_lies_in_any_way_costs_two_seconds_and_all_but_one_less_than_ten() {
    let silent = Silent::start().await;
    let honest = holding(record(2).value, &[]).await;
    // A message of 1 GiB; one of 16 KiB that is none.
    let endless = [&[0x80, 0x80, 0x80, 0x80, 0x04][..], &[0; 1 << 16]].concat();
    let malformed = [&[0xff, 0x7f][..], &[0x42; 16_383]].concat();
    let liars = [
        holding(record(1).value, &[]).await,
        holding(vec![7; 1_177], &made_up(&silent)).await,
        StockBeacon::start(Ways::default(), &made_up(&silent)).await,
        misusing(Misuse::Close).await,
        misusing(Misuse::Stall).await,
        misusing(Misuse::Say(endless)).await,
        misusing(Misuse::Say(malformed)).await,
    ];
    let forgetful = StockBeacon::start(Ways::default(), &[]).await;
    for (number, liar) in liars.iter().enumerate() {
        let mut member = Member::new(&[liar.beacon, forgetful.beacon, honest.beacon]);
        let began_at = Instant::now();
        let (values, _) = member.get(record(0).key).await;
        assert!(began_at.elapsed() < SETTLED, "liar {number}: {:?}", began_at.elapsed());
        assert_eq!(values.iter().max(), Some(&record(2).value), "liar {number}");
    }
    let mut all = places(&liars);
    all.extend([silent.beacon, honest.beacon]);
    let mut member = Member::new(&all);
    let began_at = Instant::now();
    let (mut values, _) = member.get(record(0).key).await;
    assert!(began_at.elapsed() < Duration::from_secs(10), "{:?}", began_at.elapsed());
    values.sort();
    assert_eq!(values, [record(1).value, record(2).value]);
}

#[tokio::test]
async fn a_lookup_among_beacons_that_all_stall_ends_within_ten_seconds_and_says_that_nobody_answered() {
    let (silent, mute) = (Silent::start().await, misusing(Misuse::Stall).await);
    let mut member = Member::new(&[silent.beacon, mute.beacon]);
    let began_at = Instant::now();
    assert_eq!(member.get(KEY).await, (Vec::new(), 0));
    assert!(began_at.elapsed() < Duration::from_secs(10), "{:?}", began_at.elapsed());
    assert_eq!(member.put(KEY, b"no").await, 0);
}

#[tokio::test]
async fn without_a_beacon_everything_is_answered_at_once() {
    let mut member = Member::new(&[]);
    assert_eq!(member.get(KEY).await, (Vec::new(), 0));
    assert_eq!(member.put(KEY, b"no").await, 0);
    assert_eq!(member.clock().await, (None, Vec::new()));
}

#[tokio::test]
async fn more_lookups_than_may_wait_are_answered_at_once_and_the_rest_in_turn() {
    let beacon = holding(record(1).value, &[]).await;
    let mut member = Member::new(&[beacon.beacon]);
    for ticket in 0..200 {
        member.ask(Ask::Get { ticket, key: record(1).key });
    }
    let (mut found, mut refused) = (0, 0);
    for _ in 0..200 {
        let values = member.until(|told| match told {
            Told::Found { values, .. } => Some(values.len()),
            _ => None,
        });
        match values.await {
            0 => refused += 1,
            _ => found += 1,
        }
    }
    assert!(found >= 64, "{found} found, {refused} refused");
}

#[tokio::test]
async fn an_owner_that_asks_too_much_gets_it_back() {
    // The task has no turn before the first await.
    let member = Member::new(&[]);
    let taken = (0..1_000).take_while(|_| member.swarm.ask(Ask::Time)).count();
    assert_eq!(taken, ASKS - 1);
}

#[tokio::test]
async fn a_place_is_reserved_at_one_of_three_and_lost_places_are_found_again_elsewhere() {
    let mut beacons = StockBeacon::several(3).await;
    let mut member = Member::new(&places(&beacons));
    member.ask(Ask::Reserve(true));
    let (first, me) = member.reserved().await.unwrap();
    let gone = beacons.remove(beacons.iter().position(|beacon| beacon.beacon == first).unwrap());
    gone.stop().await;
    assert_eq!(member.reserved().await, None);
    let (second, still_me) = member.reserved().await.unwrap();
    assert_ne!(second, first);
    assert_eq!(still_me, me);
    let status = member.until(|told| match told {
        Told::Beacons(status) if status.iter().any(|one| one.state == BeaconState::Silent) => {
            Some(status.clone())
        }
        _ => None,
    });
    let silent: Vec<_> = status.await.into_iter().filter(|one| one.state == BeaconState::Silent).collect();
    assert_eq!(silent.iter().map(|one| one.beacon).collect::<Vec<_>>(), [first]);
    member.ask(Ask::Reserve(false));
    assert_eq!(member.reserved().await, None);
}

#[tokio::test]
async fn the_only_beacon_is_come_back_to_when_it_restarts() {
    let beacon = StockBeacon::start(Ways::default(), &[]).await;
    let mut member = Member::new(&[beacon.beacon]);
    member.ask(Ask::Reserve(true));
    let before = member.reserved().await.unwrap();
    let (at, key) = beacon.stop().await;
    assert_eq!(member.reserved().await, None);
    let began_at = Instant::now();
    let _again = StockBeacon::start_at(at.socket, key, Ways::default(), &[]).await;
    assert_eq!(member.reserved().await, Some(before));
    assert!(began_at.elapsed() < Duration::from_secs(10), "{:?}", began_at.elapsed());
}

#[tokio::test]
async fn the_middle_of_three_clocks_is_told_with_their_stun_responders() {
    let mut beacons = Vec::new();
    for clock_ms in [90_000, 86_400_000, -7_000] {
        beacons.push(StockBeacon::start(Ways { clock_ms, ..Ways::default() }, &[]).await);
    }
    let mut member = Member::new(&places(&beacons));
    let (offset_ms, stun) = member.clock().await;
    assert!(offset_ms.unwrap().abs_diff(90_000) < 500, "{offset_ms:?}");
    assert_eq!(
        stun,
        [beacons[0].beacon.socket.ip()]
            .repeat(3)
            .into_iter()
            .map(|ip| (ip, 3_478).into())
            .collect::<Vec<_>>()
    );
    // A beacon that says nothing takes none of the others' answers away.
    let silent = Silent::start().await;
    let mut member = Member::new(&[silent.beacon, beacons[0].beacon]);
    let began_at = Instant::now();
    assert!(member.clock().await.0.unwrap().abs_diff(90_000) < 500);
    assert!(began_at.elapsed() < Duration::from_secs(7), "{:?}", began_at.elapsed());
}

#[tokio::test]
async fn another_peer_id_takes_the_place_first_and_the_one_before_still_leads_here() {
    let beacon = StockBeacon::start(Ways::default(), &[]).await;
    let mut member = Member::new(&[beacon.beacon]);
    member.ask(Ask::Reserve(true));
    let before = member.reserved().await.unwrap();
    member.ask(Ask::Renew);
    let after = member.reserved().await.expect("no moment without a place");
    assert_eq!(after.0, before.0);
    assert_ne!(after.1, before.1);
    let mut other = Member::new(&[]);
    other.ask(Ask::Beacons(vec![beacon.beacon]));
    for (number, place) in [before, after].into_iter().enumerate() {
        other.open(u32::try_from(number).unwrap(), place).await.unwrap();
        member.inbound().await;
    }
}

#[test]
fn a_member_listens_nowhere_whatever_it_does() {
    in_own_namespace_async(|| async {
        let beacon = StockBeacon::start(Ways::default(), &[]).await;
        let mut one = Member::new(&[beacon.beacon]);
        let mut other = Member::new(&[beacon.beacon]);
        one.ask(Ask::Reserve(true));
        let place = one.reserved().await.unwrap();
        other.open(1, place).await.unwrap();
        one.inbound().await;
        assert_eq!(other.put(KEY, b"value").await, 1);
        assert!(other.clock().await.0.is_some());
        // State 0A is a listening socket; the beacon has the only one. The members' connections show that we look at them.
        let sockets = run("cat /proc/thread-self/net/tcp /proc/thread-self/net/tcp6");
        let states: Vec<&str> = sockets.lines().filter_map(|line| line.split_whitespace().nth(3)).collect();
        assert_eq!(states.iter().filter(|state| **state == "0A").count(), 1, "{sockets}");
        assert!(states.iter().filter(|state| **state == "01").count() >= 4, "{sockets}");
        let datagrams = run("tail -qn +2 /proc/thread-self/net/udp /proc/thread-self/net/udp6");
        assert_eq!(datagrams, "");
    });
}
