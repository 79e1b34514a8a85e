//! What only the kernel can do, and the only home of `unsafe`. Imports nothing of ours: plain values in, plain values
//! or `io::Error` out.

pub mod clock;
pub mod process;
pub mod signals;
pub mod socket;
pub mod spawn;
pub mod splice;
pub mod stderr;
pub mod tty;
pub mod watch;
