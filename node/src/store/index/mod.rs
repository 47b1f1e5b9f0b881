//! The index: what can be rebuilt, kept by a process that lives only while it works.
//!
//! ```text
//! driver ──► Index: gathers ──► child ──► `vpi index-keeper`: keeper ──► database: sled 0.34
//! ```
//!
//! In: over which path a peer last answered, and the newest Presence of each device. Out: both after a restart, or
//! none. Nothing here is needed for correctness, and nothing from here is trusted: a Presence must verify again, and a
//! path is one to be tried.
//!
//! The node itself never opens sled, whose threads never end and wake every second. It starts its own binary once more,
//! as [`keeper`] tells, and does not wait for it. The first fact after a quiet time is handed over at once: a node that
//! is killed a moment later knows where to begin. Others gather while a keeper works, and for some seconds if there
//! are many. There is no timer while nothing waits to be written.

mod batch;
mod child;
mod database;
mod keeper;
mod message;

use std::collections::BTreeMap;
use std::future;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use protocol::engine::Time;
use protocol::identity::{DeviceId, VpiId};
use protocol::membership::object::{Body, Object};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{debug, warn};

use batch::Batch;
use child::ChildError;
use message::{Answer, Fact, Request};

pub(crate) use keeper::keep;
pub(crate) use message::{LastPath, LastPresence};

#[cfg(test)]
mod tests;

/// Devices remembered for each VPI: twice what the largest planned VPI has. The longest unseen go first.
pub(crate) const DEVICES_MAX: usize = 4_096;
/// Remotes remembered for each device: home, office, phone and one more. The longest unseen go first.
pub(crate) const REMOTES_MAX: usize = 4;

/// The command of this binary that [`keep`]s.
const KEEPER_COMMAND: &str = "index-keeper";
/// This binary, also when the file it was started from has been replaced.
const KEEPER: &str = "/proc/self/exe";
/// How long a keeper may take (chosen: it takes 30 ms, and waits 1 s for another that is on its way out).
const KEEPER_WITHIN: Duration = Duration::from_secs(5);
/// Requests to one keeper, at most: a batch, or one for each VPI.
const REQUESTS_MAX: usize = 1_024;

/// The time between two keepers while there is always something to write, and as much again by chance.
const PAUSE: Duration = Duration::from_secs(3);
/// How much of these pauses may be saved up: two to four keepers follow each other at once, as while others join.
const SAVED: Duration = Duration::from_secs(12);
/// The time after one that failed, and as much again by chance.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(15);
/// Failures in a row after which only something else to remember makes the next attempt.
const ATTEMPTS: u32 = 3;
/// A path that stays as it is gets its later time written this seldom: half of the time within which members are called
/// at a start.
const REFRESH_SECS: u64 = 300;

/// What is known about the members of a VPI from before.
#[derive(Debug, Default)]
pub(crate) struct Recalled {
    /// Where they answered, the most recent first.
    pub(crate) paths: Vec<LastPath>,
    /// Their newest Presences, each verified.
    pub(crate) presences: Vec<Object>,
}

/// The index as the node has it.
#[derive(Debug)]
pub(crate) struct Index {
    program: PathBuf,
    folder: PathBuf,
    recalled: BTreeMap<VpiId, Recalled>,
    waiting: Batch,
    /// The paths that were last handed over for writing, at most [`DEVICES_MAX`].
    known: BTreeMap<(VpiId, DeviceId), LastPath>,
    work: Work,
    /// More waits than later times of known paths, which may wait for something else.
    is_urgent: bool,
    /// The first path of a VPI waits, without which a node that is killed would know nobody: it waits for no pause.
    is_first: bool,
    /// No keeper starts before.
    not_before: Instant,
    /// The end of the pauses of all keepers so far.
    paused_until: Instant,
    failures: u32,
}

#[derive(Debug)]
enum Work {
    Idle,
    /// Something waits for a keeper to be started.
    Gathering {
        until: Instant,
    },
    /// A keeper runs.
    Writing {
        batch: Batch,
        child: JoinHandle<Result<Vec<Answer>, ChildError>>,
    },
}

impl Index {
    /// The index in `folder`; nothing is opened.
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self::kept_by(PathBuf::from(KEEPER), folder)
    }

    fn kept_by(program: PathBuf, folder: PathBuf) -> Self {
        Self {
            program,
            folder,
            recalled: BTreeMap::new(),
            waiting: Batch::default(),
            known: BTreeMap::new(),
            work: Work::Idle,
            is_urgent: false,
            is_first: false,
            not_before: Instant::now(),
            paused_until: Instant::now(),
            failures: 0,
        }
    }

    /// Has everything about `vpis` read by one keeper; without them, or one, nothing is known.
    pub(crate) async fn recall(&mut self, vpis: &[VpiId]) {
        let requests: Vec<_> = vpis.iter().take(REQUESTS_MAX).copied().map(Request::Recall).collect();
        if requests.is_empty() {
            return;
        }
        let most = requests.len() * DEVICES_MAX * (REMOTES_MAX + 1) + requests.len() + 1;
        let outcome = child::ask((&self.program, &self.folder), &requests, most, KEEPER_WITHIN).await;
        for answer in self.judge(outcome).unwrap_or_default() {
            match answer {
                Answer::Fact(Fact::Path(vpi, path)) => {
                    self.recalled.entry(vpi).or_default().paths.push(path);
                }
                Answer::Fact(Fact::Presence(vpi, known)) => match Object::open(&vpi, &known.object) {
                    Ok(object) => self.recalled.entry(vpi).or_default().presences.push(object),
                    Err(error) => debug!(%vpi, %error, "a remembered presence does not verify"),
                },
                Answer::SetAside(_) | Answer::Done | Answer::Unusable(_) => {}
            }
        }
    }

    /// Hands over what was recalled about `vpi`.
    pub(crate) fn take_recalled(&mut self, vpi: &VpiId) -> Recalled {
        self.recalled.remove(vpi).unwrap_or_default()
    }

    /// Remembers that a peer answered over a path.
    pub(crate) fn remember_path(
        &mut self,
        vpi: VpiId,
        (device, remote): (DeviceId, std::net::SocketAddr),
        time: Time,
    ) {
        let path = LastPath { device, remote, last_at: time.wall_ms / 1_000 };
        let key = (vpi, device);
        self.waiting.path(vpi, path);
        let is_known = self.known.get(&key).is_some_and(|known| {
            known.remote == remote && path.last_at.abs_diff(known.last_at) < REFRESH_SECS
        });
        if is_known {
            return;
        }
        if self.known.len() < DEVICES_MAX || self.known.contains_key(&key) {
            self.is_first |= !self.known.keys().any(|(of, _)| *of == vpi);
            self.known.insert(key, path);
        }
        self.gather(time.now);
    }

    /// Remembers a Presence; anything else is no concern of the index.
    pub(crate) fn remember_presence(&mut self, vpi: VpiId, object: &Object, time: Time) {
        let Body::Presence(presence) = object.body() else { return };
        let (device, counter) = (presence.device, presence.counter);
        let object = object.bytes().clone();
        self.waiting.presence(vpi, LastPresence { device, counter, last_at: time.wall_ms / 1_000, object });
        self.gather(time.now);
    }

    /// Forgets everything about a VPI.
    pub(crate) fn forget(&mut self, vpi: VpiId, now: Instant) {
        self.recalled.remove(&vpi);
        self.known.retain(|(of, _), _| *of != vpi);
        self.waiting.forget(vpi);
        self.gather(now);
    }

    /// When [`Index::on_time`] is to be called, if ever.
    pub(crate) fn due_at(&self) -> Option<Instant> {
        match self.work {
            Work::Gathering { until } => Some(until),
            Work::Idle | Work::Writing { .. } => None,
        }
    }

    /// Starts a keeper if it is time to. To be called on the runtime.
    pub(crate) fn on_time(&mut self, now: Instant) {
        if self.due_at().is_some_and(|due_at| now >= due_at) {
            self.write();
        }
    }

    /// Returns when a keeper has ended, and with none never. May be dropped and called again.
    pub(crate) async fn finished(&mut self) {
        let Work::Writing { child, .. } = &mut self.work else { return future::pending().await };
        let outcome = child.await.unwrap_or_else(|error| Err(ChildError::Start(error.into())));
        let Work::Writing { mut batch, .. } = std::mem::replace(&mut self.work, Work::Idle) else { return };
        let now = Instant::now();
        if self.judge(outcome).is_some() {
            self.paused_until = self.paused_until.max(now) + with_chance(PAUSE);
            self.not_before = self.paused_until.checked_sub(SAVED).unwrap_or(now);
        } else {
            self.not_before = now + with_chance(PAUSE_AFTER_FAILURE);
            // What came meanwhile is later.
            batch.extend(std::mem::take(&mut self.waiting));
            self.waiting = batch;
            self.is_urgent = true;
        }
        if self.is_urgent && self.failures < ATTEMPTS {
            self.work = Work::Gathering { until: self.next_at(now) };
        }
    }

    /// Writes what waits, within `limit`, and ends every keeper.
    pub(crate) async fn close(&mut self, limit: Duration) {
        let writing = async {
            if matches!(self.work, Work::Writing { .. }) {
                self.finished().await;
            }
            while !self.waiting.is_empty() && self.failures < ATTEMPTS {
                self.write();
                self.finished().await;
            }
        };
        if timeout(limit, writing).await.is_err() {
            debug!("the index was not written in time");
        }
        if let Work::Writing { child, .. } = &self.work {
            child.abort();
        }
    }

    /// Something is to be written.
    fn gather(&mut self, now: Instant) {
        self.is_urgent = true;
        match self.work {
            Work::Idle | Work::Gathering { .. } => self.work = Work::Gathering { until: self.next_at(now) },
            Work::Writing { .. } => {}
        }
    }

    /// When the next keeper may start.
    fn next_at(&self, now: Instant) -> Instant {
        let must_wait = !self.is_first || self.failures > 0;
        if must_wait { self.not_before.max(now) } else { now }
    }

    fn write(&mut self) {
        let batch = self.waiting.take(REQUESTS_MAX);
        self.is_first = false;
        self.is_urgent &= !self.waiting.is_empty();
        let requests = batch.requests();
        debug!(facts = requests.len(), "a keeper of the index starts");
        let (program, folder) = (self.program.clone(), self.folder.clone());
        let child = tokio::spawn(async move {
            child::ask((&program, &folder), &requests, MOST_NEWS, KEEPER_WITHIN).await
        });
        self.work = Work::Writing { batch, child };
    }

    /// The answers, after telling once what is wrong.
    fn judge(&mut self, outcome: Result<Vec<Answer>, ChildError>) -> Option<Vec<Answer>> {
        let answers = match outcome {
            Ok(answers) => answers,
            Err(cause) => {
                self.failures = self.failures.saturating_add(1);
                let (path, is_first) = (self.folder.display(), self.failures == 1);
                if is_first {
                    warn!(%path, %cause, "the index cannot be used; the node goes on without what it would remember");
                } else {
                    debug!(%path, %cause, "the index cannot be used");
                }
                return None;
            }
        };
        self.failures = 0;
        for answer in &answers {
            if let Answer::SetAside(path) = answer {
                warn!(%path, "the index was damaged and begins empty; it was set aside");
            }
        }
        Some(answers)
    }
}

/// What a keeper that writes has to tell: that the index was set aside, once at opening and once while writing.
const MOST_NEWS: usize = 2;

/// `least`, and up to as much again, so that nodes do not work in step.
fn with_chance(least: Duration) -> Duration {
    // Without randomness they may.
    let share = getrandom::u32().unwrap_or_default();
    least + least.mul_f64(f64::from(share) / f64::from(u32::MAX))
}
