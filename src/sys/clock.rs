//! Tells when the system's clock is set: as where a machine goes on that was suspended, and time has passed that no
//! timer knows of. Costs a descriptor and no wake-up. Called by the event loop.

use std::future;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Since 1970: beyond the time of any machine, within that of the kernel.
const NEVER: Duration = Duration::from_secs(250 * 365 * 24 * 3600);

#[derive(Debug)]
pub struct Clock(AsyncFd<Timer>);

#[derive(Debug)]
struct Timer(TimerFd);

impl Clock {
    /// To be called where the event loop is that will wait.
    pub fn watch() -> io::Result<Self> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = Timer(TimerFd::new(ClockId::CLOCK_REALTIME, flags)?);
        timer.arm()?;
        // SAFETY: it owns its descriptor, which stays open and the same for as long as it lives.
        Ok(Self(unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) }?))
    }

    /// Waits until the clock is set; for ever where the kernel does not tell.
    pub async fn is_set(&self) {
        if let Err(error) = self.told().await {
            tracing::debug!("cannot watch the clock: {error}");
            future::pending().await
        }
    }

    async fn told(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            let timer = ready.get_inner();
            match timer.0.wait() {
                // It is never due: the clock was set, which to the library is an end like any other.
                Ok(()) => {
                    timer.arm()?;
                    ready.clear_ready();
                    return Ok(());
                }
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Timer {
    fn arm(&self) -> io::Result<()> {
        let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        Ok(self.0.set(Expiration::OneShot(NEVER.into()), flags)?)
    }
}

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}
