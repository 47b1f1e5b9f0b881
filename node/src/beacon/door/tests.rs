//! Who comes in, who gives way, and that places come free.

use libp2p::identity::Keypair;

use super::*;

fn peer() -> PeerId {
    Keypair::generate_ed25519().public().to_peer_id()
}

fn address(text: &str) -> Multiaddr {
    format!("/ip4/{text}/tcp/1").parse().unwrap()
}

/// Lets one in as the swarm does; says why not.
fn come(door: &mut Door, number: usize, ip: &str) -> Result<(), &'static str> {
    let (peer, address) = (peer(), address(ip));
    door.may_enter(peer, &address)?;
    door.enter(ConnectionId::new_unchecked(number), Guest { peer, address, is_inbound: true });
    Ok(())
}

#[test]
fn a_full_door_opens_for_a_small_network_at_the_cost_of_the_youngest_of_the_greatest() {
    let mut door = Door::new(DoorBounds { connections: 10, group: 8 });
    for number in 0..8 {
        come(&mut door, number, &format!("192.0.2.{number}")).unwrap();
    }
    assert_eq!(come(&mut door, 8, "192.0.2.8"), Err("network"));
    for number in 9..11 {
        come(&mut door, number, "198.51.100.1").unwrap();
    }
    assert_eq!(door.counts(), (10, 0));
    come(&mut door, 11, "203.0.113.1").unwrap();
    assert_eq!(door.close.pop_front().unwrap().1, ConnectionId::new_unchecked(7));
    // The greatest network gets no place of its own again by coming once more.
    assert_eq!(come(&mut door, 12, "192.0.2.9"), Err("full"));
    for number in 13..20 {
        let _ = come(&mut door, number, "203.0.113.2");
    }
    let of = |text: &str| door.groups.get(&Group::of(&address(text))).map_or(0, BTreeSet::len);
    assert_eq!((of("198.51.100.1"), door.counts()), (2, (10, 0)));
    assert!(of("192.0.2.1") >= 4 && of("203.0.113.1") >= 3, "{door:?}");
}

#[test]
fn a_peer_and_an_address_have_bounds_of_their_own_and_places_come_free() {
    let mut door = Door::new(DoorBounds { connections: 10_000, group: 10_000 });
    let one = peer();
    for number in 0..PEER_MAX {
        assert_eq!(door.may_enter(one, &address("192.0.2.1")), Ok(()));
        let guest = Guest { peer: one, address: address("192.0.2.1"), is_inbound: true };
        door.enter(ConnectionId::new_unchecked(number), guest);
    }
    assert_eq!(door.may_enter(one, &address("192.0.2.1")), Err("peer"));
    for number in PEER_MAX..ADDRESS_MAX {
        come(&mut door, number, "192.0.2.1").unwrap();
    }
    assert_eq!(come(&mut door, 9_999, "192.0.2.1"), Err("address"));
    assert_eq!(come(&mut door, 9_999, "192.0.2.2"), Ok(()));
    for number in 0..ADDRESS_MAX {
        door.leave(ConnectionId::new_unchecked(number));
    }
    assert_eq!(door.may_enter(one, &address("192.0.2.1")), Ok(()));
    assert_eq!((door.counts(), door.peers.len(), door.addresses.len()), ((1, 0), 1, 1));
}

#[test]
fn who_knocks_too_often_waits_and_others_do_not() {
    let (mut door, now) = (Door::new(DoorBounds::with_files(65_536)), Instant::now());
    let group = |text: &str| Group::of(&address(text));
    let knocks = (0..2_000).filter(|_| door.may_knock(group("192.0.2.1"), now).is_ok()).count();
    assert_eq!(knocks, 512);
    assert_eq!(door.may_knock(group("192.0.2.200"), now), Err("rate"));
    assert_eq!(door.may_knock(group("192.0.3.1"), now), Ok(()));
}

#[test]
fn while_memory_is_short_a_small_network_takes_a_place_of_the_greatest_and_nobody_else_comes_in() {
    let (mut door, now) = (Door::new(DoorBounds::with_files(65_536)), Instant::now());
    for number in 100..100 + MANY - 1 {
        come(&mut door, number, "192.0.2.1").unwrap();
    }
    door.set_short(true);
    // Nobody has many: it is not they who fill it.
    come(&mut door, 200, "192.0.2.1").unwrap();
    let group = |text: &str| Group::of(&address(text));
    assert_eq!(door.may_knock(group("192.0.2.1"), now), Err("memory"));
    assert_eq!(come(&mut door, 205, "192.0.2.1"), Err("full"));
    assert_eq!(door.may_knock(group("198.51.100.1"), now), Ok(()));
    assert_eq!(come(&mut door, 206, "198.51.100.1"), Ok(()));
    assert_eq!((door.counts(), door.close.len()), ((MANY, 0), 1));
    door.set_short(false);
    assert_eq!(come(&mut door, 207, "192.0.2.1"), Ok(()));
    assert_eq!(door.counts(), (MANY + 1, 0));
}

#[test]
fn whoever_knocks_and_says_nothing_leaves_room_for_other_networks() {
    let (mut door, now) = (Door::new(DoorBounds::with_files(65_536)), Instant::now());
    let mut numbers = 0..;
    let mut knock = |door: &mut Door, group| {
        let result = door.may_knock(group, now);
        let connection = ConnectionId::new_unchecked(numbers.next().unwrap());
        result.map(|()| door.knock(connection, group))
    };
    let silent = |number: u8| Group::V4([10, 78, number]);
    let held = |door: &Door, number| door.pending_groups.get(&silent(number)).copied().unwrap_or(0);
    while knock(&mut door, silent(0)).is_ok() {}
    assert_eq!(held(&door, 0), PENDING_MAX.div_ceil(PENDING_SHARE + 1));
    for _ in 0..1_000 {
        for number in 0..40 {
            let _ = knock(&mut door, silent(number));
        }
    }
    // Everything that forty networks can take leaves another as much as each of them got last.
    let first = (0..100).filter(|_| knock(&mut door, Group::V4([192, 0, 2])).is_ok()).count();
    assert!(first >= 20, "{first}, {}", door.pending.len());
    for number in 0..1_000_000 {
        door.on_known(ConnectionId::new_unchecked(number));
    }
    assert_eq!((door.pending.len(), door.pending_groups.len()), (0, 0));
}

#[test]
fn connections_fit_the_files_that_there_are() {
    let bounds = DoorBounds::with_files(65_536);
    assert_eq!((bounds.connections, bounds.group), (CONNECTIONS_MAX, GROUP_MAX));
    let bounds = DoorBounds::with_files(1_024);
    assert_eq!((bounds.connections, bounds.group), (640, 107));
}

#[test]
fn shedding_takes_from_the_greatest_network_first() {
    let mut door = Door::new(DoorBounds { connections: 100, group: 100 });
    for number in 0..6 {
        come(&mut door, number, "192.0.2.1").unwrap();
    }
    come(&mut door, 6, "198.51.100.1").unwrap();
    door.shed(4);
    assert_eq!(door.counts(), (3, 0));
    assert!(door.guests.contains_key(&ConnectionId::new_unchecked(6)));
}
