use rand_core::SeedableRng as _;

use super::*;

const OUTSIDE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(11, 0, 1, 2), 41_414);

fn gateway(own: [u8; 4]) -> Option<Gateway> {
    Some(Gateway { address: Ipv4Addr::new(192, 168, 1, 1), own: own.into() })
}

struct Trial {
    map: PortMap,
    rng: Rng,
    now: Instant,
}

impl Trial {
    fn begin() -> Self {
        let (mut map, now) = (PortMap::new([7; NONCE_BYTES]), Instant::now());
        map.set_gateway(gateway([192, 168, 1, 2]), 41_414, now);
        Self { map, rng: Rng::from_seed([1; 32]), now }
    }

    fn poll(&mut self) -> Option<Ask> {
        self.map.poll(&mut self.rng, self.now)
    }

    fn asked(&mut self) -> Ask {
        self.poll().expect("something is asked")
    }

    fn say(&mut self, ask: &Ask, outcome: Outcome) -> bool {
        self.map.on_outcome(ask, outcome, &mut self.rng, self.now)
    }

    /// Goes on to when something is due, and says how long that takes.
    fn wait(&mut self) -> Duration {
        let at = self.map.poll_timeout().expect("something will be due");
        let waited = at.saturating_duration_since(self.now);
        self.now = self.now.max(at);
        waited
    }

    fn mapped(&mut self, lease: u64) -> Ask {
        let ask = self.asked();
        assert!(self.say(&ask, mapped(OUTSIDE, lease)));
        ask
    }
}

fn mapped(outside: SocketAddrV4, lease: u64) -> Outcome {
    Outcome::Mapped { outside, lease: Duration::from_secs(lease) }
}

#[test]
fn protocols_are_tried_in_turn_and_a_gateway_that_has_none_rests_longer_each_time() {
    let mut trial = Trial::begin();
    let mut rests = Vec::new();
    for _ in 0..8 {
        for way in Way::ALL {
            let ask = trial.asked();
            assert_eq!((ask.way, ask.lease, ask.outside.port()), (way, LEASE, 41_414));
            assert!(trial.poll().is_none(), "one at a time");
            assert!(!trial.say(&ask, Outcome::Silent));
        }
        rests.push(trial.wait());
    }
    assert_eq!(trial.map.tried().len(), 3);
    assert!(rests[0] >= REST.mul_f64(0.8) && rests[0] <= REST.mul_f64(1.2), "{rests:?}");
    assert!(rests[1] > rests[0] && rests[7] >= LONGEST_REST.mul_f64(0.8), "{rests:?}");
    assert!(rests[7] <= LONGEST_REST.mul_f64(1.2), "{rests:?}");
    trial.mapped(3_600);
    assert_eq!(trial.map.outside(), Some(OUTSIDE.into()));
}

#[test]
fn a_mapping_is_renewed_at_half_of_its_lease_and_asked_for_anew_once_it_is_over() {
    let mut trial = Trial::begin();
    let first = trial.mapped(600);
    let waited = trial.wait();
    assert!((300..=375).contains(&waited.as_secs()), "{waited:?}");
    let renewal = trial.asked();
    assert_eq!((renewal.outside, renewal.nonce), (OUTSIDE, first.nonce));
    assert!(!trial.say(&renewal, mapped(OUTSIDE, 600)), "nothing is another than before");

    trial.wait();
    let (mut askings, begun) = (0, trial.now);
    while trial.map.outside().is_some() {
        if let Some(ask) = trial.poll() {
            askings += 1;
            trial.say(&ask, Outcome::Silent);
        } else {
            trial.wait();
        }
    }
    assert!((4..20).contains(&askings), "{askings}");
    assert!(trial.now - begun <= Duration::from_secs(300));
    assert!(trial.map.is_asking(), "from the first protocol on");
}

#[test]
fn another_port_outside_is_told_and_asked_for_from_then_on() {
    let mut trial = Trial::begin();
    trial.mapped(600);
    trial.wait();
    let ask = trial.asked();
    let other = SocketAddrV4::new(*OUTSIDE.ip(), 9_999);
    assert!(trial.say(&ask, mapped(other, 600)));
    trial.wait();
    assert_eq!((trial.map.outside(), trial.asked().outside), (Some(other.into()), other));
}

#[test]
fn an_address_behind_another_nat_is_given_back_and_told_to_nobody() {
    for ip in [[10, 0, 0, 1], [100, 64, 0, 1], [192, 168, 0, 1], [0, 0, 0, 0]] {
        let mut trial = Trial::begin();
        let ask = trial.asked();
        let outside = SocketAddrV4::new(ip.into(), 5);
        assert!(!trial.say(&ask, mapped(outside, 600)));
        assert_eq!(trial.map.outside(), None);
        let release = trial.asked();
        assert_eq!((release.is_release(), release.outside, release.way), (true, outside, Way::Pcp));
        assert!(trial.wait() >= REST / 2 && trial.map.tried().len() == 1);
    }
}

#[test]
fn leases_that_make_no_sense_are_none_or_cut() {
    let mut trial = Trial::begin();
    let ask = trial.asked();
    assert!(!trial.say(&ask, mapped(OUTSIDE, 3)));
    assert_eq!(trial.asked().way, Way::NatPmp);
    let mut trial = Trial::begin();
    trial.mapped(u64::from(u32::MAX));
    assert!(trial.wait() <= LONGEST_LEASE.mul_f64(0.625));
    let mut trial = Trial::begin();
    let ask = trial.asked();
    assert!(!trial.say(&ask, mapped(SocketAddrV4::new(*OUTSIDE.ip(), 0), 600)));
}

#[test]
fn a_port_that_another_has_at_a_upnp_gateway_is_not_insisted_on() {
    let mut trial = Trial::begin();
    for _ in 0..2 {
        let ask = trial.asked();
        trial.say(&ask, Outcome::Refused(2));
    }
    let mut ports = Vec::new();
    for _ in 0..PORTS_TRIED {
        let ask = trial.asked();
        assert_eq!(ask.way, Way::Upnp);
        assert!(!ports.contains(&ask.outside.port()) && ask.outside.port() >= 1_024);
        ports.push(ask.outside.port());
        trial.say(&ask, Outcome::Refused(UPNP_CONFLICT));
    }
    assert!(trial.poll().is_none() && !trial.map.is_asking());
}

#[test]
fn what_is_held_or_on_its_way_is_given_back_at_the_end() {
    let mut trial = Trial::begin();
    trial.mapped(600);
    trial.map.close();
    let release = trial.asked();
    assert!(release.is_release() && release.outside == OUTSIDE);
    assert_eq!((trial.poll(), trial.map.poll_timeout()), (None, None));

    let mut trial = Trial::begin();
    let ask = trial.asked();
    trial.map.close();
    assert!(trial.asked().is_release());
    assert!(!trial.say(&ask, mapped(OUTSIDE, 600)) && trial.map.outside().is_none());

    let mut trial = Trial::begin();
    trial.map.close();
    assert_eq!(trial.poll(), None, "nothing was asked yet");
}

#[test]
fn at_another_gateway_all_begins_anew_and_without_one_nothing_is_asked() {
    let mut trial = Trial::begin();
    trial.mapped(600);
    trial.map.set_gateway(gateway([192, 168, 1, 2]), 41_414, trial.now);
    assert!(trial.map.outside().is_some(), "the same as before");
    let late = trial.map.ask(Way::Pcp, OUTSIDE, LEASE).unwrap();
    trial.map.set_gateway(gateway([192, 168, 9, 2]), 41_414, trial.now);
    assert!(trial.map.outside().is_none() && trial.map.tried().is_empty());
    assert_eq!(trial.asked().gateway.own, Ipv4Addr::new(192, 168, 9, 2));
    assert!(!trial.say(&late, mapped(OUTSIDE, 600)), "the former one's word comes too late");
    for none in [None, gateway([11, 0, 1, 2])] {
        trial.map.set_gateway(none, 41_414, trial.now);
        assert_eq!((trial.poll(), trial.map.poll_timeout()), (None, None));
    }
}

#[test]
fn whoever_asks_and_says_nothing_more_stops_nothing() {
    let mut trial = Trial::begin();
    for way in Way::ALL {
        assert_eq!(trial.asked().way, way);
        assert_eq!(trial.wait(), ASK_FOR);
    }
    assert_eq!(trial.poll(), None);
    let rest = trial.map.poll_timeout().unwrap() - trial.now;
    assert!(rest >= REST.mul_f64(0.8) && rest <= REST.mul_f64(1.2), "{rest:?}");
    assert!(trial.map.hasten(trial.now));
    assert_eq!(trial.asked().way, Way::Pcp);
}

#[test]
fn who_wishes_it_does_not_make_a_gateway_be_asked_more_often_or_ever_more_rarely() {
    let mut trial = Trial::begin();
    let ask_all = |trial: &mut Trial| {
        for way in Way::ALL {
            let ask = trial.asked();
            assert_eq!(ask.way, way);
            trial.say(&ask, Outcome::Silent);
        }
    };
    ask_all(&mut trial);
    for _ in 0..10 {
        assert!(!trial.map.hasten(trial.now), "it was just asked");
        trial.now += ASK_AGAIN;
        assert!(trial.map.hasten(trial.now));
        ask_all(&mut trial);
        let rest = trial.map.poll_timeout().unwrap() - trial.now;
        assert!(rest <= REST.mul_f64(1.2), "{rest:?}");
    }
}

#[test]
fn a_mapping_that_is_anothers_by_now_is_told_no_more_and_not_given_back() {
    let mut trial = Trial::begin();
    for _ in 0..2 {
        let ask = trial.asked();
        trial.say(&ask, Outcome::Silent);
    }
    trial.mapped(3_600);
    trial.wait();
    let renewal = trial.asked();
    assert_eq!(renewal.way, Way::Upnp);
    assert!(trial.say(&renewal, Outcome::Refused(UPNP_CONFLICT)), "others reach another machine there");
    assert_eq!(trial.map.outside(), None);
    let next = trial.asked();
    assert_eq!((next.way, next.is_release()), (Way::Pcp, false));
}

#[test]
fn a_refusal_that_does_not_say_that_it_is_lost_leaves_a_mapping_to_its_lease() {
    let mut trial = Trial::begin();
    trial.mapped(3_600);
    trial.wait();
    let renewal = trial.asked();
    assert!(!trial.say(&renewal, Outcome::Refused(UPNP_CONFLICT)), "of another protocol's numbers");
    assert_eq!(trial.map.outside(), Some(OUTSIDE.into()));
}

#[test]
fn a_gateway_whose_line_is_down_keeps_what_it_maps() {
    let mut trial = Trial::begin();
    trial.mapped(3_600);
    trial.wait();
    let renewal = trial.asked();
    let nowhere = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, OUTSIDE.port());
    assert!(!trial.say(&renewal, mapped(nowhere, 3_600)));
    assert_eq!((trial.map.outside(), trial.poll()), (Some(OUTSIDE.into()), None));
    trial.wait();
    assert_eq!(trial.asked().outside, OUTSIDE, "it is renewed, and not given back");
}

#[test]
fn a_gateway_that_names_another_port_each_time_is_believed_a_few_times() {
    let mut trial = Trial::begin();
    let (mut moves, begun) = (0, trial.now);
    for port in 1_024.. {
        if trial.now - begun > Duration::from_secs(3_600) {
            break;
        }
        match trial.poll() {
            Some(ask) if ask.is_release() => {}
            Some(ask) => {
                let outside = SocketAddrV4::new(*OUTSIDE.ip(), port);
                moves += u32::from(trial.say(&ask, mapped(outside, 10)));
            }
            None => drop(trial.wait()),
        }
    }
    // What is withdrawn counts as well.
    assert!((4..=24).contains(&moves), "{moves} in an hour");
}
