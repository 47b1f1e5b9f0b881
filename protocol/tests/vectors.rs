//! Known answers: the bytes that README.md promises to a second implementation.
//!
//! Every input is fixed and printed there, ephemeral keys included, so that each value can be computed without this
//! code. A change that makes one of these fail is a change of the wire, and makes two versions strangers.

#![allow(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

use data_encoding::HEXLOWER;
use protocol::alias::assign::preferred_suffix;
use protocol::alias::preferred_prefix;
use protocol::discovery::blind::{Purpose, blinded_public, blinding};
use protocol::discovery::lobby::{Contact, Lobby};
use protocol::discovery::{bulletin, presence, record};
use protocol::identity::{InviteId, PublicKey, Secret, SigningSecret, StaticSecret, VpiId, derive, sha256};
use protocol::membership::epoch::{EpochSecret, open_secret, seal_secret};
use protocol::membership::object::{Body, Object, Presence};
use protocol::membership::removed_digest;
use protocol::membership::token::invite_secret;
use protocol::random::{self, Rng};
use protocol::tunnel::handshake::{Context, Initiation, Keys, Received};
use protocol::tunnel::{Opener, Sealer, Suite};
use protocol::veil::{self, Veiled};
use protocol::wire::cbor::Extensions;
use protocol::wire::header::{Class, VeilHeader};
use protocol::wire::hello::{Digests, Hello, Suites};
use protocol::wire::message::Message;
use rand_core::SeedableRng as _;

const VPI: VpiId = VpiId([0x11; 32]);
const EPOCH_SECRET: [u8; 32] = [0x22; 32];
const INVITE: InviteId = InviteId([0x33; 16]);
const DEVICE: PublicKey = PublicKey([0x44; 32]);
const TIME_MS: u64 = 1_700_000_000_000;
/// The slot of that time.
const SLOT: u64 = 472_222;
/// The nonces of the two veils.
const NONCES: [[u8; 24]; 2] = [[0x55; 24], [0x66; 24]];
/// The receiver indices of the initiator and of the responder.
const INDICES: [u32; 2] = [0x0102_0304, 0x0506_0708];

#[test]
fn keys_derive_from_a_secret_as_written() {
    let epoch = EpochSecret::new(VPI, 0, Secret(EPOCH_SECRET));
    is(&derive::<32>(&VPI, &EPOCH_SECRET, "example", &[b"argument"]), EXAMPLE);
    is(&epoch.tag(), TAG);
    is(&epoch.veil_key().0, VEIL_KEY);
    is(&epoch.psk().0, PSK);
    is(&epoch.join_veil_key(&INVITE).0, JOIN_VEIL_KEY);
    is(&epoch.hash(), SECRET_HASH);
    is(invite_secret(&VPI, &Secret([0x77; 32])).public().as_bytes(), INVITE_KEY);
    is(&removed_digest([]), REMOVED_DIGEST);
}

#[test]
fn a_veiled_datagram_has_known_bytes_in_both_classes() {
    let epoch = EpochSecret::new(VPI, 0, Secret(EPOCH_SECRET));
    let content = Veiled { time_ms: TIME_MS, kind: veil::INITIATION, body: b"body".to_vec() };
    let header = |class| VeilHeader { class, epoch_tag: epoch.tag(), nonce: NONCES[0] };
    is(&content.seal(&epoch.veil_key(), &header(Class::Member)), VEILED_MEMBER);
    is(&content.seal(&epoch.join_veil_key(&INVITE), &header(Class::Join(INVITE))), VEILED_JOIN);
}

#[test]
fn a_handshake_and_its_first_datagrams_have_known_bytes() {
    for (suite, expected) in [(Suite::ChaCha20Poly1305, DATA_CHACHA), (Suite::Aes256Gcm, DATA_AES)] {
        let [(sealer, mut opener), (peers_sealer, mut peers_opener)] =
            handshake().map(|keys| keys.into_halves(suite));
        let [keepalive, echo, from_responder] = expected;
        exchange((&sealer, &mut peers_opener), b"", keepalive);
        exchange((&sealer, &mut peers_opener), &Message::Echo { id: 1, observed: None }.encode(), echo);
        exchange((&peers_sealer, &mut opener), &Message::Settled { heard: true }.encode(), from_responder);
    }
}

#[test]
fn a_sealed_secret_has_known_bytes() {
    let mut rng = Rng::from_seed([0xa3; 32]);
    is(&random::bytes::<32>(&mut rng.clone()), SEAL_EPHEMERAL);
    let recipient = StaticSecret::from_bytes([0x88; 32]);
    let sealed = seal_secret(&mut rng, &VPI, &recipient.public(), &Secret(EPOCH_SECRET)).unwrap();
    is(&sealed, SEALED);
    assert_eq!(open_secret(&VPI, &recipient, &sealed), Some(Secret(EPOCH_SECRET)));
}

#[test]
fn a_presence_record_has_known_bytes() {
    let epoch = EpochSecret::new(VPI, 0, Secret(EPOCH_SECRET));
    let secret = SigningSecret::from_seed(&[0xab; 32]);
    let device = secret.public();
    let h = blinding(epoch.secret(), &VPI, Purpose::Presence, &device, SLOT);
    is(blinded_public(&device, &h).unwrap().as_bytes(), BLINDED);

    let mut rng = Rng::from_seed([0xa4; 32]);
    is(&random::bytes::<24>(&mut rng.clone()), RECORD_NONCE);
    let made =
        presence::seal(&epoch, SLOT, (&secret, &known_presence(&secret)), TIME_MS / 1_000, &mut rng).unwrap();
    is(&made.key, RECORD_KEY);
    is(&made.value[..49], RECORD_HEAD);
    is(&made.value[made.value.len() - 64..], RECORD_SIGNATURE);
    is(&sha256(&[&made.value]), RECORD_HASH);
    assert!(record::check(&made.key, &made.value, TIME_MS / 1_000).is_ok());
}

#[test]
fn a_lobby_record_and_the_place_of_a_bulletin_are_as_written() {
    let epoch = EpochSecret::new(VPI, 0, Secret(EPOCH_SECRET));
    let lobby = Lobby::new(&VPI, &epoch.join_veil_key(&INVITE), SLOT);
    let contact = Contact { addresses: vec!["192.0.2.1:41414".parse().unwrap()], beacon: None };
    let made = lobby.seal(&contact, TIME_MS / 1_000, &mut Rng::from_seed([0xa4; 32])).unwrap();
    is(&made.key, LOBBY_KEY);
    is(&sha256(&[&made.value]), LOBBY_HASH);

    let [sleeper, admin] = [[0xab; 32], [0xcd; 32]].map(|seed| SigningSecret::from_seed(&seed).public());
    is(bulletin::Place::new(&epoch, &admin, &sleeper, 0).unwrap().key(), BULLETIN_KEY);
}

#[test]
fn aliases_are_chosen_as_written() {
    assert_eq!(preferred_prefix(&VPI).to_string(), "127.98.0.0");
    assert_eq!([0, 1].map(|attempt| preferred_suffix(&VPI, &DEVICE, attempt)), [58_353, 31_187]);
}

fn known_presence(secret: &SigningSecret) -> Object {
    let presence = Presence {
        device: secret.public(),
        time: TIME_MS / 1_000,
        counter: 1,
        candidates: vec!["192.0.2.1:41414".parse().unwrap()],
        beacon: None,
        nat: 0,
        flags: 0,
        extensions: Extensions::default(),
    };
    Object::sign(&VPI, &Body::Presence(presence), &[secret]).unwrap()
}

/// Makes the handshake of README.md, checks both messages, and returns the keys of initiator and responder.
fn handshake() -> [Keys; 2] {
    let epoch = EpochSecret::new(VPI, 0, Secret(EPOCH_SECRET));
    let (initiator, responder) = (StaticSecret::from_bytes([0x88; 32]), StaticSecret::from_bytes([0x99; 32]));
    let mut rngs = [[0xa1; 32], [0xa2; 32]].map(Rng::from_seed);
    for (rng, expected) in rngs.iter().zip(EPHEMERALS) {
        is(&ephemeral(rng), expected);
    }
    let hello = Hello {
        device: DEVICE,
        suites: Suites::BOTH,
        digests: Digests { charter: VPI.0.into(), removes: removed_digest([]), epoch_tag: epoch.tag() },
    };
    let header = VeilHeader { class: Class::Member, epoch_tag: epoch.tag(), nonce: NONCES[0] };
    let (psk, prologue) = (epoch.psk(), veil::prologue(&header.to_bytes(), TIME_MS));
    let context = Context { psk: &psk, prologue: &prologue };

    let payload = hello.encode_initiation(&[]);
    let (mut initiation, body) =
        Initiation::new(&initiator, &responder.public(), context, (INDICES[0], &payload), &mut rngs[0])
            .unwrap();
    is(&body, INITIATION);
    let datagram = Veiled { time_ms: TIME_MS, kind: veil::INITIATION, body }.seal(&epoch.veil_key(), &header);
    assert_eq!(datagram.len(), 253);

    let (header, clear, sealed) = VeilHeader::split(&datagram).unwrap();
    let opened = Veiled::open(&epoch.veil_key(), &header, clear, sealed).unwrap();
    let received = Received::new(&responder, context, &opened.body, &mut rngs[1]).unwrap();
    let (body, responders) = received.answer(INDICES[1], &hello.encode_response()).unwrap();
    is(&body, RESPONSE);
    let header = VeilHeader { nonce: NONCES[1], ..header };
    let response = Veiled { time_ms: TIME_MS, kind: veil::RESPONSE, body };
    assert_eq!(response.seal(&epoch.veil_key(), &header).len(), 208);
    let (_, initiators) = initiation.complete(&response.body[4..]).unwrap();
    [initiators, responders]
}

/// The ephemeral key that a handshake draws from `rng`: the first 32 bytes of a generator whose seed is its next 32.
fn ephemeral(rng: &Rng) -> [u8; 32] {
    random::bytes(&mut Rng::from_seed(random::bytes(&mut rng.clone())))
}

/// Checks the datagram of `plaintext`, and that the other end opens it.
fn exchange((sealer, opener): (&Sealer, &mut Opener), plaintext: &[u8], expected: &str) {
    let mut datagram = sealer.seal_message(plaintext).unwrap();
    is(&datagram, expected);
    assert_eq!(opener.open(&mut datagram).unwrap(), plaintext);
}

fn is(bytes: &[u8], expected: &str) {
    assert_eq!(HEXLOWER.encode(bytes), expected);
}

const EXAMPLE: &str = "6fb5e365024a10aabe581e34fa2e280914f7360a47223a093fcc023ed54b8898";
const TAG: &str = "0fe7";
const VEIL_KEY: &str = "316d1b8d481e30a7f62faf2eb432f10ce6b612b3d9828ebd676daff460736618";
const PSK: &str = "68bac330b4f944cf3e860502c061549a7c1051b8b3a6c44175c8cef609b31a65";
const JOIN_VEIL_KEY: &str = "95a44cbf3bda8552c60a5d5bbaf3b0ee61db676be866b84bbfbb9670cbb11f71";
const SECRET_HASH: &str = "9f72ea0cf49536e3c66c787f705186df9a4378083753ae9536d65b3ad7fcddc4";
const INVITE_KEY: &str = "607af7c8e8bca14ac2775b5539ea9610409f7a3e19a10cd57aa1586fa8afa2ea";
const REMOVED_DIGEST: &str = "81d97f3a342747c5b2506c9f7ce77dbee1915c893c1aa4859c2febbc442a878c";

const VEILED_MEMBER: &str = concat!(
    "81000fe755555555555555555555555555555555555555555555555543116746dbf4f1a3bb684fcfd9637495772a42ad",
    "0360e0205098834109",
);
const VEILED_JOIN: &str = concat!(
    "81010fe7555555555555555555555555555555555555555555555555333333333333333333333333333333333dcc74fa",
    "4f95a1fff6bad88c11116a4117ef6c1fe994fd79b5bcf0ee38",
);

/// The ephemeral secret keys of initiator and responder.
const EPHEMERALS: [&str; 2] = [
    "46e9c79ebd6ac13ab532617082d8618bbe1e01b23f47b682e190d809cf8186a5",
    "d9972fbf3242a0988ce48eee3628f3e24fc473117926ffd4763b1137e4c9635b",
];
const INITIATION: &str = concat!(
    "010203044b5f4357246aa1b76136da55eb6ba205e5e83c2d745acf9c3bd11903c1533d3fab8772926f151905b3bc3f2c",
    "68e2fbd1c74428f0d72bcd8acfa433605e92c1a654843cf2d8989af80eb0fde3cf0bb635dcf166a33fba7298d6f341dd",
    "7e94c23c3cb282c12d88cf51202ea544f5fabc94c2354785e93b8cc236a8195037e89edccea23c445da2bacb49c8b9f3",
    "2ce5a294173fa4f861585a3451f53a51f49d45685c769b9fd1c7c528e4bc7851b4687fa3266681325c9b1908d84dbe06",
    "b64ca57a7f19e218",
);
const RESPONSE: &str = concat!(
    "01020304370eb7a9adda2a1edf008c620581260709e597478c39fd87f55ca5f70db4bf239d0ccfa007f1f3bd138856c5",
    "a03ead1fd8ca2eb42274174c89956fe534696cc6a57936ae89dc71f16200f8b0a566af545843b57b4cd9360c41e74ed8",
    "01792f7859a70c16df645ae685df0c70b5279a1813178badd75b7c0c046056eb803cddd9ff9b80adfd06d4badfa71ca0",
    "c38a94de6a10260ae65e11",
);
/// A keepalive and an echo of the initiator, and a `settled` of the responder.
const DATA_CHACHA: [&str; 3] = [
    "80000000050607080000000000000000b83330aea82955ba0f59f9d6b3f00c44",
    "80000000050607080000000000000001d4180ae85ef1c9b6e007c233d0e8cdb44fd838ae3de7f79833",
    "80000000010203040000000000000000d5516af8dedfb333eeac5ccb223bc14b974d",
];
/// The same under AES-256-GCM.
const DATA_AES: [&str; 3] = [
    "80000000050607080000000000000000c22c28f31a4ad9f5668ab7fd7d0863b1",
    "800000000506070800000000000000015558b63f8bc3b3a0fa24ccc523915d9ac96f974bb7183938fa",
    "80000000010203040000000000000000f3a8b279f49780954cd3561651f8ba433fa5",
];

const SEAL_EPHEMERAL: &str = "7b59e8574ff150e00c4160d1ece6630b765658ab86541ffe0d8ab42364e78267";
const SEALED: &str = concat!(
    "7ac8fe38e32d5ad9e8f8607fad7d7042c833da7cea530ed2eb36aa9c618df626c0b5ddf205bf108b0a7f344a0dd2b2d9",
    "da08f1dced7035018db977fdfddbbe4d4340087f519780930bca150bc4e6bff4",
);

/// The nonce of both records.
const RECORD_NONCE: &str = "a30930befc374acbb0d03adb5fc19b397497db6616d57340";
const BLINDED: &str = "2199b491d0ace47a4beeebb1b2bd3bda7dcf87bdfdaa927e47a709ffb0d72c5e";
const RECORD_KEY: &str = "a8a4f60120d0762b0b4896d81de1916bb0eec2a02fbe3a69da9dd1ebbf8b4d96";
/// All before the nonce.
const RECORD_HEAD: &str = concat!(
    "012199b491d0ace47a4beeebb1b2bd3bda7dcf87bdfdaa927e47a709ffb0d72c5e000000006553f10000000000655",
    "40a00",
);
const RECORD_SIGNATURE: &str = concat!(
    "a1187282d39e634b6b483cd7b30601bb931f648e9570ef380e10bebf5a568354915a635d5176a386661999f83023a21f",
    "e2c848e14012126d53d274522401b50f",
);
const RECORD_HASH: &str = "df9c2201313b06fd5b7b9794e6d8e967cfd1bbeaf925f3dbf74fb36a6192d289";
const LOBBY_KEY: &str = "c407b9007cedabeaeb8737292454df11cb53796d36e1d130d964b4805f3d4e29";
const LOBBY_HASH: &str = "3f0c759cda4ce22eab7381113466b62cfdd4d3db4d07e270d3db5cb30551f734";
const BULLETIN_KEY: &str = "14d00761f7fbdd8c03e7cec98b6e8ff7056c10a8b8b825acb003b0852661ebb8";
