//! Waiting for a fact. The only place in the tests that lets time pass, and it never decides by time: there is one
//! deadline, far beyond what any fact needs, so that a loaded machine makes a test slow and not red.

use std::thread::sleep;
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(60);
/// Of a test that runs on its own elsewhere, with many such waits in it. Shorter than what the test runner allows it.
const TEST: Duration = Duration::from_secs(220);
const LONGEST_PAUSE: Duration = Duration::from_millis(5);

/// Asks `fact` until it has an answer; panics with `what` once the deadline has passed without one.
pub fn until<T>(what: &str, fact: impl FnMut() -> Option<T>) -> T {
    let mut pause = Duration::from_micros(50);
    ask(what, DEADLINE, fact, || {
        sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    })
}

/// As `until`, for the end of a whole test.
pub fn until_tested<T>(what: &str, fact: impl FnMut() -> Option<T>) -> T {
    ask(what, TEST, fact, || sleep(LONGEST_PAUSE))
}

/// As `until`, but burns a processor to notice the fact within microseconds: only for a race that a test looks for.
pub fn at_once<T>(what: &str, fact: impl FnMut() -> Option<T>) -> T {
    ask(what, DEADLINE, fact, std::hint::spin_loop)
}

/// As `until`, for a condition that has no answer but yes.
pub fn until_true(what: &str, mut fact: impl FnMut() -> bool) {
    until(what, || fact().then_some(()));
}

/// Looks at what must hold all through `span`, again and again; `look` asserts it.
pub fn all_through(span: Duration, mut look: impl FnMut()) {
    let started = Instant::now();
    while started.elapsed() < span {
        look();
        sleep(LONGEST_PAUSE);
    }
}

/// As `until`, where to ask takes an await.
pub async fn until_async<T>(what: &str, mut fact: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = fact().await {
            return answer;
        }
        assert!(started.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain for: {what}");
        tokio::time::sleep(LONGEST_PAUSE).await;
    }
}

/// A delay that is itself what a test is about, such as an answer that comes late. Never to wait for a fact.
pub fn be_late(by: Duration) {
    sleep(by);
}

/// As `be_late`.
pub async fn be_late_async(by: Duration) {
    tokio::time::sleep(by).await;
}

fn ask<T>(what: &str, deadline: Duration, mut fact: impl FnMut() -> Option<T>, mut pause: impl FnMut()) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = fact() {
            return answer;
        }
        assert!(started.elapsed() < deadline, "waited {deadline:?} in vain for: {what}");
        pause();
    }
}
