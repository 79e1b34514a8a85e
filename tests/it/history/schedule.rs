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
    /// A member of etcd, as a power cut would.
    KillMember(usize),
    StartMember(usize),
    FreezeMember(usize),
    ThawMember(usize),
    /// Cuts a member off from the others.
    Isolate(usize),
    /// Cuts an instance off from all members.
    CutOff(Who),
    /// Mends every cut.
    Heal,
}

/// How many members etcd has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    One,
    Three,
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
    /// From etcd.
    cut_off: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Member {
    Up,
    Down,
    Frozen,
}

/// No act begins later than this, but for those that undo what was done.
const LONGEST: Duration = Duration::from_secs(20);

struct Generator {
    rng: fastrand::Rng,
    /// In pauses.
    spent: Duration,
    size: Size,
    instances: [Instance; 2],
    members: [Member; 3],
    isolated: Option<usize>,
}

/// Ends with all that was done undone but for the instances that are down: what is left is as it should be, in time.
pub fn schedule(seed: u64, size: Size) -> Vec<Step> {
    let mut generator = Generator {
        rng: fastrand::Rng::with_seed(seed),
        spent: Duration::ZERO,
        size,
        instances: Default::default(),
        members: [Member::Up; 3],
        isolated: None,
    };
    let mut steps: Vec<Step> = vec![];
    let count = generator.rng.usize(10..17);
    while steps.len() < count && generator.spent < LONGEST {
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
        let member = match self.size {
            Size::One => 0,
            Size::Three => self.rng.usize(0..3),
        };
        let cuts = u32::from(self.size == Size::Three);
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
            (2, Act::KillMember(member)),
            (3, Act::StartMember(member)),
            (1, Act::FreezeMember(member)),
            (3, Act::ThawMember(member)),
            (2 * cuts, Act::Isolate(member)),
            (cuts, Act::CutOff(who)),
            (2 * cuts, Act::Heal),
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
            Act::Start(who, ..) => !of(who).up && !of(who).cut_off,
            Act::Crash(who) => of(who).up && !of(who).looping && !of(who).crashed,
            Act::LoopOn(who) => of(who).up && !of(who).looping && !of(who).frozen,
            Act::LoopOff(who) => of(who).up && of(who).looping,
            Act::Sicken(who) => of(who).up && !of(who).sick,
            Act::Cure(who) => of(who).up && of(who).sick,
            Act::Freeze(who) => of(who).up && !of(who).frozen && !of(who).looping,
            Act::Thaw(who) => of(who).up && of(who).frozen,
            Act::Stop(who) => of(who).up && !of(who).frozen,
            Act::Kill(who) => of(who).up,
            Act::KillMember(member) | Act::FreezeMember(member) => self.members[member] == Member::Up,
            Act::StartMember(member) => self.members[member] == Member::Down,
            Act::ThawMember(member) => self.members[member] == Member::Frozen,
            Act::Isolate(_) => self.isolated.is_none(),
            Act::CutOff(who) => of(who).up && !of(who).cut_off,
            Act::Heal => self.isolated.is_some() || self.instances.iter().any(|i| i.cut_off),
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
            Act::Stop(who) | Act::Kill(who) => {
                set(who, |i| *i = Instance { cut_off: i.cut_off, ..Instance::default() });
            }
            Act::KillMember(member) => self.members[member] = Member::Down,
            Act::FreezeMember(member) => self.members[member] = Member::Frozen,
            Act::StartMember(member) | Act::ThawMember(member) => self.members[member] = Member::Up,
            Act::Isolate(member) => self.isolated = Some(member),
            Act::CutOff(who) => set(who, |i| i.cut_off = true),
            Act::Heal => {
                self.isolated = None;
                self.instances.iter_mut().for_each(|i| i.cut_off = false);
            }
        }
    }

    /// Before the next act: mostly short, so that things meet; now and then long enough for what is wrong to be seen,
    /// above all when etcd has come back, which is when what went wrong before it shows.
    fn pause(&mut self, after: Option<Act>) -> Duration {
        let back = matches!(after, Some(Act::StartMember(_) | Act::ThawMember(_) | Act::Heal));
        let calm = self.rng.u8(0..if back { 2 } else { 12 }) == 0;
        let well = self.members == [Member::Up; 3];
        let ms = match (calm, well) {
            (true, _) => 3500..5000,
            (false, true) => 0..[100, 700, 1500, 2500][self.rng.usize(0..4)],
            (false, false) => 0..[100, 700, 1000][self.rng.usize(0..3)],
        };
        let pause = Duration::from_millis(self.rng.u64(ms));
        self.spent += pause;
        pause
    }

    fn undo(&mut self) -> Vec<Act> {
        let both = |act: fn(Who) -> Act| [act(Who::A), act(Who::B)];
        let members = (0..3).flat_map(|member| [Act::StartMember(member), Act::ThawMember(member)]);
        let undoing = [Act::Heal].into_iter().chain(members);
        let undoing = undoing.chain(both(Act::Thaw)).chain(both(Act::LoopOff)).chain(both(Act::Cure));
        undoing.filter(|act| self.can(*act)).collect()
    }
}
