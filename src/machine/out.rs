//! What the small machines of a service write to: the actions of this turn, in order, and what decisions need from
//! outside. Made by `mod.rs` for each step; holds nothing between steps.

use super::action::{Action, Change, Notice};
use super::time::Time;
use crate::config::ServiceId;

/// Where actions go while one service is at work, with what decisions need from outside.
pub struct Out<'a> {
    pub service: ServiceId,
    pub now: Time,
    pub rng: &'a mut fastrand::Rng,
    pub actions: &'a mut Vec<Action>,
}

impl Out<'_> {
    pub fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    pub fn tell(&mut self, change: Change) {
        self.actions.push(Action::Tell(Notice { service: Some(self.service), change }));
    }
}
