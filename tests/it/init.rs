//! The init's duties, each seen from outside with real processes: as PID 1 of namespaces of its own, and as a guest.
//! ENSIGN_BIN=/usr/bin/tini runs the same tests on a peer; what that can't do says so with `skip::as_a_peer`.

mod exits;
mod inheritance;
mod orphans;
mod places;
mod signals;
mod stdio;
mod terminal;
