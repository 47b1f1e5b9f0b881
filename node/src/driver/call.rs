//! Requests of commands.

use tracing::debug;

use super::enter::{answer_error, plan};
use super::node::Node;
use crate::control::protocol::{Reply, Request};
use crate::control::server::Call;
use crate::control::{self, Exit, Failure};

impl Node {
    /// Answers a request, or starts what will answer it.
    ///
    /// # Errors
    /// Only when the node cannot go on.
    pub(super) async fn on_call(&mut self, call: Call) -> anyhow::Result<()> {
        debug!(uid = call.caller.uid, pid = call.caller.pid, request = ?call.request, "asked");
        match self.answer(&call).await {
            Ok(Some(reply)) => {
                call.answer(reply);
            }
            Ok(None) => {}
            Err(error) => answer_error(&call, &error),
        }
        Ok(())
    }

    /// The reply, or `None` if it follows later.
    async fn answer(&mut self, call: &Call) -> anyhow::Result<Option<Reply>> {
        match &call.request {
            Request::Hello => Ok(Some(Reply::Hello(control::hello()?))),
            Request::Create(create) => self.create(call, create.clone()).await.map(Some),
            Request::Join(join) => self.join(call, join).await,
            Request::Attach { vpi } => {
                let vpi = self.vpis.get_mut(vpi).ok_or_else(|| {
                    Failure::new(Exit::NotFound, "the node has no such VPI", "see `vpi status`")
                })?;
                vpi.attach()?;
                Ok(Some(Reply::Done))
            }
            Request::Detach { vpi } => {
                let chosen = vpi.as_deref().map(|vpi| self.resolve_vpi(vpi)).transpose()?;
                let vpis = self.vpis.iter_mut().filter(|(id, _)| chosen.is_none_or(|chosen| **id == chosen));
                let plans = vpis
                    .map(|(_, vpi)| {
                        vpi.detach();
                        plan(&vpi.settings)
                    })
                    .collect();
                Ok(Some(Reply::Detached(plans)))
            }
            Request::Invite(invite) => self.invite(call, invite).await.map(|()| None),
            Request::Status { vpi, drops } => Ok(Some(Reply::Status(self.status(vpi.as_deref(), *drops)?))),
            Request::Ping { member, count } => {
                self.start_ping(call, member, *count)?;
                Ok(None)
            }
            Request::Shown { vpi } => {
                self.state.keys().remove_recovery(vpi)?;
                Ok(Some(Reply::Done))
            }
            Request::Device => {
                let id = self.state.keys().device()?.public().to_string();
                Ok(Some(Reply::Device { id }))
            }
            Request::Whois { alias } => Ok(Some(Reply::Who(self.whois(*alias)?))),
            Request::Why { member } => Ok(Some(Reply::Why(self.why(member)?))),
            Request::Netcheck { vpi, looks } => {
                Ok(Some(Reply::Netcheck(self.netcheck(vpi.as_deref(), *looks)?)))
            }
            Request::Exposures { vpi } => Ok(Some(Reply::Reachable(self.exposures(vpi.as_deref())?))),
            Request::Expose(expose) => self.expose(expose).map(Some),
            Request::Unexpose { vpi, service } => self.unexpose(vpi, *service).map(Some),
            Request::Policy { vpi, policy } => self.set_policy(vpi, *policy).map(Some),
            Request::Invites { vpi } => Ok(Some(Reply::Invites(self.list_invites(vpi)?))),
            Request::Remove(remove) => self.remove(call, remove).map(|()| None),
            Request::Revoke(revoke) => self.revoke(call, revoke).map(|()| None),
            Request::Leave { vpi } => self.leave(call, vpi),
            Request::Metrics => Ok(Some(Reply::Metrics(self.metrics()))),
        }
    }
}
