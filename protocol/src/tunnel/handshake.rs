//! The handshake: `Noise_IKpsk2_25519_ChaChaPoly_SHA256` (Noise rev. 34), two messages.
//!
//! Works on the bodies inside a veil; the veil, who may be answered and when to retry are decided elsewhere. Payloads
//! are opaque here. Ephemeral keys come from the generator that is passed in.
//!
//! ```text
//! initiation   sender index u32   | Noise 1 (payload)
//! response     receiver index u32 | Noise 2 (sender index u32, payload)
//! ```

use snow::HandshakeState;
use zeroize::Zeroize;

use super::noise::Resolver;
use super::opener::Opener;
use super::sealer::Sealer;
use super::suite::Suite;
use crate::identity::{Secret, StaticKey, StaticSecret};
use crate::random::Rng;

/// The Noise protocol name (specified).
pub const PROTOCOL: &str = "Noise_IKpsk2_25519_ChaChaPoly_SHA256";

/// Bytes of an initiation beyond its payload: index, e, encrypted s, tag.
pub const INITIATION_BYTES: usize = 4 + 32 + 48 + 16;

/// The largest handshake body, in bytes; all of it fits one unfragmented datagram (chosen: the first path size).
const MAX_BODY_BYTES: usize = 1_200;

/// A handshake message did not verify, or holds too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the handshake message does not verify")]
pub struct HandshakeError;

impl From<snow::Error> for HandshakeError {
    fn from(_: snow::Error) -> Self {
        Self
    }
}

/// What both ends must agree on before the first byte.
#[derive(Clone, Copy)]
pub struct Context<'c> {
    /// The pre-shared key of the epoch.
    pub psk: &'c Secret,
    /// The veil's header and time of the initiation.
    pub prologue: &'c [u8],
}

/// The keys that a finished handshake gives.
pub struct Keys {
    send: [u8; 32],
    receive: [u8; 32],
    /// The other end's index.
    receiver: u32,
}

impl Keys {
    /// Turns the keys into the two halves of a session that uses `suite`.
    #[must_use]
    pub fn into_halves(self, suite: Suite) -> (Sealer, Opener) {
        (Sealer::new(suite, &self.send, self.receiver), Opener::new(suite, &self.receive))
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.send.zeroize();
        self.receive.zeroize();
    }
}

/// An initiation that was sent and not yet answered.
pub struct Initiation {
    state: HandshakeState,
}

impl Initiation {
    /// Makes the first message to `peer`; returns the state to keep and the body to send.
    ///
    /// `index` is where this end will find the session.
    ///
    /// # Errors
    /// If `payload` is too long for a datagram, or `peer` is a low-order key.
    pub fn new(
        own: &StaticSecret,
        peer: &StaticKey,
        context: Context<'_>,
        (index, payload): (u32, &[u8]),
        rng: &mut Rng,
    ) -> Result<(Self, Vec<u8>), HandshakeError> {
        let mut own = own.to_bytes();
        let state = builder(rng)
            .prologue(context.prologue)?
            .local_private_key(&own)?
            .remote_public_key(&peer.0)?
            .psk(2, &context.psk.0)?
            .build_initiator();
        own.zeroize();
        let mut state = state?;
        let mut body = index.to_be_bytes().to_vec();
        write(&mut state, payload, &mut body)?;
        Ok((Self { state }, body))
    }

    /// Reads the response; returns the payload and the keys. `body` stands behind the receiver index.
    ///
    /// # Errors
    /// If the response does not verify: the initiation can still be completed by another.
    pub fn complete(&mut self, body: &[u8]) -> Result<(Vec<u8>, Keys), HandshakeError> {
        let payload = read(&mut self.state, body)?;
        let (index, payload) = payload.split_first_chunk::<4>().ok_or(HandshakeError)?;
        let (send, receive) = self.state.dangerously_get_raw_split();
        Ok((payload.to_vec(), Keys { send, receive, receiver: u32::from_be_bytes(*index) }))
    }
}

/// An initiation that was received, with the sender known and nothing answered yet.
pub struct Received {
    state: HandshakeState,
    /// The sender's index.
    sender: u32,
    /// The static key that made the initiation; whether it is a member's is for the gate to say.
    pub peer: StaticKey,
    /// The payload of the initiation.
    pub payload: Vec<u8>,
}

impl Received {
    /// Reads an initiation's body.
    ///
    /// # Errors
    /// If it does not verify.
    pub fn new(
        own: &StaticSecret,
        context: Context<'_>,
        body: &[u8],
        rng: &mut Rng,
    ) -> Result<Self, HandshakeError> {
        let (sender, message) = body.split_first_chunk::<4>().ok_or(HandshakeError)?;
        let mut own = own.to_bytes();
        let state = builder(rng)
            .prologue(context.prologue)?
            .local_private_key(&own)?
            .psk(2, &context.psk.0)?
            .build_responder();
        own.zeroize();
        let mut state = state?;
        let payload = read(&mut state, message)?;
        let peer = state.get_remote_static().and_then(|key| key.first_chunk()).ok_or(HandshakeError)?;
        Ok(Self { sender: u32::from_be_bytes(*sender), peer: StaticKey(*peer), payload, state })
    }

    /// Makes the response; `index` is where this end will find the session. Returns the body to send and the keys.
    ///
    /// # Errors
    /// If `payload` is too long for a datagram.
    pub fn answer(mut self, index: u32, payload: &[u8]) -> Result<(Vec<u8>, Keys), HandshakeError> {
        let mut body = self.sender.to_be_bytes().to_vec();
        let payload = [&index.to_be_bytes()[..], payload].concat();
        write(&mut self.state, &payload, &mut body)?;
        let (receive, send) = self.state.dangerously_get_raw_split();
        Ok((body, Keys { send, receive, receiver: self.sender }))
    }
}

fn builder<'b>(rng: &mut Rng) -> snow::Builder<'b> {
    let params = PROTOCOL.parse().expect("the protocol name is well formed");
    snow::Builder::with_resolver(params, Box::new(Resolver::new(rng)))
}

fn write(state: &mut HandshakeState, payload: &[u8], body: &mut Vec<u8>) -> Result<(), HandshakeError> {
    let mut message = [0; MAX_BODY_BYTES];
    let length = state.write_message(payload, &mut message)?;
    body.extend_from_slice(&message[..length]);
    if body.len() > MAX_BODY_BYTES { Err(HandshakeError) } else { Ok(()) }
}

fn read(state: &mut HandshakeState, message: &[u8]) -> Result<Vec<u8>, HandshakeError> {
    let mut payload = vec![0; message.len()];
    let length = state.read_message(message, &mut payload)?;
    payload.truncate(length);
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use rand_core::SeedableRng as _;

    use super::*;

    const PSK: Secret = Secret([5; 32]);
    const CONTEXT: Context<'static> = Context { psk: &PSK, prologue: b"header and time" };

    fn secrets() -> (StaticSecret, StaticSecret, Rng) {
        (StaticSecret::from_bytes([1; 32]), StaticSecret::from_bytes([2; 32]), Rng::from_seed([3; 32]))
    }

    #[test]
    fn both_ends_get_each_others_payload_and_matching_keys() {
        let (a, b, mut rng) = secrets();
        let (mut initiation, body) =
            Initiation::new(&a, &b.public(), CONTEXT, (7, b"one"), &mut rng).unwrap();
        assert_eq!(body.len(), INITIATION_BYTES + 3);
        let received = Received::new(&b, CONTEXT, &body, &mut rng).unwrap();
        assert_eq!((received.peer, &received.payload[..]), (a.public(), &b"one"[..]));
        let (response, b_keys) = received.answer(9, b"two").unwrap();
        assert_eq!(response[..4], 7u32.to_be_bytes());
        let (payload, a_keys) = initiation.complete(&response[4..]).unwrap();
        assert_eq!(payload, b"two");
        for suite in [Suite::ChaCha20Poly1305, Suite::Aes256Gcm] {
            let same = |keys: &Keys| Keys { send: keys.send, receive: keys.receive, receiver: keys.receiver };
            let (sealer, _) = same(&a_keys).into_halves(suite);
            let (_, mut opener) = same(&b_keys).into_halves(suite);
            let mut datagram = sealer.seal_message(b"packet").unwrap();
            assert_eq!(opener.open(&mut datagram).unwrap(), b"packet");
        }
        assert_eq!(a_keys.receiver, 9);
        assert_eq!(b_keys.receiver, 7);
    }

    #[test]
    fn a_forged_response_leaves_the_initiation_completable() {
        let (a, b, mut rng) = secrets();
        let (mut initiation, body) = Initiation::new(&a, &b.public(), CONTEXT, (7, b""), &mut rng).unwrap();
        let (response, _) = Received::new(&b, CONTEXT, &body, &mut rng).unwrap().answer(9, b"two").unwrap();
        let good = &response[4..];
        for at in 0..good.len() {
            let mut forged = good.to_vec();
            forged[at] ^= 1;
            assert!(initiation.complete(&forged).is_err(), "flipped at {at}");
            assert!(initiation.complete(&good[..at]).is_err(), "cut at {at}");
        }
        assert_eq!(initiation.complete(good).unwrap().0, b"two");
    }

    #[test]
    fn an_altered_initiation_prologue_or_psk_does_not_verify() {
        let (a, b, mut rng) = secrets();
        let (mut initiation, body) = Initiation::new(&a, &b.public(), CONTEXT, (7, b"p"), &mut rng).unwrap();
        for at in 4..body.len() {
            let mut forged = body.clone();
            forged[at] ^= 1;
            assert!(Received::new(&b, CONTEXT, &forged, &mut rng).is_err(), "flipped at {at}");
        }
        let lifted = Context { prologue: b"another veil", ..CONTEXT };
        assert!(Received::new(&b, lifted, &body, &mut rng).is_err());
        let old = Secret([6; 32]);
        let other_epoch = Context { psk: &old, ..CONTEXT };
        let (response, _) = Received::new(&b, other_epoch, &body, &mut rng).unwrap().answer(9, b"").unwrap();
        assert!(initiation.complete(&response[4..]).is_err());
    }

    #[test]
    fn a_payload_beyond_a_datagram_is_an_error() {
        let (a, b, mut rng) = secrets();
        assert!(Initiation::new(&a, &b.public(), CONTEXT, (7, &[0; 1_300]), &mut rng).is_err());
    }
}
