//! Tells when this machine has slept.
//!
//! While a machine sleeps its monotonic clock stands still, and timers with it: what happened meanwhile shows in
//! `CLOCK_BOOTTIME` alone. A timer that the kernel calls off whenever the wall clock is set, which it does on waking, says
//! when to look (timerfd_create(2), `TFD_TIMER_CANCEL_ON_SET`): nothing wakes for it in between.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::{Errno, read};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tracing::{debug, warn};

use super::sys;

/// Less than this is two clocks read one after the other (chosen).
const NAP: Duration = Duration::from_secs(1);
/// When the timer would fire: in the year 2200.
const NEVER_SECS: i64 = 7_258_118_400;

/// Watches for sleep.
pub(crate) struct WakeWatch {
    /// None where the kernel has no such timer.
    timer: Option<AsyncFd<OwnedFd>>,
    /// How long this machine has slept since it was started.
    slept: Duration,
}

impl WakeWatch {
    /// Begins to watch, on the caller's tokio runtime. Needs no right. Where the kernel lacks it, a warning says so.
    pub(crate) fn start() -> Self {
        let timer = timer().inspect_err(|error| warn!(%error, "that this machine slept goes unnoticed")).ok();
        Self { timer, slept: slept() }
    }

    /// Waits until this machine has slept, and returns for how long. A call that is given up loses nothing.
    pub(crate) async fn woke(&mut self) -> Duration {
        loop {
            let Some(timer) = &self.timer else { std::future::pending().await };
            if let Err(error) = called_off(timer).await {
                warn!(%error, "that this machine slept goes unnoticed from here on");
                self.timer = None;
                continue;
            }
            if let Some(nap) = self.look(slept()) {
                return nap;
            }
            debug!("the wall clock was set");
        }
    }

    /// Compares with what was known.
    fn look(&mut self, slept: Duration) -> Option<Duration> {
        let nap = slept.saturating_sub(self.slept);
        self.slept = slept;
        (nap >= NAP).then_some(nap)
    }
}

/// How long this machine has slept since it was started.
fn slept() -> Duration {
    let [boot, awake] = [ClockId::Boottime, ClockId::Monotonic].map(|clock| {
        let at = clock_gettime(clock);
        Duration::new(at.tv_sec.try_into().unwrap_or_default(), at.tv_nsec.try_into().unwrap_or_default())
    });
    boot.saturating_sub(awake)
}

fn timer() -> io::Result<AsyncFd<OwnedFd>> {
    let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
    let timer = timerfd_create(TimerfdClockId::Realtime, flags)?;
    arm(&timer)?;
    sys::watched(timer)
}

fn arm(timer: &OwnedFd) -> io::Result<()> {
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    let once = Itimerspec { it_interval: zero, it_value: Timespec { tv_sec: NEVER_SECS, tv_nsec: 0 } };
    let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
    timerfd_settime(timer, flags, &once)?;
    Ok(())
}

/// Waits until the timer is called off, and arms it again.
async fn called_off(timer: &AsyncFd<OwnedFd>) -> io::Result<()> {
    loop {
        let mut ready = timer.readable().await?;
        match ready.try_io(|timer| Ok(read(timer.get_ref(), &mut [0; 8])?)) {
            Ok(Err(error)) if Errno::from_io_error(&error) == Some(Errno::CANCELED) => {
                return arm(timer.get_ref());
            }
            Ok(Err(error)) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            Ok(_) => arm(timer.get_ref())?,
            Err(_would_block) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn who_does_not_sleep_is_not_woken() {
        let mut watch = WakeWatch::start();
        assert!(watch.timer.is_some(), "the kernel has such timers");
        assert!(timeout(Duration::from_millis(50), watch.woke()).await.is_err());
    }

    #[tokio::test]
    async fn only_what_the_boot_clock_gained_is_sleep() {
        let mut watch = WakeWatch::start();
        let before = watch.slept;
        assert_eq!(watch.look(before + NAP / 2), None);
        let after = before + NAP / 2 + Duration::from_secs(600);
        assert_eq!(watch.look(after), Some(Duration::from_secs(600)));
        assert_eq!(watch.look(after), None, "it is told once");
    }
}
