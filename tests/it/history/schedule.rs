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
    let mut steps: Vec<Step> = vec![];
    let count = generator.rng.usize(10..17);
    while steps.len() < count {
        let act = generator.draw();
        if generator.can(act) {
            let pause = generator.pause(steps.last().map(|(_, act)| *act));
            generator.note(act);
            steps.push((pause, act));
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
            (4, Act::Sicken(who)),
            (4, Act::Cure(who)),
            (2, Act::Freeze(who)),
            (4, Act::Thaw(who)),
            (1, Act::Stop(who)),
            (1, Act::Kill(who)),
            (2, Act::KillEtcd),
            (3, Act::StartEtcd),
            (1, Act::FreezeEtcd),
            (3, Act::ThawEtcd),
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

    /// Before the next act: mostly short, so that things meet; now and then long enough for what is wrong to be seen,
    /// above all when etcd has come back.
    fn pause(&mut self, after: Option<Act>) -> Duration {
        let back = matches!(after, Some(Act::StartEtcd | Act::ThawEtcd));
        let calm = self.rng.u8(0..if back { 2 } else { 12 }) == 0;
        let ms = match (calm, self.etcd) {
            (true, _) => 3500..5000,
            (false, Etcd::Up) => 0..[100, 700, 1500, 2500][self.rng.usize(0..4)],
            (false, Etcd::Down | Etcd::Frozen) => 0..[100, 700, 1000][self.rng.usize(0..3)],
        };
        Duration::from_millis(self.rng.u64(ms))
    }

    fn undo(&mut self) -> Vec<Act> {
        let both = |act: fn(Who) -> Act| [act(Who::A), act(Who::B)];
        let undoing = [Act::StartEtcd, Act::ThawEtcd].into_iter();
        let undoing = undoing.chain(both(Act::Thaw)).chain(both(Act::LoopOff)).chain(both(Act::Cure));
        undoing.filter(|act| self.can(*act)).collect()
    }
}
