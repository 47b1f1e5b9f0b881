//! `vpi ping`: one probe a second through a member's tunnel.

use std::time::{Duration, Instant};

use protocol::engine::{Command, MemberState, Ticket, Time};
use protocol::identity::{DeviceId, VpiId};

use super::node::Node;
use super::status::milliseconds;
use super::time;
use crate::control::protocol::{Pong, Reply};
use crate::control::server::Call;
use crate::control::status::PathKind;
use crate::control::{Exit, Failure};

/// The pause between two probes.
const EVERY: Duration = Duration::from_secs(1);
/// How long the first probe may take: the link may have to be made.
const FIRST_WITHIN: Duration = Duration::from_secs(5);
/// How long every other probe may take.
const WITHIN: Duration = Duration::from_secs(2);

/// A ping under way.
pub(super) struct PingJob {
    call: Call,
    vpi: VpiId,
    device: DeviceId,
    label: String,
    left: u32,
    step: Step,
}

enum Step {
    /// A probe is out.
    Asked { ticket: Ticket, sent_at: Instant, give_up_at: Instant },
    /// The next probe goes out then.
    Pause { until: Instant },
}

impl PingJob {
    /// When something is to be done about it.
    pub(super) fn due_at(&self) -> Instant {
        match self.step {
            Step::Asked { give_up_at, .. } => give_up_at,
            Step::Pause { until } => until,
        }
    }
}

impl Node {
    /// Starts to ping what was typed.
    pub(super) fn start_ping(&mut self, call: &Call, typed: &str, count: u32) -> Result<(), Failure> {
        let (vpi, device, label) = self.resolve_member(typed)?;
        if self.member_state(&vpi, &device) == Some(MemberState::Myself) {
            return Err(Failure::new(Exit::Usage, format!("{label} is this node"), "name another member"));
        }
        let (call, step) = (call.clone(), Step::Pause { until: time().now });
        self.pings.push(PingJob { call, vpi, device, label, left: count, step });
        Ok(())
    }

    /// Sends probes that are due and gives up those that took too long.
    pub(super) fn ping_due(&mut self, time: Time) {
        let mut jobs = std::mem::take(&mut self.pings);
        jobs.retain_mut(|job| {
            if time.now < job.due_at() {
                return true;
            }
            match job.step {
                Step::Asked { sent_at, .. } => self.on_probe_done(job, sent_at, None),
                Step::Pause { .. } => {
                    self.probe(job, time);
                    true
                }
            }
        });
        self.pings.append(&mut jobs);
    }

    /// A probe came back.
    pub(super) fn on_pong(&mut self, ticket: Ticket, rtt: Duration) {
        let mut jobs = std::mem::take(&mut self.pings);
        jobs.retain_mut(|job| match job.step {
            Step::Asked { ticket: asked, sent_at, .. } if asked == ticket => {
                self.on_probe_done(job, sent_at, Some(rtt))
            }
            Step::Asked { .. } | Step::Pause { .. } => true,
        });
        self.pings.append(&mut jobs);
    }

    fn probe(&mut self, job: &mut PingJob, time: Time) {
        let ticket = self.ticket();
        let is_up = self.path_kind(job).is_some();
        let give_up_at = time.now + if is_up { WITHIN } else { FIRST_WITHIN };
        job.step = Step::Asked { ticket, sent_at: time.now, give_up_at };
        if let Some(vpi) = self.vpis.get_mut(&job.vpi) {
            vpi.engine.handle_command(Command::Ping(ticket, job.device), time);
        }
    }

    /// Tells how a probe went; returns whether the ping goes on.
    fn on_probe_done(&self, job: &mut PingJob, sent_at: Instant, rtt: Option<Duration>) -> bool {
        let pong =
            Pong { member: job.label.clone(), rtt_ms: rtt.map(milliseconds), path: self.path_kind(job) };
        job.left = job.left.saturating_sub(1);
        let is_heard = job.call.answer(Reply::Pong(pong));
        if job.left == 0 {
            job.call.answer(Reply::Done);
        }
        job.step = Step::Pause { until: sent_at + EVERY };
        is_heard && job.left > 0
    }

    fn member_state(&self, vpi: &VpiId, device: &DeviceId) -> Option<MemberState> {
        self.vpis.get(vpi)?.engine.member_state(device, Instant::now())
    }

    /// By what kind of path the link is up, if it is.
    fn path_kind(&self, job: &PingJob) -> Option<PathKind> {
        match self.member_state(&job.vpi, &job.device)? {
            MemberState::Direct => Some(PathKind::Host),
            MemberState::Relayed => Some(PathKind::Relayed),
            MemberState::Carried => Some(PathKind::Carried),
            _ => None,
        }
    }
}
