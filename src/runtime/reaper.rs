//! The only wait. Takes every child that has ended, ours and orphans alike, until there is none: a bound would leave
//! zombies, a timer would leave them for a while.

use crate::config::Signal;
use crate::machine::event::{Descendants, Ending};
use crate::sys::process::{self, Pid, Waited};

/// What one visit found.
#[derive(Debug)]
pub struct Reaped {
    pub ended: Vec<(Pid, Ending)>,
    pub stopped: Vec<Pid>,
    pub descendants: Descendants,
}

/// Reaps everything that has ended by now. `is_known` picks the children whose end matters to somebody, so that a
/// flood of orphans costs no memory.
pub fn reap(is_known: impl Fn(Pid) -> bool) -> Reaped {
    let mut reaped = Reaped { ended: Vec::new(), stopped: Vec::new(), descendants: Descendants::Some };
    loop {
        let (pid, ending) = match process::wait() {
            Waited::Exited { pid, code } => (pid, Ending::Code(code)),
            Waited::Killed { pid, signal } => (pid, Ending::Killed(Signal(signal))),
            Waited::Stopped { pid } => {
                reaped.stopped.push(pid);
                continue;
            }
            Waited::Nothing => return reaped,
            Waited::NoChildren => {
                reaped.descendants = Descendants::None;
                return reaped;
            }
        };
        if is_known(pid) {
            reaped.ended.push((pid, ending));
        }
    }
}
