//! `ensign ls --watch`: what is announced, and each change of it, until a signal ends it. The registry says that something
//! changed; what it is now is then read as `ls` reads it. Reads and prints, nothing else. Called by the command line.

use std::io::{self, IsTerminal, Write, stderr, stdout};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::changes::Known;
use super::screen::{Screen, View};
use super::{Format, table, warnings};
use crate::commands::check::registry_url;
use crate::config::{self, DnsName};
use crate::exit;
use crate::net::resolve::Resolver;
use crate::registry::{Listed, Registry, Seen};
use crate::sys::{signals, tty};

/// Renewals are no changes: how long records stay is read again after this long, where that is shown.
const REFRESH: Duration = Duration::from_secs(5);
/// And no sooner than after so many times as long as it takes, however large the registry is.
const SHARE: u32 = 10;
/// After a read that failed.
const AGAIN: Duration = Duration::from_secs(1);
/// What happens within so short a time is shown at once.
const AT_ONCE: Duration = Duration::from_millis(50);
/// Between two frames where nothing happens.
const FRAME: Duration = Duration::from_secs(1);

type News = Result<Vec<Listed>, String>;

/// What the registry's follower has said last.
#[derive(Debug)]
enum Heard {
    Nothing,
    Change,
    Lost(String),
}

/// Shows what is announced under `name`, or at all, until it is ended. Exit code 128+N for the signal N; 0 where nobody
/// reads it any more.
pub fn run(registry: &config::Registry, name: Option<&DnsName>, format: Format) -> ExitCode {
    let is_drawn = stdout().is_terminal()
        && format == Format::Table
        && std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb");
    if !is_drawn {
        // There is nothing to put back.
        signals::unblock_all();
    }
    match watch(registry, name, format, is_drawn.then(|| title(registry, name))) {
        Ok(code) => ExitCode::from(code),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            let _told = writeln!(stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn watch(
    registry: &config::Registry,
    name: Option<&DnsName>,
    format: Format,
    title: Option<String>,
) -> io::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        let registry = Registry::new(registry, Arc::new(Resolver::system())).map_err(io::Error::other)?;
        let (tell, news) = mpsc::unbounded_channel();
        let refresh = title.as_ref().map(|_| REFRESH);
        let show = async {
            match title {
                Some(title) => draw(title, news).await,
                None => print(format, news).await,
            }
        };
        tokio::select! {
            ended = show => ended,
            () = follow(&registry, name, refresh, tell) => Ok(exit::INTERNAL),
        }
    });
    // A look-up or a file system that is stuck must not keep us.
    runtime.shutdown_background();
    ended
}

fn title(registry: &config::Registry, name: Option<&DnsName>) -> String {
    let place = registry_url(registry);
    name.map_or(place.clone(), |name| format!("{} in {place}", name.as_str()))
}

/// Tells what is there at each change, and where `refresh` says so now and then. Ends only when nobody listens.
async fn follow(
    registry: &Registry,
    name: Option<&DnsName>,
    refresh: Option<Duration>,
    tell: mpsc::UnboundedSender<News>,
) {
    let (hear, mut heard) = watch::channel(Heard::Nothing);
    let told = |seen| {
        drop(hear.send_replace(match seen {
            Seen::Instances(_) => Heard::Change,
            Seen::Lost(reason) => Heard::Lost(reason),
        }));
    };
    let read = async {
        let mut next = refresh;
        loop {
            // Over without an answer: it is time to look all the same.
            let _heard = timeout(next.unwrap_or(Duration::MAX), heard.changed()).await;
            let lost = match &*heard.borrow_and_update() {
                Heard::Nothing => continue,
                Heard::Change => None,
                Heard::Lost(reason) => Some(reason.clone()),
            };
            let begun = Instant::now();
            let news = match lost {
                Some(reason) => Err(reason),
                None => registry.list(name).await.map_err(|error| error.to_string()),
            };
            let took = begun.elapsed();
            next = match &news {
                Ok(_) => refresh.map(|refresh| refresh.max(took * SHARE)),
                Err(_) => Some(AGAIN),
            };
            if tell.send(news).is_err() {
                return;
            }
            #[expect(
                clippy::disallowed_methods,
                reason = "so that what changes all the time is not read all the time"
            )]
            tokio::time::sleep(AT_ONCE.max(took)).await;
        }
    };
    tokio::select! {
        () = read => {}
        () = registry.changes(name, told) => {}
    }
}

/// A line for each change. Ends when it can't be written.
async fn print(format: Format, mut news: mpsc::UnboundedReceiver<News>) -> io::Result<u8> {
    let mut known = Known::default();
    let mut is_lost = false;
    while let Some(news) = news.recv().await {
        let listed = match news {
            Ok(listed) => listed,
            Err(reason) => {
                if !std::mem::replace(&mut is_lost, true) {
                    let _told = writeln!(stderr(), "warning: the registry can't be read: {reason}");
                }
                continue;
            }
        };
        if std::mem::take(&mut is_lost) {
            let _told = writeln!(stderr(), "note: the registry is read again");
        }
        let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let changes = known.take(listed);
        let lines = changes.iter().map(|change| match format {
            Format::Table => change.line(&time),
            Format::JsonLines => change.json(&time),
        });
        let lines: String = lines.collect();
        let mut out = stdout().lock();
        out.write_all(lines.as_bytes())?;
        out.flush()?;
    }
    Ok(exit::INTERNAL)
}

/// Draws the list until a signal ends it, and leaves it there as `ls` prints it.
async fn draw(title: String, mut news: mpsc::UnboundedReceiver<News>) -> io::Result<u8> {
    let signals = signals::Signals::open()?;
    let watched = signals.watch()?;
    let (mut known, mut view) = (Known::default(), View::new(title));
    let mut screen = Screen::enter()?;
    let mut numbers = Vec::new();
    let code = 'shown: loop {
        screen.draw(&view, Instant::now())?;
        tokio::select! {
            biased;
            ready = watched.readable() => {
                let mut ready = ready?;
                if signals.read(&mut numbers).is_err() {
                    ready.clear_ready();
                }
                for signal in numbers.drain(..) {
                    match signal {
                        libc::SIGINT | libc::SIGTERM | libc::SIGHUP | libc::SIGQUIT => {
                            break 'shown exit::SIGNAL_BASE.wrapping_add(u8::try_from(signal).unwrap_or(0));
                        }
                        libc::SIGTSTP if tty::is_job_of_a_shell() => {
                            drop(screen);
                            tty::stop_with_job()?;
                            screen = Screen::enter()?;
                        }
                        // The window has changed, or it is of no concern: drawn anew in any case.
                        _ => {}
                    }
                }
            }
            news = news.recv() => match news {
                Some(Ok(listed)) => {
                    let changes = known.take(listed);
                    view.take(known.all(), changes, Instant::now());
                }
                Some(Err(reason)) => view.lose(reason, Instant::now()),
                None => break exit::INTERNAL,
            },
            _ = timeout(FRAME, std::future::pending::<()>()) => {}
        }
    };
    drop(screen);
    let listed = known.all();
    stdout().write_all(table(&listed).as_bytes())?;
    stderr().write_all(warnings(&listed).as_bytes())?;
    Ok(code)
}
