//! What this device passes on for others: which two members, under which labels.
//!
//! In: askings, answers of the ends, what the forwarder saw pass. Out: circuits that are complete, silent, refused. A
//! circuit is one pair's, whoever asked; its labels live as long as it does.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand_core::Rng as _;

use super::SILENT_FOR;
use crate::identity::DeviceId;
use crate::random::Rng;

/// Circuits at once (chosen: a label's place in the forwarder is 100 bytes).
pub const MAX_CIRCUITS: usize = 1_024;
/// Circuits at once that one member asked for.
pub const MAX_OF_ONE: usize = 64;
/// The far end has this long to say that it wants a circuit.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The two ends, the lower first.
type Pair = [DeviceId; 2];

fn pair(a: DeviceId, b: DeviceId) -> Pair {
    if a < b { [a, b] } else { [b, a] }
}

/// One circuit.
#[derive(Debug)]
struct Circuit {
    /// Who asked for it, and is counted.
    asker: DeviceId,
    /// Of the ends, in their order.
    labels: [u32; 2],
    /// Which of the ends has said that it wants it.
    wants: [bool; 2],
    used_at: Instant,
}

/// A circuit that both ends want, or one that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Complete {
    /// Its ends.
    pub ends: [DeviceId; 2],
    /// Their labels.
    pub labels: [u32; 2],
}

/// All that this device passes on.
#[derive(Debug, Default)]
pub struct Circuits {
    all: BTreeMap<Pair, Circuit>,
    by_label: BTreeMap<u32, Pair>,
}

impl Circuits {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// `asker` wants a circuit to `target`, which is to be asked whether it wants it: returns the label that it is to have.
    /// `None` if there are too many.
    pub fn ask(&mut self, asker: DeviceId, target: DeviceId, rng: &mut Rng, now: Instant) -> Option<u32> {
        let ends = pair(asker, target);
        if !self.all.contains_key(&ends) {
            let of_asker = self.all.values().filter(|circuit| circuit.asker == asker).count();
            if self.all.len() >= MAX_CIRCUITS || of_asker >= MAX_OF_ONE {
                return None;
            }
            let labels = [self.unused_label(rng), self.unused_label(rng)];
            let circuit = Circuit { asker, labels, wants: [false; 2], used_at: now };
            self.by_label.extend(labels.map(|label| (label, ends)));
            self.all.insert(ends, circuit);
        }
        let circuit = self.all.get_mut(&ends)?;
        let [own, other] = if ends[0] == asker { [0, 1] } else { [1, 0] };
        circuit.wants[own] = true;
        Some(circuit.labels[other])
    }

    /// `end` says that it wants the circuit with `other`, which it knows by `label`. Returns it if both want it; `None` also
    /// if there is none.
    pub fn answer(
        &mut self,
        end: DeviceId,
        (other, label): (DeviceId, u32),
        now: Instant,
    ) -> Option<Complete> {
        let ends = pair(end, other);
        let circuit = self.all.get_mut(&ends)?;
        let at = usize::from(ends[0] != end);
        if circuit.labels[at] != label {
            return None;
        }
        circuit.wants[at] = true;
        circuit.used_at = now;
        (circuit.wants == [true; 2]).then_some(Complete { ends, labels: circuit.labels })
    }

    /// Something passed under `label`: the ends are in use.
    pub fn on_used(&mut self, label: u32, now: Instant) -> Option<[DeviceId; 2]> {
        let ends = *self.by_label.get(&label)?;
        self.all.get_mut(&ends)?.used_at = now;
        Some(ends)
    }

    /// The circuits of which `device` is an end.
    pub fn of(&self, device: DeviceId) -> impl Iterator<Item = Complete> {
        self.all
            .iter()
            .filter(move |(ends, _)| ends.contains(&device))
            .map(|(ends, circuit)| Complete { ends: *ends, labels: circuit.labels })
    }

    /// Says whether both ends want it.
    #[must_use]
    pub fn is_complete(&self, ends: &[DeviceId; 2]) -> bool {
        self.all.get(ends).is_some_and(|circuit| circuit.wants == [true; 2])
    }

    /// Ends the circuit between these two, if there is one.
    pub fn close(&mut self, a: DeviceId, b: DeviceId) -> Option<Complete> {
        let ends = pair(a, b);
        let Circuit { labels, .. } = self.all.remove(&ends)?;
        for label in labels {
            self.by_label.remove(&label);
        }
        Some(Complete { ends, labels })
    }

    /// The next circuit that is over, if any: it is to be closed.
    #[must_use]
    pub fn poll_silent(&self, now: Instant) -> Option<[DeviceId; 2]> {
        self.all.iter().find(|(_, circuit)| now >= circuit.ends_at()).map(|(ends, _)| *ends)
    }

    /// When [`Circuits::poll_silent`] is to be asked again.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.all.values().map(Circuit::ends_at).min()
    }

    fn unused_label(&self, rng: &mut Rng) -> u32 {
        loop {
            let label = rng.next_u32();
            if !self.by_label.contains_key(&label) {
                return label;
            }
        }
    }
}

impl Circuit {
    fn ends_at(&self) -> Instant {
        self.used_at + if self.wants == [true; 2] { SILENT_FOR } else { ANSWER_WITHIN }
    }
}

#[cfg(test)]
mod tests {
    use rand_core::SeedableRng as _;

    use super::*;

    fn device(n: u16) -> DeviceId {
        let mut id = [0; 32];
        id[..2].copy_from_slice(&n.to_be_bytes());
        DeviceId::from(id)
    }

    fn setup() -> (Circuits, Rng, Instant) {
        (Circuits::default(), Rng::from_seed([1; 32]), Instant::now())
    }

    #[test]
    fn nothing_is_passed_on_before_both_ends_want_it() {
        for (asker, target) in [(1, 2), (2, 1)] {
            let (mut circuits, mut rng, now) = setup();
            let label = circuits.ask(device(asker), device(target), &mut rng, now).unwrap();
            assert!(!circuits.is_complete(&[device(1), device(2)]));
            let answer = |label| (device(asker), label);
            assert_eq!(circuits.answer(device(target), answer(label ^ 1), now), None, "another label");
            assert_eq!(circuits.answer(device(3), answer(label), now), None, "another end");
            let complete = circuits.answer(device(target), answer(label), now).unwrap();
            assert_eq!(complete.ends, [device(1), device(2)]);
            assert_eq!(complete.labels[usize::from(target == 2)], label);
            assert_ne!(complete.labels[0], complete.labels[1]);
        }
    }

    #[test]
    fn asking_again_keeps_the_labels_and_the_other_end_may_ask_too() {
        let (mut circuits, mut rng, now) = setup();
        let label = circuits.ask(device(1), device(2), &mut rng, now).unwrap();
        assert_eq!(circuits.ask(device(1), device(2), &mut rng, now), Some(label));
        let other = circuits.ask(device(2), device(1), &mut rng, now).unwrap();
        assert_ne!(other, label);
        assert_eq!(circuits.count(), 1);
        assert!(circuits.is_complete(&[device(1), device(2)]));
    }

    #[test]
    fn silence_ends_a_circuit_and_use_keeps_it() {
        let (mut circuits, mut rng, now) = setup();
        let label = circuits.ask(device(1), device(2), &mut rng, now).unwrap();
        assert_eq!(circuits.poll_timeout(), Some(now + ANSWER_WITHIN));
        circuits.answer(device(2), (device(1), label), now).unwrap();
        assert_eq!(circuits.poll_timeout(), Some(now + SILENT_FOR));
        let later = now + SILENT_FOR - Duration::from_secs(1);
        assert_eq!(circuits.on_used(label, later), Some([device(1), device(2)]));
        assert_eq!(circuits.poll_silent(now + SILENT_FOR), None);
        let ends = circuits.poll_silent(later + SILENT_FOR).unwrap();
        let closed = circuits.close(ends[1], ends[0]).unwrap();
        assert_eq!(closed.labels[1], label);
        assert_eq!((circuits.count(), circuits.poll_timeout()), (0, None));
        assert_eq!(circuits.on_used(label, later), None);
    }

    #[test]
    fn a_member_has_only_so_many_and_all_together_too() {
        let (mut circuits, mut rng, now) = setup();
        let asked = (2..10_000).filter(|n| circuits.ask(device(1), device(*n), &mut rng, now).is_some());
        assert_eq!(asked.count(), MAX_OF_ONE);
        for asker in 20_000..20_100 {
            assert!(
                (2..100).filter(|n| circuits.ask(device(asker), device(*n), &mut rng, now).is_some()).count()
                    <= MAX_OF_ONE
            );
        }
        assert_eq!(circuits.count(), MAX_CIRCUITS);
        assert_eq!(circuits.by_label.len(), 2 * MAX_CIRCUITS);
        assert_eq!(circuits.of(device(1)).count(), MAX_OF_ONE);
    }
}
