//! What was done to two instances and to the registry, and what became of their record: all that the checker goes by,
//! and what a person reads when it has found something. Pure.

use std::fmt;

use ensign::config::Conflict;

use super::spans::At;

/// A moment that is known to lie between these.
#[derive(Clone, Copy, Debug)]
pub struct When {
    pub from: At,
    pub to: At,
}

/// What is done to an instance. Before `Started`, only `Sick`: it then is so from its first breath.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    Started,
    /// Its main process is killed, and comes back.
    Crashed,
    /// As `Crashed`, and so is each later run until `LoopOff`.
    LoopOn,
    LoopOff,
    /// Its check fails from now on.
    Sick,
    Well,
    /// With its main process.
    Frozen,
    Thawed,
    /// Nobody but itself can be reached.
    CutOff,
    Mended,
    Stopped,
    /// With its main process, and without a word.
    Killed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quorum {
    Lost,
    /// From here on whoever asks is answered. The time of each lease may have begun anew.
    Back,
}

/// From a start to the end that follows; what it announces is told from everybody else's.
#[derive(Clone, Debug)]
pub struct Life {
    pub name: String,
    pub value: String,
    pub conflict: Conflict,
    pub deeds: Vec<(When, Deed)>,
}

/// One change of the key that they share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When it was heard of, which is never before it was made, and soon after while a quorum answers.
    pub at: At,
    pub revision: u64,
    /// `None`: it is gone (deleted, revoked, or its time was up).
    pub value: Option<String>,
    /// 0 where there is none.
    pub lease: u64,
}

#[derive(Clone, Debug, Default)]
pub struct Timeline {
    pub lives: Vec<Life>,
    pub quorum: Vec<(When, Quorum)>,
    /// What else a person may want to know.
    pub notes: Vec<(When, String)>,
    pub changes: Vec<Change>,
    /// A key that is taken over is nobody's for so long at the most; where there is none, not for a moment.
    pub takeover: Option<At>,
    /// When the last look was taken.
    pub end: At,
}

impl Timeline {
    /// Whose value that is.
    pub fn owner(&self, value: &str) -> Option<&Life> {
        self.lives.iter().find(|life| life.value == value)
    }

    pub fn name_of<'a>(&'a self, value: &'a str) -> &'a str {
        self.owner(value).map_or(value, |life| &life.name)
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = vec![];
        for life in &self.lives {
            writeln!(f, "{} announces {}, conflict = {:?}", life.name, life.value, life.conflict)?;
            let told = |(when, deed): &(When, Deed)| (when.from, when.to, format!("{} {deed:?}", life.name));
            lines.extend(life.deeds.iter().map(told));
        }
        let told = |(when, quorum): &(When, Quorum)| (when.from, when.to, format!("quorum {quorum:?}"));
        lines.extend(self.quorum.iter().map(told));
        lines.extend(self.notes.iter().map(|(when, note)| (when.from, when.to, note.clone())));
        for Change { at, revision, value, lease } in &self.changes {
            let what = match value {
                Some(value) => format!("is {}, lease {lease:x}", self.name_of(value)),
                None => "is gone".to_owned(),
            };
            lines.push((*at, *at, format!("                    the record {what} (revision {revision})")));
        }
        lines.sort();
        for (from, to, what) in lines {
            let took = (to - from).as_millis();
            writeln!(f, "{:8.3} s +{took:<4} ms  {what}", from.as_secs_f64())?;
        }
        writeln!(f, "{:8.3} s           the end", self.end.as_secs_f64())
    }
}
