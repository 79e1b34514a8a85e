//! Moves the bytes of one connection, both ways, until both ends are done. What one end does the other sees: a
//! half-close stays one, a reset becomes a reset, a slow reader slows the writer. Never adds or loses a byte, and
//! never reads on while the other end has not taken what was read: one scratch buffer's worth or one pipe's in either
//! direction, and neither while nobody is blocked. Called by `connection`, on a relaying thread.
//!
//! Messages are copied through a scratch buffer that all connections of a thread share. A direction that fills it is
//! a stream and is spliced instead, through a pipe lent for just as long as bytes are in it; when its bursts get
//! small it is copied again, because two splices cost more than a small copy.

use std::cell::RefCell;
use std::io;
use std::time::{Duration, Instant};

use super::pipes::{self, Lent};
use super::side::Side;

const SCRATCH: usize = 64 << 10;

/// A stream whose bursts are smaller than this is one no more.
const SMALL: u32 = 16 << 10;

/// A direction that has moved this much lets the thread's other connections go first.
const TURN: usize = 1 << 20;

/// How long the bytes that a peer sent before its reset may take to get to a peer that does not read.
pub(super) const LAST_BYTES: Duration = Duration::from_secs(2);

thread_local! {
    /// Every read of the thread goes through this one; nothing stays in it between two.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// Both directions of a connection.
#[derive(Debug, Default)]
pub(super) struct Relay {
    up: Direction,
    down: Direction,
}

/// How many bytes each direction has moved in a turn.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Moved {
    pub(super) up: usize,
    pub(super) down: usize,
}

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing more until the kernel says so.
    Waits,
    /// As above, but not for ever: [`Relay::tire`] after [`LAST_BYTES`].
    WaitsSoLong,
    /// There is more; it's the others' turn.
    Over,
    /// Each side closed in its own time: closing both sockets is all that is left to do.
    Orderly,
    /// Both are to be reset.
    Broken,
}

/// How one direction came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The sender closed its side.
    Closed,
    /// The sender is gone (reset, or vanished); all that it sent was passed on.
    SenderGone,
    /// The receiver is gone.
    ReceiverGone,
}

/// What one look at a sender gave.
enum Step {
    /// Nothing, for now.
    Quiet,
    /// So many bytes: with the receiver, or held for it.
    Moved(usize),
}

/// Bytes that the receiver has not taken yet.
#[derive(Debug)]
enum Held {
    Bytes { bytes: Box<[u8]>, written: usize },
    Piped(Lent),
}

/// How a sender sends.
#[derive(Debug, Clone, Copy, Default)]
enum Pace {
    #[default]
    Messages,
    /// So many bytes have come since it last paused.
    Stream(u32),
}

/// What is left of a sender that has failed: nobody is at its end, but its last bytes are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Patience {
    #[default]
    Unlimited,
    /// Since then.
    Counted(Instant),
    Over,
}

#[derive(Debug, Default)]
struct Direction {
    pace: Pace,
    /// In a box: few connections ever wait for their receiver.
    held: Option<Box<Held>>,
    patience: Patience,
    end: Option<End>,
}

impl Relay {
    /// Moves both directions on as far as they go.
    pub(super) fn advance(&mut self, client: &mut Side, upstream: &mut Side) -> (Turn, Moved) {
        let (up, moved_up) = self.up.advance(client, upstream, self.down.end);
        let (down, moved_down) = self.down.advance(upstream, client, self.up.end);
        let turn = match (self.up.end, self.down.end) {
            (Some(End::Closed), Some(End::Closed)) => Turn::Orderly,
            // A receiver that is gone may have sent something before: that other direction goes on to its end.
            (None | Some(End::Closed | End::ReceiverGone), None)
            | (None, Some(End::Closed | End::ReceiverGone)) => up.or(down),
            (Some(_), Some(_)) | (Some(End::SenderGone), None) | (None, Some(End::SenderGone)) => {
                Turn::Broken
            }
        };
        (turn, Moved { up: moved_up, down: moved_down })
    }

    /// Takes note of a receiver that has not taken the last bytes of a sender that failed, and has had its time.
    pub(super) fn tire(&mut self, now: Instant) {
        for direction in [&mut self.up, &mut self.down] {
            if let Patience::Counted(since) = direction.patience
                && since + LAST_BYTES <= now
            {
                direction.patience = Patience::Over;
            }
        }
    }

    /// The client sends no more, and all that it sent was passed on.
    pub(super) fn has_sent_all(&self) -> bool {
        self.up.end.is_some()
    }

    /// Nothing is on its way through here, as far as the kernel has told.
    pub(super) fn is_quiet(&self, client: &Side, upstream: &Side) -> bool {
        let is_quiet = |direction: &Direction, from: &Side| {
            direction.held.is_none() && (direction.end.is_some() || !from.is_readable())
        };
        is_quiet(&self.up, client) && is_quiet(&self.down, upstream)
    }
}

impl Turn {
    /// Of two directions that both go on.
    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Over, _) | (_, Self::Over) => Self::Over,
            (Self::WaitsSoLong, _) | (_, Self::WaitsSoLong) => Self::WaitsSoLong,
            (Self::Waits | Self::Orderly | Self::Broken, _) => Self::Waits,
        }
    }
}

impl Direction {
    /// `other` is how the opposite direction ended, if it has.
    fn advance(&mut self, from: &mut Side, to: &mut Side, other: Option<End>) -> (Turn, usize) {
        let mut moved = 0;
        let mut turn = Turn::Waits;
        if self.end.is_none() {
            match self.pass(from, to, &mut moved) {
                Ok(passed) => turn = passed,
                Err(end) => {
                    self.held = None;
                    self.end = Some(pass_on(end, to, other));
                }
            }
        }
        // Half-closed, then gone: no read will tell.
        if self.end == Some(End::Closed) && other.is_none() && from.has_failed() {
            self.end = Some(End::SenderGone);
        }
        (turn, moved)
    }

    /// Passes on what there is, to the end of the direction (an error) or of its turn.
    fn pass(&mut self, from: &mut Side, to: &mut Side, moved: &mut usize) -> Result<Turn, End> {
        while *moved < TURN {
            if self.held.is_some() && !self.hand_over(to)? {
                return self.wait_for_receiver(from);
            }
            if !from.is_readable() {
                return Ok(Turn::Waits);
            }
            match self.step(from, to)? {
                Step::Quiet => {}
                Step::Moved(length) => *moved += length,
            }
        }
        Ok(Turn::Over)
    }

    /// Whether the receiver has taken all that was held for it.
    fn hand_over(&mut self, to: &mut Side) -> Result<bool, End> {
        let Some(held) = &mut self.held else { return Ok(true) };
        if !to.is_writable() {
            return Ok(false);
        }
        let before = held.left();
        held.write(to).map_err(|_| End::ReceiverGone)?;
        let left = held.left();
        // It reads, however slowly.
        if left < before {
            self.patience = Patience::Unlimited;
        }
        if left == 0 {
            self.held = None;
        }
        Ok(left == 0)
    }

    /// A sender that fails meanwhile ends the wait soon: else a receiver that never reads would hold a connection that
    /// nobody is at the other end of.
    fn wait_for_receiver(&mut self, from: &Side) -> Result<Turn, End> {
        match self.patience {
            Patience::Unlimited if from.has_failed() => {
                self.patience = Patience::Counted(Instant::now());
                Ok(Turn::WaitsSoLong)
            }
            Patience::Counted(_) => Ok(Turn::WaitsSoLong),
            Patience::Unlimited => Ok(Turn::Waits),
            Patience::Over => Err(End::SenderGone),
        }
    }

    /// Reads once, and writes as much of it as `to` takes now.
    fn step(&mut self, from: &mut Side, to: &mut Side) -> Result<Step, End> {
        let piped = match self.pace {
            Pace::Messages => None,
            Pace::Stream(_) if from.is_urgent() => None,
            Pace::Stream(burst) => pipes::lend().map(|pipe| (pipe, burst)),
        };
        match piped {
            Some((pipe, burst)) => self.splice(from, to, pipe, burst),
            None => BUFFER.with_borrow_mut(|buffer| self.copy(from, to, buffer)),
        }
    }

    fn copy(&mut self, from: &mut Side, to: &mut Side, buffer: &mut [u8]) -> Result<Step, End> {
        let length = match from.read(buffer).map_err(|_| End::SenderGone)? {
            None => return Ok(Step::Quiet),
            Some(0) => return Err(End::Closed),
            Some(length) => length,
        };
        self.pace = if length == buffer.len() { Pace::Stream(SMALL) } else { Pace::Messages };
        let written = to.write(&buffer[..length]).map_err(|_| End::ReceiverGone)?;
        if written < length {
            self.held = Some(Box::new(Held::Bytes { bytes: buffer[written..length].into(), written: 0 }));
        }
        Ok(Step::Moved(length))
    }

    fn splice(&mut self, from: &mut Side, to: &mut Side, mut pipe: Lent, burst: u32) -> Result<Step, End> {
        match from.fill(&mut pipe).map_err(|_| End::SenderGone)? {
            Some(0) => Err(End::Closed),
            Some(length) => {
                self.pace = Pace::Stream(burst.saturating_add(u32::try_from(length).unwrap_or(u32::MAX)));
                if !to.drain(&mut pipe).map_err(|_| End::ReceiverGone)? {
                    self.held = Some(Box::new(Held::Piped(pipe)));
                }
                Ok(Step::Moved(length))
            }
            None => {
                self.pace = if burst < SMALL { Pace::Messages } else { Pace::Stream(0) };
                Ok(Step::Quiet)
            }
        }
    }
}

impl Held {
    /// Writes until `to` takes no more.
    fn write(&mut self, to: &mut Side) -> io::Result<()> {
        match self {
            Self::Bytes { bytes, written } => *written += to.write(&bytes[*written..])?,
            Self::Piped(pipe) => drop(to.drain(pipe)?),
        }
        Ok(())
    }

    fn left(&self) -> usize {
        match self {
            Self::Bytes { bytes, written } => bytes.len() - written,
            Self::Piped(pipe) => pipe.held(),
        }
    }
}

/// Tells the receiver of a sender's close; `other` is how the opposite direction ended.
fn pass_on(end: End, to: &Side, other: Option<End>) -> End {
    match (end, other) {
        // The kernel tells of a reset once. It was told to a write of the other direction; the read then sees
        // an end that is no close.
        (End::Closed, Some(End::ReceiverGone)) => End::SenderGone,
        // The second of two: the socket itself is closed now.
        (End::Closed, Some(End::Closed)) => End::Closed,
        (End::Closed, Some(End::SenderGone) | None) => match to.close_write() {
            Ok(()) => End::Closed,
            Err(_) => End::ReceiverGone,
        },
        (End::SenderGone | End::ReceiverGone, _) => end,
    }
}
