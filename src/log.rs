//! The log: tracing's subscriber, and a writer that never makes PID 1 wait for whoever reads stderr. A line that does
//! not fit is dropped and counted, and the count is told with the next line that does. Imports `sys` alone.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{Log, LogFormat, LogLevel};
use crate::sys::stderr::{ATOMIC, Stderr};

/// Sends every later log line to stderr. Only the first call of a process counts.
pub fn init(log: Log) {
    let level = match log.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let lines = tracing_subscriber::fmt().with_max_level(level).with_ansi(false).with_target(false);
    let lines = lines.with_writer(Output::default());
    // The standard hook writes to stderr and waits for room.
    std::panic::set_hook(Box::new(|panic| tracing::error!("internal error: {panic}")));
    // A second subscriber is refused; the first one goes on, which is what a second call asks for.
    let _first = match log.format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).try_init(),
    };
}

/// Stderr, opened with the first line: a good run wrapped around a command never gets here.
#[derive(Debug, Default)]
struct Output(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    stderr: Option<Stderr>,
    dropped: u64,
}

/// One line.
#[derive(Debug)]
struct Line<'a>(&'a Output);

impl<'a> MakeWriter<'a> for Output {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(self)
    }
}

impl Write for Line<'_> {
    /// Takes every line: a failure to write one is counted, not passed on, for nobody could do anything about it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut state = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let State { stderr, dropped } = &mut *state;
        let stderr = stderr.get_or_insert_with(Stderr::open);
        if *dropped > 0 {
            let note = format!("({dropped} log lines dropped: stderr was full)\n");
            if stderr.write(note.as_bytes()).is_ok() {
                *dropped = 0;
            }
        }
        let written = if line.len() <= ATOMIC {
            stderr.write(line)
        } else {
            let mut cut = line.get(..ATOMIC - 4).unwrap_or_default().to_vec();
            cut.extend_from_slice(b"...\n");
            stderr.write(&cut)
        };
        if written.is_err() {
            *dropped = dropped.saturating_add(1);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
