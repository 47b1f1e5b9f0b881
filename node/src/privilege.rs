//! Root for the set-up, none for the run.
//!
//! A node that root starts sets the machine up, then becomes the owner of its state folder, or the user it is told to be,
//! and keeps no capability either way: the running node needs none (its TUN devices belong to its user). To be called
//! while the process has one thread, because the kernel keeps these things for each thread.

use std::io;

use caps::CapSet;
use nix::unistd::{Gid, Uid, User, setgroups, setresgid, setresuid};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

use crate::store::state::Owner;

/// Why the node cannot run as the user it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrivilegeError {
    /// There is no such user.
    #[error("there is no user called {0}")]
    NoUser(String),
    /// The system refused.
    #[error("cannot give up root's privileges: {0}")]
    System(#[from] io::Error),
}

/// Says whether this process may change the machine.
pub(crate) fn is_root() -> bool {
    Uid::effective().is_root()
}

/// The ids of the user called `name`.
///
/// # Errors
/// [`PrivilegeError`].
pub(crate) fn user(name: &str) -> Result<Owner, PrivilegeError> {
    let user = User::from_name(name).map_err(io::Error::from)?;
    let user = user.ok_or_else(|| PrivilegeError::NoUser(name.to_owned()))?;
    Ok(Owner { user: user.uid.as_raw(), group: user.gid.as_raw() })
}

/// Becomes `owner`, for ever, without capabilities and without a way to new ones.
///
/// # Errors
/// [`PrivilegeError::System`].
pub(crate) fn give_up(owner: Owner) -> Result<(), PrivilegeError> {
    let (uid, gid) = (Uid::from_raw(owner.user), Gid::from_raw(owner.group));
    if is_root() {
        setgroups(&[gid]).map_err(io::Error::from)?;
        setresgid(gid, gid, gid).map_err(io::Error::from)?;
        clear(CapSet::Bounding)?;
        setresuid(uid, uid, uid).map_err(io::Error::from)?;
    }
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        clear(set)?;
    }
    rustix::thread::set_no_new_privs(true).map_err(io::Error::from)?;
    // Another user makes the kernel choose anew.
    Ok(keep_memory_private()?)
}

/// Sees to it that no core dump holds a key or a token, and that no other process of this user reads this one's memory.
///
/// # Errors
/// If the kernel refuses.
pub(crate) fn keep_memory_private() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

fn clear(set: CapSet) -> io::Result<()> {
    caps::clear(None, set).map_err(|error| io::Error::other(error.to_string()))
}
