//! The path of one member, driven by hand.

use rand_core::SeedableRng as _;

use super::*;

fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n], 41_414))
}

fn remote(n: u8) -> Remote {
    Remote::Udp(address(n))
}

fn selected(now: Instant) -> (Path, Rng) {
    let mut path = Path::default();
    path.select(remote(1), None, now);
    (path, Rng::from_seed([1; 32]))
}

#[test]
fn a_path_grows_to_full_size_when_the_probe_is_echoed() {
    let now = Instant::now();
    let (mut path, mut rng) = selected(now);
    assert_eq!((path.packet_bytes(), path.is_size_settled()), (BASE_PACKET_BYTES, false));
    let probe = path.poll_probe(&mut rng, now).unwrap();
    assert_eq!((probe.to, probe.length), (remote(1), usize::from(FULL_PACKET_BYTES)));
    assert_eq!(path.poll_probe(&mut rng, now), None);
    let echo = path.on_echo(probe.id, now + Duration::from_millis(20)).unwrap();
    assert!(echo.changed);
    assert_eq!((path.packet_bytes(), path.is_size_settled()), (FULL_PACKET_BYTES, true));
    assert_eq!(path.rtt(), Some(Duration::from_millis(20)));
    assert_eq!(path.on_echo(probe.id, now), None, "an echo counts once");
}

#[test]
fn a_path_that_echoes_no_probe_stays_at_the_base_size_and_is_known_for_it() {
    let start = Instant::now();
    let (mut path, mut rng) = selected(start);
    let mut probes = 0;
    while let Some(at) = path.poll_timeout() {
        let probe = path.poll_probe(&mut rng, at);
        probes += u32::from(probe.is_some_and(|probe| probe.length > PING_BYTES));
    }
    assert_eq!((probes, path.packet_bytes(), path.is_size_settled()), (6, BASE_PACKET_BYTES, true));
    assert!(path.is_hole());
}

#[test]
fn a_source_changes_the_path_only_after_its_echo() {
    let now = Instant::now();
    let (mut path, mut rng) = selected(now);
    let size = path.poll_probe(&mut rng, now).unwrap();
    path.on_echo(size.id, now);
    path.on_source(remote(2), CHALLENGE_BYTES, now);
    assert_eq!(path.remote(), Some(remote(1)));
    let challenge = path.poll_probe(&mut rng, now).unwrap();
    assert_eq!(challenge.to, remote(2));
    assert_eq!(path.remote(), Some(remote(1)));
    assert!(path.on_echo(challenge.id, now).unwrap().changed);
    assert_eq!(path.remote(), Some(remote(2)));
    assert_eq!(path.packet_bytes(), BASE_PACKET_BYTES, "another path may carry less");
}

#[test]
fn at_most_three_challenges_a_second() {
    let start = Instant::now();
    let (mut path, mut rng) = selected(start);
    let mut challenges = 0;
    for ms in 0..1_000 {
        let now = start + Duration::from_millis(ms);
        path.on_source(remote(2 + (ms % 7) as u8), CHALLENGE_BYTES, now);
        while let Some(probe) = path.poll_probe(&mut rng, now) {
            challenges += u32::from(probe.to != remote(1));
        }
    }
    assert!((1..=3).contains(&challenges), "{challenges}");
}

#[test]
fn no_more_is_sent_to_an_unvalidated_address_than_came_from_it() {
    let start = Instant::now();
    let (mut path, mut rng) = selected(start);
    let (mut came, mut went) = (0, 0);
    for second in 0..60 {
        let now = start + Duration::from_secs(second);
        // A keepalive has fewer bytes than a challenge.
        path.on_source(remote(2), DATA_OVERHEAD_BYTES, now);
        came += DATA_OVERHEAD_BYTES;
        while let Some(probe) = path.poll_probe(&mut rng, now) {
            went += if probe.to == remote(2) { probe.length + DATA_OVERHEAD_BYTES } else { 0 };
        }
        assert!(went <= came, "{went} bytes for {came}");
    }
    assert!(went > came / 2, "{went} bytes for {came}");
}

#[test]
fn only_the_address_of_one_other_host_is_a_candidate() {
    for (text, expected) in [
        ("192.0.2.1:41414", true),
        ("10.0.0.1:1", true),
        ("[2001:db8::1]:41414", true),
        ("192.0.2.1:0", false),
        ("127.0.0.1:41414", false),
        ("127.80.3.9:41414", false),
        ("[::ffff:127.80.3.9]:41414", false),
        ("[::1]:41414", false),
        ("0.0.0.0:1", false),
        ("0.1.2.3:1", false),
        ("[::]:1", false),
        ("224.0.0.1:1", false),
        ("[ff02::1]:1", false),
        ("255.255.255.255:1", false),
        ("240.0.0.1:1", false),
    ] {
        assert_eq!(is_candidate(&text.parse().unwrap()), expected, "{text}");
    }
}

#[test]
fn candidates_are_bounded_and_the_used_one_stays_first() {
    let (mut path, _) = selected(Instant::now());
    for n in 2..100 {
        path.add_candidate(address(n));
    }
    let candidates: Vec<_> = path.candidates().collect();
    assert_eq!((candidates.len(), candidates[0], candidates[1]), (MAX_CANDIDATES, address(1), address(99)));
}

fn relayed() -> Remote {
    Remote::Relayed { via: address(9), label: 7 }
}

fn found(remote: Remote, rtt_ms: u64, sent_at: Instant) -> Found {
    Found { remote, rtt: Duration::from_millis(rtt_ms), sent_at, is_nearer: false, is_silent: false }
}

fn used(remote: Remote, rtt_ms: u64, now: Instant) -> Path {
    let mut path = Path::default();
    path.select(remote, Some(Duration::from_millis(rtt_ms)), now);
    path
}

#[test]
fn the_leading_end_takes_any_direct_path_for_a_relayed_one_and_no_relayed_one_for_a_direct_one() {
    let now = Instant::now();
    let mut path = used(relayed(), 10, now);
    assert!(!path.consider(found(remote(1), 200, now), false, now), "the other end leads");
    assert!(path.consider(found(remote(1), 200, now), true, now));
    assert_eq!((path.remote(), path.rtt()), (Some(remote(1)), Some(Duration::from_millis(200))));
    assert!(!path.consider(found(relayed(), 1, now), true, now));
    assert_eq!(path.packet_bytes(), BASE_PACKET_BYTES);
}

#[test]
fn among_direct_paths_only_a_clearly_nearer_one_is_taken() {
    let now = Instant::now();
    for (used_ms, found_ms, is_nearer, expected) in [
        (40, 29, false, true),
        (40, 31, false, false),
        (8, 2, false, true),
        (8, 4, false, false),
        (40, 44, true, true),
        (40, 46, true, false),
    ] {
        let mut path = used(remote(1), used_ms, now);
        let found = Found { is_nearer, ..found(remote(2), found_ms, now) };
        assert_eq!(path.consider(found, true, now), expected, "{used_ms} {found_ms} {is_nearer}");
        assert!(!path.consider(Found { remote: path.remote().unwrap(), ..found }, true, now), "the same");
    }
}

#[test]
fn a_silent_path_is_left_by_either_end_unless_it_echoes_after_all() {
    let now = Instant::now();
    for leads in [false, true] {
        let mut path = used(remote(1), 1, now);
        let other = Found { is_silent: true, ..found(remote(2), 900, now) };
        path.consider(found(remote(1), 1, now), leads, now);
        assert!(!path.consider(other, leads, now), "the used one echoed since the check was sent");
        let later = now + Duration::from_millis(1);
        assert!(path.consider(Found { sent_at: later, ..other }, leads, later));
    }
}

#[test]
fn after_its_choice_a_leading_end_does_not_follow_the_other_for_a_while() {
    let now = Instant::now();
    let (mut path, mut rng) = (used(remote(1), 100, now), Rng::from_seed([1; 32]));
    assert!(path.consider(found(remote(2), 10, now), true, now));
    path.on_source(remote(1), CHALLENGE_BYTES, now + Duration::from_secs(2));
    assert!(path.challenge.is_none());
    let later = now + FOLLOWS_NOT_FOR;
    path.on_source(remote(1), CHALLENGE_BYTES, later);
    let challenge =
        std::iter::from_fn(|| path.poll_probe(&mut rng, later)).find(|probe| probe.to == remote(1));
    assert!(path.on_echo(challenge.unwrap().id, later).unwrap().changed);
}

#[test]
fn a_worse_path_is_followed_only_if_the_used_one_does_not_answer() {
    let start = Instant::now();
    for answers in [true, false] {
        let (mut path, mut rng) = selected(start);
        path.on_source(relayed(), CHALLENGE_BYTES, start);
        let mut now = start;
        while let Some(at) = path.poll_timeout() {
            let sent: Vec<Probe> = std::iter::from_fn(|| path.poll_probe(&mut rng, now)).collect();
            for probe in sent {
                assert!(probe.to == remote(1) || now >= start + *DOUBT.start(), "challenged at once");
                if answers || probe.to == relayed() {
                    path.on_echo(probe.id, now);
                }
            }
            now = now.max(at);
        }
        assert_eq!(path.remote(), Some(if answers { remote(1) } else { relayed() }));
    }
}

#[test]
fn a_better_source_is_challenged_at_once() {
    let now = Instant::now();
    let (mut path, mut rng) = (used(relayed(), 10, now), Rng::from_seed([1; 32]));
    path.on_source(remote(1), CHALLENGE_BYTES, now);
    let challenge = path.poll_probe(&mut rng, now).unwrap();
    assert_eq!((challenge.to, challenge.length), (remote(1), SHORTEST_BYTES));
    assert!(path.on_echo(challenge.id, now).unwrap().changed);
}

#[test]
fn what_was_under_way_on_the_former_path_does_not_bring_it_back() {
    let now = Instant::now();
    let mut path = used(remote(1), 300, now);
    path.select(remote(2), None, now);
    path.on_source(remote(1), CHALLENGE_BYTES, now + Duration::from_millis(299));
    assert!(path.challenge.is_none());
    path.on_source(remote(3), CHALLENGE_BYTES, now);
    assert!(path.challenge.take().is_some(), "another one is challenged");
    path.on_source(remote(1), CHALLENGE_BYTES, now + Duration::from_millis(300));
    assert!(path.challenge.is_some());
}
