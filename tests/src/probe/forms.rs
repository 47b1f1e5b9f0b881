//! The probes themselves: the forms of protocol/README, of what else lives on UDP, and genuine datagrams altered.

/// A stranger's datagram.
#[derive(Clone, Debug)]
pub struct Probe {
    /// What it pretends to be.
    pub kind: &'static str,
    /// The UDP payload.
    pub bytes: Vec<u8>,
}

/// What probes are made of, besides noise.
#[derive(Clone, Debug, Default)]
pub struct Material {
    /// Genuine datagrams that the node once took.
    pub recorded: Vec<Vec<u8>>,
    /// Kinds of datagrams that somebody with keys made, and as many of each as there are.
    pub crafted: Vec<(&'static str, Vec<Vec<u8>>)>,
}

impl Material {
    /// How many kinds of probes it gives.
    #[must_use]
    pub fn kinds(&self) -> usize {
        FORMS.len() + GENUINE.len() + LARGE.len() + self.crafted.len()
    }
}

/// One probe in so many is a large one: each of them is dozens of frames.
const LARGE_EVERY: usize = 401;

/// Makes `count` probes: each kind in turn, and now and then a large one.
#[must_use]
pub fn probes(count: usize, material: &Material, seed: u64) -> Vec<Probe> {
    let mut noise = Noise(seed | 1);
    (0..count).map(|number| probe(number, material, &mut noise)).collect()
}

type Form = (&'static str, &'static [u8], usize);

// First bytes and a length; the rest is noise.
const FORMS: [Form; 40] = [
    ("nothing", &[], 0),
    ("one byte", &[], 1),
    ("one byte, data", &[0x80], 1),
    ("one byte, veiled", &[0x81], 1),
    ("noise", &[], 200),
    ("noise, a full path", &[], 1_452),
    ("data, unknown index", &[0x80, 0, 0, 0], 96),
    ("data, too short", &[0x80, 0, 0, 0], 31),
    ("data, no plaintext", &[0x80, 0, 0, 0], 32),
    ("data, reserved bytes set", &[0x80, 1, 2, 3], 96),
    ("data, the last counter", &[0x80, 0, 0, 0, 1, 2, 3, 4, 255, 255, 255, 255, 255, 255, 255, 255], 96),
    ("veiled, member class", &[0x81, 0], 221),
    ("veiled, member class, a header and no more", &[0x81, 0], 28),
    ("veiled, join class", &[0x81, 1], 760),
    ("veiled, join class, a header and no more", &[0x81, 1], 44),
    ("veiled, another class", &[0x81, 2], 221),
    ("relayed", &[0x82, 0, 0, 0, 0, 0, 0, 1, 0x81, 0], 260),
    ("STUN binding request", &[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42], 20),
    ("STUN binding answer", &[1, 1, 0, 12, 0x21, 0x12, 0xa4, 0x42], 32),
    ("TURN allocate request", &[0, 3, 0, 8, 0x21, 0x12, 0xa4, 0x42], 28),
    ("WireGuard initiation", &[1, 0, 0, 0], 148),
    ("WireGuard response", &[2, 0, 0, 0], 92),
    ("WireGuard cookie", &[3, 0, 0, 0], 64),
    ("WireGuard data", &[4, 0, 0, 0], 128),
    ("QUIC Initial", &[0xc3, 0, 0, 0, 1, 8], 1_200),
    ("QUIC of an unknown version", &[0xc3, 0x1a, 0x2a, 0x3a, 0x4a, 8], 1_200),
    ("QUIC short header", &[0x43], 60),
    ("DTLS ClientHello", &[22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0], 160),
    ("DNS query", &[0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 2, b'l', b'o', 0, 0, 1, 0, 1], 20),
    ("mDNS query", &[0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 4, b'_', b'v', b'p', b'i', 0, 0, 12, 0, 1], 22),
    ("libp2p, multistream", b"\x13/multistream/1.0.0\n", 20),
    ("libp2p, Kademlia find node", &[0x26, 8, 4, 0x12, 0x22, 0x12, 0x20], 39),
    ("BitTorrent DHT ping", b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe", 56),
    ("IKEv2", &[1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0, 33, 0x20, 0x22, 8], 300),
    ("OpenVPN hard reset", &[0x38], 54),
    ("NTP", &[0x23], 48),
    ("SNMP get", &[0x30, 0x29, 2, 1, 1, 4, 6, b'p', b'u', b'b', b'l', b'i', b'c', 0xa0], 43),
    (
        "SSDP search",
        b"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\n\r\n",
        74,
    ),
    ("SIP options", b"OPTIONS sip:a SIP/2.0\r\n\r\n", 25),
    ("HTTP request", b"GET / HTTP/1.1\r\n\r\n", 18),
];

const LARGE: [Form; 2] =
    [("more than a node reads", &[0x81, 0], 2_049), ("the largest there is", &[0x80, 0, 0, 0], 65_507)];

const GENUINE: [&str; 6] = [
    "genuine, replayed",
    "genuine, one bit flipped",
    "genuine, one byte altered",
    "genuine head, other keys",
    "genuine, cut short",
    "genuine, lengthened",
];

/// Bytes of a datagram that stand in clear: header of data, or of a veil of either class with the epoch's tag.
const CLEAR_BYTES: usize = 16;

fn probe(number: usize, material: &Material, noise: &mut Noise) -> Probe {
    if number % LARGE_EVERY == LARGE_EVERY - 1 {
        return formed(&LARGE[number / LARGE_EVERY % LARGE.len()], noise);
    }
    let turns = FORMS.len() + GENUINE.len() + material.crafted.len();
    let (round, turn) = (number / turns, number % turns);
    if let Some(form) = FORMS.get(turn) {
        return formed(form, noise);
    }
    if let Some(kind) = GENUINE.get(turn - FORMS.len()) {
        return genuine(kind, &material.recorded, noise);
    }
    let (kind, datagrams) = &material.crafted[turn - FORMS.len() - GENUINE.len()];
    let bytes = match datagrams.len() {
        0 => Vec::new(),
        count => datagrams[round % count].clone(),
    };
    Probe { kind, bytes }
}

fn formed((kind, head, length): &Form, noise: &mut Noise) -> Probe {
    let mut bytes = head.to_vec();
    bytes.extend((head.len()..*length).map(|_| noise.byte()));
    Probe { kind, bytes }
}

/// A recorded datagram, altered as `kind` says; an empty one if nothing was recorded.
fn genuine(kind: &'static str, recorded: &[Vec<u8>], noise: &mut Noise) -> Probe {
    let mut bytes = match recorded.len() {
        0 => Vec::new(),
        count => recorded[noise.below(count)].clone(),
    };
    let at = noise.below(bytes.len().max(1));
    match kind {
        "genuine, replayed" => {}
        "genuine, cut short" => bytes.truncate(at),
        "genuine, lengthened" => bytes.extend((0..=noise.below(64)).map(|_| noise.byte())),
        "genuine head, other keys" => {
            let tail = bytes.iter_mut().skip(CLEAR_BYTES);
            tail.for_each(|byte| *byte = noise.byte());
        }
        _ => {
            let change =
                if kind == "genuine, one bit flipped" { 1 << noise.below(8) } else { noise.byte() | 1 };
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= change;
            }
        }
    }
    Probe { kind, bytes }
}

/// xorshift64 (Marsaglia 2003): the same probes for the same seed.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap_or_default() % bound
    }
}
