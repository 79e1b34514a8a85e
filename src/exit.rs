//! Exit codes of `ensign run` and `ensign check`, one place for all of them. Imports nothing of ours.

/// Bad usage: the command line could not be understood.
pub const USAGE: u8 = 2;
/// What main needs can't be had (sysexits' EX_UNAVAILABLE): a link that it waits for was not reached in time;
/// `check --online` found something out of reach.
pub const UNAVAILABLE: u8 = 69;
/// An internal failure: ensign itself could not go on.
pub const INTERNAL: u8 = 70;
/// Bad configuration (sysexits' EX_CONFIG); nothing was started.
pub const CONFIG: u8 = 78;
/// The command was found but can't be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// The command was not found.
pub const NOT_FOUND: u8 = 127;
/// Added to the number of the signal that killed main.
pub const SIGNAL_BASE: u8 = 128;
