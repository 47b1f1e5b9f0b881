//! Lobby records: where some member is, for whoever holds an invite's token (README §18).
//!
//! ```text
//! Ed25519 seed = HKDF(join-veil key, "lobby", slot u64)     box key = HKDF(join-veil key, "lobby box", slot u64)
//! content = count u8 ≤ 8 ‖ count × ( 4 ‖ IPv4 4 ‖ port u16  or  6 ‖ IPv6 16 ‖ port u16 )
//!         ‖ length u8 ≤ 128 ‖ multiaddress ‖ length u8 ≤ 64 ‖ peer id          no beacon: both lengths 0
//! ```
//!
//! Whoever holds the token can write the record as well as read it, and names no device in it: what it says is a place to
//! send a question to, and who answers there is proved as in any join (README §12). To everybody else it looks like any
//! other record of its slot.

use std::net::{IpAddr, SocketAddr};

use super::record::{self, Checked, Class, KEY_BYTES, ReadKeys, Record, RecordError, Signer, WriteKeys};
use super::slot;
use crate::identity::{Secret, SigningSecret, VpiId, derive};
use crate::membership::object::{MAX_BEACON_ADDRESS, MAX_BEACON_PEER, MAX_CANDIDATES};
use crate::random::Rng;

/// Where a member can be asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contact {
    /// Its addresses, the best first, at most 8; what is no host's is for the reader to pass over.
    pub addresses: Vec<SocketAddr>,
    /// Its beacon: a multiaddress of 1 to 128 bytes and the member's peer id there, of 1 to 64.
    pub beacon: Option<(String, Vec<u8>)>,
}

/// The lobby of one invite under one epoch in one slot.
#[derive(Clone, Debug)]
pub struct Lobby {
    slot: u64,
    secret: SigningSecret,
    keys: ReadKeys,
}

impl Lobby {
    /// The lobby of the invite whose join-veil key is `key`, in `slot`.
    #[must_use]
    pub fn new(vpi: &VpiId, key: &Secret, slot: u64) -> Self {
        let slot_bytes = slot.to_be_bytes();
        let seed = Secret(derive(vpi, &key.0, "lobby", &[&slot_bytes]));
        let secret = SigningSecret::from_seed(&seed.0);
        let box_key = Secret(derive(vpi, &key.0, "lobby box", &[&slot_bytes]));
        let keys = ReadKeys::new(&secret.public(), box_key);
        Self { slot, secret, keys }
    }

    /// The key to look up.
    #[must_use]
    pub fn key(&self) -> &[u8; KEY_BYTES] {
        &self.keys.key
    }

    /// Checks one value that was found there and opens it.
    ///
    /// # Errors
    /// A [`RecordError`]; [`RecordError::Content`] for anything but the one form of a contact.
    pub fn open(&self, value: &[u8], wall_secs: u64) -> Result<(Checked, Contact), RecordError> {
        let (checked, content) = self.keys.open(Class::Slot, value, wall_secs)?;
        let contact = Contact::decode(&content).ok_or(RecordError::Content)?;
        Ok((checked, contact))
    }

    /// Makes the record that says `contact`; `sequence` in unix seconds. `None` if a part of it is over its bound.
    #[must_use]
    pub fn seal(&self, contact: &Contact, sequence: u64, rng: &mut Rng) -> Option<Record> {
        let signer = Signer::Lobby(self.secret.clone());
        let keys = WriteKeys { signer, box_key: self.keys.box_key.clone() };
        let times = (sequence, slot::expiry_of(self.slot));
        record::seal(Class::Slot, &keys, times, &contact.encode()?, rng)
    }
}

impl Contact {
    fn encode(&self) -> Option<Vec<u8>> {
        let mut out = vec![bounded(self.addresses.len(), MAX_CANDIDATES)?];
        for address in &self.addresses {
            match address.ip() {
                IpAddr::V4(ip) => out.extend_from_slice(&[&[4], &ip.octets()[..]].concat()),
                IpAddr::V6(ip) => out.extend_from_slice(&[&[6], &ip.octets()[..]].concat()),
            }
            out.extend_from_slice(&address.port().to_be_bytes());
        }
        let (address, peer) = match &self.beacon {
            Some((address, peer)) if address.is_empty() || peer.is_empty() => return None,
            Some((address, peer)) => (address.as_bytes(), &peer[..]),
            None => (&[][..], &[][..]),
        };
        for (part, most) in [(address, MAX_BEACON_ADDRESS), (peer, MAX_BEACON_PEER)] {
            out.push(bounded(part.len(), most)?);
            out.extend_from_slice(part);
        }
        Some(out)
    }

    fn decode(content: &[u8]) -> Option<Self> {
        let (count, mut rest) = content.split_first()?;
        bounded(usize::from(*count), MAX_CANDIDATES)?;
        let addresses = (0..*count).map(|_| take_socket(&mut rest)).collect::<Option<_>>()?;
        let address = String::from_utf8(take_part(&mut rest)?.to_vec()).ok()?;
        let peer = take_part(&mut rest)?.to_vec();
        let beacon = (!address.is_empty() || !peer.is_empty()).then_some((address, peer));
        let read = Self { addresses, beacon };
        // Bounds and what is left over, all at once.
        (read.encode()? == content).then_some(read)
    }
}

fn bounded(length: usize, most: usize) -> Option<u8> {
    u8::try_from(length).ok().filter(|_| length <= most)
}

fn take_array<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(*taken)
}

fn take_part<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
    let [length] = take_array(rest)?;
    let (taken, behind) = rest.split_at_checked(usize::from(length))?;
    *rest = behind;
    Some(taken)
}

fn take_socket(rest: &mut &[u8]) -> Option<SocketAddr> {
    let ip = match take_array(rest)? {
        [4] => IpAddr::from(take_array::<4>(rest)?),
        [6] => IpAddr::from(take_array::<16>(rest)?),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes(take_array(rest)?)))
}

#[cfg(test)]
mod tests {
    use rand_core::SeedableRng as _;

    use super::*;

    const VPI: VpiId = VpiId([1; 32]);
    const WALL: u64 = 1_800_000_100;

    fn contact(count: usize, beacon: bool) -> Contact {
        let both = ["192.0.2.1:1", "[2001:db8::1]:65535"].map(|text| text.parse().unwrap());
        let addresses = both.into_iter().cycle().take(count).collect();
        Contact { addresses, beacon: beacon.then(|| ("x".repeat(128), vec![7; 64])) }
    }

    fn lobby() -> Lobby {
        Lobby::new(&VPI, &Secret([2; 32]), slot::slot_of(WALL))
    }

    #[test]
    fn what_a_member_writes_a_holder_of_the_token_reads() {
        for contact in [contact(0, false), contact(1, false), contact(8, true)] {
            let record = lobby().seal(&contact, WALL, &mut Rng::from_seed([3; 32])).unwrap();
            let (checked, read) = lobby().open(&record.value, WALL).unwrap();
            assert_eq!((checked.sequence, read), (WALL, contact));
            assert_eq!((&record.key, record.value.len()), (lobby().key(), Class::Slot.value_bytes()));
        }
    }

    #[test]
    fn each_slot_and_each_join_veil_key_has_a_lobby_of_its_own() {
        let record = lobby().seal(&contact(1, true), WALL, &mut Rng::from_seed([3; 32])).unwrap();
        for other in [
            Lobby::new(&VPI, &Secret([3; 32]), slot::slot_of(WALL)),
            Lobby::new(&VPI, &Secret([2; 32]), slot::slot_of(WALL) + 1),
            Lobby::new(&VpiId([2; 32]), &Secret([2; 32]), slot::slot_of(WALL)),
        ] {
            assert_ne!(other.key(), &record.key);
            assert_eq!(other.open(&record.value, WALL), Err(RecordError::Key));
        }
    }

    #[test]
    fn what_is_over_a_bound_is_not_written() {
        let mut rng = Rng::from_seed([3; 32]);
        let with = |beacon: (&str, usize)| Contact {
            beacon: Some((beacon.0.to_owned(), vec![7; beacon.1])),
            ..contact(1, false)
        };
        let long = "x".repeat(129);
        for contact in [contact(9, false), with(("", 1)), with(("x", 0)), with((&long, 1)), with(("x", 65))] {
            assert_eq!(lobby().seal(&contact, WALL, &mut rng), None, "{contact:?}");
        }
    }

    #[test]
    fn a_contact_has_one_form() {
        let content = contact(2, true).encode().unwrap();
        for cut in 0..content.len() {
            assert_eq!(Contact::decode(&content[..cut]), None, "cut at {cut}");
        }
        assert_eq!(Contact::decode(&[&content[..], &[0]].concat()), None);
        // Nine addresses, a family of neither kind, half a beacon.
        assert_eq!(Contact::decode(&[&[9][..], &[4; 7 * 9], &[0, 0]].concat()), None);
        assert_eq!(Contact::decode(&[1, 5, 1, 2, 3, 4, 0, 1, 0, 0]), None);
        assert_eq!(Contact::decode(&[0, 1, b'x', 0]), None);
        assert_eq!(Contact::decode(&[0, 0, 1, 7]), None);
        assert_eq!(Contact::decode(&[0, 1, 0xff, 1, 7]), None);
        assert_eq!(Contact::decode(&[0, 0, 0]), Some(Contact::default()));
    }
}
