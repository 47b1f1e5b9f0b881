//! What founders and admins make: the first three objects of a VPI, and invites with their tokens.
//!
//! In go keys and wishes; out come signed objects, for the caller to store before anybody sees them.

use std::net::SocketAddr;

use super::admin::{Admin, AdminError};
use super::epoch::{EpochSecret, secret_hash};
use super::object::{
    self, Body, Capabilities, Charter, Epoch, Invite, Object, ObjectError, Policy, Rekey, Root,
};
use super::reducer::removed_digest;
use super::token::{Token, TokenSecrets, invite_secret};
use crate::identity::{DeviceId, InviteId, ObjectId, Secret, SigningSecret, StaticKey, VpiId};
use crate::random::{self, Rng};
use crate::wire::cbor::Extensions;

/// What a VPI is founded with.
#[derive(Clone, Copy, Debug)]
pub struct Founding<'k> {
    /// The VPI's name, 1 to 11 of `[a-z0-9-]`.
    pub name: &'k str,
    /// The founder's name, 1 to 32 of `[a-z0-9-]`.
    pub device_name: &'k str,
    /// Signs charters from the founder's node.
    pub root: &'k SigningSecret,
    /// Signs charters from the recovery phrase.
    pub recovery: &'k SigningSecret,
    /// The founder's device key.
    pub device: &'k SigningSecret,
    /// The key of the founder's handshakes.
    pub static_key: StaticKey,
    /// The secret of epoch 0.
    pub secret: &'k Secret,
    /// Random.
    pub nonce: [u8; 16],
    /// Unix seconds.
    pub wall_secs: u64,
}

/// A founded VPI.
#[derive(Clone, Debug)]
pub struct Founded {
    /// Its ID.
    pub vpi: VpiId,
    /// Charter 0, Rekey 0 of the founder and Epoch 0.
    pub objects: [Object; 3],
}

/// Founds a VPI: two roots of which one suffices, the founder as its one admin with every capability, and the
/// default policy.
///
/// # Errors
/// An [`ObjectError`] when a name is not of its form, or root and recovery are one key.
pub fn found(founding: &Founding<'_>) -> Result<Founded, ObjectError> {
    let charter = Body::Charter(charter_0(founding));
    let vpi = VpiId(charter.id().0);
    let device = founding.device.public();
    let rekey = Body::Rekey(Rekey {
        device,
        counter: 0,
        static_key: founding.static_key,
        time: founding.wall_secs,
        extensions: Extensions::default(),
    });
    let epoch = Body::Epoch(Epoch {
        admin: device,
        seq: 0,
        previous: ObjectId(vpi.0),
        time: founding.wall_secs,
        number: 0,
        secret_hash: secret_hash(founding.secret),
        removed_digest: removed_digest([]),
        extensions: Extensions::default(),
    });
    let objects = [
        Object::sign(&vpi, &charter, &[founding.root, founding.recovery])?,
        Object::sign(&vpi, &rekey, &[founding.device])?,
        Object::sign(&vpi, &epoch, &[founding.device])?,
    ];
    Ok(Founded { vpi, objects })
}

fn charter_0(founding: &Founding<'_>) -> Charter {
    let mut roots = vec![
        Root { key: founding.root.public(), is_recovery: false },
        Root { key: founding.recovery.public(), is_recovery: true },
    ];
    roots.sort_unstable_by_key(|root| root.key);
    Charter {
        version: 0,
        previous: None,
        time: founding.wall_secs,
        name: founding.name.to_owned(),
        signers: roots.iter().map(|root| root.key).collect(),
        roots,
        threshold: 1,
        admins: vec![object::Admin {
            device: founding.device.public(),
            name: founding.device_name.to_owned(),
            capabilities: Capabilities::ALL,
        }],
        policy: Policy::default(),
        retired: Vec::new(),
        pardons: Vec::new(),
        nonce: founding.nonce,
        extensions: Extensions::default(),
    }
}

/// What an invite should be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InviteWish {
    /// The name that the joiner is asked to take.
    pub name: Option<String>,
    /// How many joins it lets in.
    pub max_uses: u64,
    /// How long it lives in seconds, at most 30 days; `None` for the charter's policy.
    pub seconds: Option<u64>,
    /// The only device that may use it.
    pub bound_device: Option<DeviceId>,
}

/// Where the joiner may ask, the most useful first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Addresses<'a> {
    /// Sockets of members.
    pub members: &'a [SocketAddr],
    /// Multiaddresses of beacons.
    pub beacons: &'a [String],
}

/// Makes the next object of the admin's chain, an Invite, and the token around it. The caller stores
/// [`Token::invite_object`] before it shows the token.
///
/// # Errors
/// An [`AdminError`], which says what to do.
pub fn invite(
    rng: &mut Rng,
    admin: &Admin<'_>,
    epoch: &EpochSecret,
    wish: &InviteWish,
    addresses: Addresses<'_>,
) -> Result<Token, AdminError> {
    admin.may(Capabilities::INVITE)?;
    let (membership, wall_secs, device) = (admin.membership(), admin.wall_secs, admin.key.public());
    let charter = membership.charter().ok_or(AdminError::NotAllowed)?;
    let (seq, previous) = membership.next_link(&device).ok_or(AdminError::Chain)?;
    let vpi = *membership.vpi();
    let seed = Secret(random::bytes(rng));
    let invite_id = InviteId(random::bytes(rng));
    let body = Body::Invite(Invite {
        admin: device,
        seq,
        previous,
        time: wall_secs,
        invite_id,
        invite_key: invite_secret(&vpi, &seed).public(),
        max_uses: wish.max_uses,
        not_after: wall_secs.saturating_add(wish.seconds.unwrap_or(charter.policy.invite_seconds)),
        name: wish.name.clone(),
        capabilities: Capabilities::NONE,
        groups: Vec::new(),
        bound_device: wish.bound_device,
        admitters: Vec::new(),
        extensions: Extensions::default(),
    });
    let object = Object::sign(&vpi, &body, &[admin.key]).map_err(AdminError::Wish)?;
    let secrets =
        TokenSecrets { seed, join_veil_key: epoch.join_veil_key(&invite_id), epoch_tag: epoch.tag() };
    let token = Token::new(vpi, object, secrets, addresses.members, addresses.beacons);
    Ok(token.expect("an invite made with this seed fits it"))
}
