//! Pipes to splice through, lent while bytes flow. A user has a budget of pipe memory (64 MiB as a rule, for all of its
//! processes), so they are few, kept for the next when they come back empty, and closed when they come back with
//! somebody's bytes. Never blocks and never fails: without a pipe the relay copies. Called by `relay`.

use std::cell::{Cell, RefCell};
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::sys::splice::Pipe;

/// In bytes. What fits in here is moved with two system calls.
const SIZE: usize = 1 << 20;

/// In bytes. With less than this at a time, copying is as good.
const WORTHWHILE: usize = 64 << 10;

/// Of this process, lent ones included: what the budget of a user allows for when nobody else uses it.
pub(super) const MOST: usize = 64;

/// Kept by a thread while nobody needs them. They hold no bytes, but the budget counts them.
const MOST_SPARE: usize = 4;

/// A budget that is used up is asked again after this: a pipe may have been closed, by us or by somebody else.
const REFUSED_FOR: Duration = Duration::from_secs(1);

/// How many there are in this process.
static COUNT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static SPARE: RefCell<Vec<Counted>> = const { RefCell::new(Vec::new()) };
    static REFUSED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// A pipe that is in the count for as long as it exists.
#[derive(Debug)]
struct Counted(Pipe);

impl Drop for Counted {
    fn drop(&mut self) {
        COUNT.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Goes back when dropped.
#[derive(Debug)]
pub(super) struct Lent(Option<Counted>);

/// An empty pipe, if there is one to be had.
pub(super) fn lend() -> Option<Lent> {
    let spare = SPARE.with_borrow_mut(Vec::pop);
    spare.or_else(open).map(|pipe| Lent(Some(pipe)))
}

fn open() -> Option<Counted> {
    if REFUSED.get().is_some_and(|at| at.elapsed() < REFUSED_FOR) {
        return None;
    }
    let pipe = counted(SIZE).filter(|pipe| pipe.0.size() >= WORTHWHILE);
    REFUSED.set(pipe.is_none().then(Instant::now));
    pipe
}

fn counted(size: usize) -> Option<Counted> {
    let free = |count| (count < MOST).then_some(count + 1);
    COUNT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, free).ok()?;
    match Pipe::new(size) {
        Ok(pipe) => Some(Counted(pipe)),
        Err(_) => {
            COUNT.fetch_sub(1, Ordering::Relaxed);
            None
        }
    }
}

impl Deref for Lent {
    type Target = Pipe;

    fn deref(&self) -> &Pipe {
        &self.0.as_ref().expect("there until dropped").0
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut Pipe {
        &mut self.0.as_mut().expect("there until dropped").0
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(pipe) = self.0.take().filter(|pipe| pipe.0.held() == 0) else {
            return;
        };
        // Fails when the thread ends: then the pipe is closed.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < MOST_SPARE {
                spare.push(pipe);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use super::*;

    /// The count is the process's, and so these tests take turns.
    fn alone() -> MutexGuard<'static, ()> {
        static TURN: Mutex<()> = Mutex::new(());
        TURN.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spare() -> usize {
        SPARE.with_borrow(Vec::len)
    }

    #[test]
    fn an_empty_pipe_is_kept_for_the_next_and_one_with_bytes_is_not() {
        let _alone = alone();
        drop(lend().expect("a pipe"));
        assert_eq!(spare(), 1);
        let mut pipe = lend().expect("the same");
        assert_eq!(spare(), 0);
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let mut writer = TcpStream::connect(listener.local_addr().expect("bound")).expect("connect");
        writer.write_all(b"secret").expect("write");
        pipe.fill(&listener.accept().expect("accept").0).expect("filled");
        drop(pipe);
        assert_eq!(spare(), 0);
    }

    #[test]
    fn there_are_so_many_and_no_more_and_few_are_kept() {
        let _alone = alone();
        let lent: Vec<Lent> = std::iter::from_fn(lend).collect();
        // Fewer where this user's budget is used by others.
        assert!((1..=MOST).contains(&lent.len()), "{}", lent.len());
        assert!(lend().is_none());
        let most = lent.len();
        drop(lent);
        assert_eq!(spare(), most.min(MOST_SPARE));
        assert!(lend().is_some(), "a spare one is lent whatever was refused");
    }
}
