//! `ensign run -c`: supervision by service files, with real processes.

mod given;
mod limp;
mod order;
mod refusals;
mod restarts;
mod stop;
mod traps;
mod waits;
