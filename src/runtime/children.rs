//! Which of our children is whose. A pid is entered in the turn that spawned it, before any wait can run, so that no
//! exit arrives for a pid that is not known yet.

use std::collections::HashMap;

use crate::config::ServiceId;
use crate::machine::event::{CheckId, ProbeId, Run};
use crate::sys::process::Pid;

/// What a child is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    Service { service: ServiceId, run: Run },
    Probe { service: ServiceId, check: CheckId, probe: ProbeId },
}

/// Every child that we started and have not reaped. Orphans are not in here.
#[derive(Debug, Default)]
pub struct Children(HashMap<Pid, Owner>);

impl Children {
    pub fn insert(&mut self, pid: Pid, owner: Owner) {
        self.0.insert(pid, owner);
    }

    pub fn remove(&mut self, pid: Pid) -> Option<Owner> {
        self.0.remove(&pid)
    }

    pub fn owner(&self, pid: Pid) -> Option<Owner> {
        self.0.get(&pid).copied()
    }

    pub fn pid(&self, owner: Owner) -> Option<Pid> {
        self.0.iter().find(|&(_, &of)| of == owner).map(|(&pid, _)| pid)
    }
}
