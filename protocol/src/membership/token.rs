//! The token: what a joiner holds before it knows anybody, as text that a person can paste.
//!
//! ```text
//! text   = "vpi1" ‖ base32(binary ‖ CRC32C(binary), big-endian)     RFC 4648, no padding, either case
//! binary = VPI ID 32 ‖ epoch tag 2 ‖ seed 32 ‖ join-veil key 32 ‖ length u16 ‖ Invite envelope
//!        ‖ count u8 ‖ count × member     member = 4 ‖ IPv4 4 ‖ port u16  or  6 ‖ IPv6 16 ‖ port u16
//!        ‖ count u8 ‖ count × beacon     beacon = length u8 ‖ multiaddress as text
//! ```
//!
//! The seed is the secret half of the invite: HKDF gives the Ed25519 key that signs each Join beside the device.
//! A changed character changes at most five adjacent bits, which a CRC of 32 bits always notices.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use data_encoding::BASE32_NOPAD;
use zeroize::Zeroizing;

use super::epoch::EpochTag;
use super::object::{Body, Invite, Object};
use crate::identity::{Secret, SigningSecret, VpiId, derive};

/// Addresses of members in one token, and of beacons, at most each (specified: README §12).
pub const MAX_ADDRESSES: usize = 4;

/// Letters of a token, line breaks included, at most (chosen: four times the largest that can be made).
const MAX_TEXT: usize = 32_768;

const PREFIX: &str = "vpi1";

/// Why a text is no token. Each message says what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It does not start like a token.
    #[error("this is no token: it must start with \"vpi1\"; paste the whole text that `vpi invite` printed")]
    NotAToken,
    /// A character is missing, added or changed.
    #[error("the token is damaged; copy it again, from \"vpi1\" to its last character")]
    Damaged,
    /// Whole, but what it says does not fit together.
    #[error("the token does not fit together; ask for another invite")]
    Invalid,
}

/// What a joiner holds. The secrets are wiped when it is dropped, and `Debug` hides them.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    vpi: VpiId,
    invite: Object,
    seed: Secret,
    join_veil_key: Secret,
    epoch_tag: EpochTag,
    members: Vec<SocketAddr>,
    beacons: Vec<String>,
}

/// The secrets of a token and the epoch they belong to.
#[derive(Clone, Debug)]
pub struct TokenSecrets {
    /// Gives the invite's signing key.
    pub seed: Secret,
    /// Key of the veil around question and answer.
    pub join_veil_key: Secret,
    /// The epoch that the veil names.
    pub epoch_tag: EpochTag,
}

impl Token {
    /// Puts a token together: `invite` is an Invite of `vpi`; of `members` and `beacons` the first
    /// [`MAX_ADDRESSES`] are taken, and of beacons those of 1 to 255 bytes.
    ///
    /// # Errors
    /// [`TokenError::Invalid`] when `invite` is no Invite or not that of the seed.
    pub fn new(
        vpi: VpiId,
        invite: Object,
        secrets: TokenSecrets,
        members: &[SocketAddr],
        beacons: &[String],
    ) -> Result<Self, TokenError> {
        let TokenSecrets { seed, join_veil_key, epoch_tag } = secrets;
        let Body::Invite(body) = invite.body() else { return Err(TokenError::Invalid) };
        if body.invite_key != invite_secret(&vpi, &seed).public() {
            return Err(TokenError::Invalid);
        }
        let members =
            members.iter().take(MAX_ADDRESSES).map(|at| SocketAddr::new(at.ip(), at.port())).collect();
        let beacons = beacons.iter().filter(|text| (1..=255).contains(&text.len()));
        let beacons = beacons.take(MAX_ADDRESSES).cloned().collect();
        Ok(Self { vpi, invite, seed, join_veil_key, epoch_tag, members, beacons })
    }

    /// Reads a token as a person pastes it: white space around it and around its line breaks does not matter.
    ///
    /// # Errors
    /// A [`TokenError`], which says what to do.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        if text.len() > MAX_TEXT {
            return Err(TokenError::NotAToken);
        }
        let letters: Zeroizing<String> =
            Zeroizing::new(text.lines().map(str::trim).collect::<String>().to_ascii_uppercase());
        let body = letters.strip_prefix(&PREFIX.to_ascii_uppercase()).ok_or(TokenError::NotAToken)?;
        let bytes = Zeroizing::new(BASE32_NOPAD.decode(body.as_bytes()).map_err(|_| TokenError::Damaged)?);
        let (binary, sum) = bytes.split_last_chunk::<4>().ok_or(TokenError::Damaged)?;
        if crc32c::crc32c(binary).to_be_bytes() != *sum {
            return Err(TokenError::Damaged);
        }
        let token = Parser(binary).token().ok_or(TokenError::Invalid)?;
        // One token has one binary form.
        if *token.binary() == binary { Ok(token) } else { Err(TokenError::Invalid) }
    }

    /// The text, in lower case and without line breaks.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut bytes = self.binary();
        let sum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&sum.to_be_bytes());
        let letters = Zeroizing::new(BASE32_NOPAD.encode(&bytes));
        Zeroizing::new([PREFIX, &Zeroizing::new(letters.to_ascii_lowercase())].concat())
    }

    /// The VPI to join.
    #[must_use]
    pub fn vpi(&self) -> &VpiId {
        &self.vpi
    }

    /// The Invite as a signed object.
    #[must_use]
    pub fn invite_object(&self) -> &Object {
        &self.invite
    }

    /// What the Invite says.
    ///
    /// # Panics
    /// Never: a token is made with an Invite only.
    #[must_use]
    pub fn invite(&self) -> &Invite {
        match self.invite.body() {
            Body::Invite(invite) => invite,
            _ => unreachable!("a token is made with an invite only"),
        }
    }

    /// The key that signs each Join beside the device.
    #[must_use]
    pub fn invite_secret(&self) -> SigningSecret {
        invite_secret(&self.vpi, &self.seed)
    }

    /// The key of the veil around question and answer.
    #[must_use]
    pub fn join_veil_key(&self) -> &Secret {
        &self.join_veil_key
    }

    /// The epoch that the veil names.
    #[must_use]
    pub fn epoch_tag(&self) -> EpochTag {
        self.epoch_tag
    }

    /// Where members were when the token was made.
    #[must_use]
    pub fn members(&self) -> &[SocketAddr] {
        &self.members
    }

    /// Multiaddresses of beacons.
    #[must_use]
    pub fn beacons(&self) -> &[String] {
        &self.beacons
    }

    fn binary(&self) -> Zeroizing<Vec<u8>> {
        // Room for all at once, so that growing leaves no copy of the secrets behind.
        let mut out =
            Zeroizing::new(Vec::with_capacity(256 + self.invite.bytes().len() + MAX_ADDRESSES * 256));
        let invite_bytes = u16::try_from(self.invite.bytes().len()).expect("an object is below 64 KiB");
        for part in [&self.vpi.0[..], &self.epoch_tag, &self.seed.0, &self.join_veil_key.0] {
            out.extend_from_slice(part);
        }
        out.extend_from_slice(&invite_bytes.to_be_bytes());
        out.extend_from_slice(self.invite.bytes());
        out.push(count(self.members.len()));
        for member in &self.members {
            match member.ip() {
                IpAddr::V4(ip) => out.extend_from_slice(&[&[4], &ip.octets()[..]].concat()),
                IpAddr::V6(ip) => out.extend_from_slice(&[&[6], &ip.octets()[..]].concat()),
            }
            out.extend_from_slice(&member.port().to_be_bytes());
        }
        out.push(count(self.beacons.len()));
        for beacon in &self.beacons {
            out.push(count(beacon.len()));
            out.extend_from_slice(beacon.as_bytes());
        }
        out
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({:?})", self.invite)
    }
}

/// The Ed25519 key of the invite whose seed is `seed`.
#[must_use]
pub fn invite_secret(vpi: &VpiId, seed: &Secret) -> SigningSecret {
    SigningSecret::from_seed(&Zeroizing::new(derive(vpi, &seed.0, "invite", &[])))
}

fn count(length: usize) -> u8 {
    u8::try_from(length).expect("lists and beacons of a token are below 256")
}

/// What of a binary token is still to be read.
struct Parser<'b>(&'b [u8]);

impl Parser<'_> {
    fn token(mut self) -> Option<Token> {
        let vpi = VpiId(self.array()?);
        let epoch_tag = self.array()?;
        let seed = Secret(self.array()?);
        let join_veil_key = Secret(self.array()?);
        let length = usize::from(u16::from_be_bytes(self.array()?));
        let invite = Object::open(&vpi, self.take(length)?).ok()?;
        let members = self.list(Self::member)?;
        let beacons = self.list(Self::beacon)?;
        self.0.is_empty().then_some(())?;
        let secrets = TokenSecrets { seed, join_veil_key, epoch_tag };
        Token::new(vpi, invite, secrets, &members, &beacons).ok()
    }

    fn list<T>(&mut self, read: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let [length] = self.array()?;
        let length = usize::from(length);
        if length > MAX_ADDRESSES {
            return None;
        }
        (0..length).map(|_| read(self)).collect()
    }

    fn member(&mut self) -> Option<SocketAddr> {
        let ip = match self.array()? {
            [4] => IpAddr::from(self.array::<4>()?),
            [6] => IpAddr::from(self.array::<16>()?),
            _ => return None,
        };
        Some(SocketAddr::new(ip, u16::from_be_bytes(self.array()?)))
    }

    fn beacon(&mut self) -> Option<String> {
        let [length] = self.array()?;
        String::from_utf8(self.take(usize::from(length))?.to_vec()).ok()
    }

    fn take(&mut self, length: usize) -> Option<&[u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }
}
