//! Sets of time, as little as the checker needs of them. Pure.

use std::time::Duration;

/// A moment, counted from when the schedule began.
pub type At = Duration;

pub const FOREVER: At = Duration::from_secs(1 << 32);

/// From, to: in order, apart from each other, none of them empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spans(Vec<(At, At)>);

impl Spans {
    pub fn of(spans: impl IntoIterator<Item = (At, At)>) -> Self {
        let mut spans: Vec<_> = spans.into_iter().filter(|(from, to)| from < to).collect();
        spans.sort();
        let mut joined: Vec<(At, At)> = vec![];
        for (from, to) in spans {
            match joined.last_mut() {
                Some(last) if from <= last.1 => last.1 = last.1.max(to),
                Some(_) | None => joined.push((from, to)),
            }
        }
        Self(joined)
    }

    pub fn iter(&self) -> impl Iterator<Item = (At, At)> {
        self.0.iter().copied()
    }

    pub fn within(&self, other: &Self) -> Self {
        let both = |a: (At, At)| other.iter().map(move |b| (a.0.max(b.0), a.1.min(b.1)));
        Self::of(self.iter().flat_map(both))
    }

    pub fn without(&self, gaps: &Self) -> Self {
        self.within(&gaps.rest())
    }

    /// The one that holds this moment.
    pub fn around(&self, at: At) -> Option<(At, At)> {
        self.iter().find(|(from, to)| *from <= at && at < *to)
    }

    /// All of this is in one of them.
    pub fn hold(&self, from: At, to: At) -> bool {
        self.iter().any(|span| span.0 <= from && to <= span.1)
    }

    /// Some of this is.
    pub fn touch(&self, from: At, to: At) -> bool {
        self.iter().any(|span| span.0 <= to && from <= span.1)
    }

    /// All other time.
    fn rest(&self) -> Self {
        let begins = self.iter().map(|(_, to)| to);
        let ends = self.iter().map(|(from, _)| from);
        Self::of([Duration::ZERO].into_iter().chain(begins).zip(ends.chain([FOREVER])))
    }
}

#[test]
fn sets_of_time_are_joined_cut_and_left_out() {
    let spans = |of: &[(u64, u64)]| {
        Spans::of(of.iter().map(|(from, to)| (Duration::from_secs(*from), Duration::from_secs(*to))))
    };
    assert_eq!(spans(&[(5, 7), (1, 2), (2, 3), (6, 6)]), spans(&[(1, 3), (5, 7)]));
    let day = spans(&[(1, 10), (20, 30)]);
    assert_eq!(day.within(&spans(&[(0, 3), (9, 21)])), spans(&[(1, 3), (9, 10), (20, 21)]));
    assert_eq!(day.without(&spans(&[(0, 3), (9, 21)])), spans(&[(3, 9), (21, 30)]));
    assert_eq!(day.without(&spans(&[])), day);
    assert!(day.hold(Duration::from_secs(2), Duration::from_secs(10)));
    assert!(!day.hold(Duration::from_secs(2), Duration::from_secs(20)));
    assert!(day.touch(Duration::from_secs(12), Duration::from_secs(20)));
}
