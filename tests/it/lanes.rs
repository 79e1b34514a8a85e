//! Links of the real binary, with real services behind them and real faults in the way. Black box: what a client sees,
//! what the kernel and the log tell. Most of it runs in a network of its own.

mod bytes;
mod crowds;
mod deaths;
mod moves;
mod services;
