//! `ensign run -c`: supervision by service files, with real processes.

mod given;
mod given;
mod refusals;
