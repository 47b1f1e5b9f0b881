//! Removing, revoking, leaving: what an engine signs, and what this machine then forgets.

use anyhow::Context as _;
use protocol::engine::{self, Command, Removal, Ticket};
use protocol::identity::{InviteId, VpiId};
use protocol::membership::admin::AdminError;
use protocol::membership::object;
use tracing::info;

use super::enter::plan;
use super::node::Node;
use super::time;
use crate::control::members::{
    InviteState, InviteStatus, Invites, Left, Reason, Remove, Removed, Revoke, Revoked,
};
use crate::control::protocol::Reply;
use crate::control::server::Call;
use crate::control::status::Time;
use crate::control::{Exit, Failure};

/// *Chosen*: digits of an invite's id that must be typed at least, so that a slip does not name one.
const INVITE_DIGITS_MIN: usize = 4;

impl Node {
    /// Starts to remove a member; the answer follows when it is signed and on disk.
    ///
    /// # Errors
    /// An unknown VPI or member.
    pub(super) fn remove(&mut self, call: &Call, remove: &Remove) -> anyhow::Result<()> {
        let id = self.resolve_vpi(&remove.vpi)?;
        let target = self.resolve_device(&id, &remove.member)?;
        let (ticket, member) = (self.ticket(), self.label(&id, &target));
        let vpi = self.vpis.get_mut(&id).context("a VPI that was just found is there")?;
        let reason = match remove.reason {
            Reason::Unspecified => object::Reason::Unspecified,
            Reason::Lost => object::Reason::Lost,
            Reason::Replaced => object::Reason::Replaced,
        };
        let removed = Removed { vpi: vpi.settings.name.clone(), member, id: target.to_string() };
        self.signings.insert(ticket, (call.clone(), Reply::Removed(removed)));
        let removal = Removal { target, reason, offline: remove.offline };
        vpi.engine.handle_command(Command::Remove(ticket, removal), time());
        Ok(())
    }

    /// Starts to take an invite back; the answer follows when it is signed and on disk.
    ///
    /// # Errors
    /// An unknown VPI or invite.
    pub(super) fn revoke(&mut self, call: &Call, revoke: &Revoke) -> anyhow::Result<()> {
        let id = self.resolve_vpi(&revoke.vpi)?;
        let ticket = self.ticket();
        let vpi = self.vpis.get_mut(&id).context("a VPI that was just found is there")?;
        let time = time();
        let known = vpi.engine.invites(time.wall_ms / 1_000).into_iter().map(|invite| invite.id);
        let invite = find_invite(known, &revoke.invite)?;
        let revoked = Revoked { vpi: vpi.settings.name.clone(), invite: invite.to_string() };
        self.signings.insert(ticket, (call.clone(), Reply::Revoked(revoked)));
        vpi.engine.handle_command(Command::Revoke(ticket, invite, revoke.offline), time);
        Ok(())
    }

    /// What was to be signed is signed and on disk, or why not.
    pub(super) fn on_signed(&mut self, ticket: Ticket, outcome: Result<(), AdminError>) {
        let Some((call, reply)) = self.signings.remove(&ticket) else { return };
        match outcome {
            Ok(()) => {
                call.answer(reply);
            }
            Err(error) => call.fail(exit_of(error), error.to_string(), ""),
        }
    }

    /// Starts to leave a VPI; the answer follows when a member knows, or none could be told. Of a VPI that removed this
    /// device, what is left is cleared at once.
    ///
    /// # Errors
    /// An unknown VPI, or a disk that does not let go.
    pub(super) fn leave(&mut self, call: &Call, vpi: &str) -> anyhow::Result<Option<Reply>> {
        let id = self.resolve_vpi(vpi)?;
        let ticket = self.ticket();
        let vpi = self.vpis.get_mut(&id).context("a VPI that was just found is there")?;
        if vpi.engine.is_removed() {
            return self.forget(id, None).map(Some);
        }
        if self.leaves.contains_key(&id) {
            let message = format!("this device is leaving {} already", vpi.settings.name);
            return Err(
                Failure::new(Exit::Failed, message, "see in a moment whether it has: `vpi status`").into()
            );
        }
        self.leaves.insert(id, call.clone());
        vpi.engine.handle_command(Command::Leave(ticket), time());
        Ok(None)
    }

    /// This device left, or may not.
    pub(super) fn on_left(&mut self, id: VpiId, outcome: Result<u32, AdminError>) -> anyhow::Result<()> {
        let call = self.leaves.remove(&id);
        let reply = match outcome {
            Ok(told) => self.forget(id, Some(told))?,
            Err(error) => Reply::Failed(Failure::new(exit_of(error), error.to_string(), "")),
        };
        if let Some(call) = call {
            call.answer(reply);
        }
        Ok(())
    }

    /// Closes a VPI and removes what the state folder has of it, but for the mark that it was left.
    fn forget(&mut self, id: VpiId, told: Option<u32>) -> anyhow::Result<Reply> {
        let mut vpi = self.vpis.remove(&id).context("a VPI that is left is there")?;
        vpi.detach();
        let (name, plan) = (vpi.settings.name.clone(), plan(&vpi.settings));
        // Its files are closed before they go.
        drop(vpi);
        self.state.forget(&id).context("cannot remove the keys and objects of the VPI that was left")?;
        self.index.forget(id, time().now);
        info!(vpi = name, ?told, "left");
        Ok(Reply::Left(Left { vpi: name, told, plan }))
    }

    /// The invites of a VPI.
    ///
    /// # Errors
    /// If there is no such VPI.
    pub(super) fn list_invites(&self, vpi: &str) -> Result<Invites, Failure> {
        let id = self.resolve_vpi(vpi)?;
        let wall_secs = time().wall_ms / 1_000;
        let vpi = self.vpis.get(&id);
        let invites = vpi.map(|vpi| vpi.engine.invites(wall_secs)).unwrap_or_default();
        let shown = |invite: &engine::InviteStatus| InviteStatus {
            invite: invite.id.to_string(),
            name: invite.name.clone(),
            device: invite.bound_device.map(|device| device.to_string()),
            admin: self.member_label(&id, &invite.admin),
            uses: invite.uses,
            uses_left: invite.uses_left,
            expires: Time::from_unix(invite.not_after),
            state: state_of(invite, wall_secs),
        };
        let name = vpi.map(|vpi| vpi.settings.name.clone()).unwrap_or_default();
        Ok(Invites { vpi: name, invites: invites.iter().map(shown).collect() })
    }
}

fn state_of(invite: &engine::InviteStatus, wall_secs: u64) -> InviteState {
    if invite.is_revoked {
        InviteState::Revoked
    } else if invite.uses_left == 0 {
        InviteState::UsedUp
    } else if wall_secs > invite.not_after {
        InviteState::Expired
    } else if invite.is_live {
        InviteState::Open
    } else {
        InviteState::Void
    }
}

/// The one invite whose id begins with what was typed.
fn find_invite(known: impl Iterator<Item = InviteId>, typed: &str) -> Result<InviteId, Failure> {
    let advice = "`vpi invites` shows them; write the whole id, or its first digits";
    if typed.len() < INVITE_DIGITS_MIN {
        let message = format!("{typed} is too short for an invite's id");
        return Err(Failure::new(Exit::NotFound, message, advice));
    }
    let typed = typed.to_ascii_lowercase();
    let mut found = known.filter(|id| id.to_string().starts_with(&typed));
    match (found.next(), found.next()) {
        (Some(id), None) => Ok(id),
        (None, _) => Err(Failure::new(Exit::NotFound, format!("there is no invite {typed}"), advice)),
        (Some(_), Some(_)) => {
            let message = format!("several invites begin with {typed}");
            Err(Failure::new(Exit::NotFound, message, "write more digits of the one that is meant"))
        }
    }
}

fn exit_of(error: AdminError) -> Exit {
    match error {
        AdminError::NotMember | AdminError::UnknownInvite => Exit::NotFound,
        AdminError::NotAllowed
        | AdminError::TargetIsAdmin
        | AdminError::AlreadyRemoved
        | AdminError::Pardoned
        | AdminError::Epochs
        | AdminError::Chain
        | AdminError::Unsettled => Exit::Refused,
        AdminError::Wish(_) => Exit::Refused,
        AdminError::Object(_) => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(first: u8, second: u8) -> InviteId {
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&[first, second]);
        InviteId(bytes)
    }

    #[test]
    fn an_invite_is_found_by_as_many_digits_as_no_other_has() {
        let known = [id(0xab, 0x01), id(0xab, 0x02), id(0xcd, 0)];
        let find = |typed: &str| find_invite(known.into_iter(), typed).map_err(|failure| failure.exit);
        assert_eq!(find("ab01"), Ok(known[0]));
        assert_eq!(find("AB02"), Ok(known[1]));
        assert_eq!(find(&known[2].to_string()), Ok(known[2]));
        for wrong in ["", "cd0", "abcd", "ab0x", &format!("{}0", known[2])] {
            assert_eq!(find(wrong), Err(Exit::NotFound), "{wrong}");
        }
        let twins = [id(0xab, 0x01), id(0xab, 0x01)];
        assert!(find_invite(twins.into_iter(), "ab01").unwrap_err().message.contains("several"));
    }

    #[test]
    fn an_invite_is_told_by_what_ends_it_first() {
        let open = engine::InviteStatus {
            id: id(1, 2),
            name: None,
            admin: [0; 32].into(),
            uses: 2,
            uses_left: 1,
            not_after: 100,
            is_revoked: false,
            is_live: true,
            bound_device: None,
        };
        let of = |invite: &engine::InviteStatus| state_of(invite, 100);
        assert_eq!(of(&open), InviteState::Open);
        assert_eq!(state_of(&open, 101), InviteState::Expired);
        assert_eq!(of(&engine::InviteStatus { uses_left: 0, ..open.clone() }), InviteState::UsedUp);
        assert_eq!(of(&engine::InviteStatus { is_live: false, ..open.clone() }), InviteState::Void);
        let revoked = engine::InviteStatus { is_revoked: true, uses_left: 0, ..open };
        assert_eq!(of(&revoked), InviteState::Revoked);
    }
}
