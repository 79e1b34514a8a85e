//! What is done when, drawn from a seed: the same seed is the same schedule. Knows what can be done to whom, and does
//! nothing.

use std::time::Duration;

use ensign::config::Conflict;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    A,
    B,
}

/// How an instance is at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Well,
    Sick,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Start(Who, Conflict, Health),
    Crash(Who),
    LoopOn(Who),
    LoopOff(Who),
    Sicken(Who),
    Cure(Who),
    Freeze(Who),
    Thaw(Who),
    Stop(Who),
    Kill(Who),
    /// Of etcd, as a power cut would.
    KillEtcd,
    StartEtcd,
    FreezeEtcd,
    ThawEtcd,
}

/// A pause, and what follows it.
pub type Step = (Duration, Act);

#[derive(Clone, Copy, Default)]
struct Instance {
    up: bool,
    frozen: bool,
    /// While it was frozen: there is nothing left to crash.
    crashed: bool,
    looping: bool,
    sick: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Etcd {
    Up,
    Down,
    Frozen,
}

struct Generator {
    rng: fastrand::Rng,
    instances: [Instance; 2],
    etcd: Etcd,
}

/// Ends with all that was done undone but for the instances that are down: what is left is as it should be, in time.
pub fn schedule(seed: u64) -> Vec<Step> {
    let mut generator =
        Generator { rng: fastrand::Rng::with_seed(seed), instances: Default::default(), etcd: Etcd::Up };
    let mut steps = vec![];
    let count = generator.rng.usize(9..14);
    while steps.len() < count {
        let act = generator.draw();
        if generator.can(act) {
            generator.note(act);
            steps.push((generator.pause(), act));
        }
    }
    for act in generator.undo() {
        steps.push((Duration::ZERO, act));
    }
    steps
}

impl Generator {
    fn draw(&mut self) -> Act {
        let who = if self.rng.bool() { Who::A } else { Who::B };
        let conflict = if self.rng.u8(0..3) == 0 { Conflict::Wait } else { Conflict::Take };
        let health = if self.rng.u8(0..4) == 0 { Health::Sick } else { Health::Well };
        let acts = [
            // What is drawn often is what is often impossible.
            (8, Act::Start(who, conflict, health)),
            (3, Act::Crash(who)),
            (2, Act::LoopOn(who)),
            (4, Act::LoopOff(who)),
            (3, Act::Sicken(who)),
            (4, Act::Cure(who)),
            (2, Act::Freeze(who)),
            (4, Act::Thaw(who)),
            (2, Act::Stop(who)),
            (2, Act::Kill(who)),
            (1, Act::KillEtcd),
            (4, Act::StartEtcd),
            (1, Act::FreezeEtcd),
            (4, Act::ThawEtcd),
        ];
        let mut ticket = self.rng.u32(0..acts.iter().map(|(weight, _)| weight).sum());
        for (weight, act) in acts {
            if ticket < weight {
                return act;
            }
            ticket -= weight;
        }
        unreachable!("the ticket is one of them")
    }

    fn can(&self, act: Act) -> bool {
        let of = |who: Who| self.instances[who as usize];
        match act {
            Act::Start(who, ..) => !of(who).up,
            Act::Crash(who) => of(who).up && !of(who).looping && !of(who).crashed,
            Act::LoopOn(who) => of(who).up && !of(who).looping && !of(who).frozen,
            Act::LoopOff(who) => of(who).up && of(who).looping,
            Act::Sicken(who) => of(who).up && !of(who).sick,
            Act::Cure(who) => of(who).up && of(who).sick,
            Act::Freeze(who) => of(who).up && !of(who).frozen && !of(who).looping,
            Act::Thaw(who) => of(who).up && of(who).frozen,
            Act::Stop(who) => of(who).up && !of(who).frozen,
            Act::Kill(who) => of(who).up,
            Act::KillEtcd | Act::FreezeEtcd => self.etcd == Etcd::Up,
            Act::StartEtcd => self.etcd == Etcd::Down,
            Act::ThawEtcd => self.etcd == Etcd::Frozen,
        }
    }

    fn note(&mut self, act: Act) {
        let mut set = |who: Who, change: fn(&mut Instance)| change(&mut self.instances[who as usize]);
        match act {
            Act::Start(who, _, Health::Well) => {
                set(who, |i| *i = Instance { up: true, ..Instance::default() })
            }
            Act::Start(who, _, Health::Sick) => {
                set(who, |i| *i = Instance { up: true, sick: true, ..Instance::default() });
            }
            Act::Crash(who) => set(who, |i| i.crashed = i.frozen),
            Act::LoopOn(who) => set(who, |i| i.looping = true),
            Act::LoopOff(who) => set(who, |i| i.looping = false),
            Act::Sicken(who) => set(who, |i| i.sick = true),
            Act::Cure(who) => set(who, |i| i.sick = false),
            Act::Freeze(who) => set(who, |i| i.frozen = true),
            Act::Thaw(who) => set(who, |i| (i.frozen, i.crashed) = (false, false)),
            Act::Stop(who) | Act::Kill(who) => set(who, |i| *i = Instance::default()),
            Act::KillEtcd => self.etcd = Etcd::Down,
            Act::FreezeEtcd => self.etcd = Etcd::Frozen,
            Act::StartEtcd | Act::ThawEtcd => self.etcd = Etcd::Up,
        }
    }

    /// Mostly short, so that things meet; now and then past a heartbeat.
    fn pause(&mut self) -> Duration {
        let most = [100, 700, 1500, 2500][self.rng.usize(0..4)];
        Duration::from_millis(self.rng.u64(0..most))
    }

    fn undo(&mut self) -> Vec<Act> {
        let both = |act: fn(Who) -> Act| [act(Who::A), act(Who::B)];
        let undoing = [Act::StartEtcd, Act::ThawEtcd].into_iter();
        let undoing = undoing.chain(both(Act::Thaw)).chain(both(Act::LoopOff)).chain(both(Act::Cure));
        undoing.filter(|act| self.can(*act)).collect()
    }
}
