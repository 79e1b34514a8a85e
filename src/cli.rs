//! The command line: argv to a [`Command`]. Reads nothing, decides nothing that a file may still say otherwise.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::config::{EnvLinks, LogFormat, LogLevel};

/// Where the service files are, when neither -c nor a command says otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/ensign";

const LS_HELP: &str = "\
Columns: the name, the instance, where it is, and how long its record stays unless it is renewed.

With --watch, on a terminal: the list, drawn anew as it changes. What has changed in the last 5 s is marked.
With --watch, into a pipe or a file: a line for each change, what is there at first included:
  2026-11-21T18:42:36.196Z + web.s.prod.example.com web-1 192.0.2.7:8087
  + has come    - is gone    ~ says something else now
With --watch --json: an object for each change, with `time` and `change` (added, removed, changed) in front.
Where the registry can't be read, stderr says so, and so it does when it is back.

Exit code: 0; 1 when the registry can't be read; with --watch 128+N for the signal N that ended it.";

/// A container init that supervises, links and announces.
#[derive(Debug, Parser)]
#[command(name = "ensign", version, args_conflicts_with_subcommands = true)]
#[command(
    after_help = "`ensign -- COMMAND` is `ensign run -- COMMAND`. Without -c it reads no file, not even in /etc/ensign."
)]
pub struct Cli {
    #[command(subcommand)]
    pub verb: Option<Verb>,
    #[command(flatten)]
    pub run: Run,
}

impl Cli {
    /// Understands `args`, the program's name first.
    pub fn understand(args: impl Iterator<Item = OsString>) -> Result<Self, clap::Error> {
        let args: Vec<OsString> = args.collect();
        match args.get(1) {
            // Nothing to understand: every wrapped container starts this way, and waits for it. Sparing the parser is
            // a tenth of the start and a fifth of the resident pages.
            Some(first) if first == "--" && args.len() > 2 => {
                let command = args.into_iter().skip(2).collect();
                Ok(Self { verb: None, run: Run { settings: Settings::default(), command } })
            }
            Some(_) | None => Self::try_parse_from(&args).map_err(|error| with_tip(error, &args)),
        }
    }
}

/// The likeliest slips have an answer of their own.
fn with_tip(mut error: clap::Error, args: &[OsString]) -> clap::Error {
    let Some(ContextValue::String(wrong)) = error.get(ContextKind::InvalidArg) else { return error };
    let is_verb = |word: &str| Cli::command().find_subcommand(word).is_some();
    let first = args.get(1).map(|first| first.to_string_lossy()).unwrap_or_default();
    let is_option = wrong.starts_with('-');
    let tip = match &*first {
        verb @ ("run" | "links") if !is_option => {
            format!("a file is given with `-c`: `ensign {verb} -c {wrong}`")
        }
        "check" if is_option && ["-c", "--config"].contains(&wrong.as_str()) => {
            "the path is given as it is: `ensign check web.toml`".to_owned()
        }
        verb if is_verb(verb) || is_option || error.kind() != ErrorKind::UnknownArgument => return error,
        _ if is_verb(wrong) => format!("options go after the verb: `ensign {wrong} …`"),
        _ => format!("a command is given after `--`: `ensign -- {wrong} …`; `ensign --help` shows the verbs"),
    };
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    error
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Be the init: start, supervise, link and announce until main ends
    Run(Run),
    /// Validate a service file or a directory of them and print every error
    Check {
        /// A service file, or a directory of them
        path: PathBuf,
        /// Connect to the links' upstreams and read what the registry has, too; nothing is written
        #[arg(long)]
        online: bool,
    },
    /// Show which links would be opened; start nothing
    Links {
        /// Show the link variables that main would see as well
        #[arg(long)]
        env: bool,
        /// Look up where each leads now; asks DNS and the registry
        #[arg(long)]
        resolve: bool,
        #[command(flatten)]
        settings: Settings,
    },
    /// List what is announced in the registry now
    #[command(after_help = LS_HELP)]
    Ls {
        /// Only this name and those below it
        name: Option<String>,
        /// Print JSON, one object a line
        #[arg(long)]
        json: bool,
        /// Go on and show each change as it happens, until ^C
        #[arg(long)]
        watch: bool,
        #[command(flatten)]
        settings: Settings,
    },
}

#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    pub settings: Settings,
    /// The main process and its arguments; replaces the file's command
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// What the command line may say in place of a file.
#[derive(Debug, Default, Args)]
pub struct Settings {
    /// A service file, or a directory of them [default: /etc/ensign, unless a command is given]
    #[arg(short, long, value_name = "PATH")]
    pub config: Option<PathBuf>,
    /// Which of Docker's link variables to open links for: all, none, or aliases by pattern
    #[arg(long, value_name = "all|none|PATTERN,…", value_parser = parse_links)]
    pub links: Option<EnvLinks>,
    /// The registry: etcd://HOST:PORT,… (v3), etcd2://… (v2), etcds://… or etcd2s://… (over TLS), or dir:PATH
    #[arg(long, value_name = "URL")]
    pub registry: Option<String>,
    /// How log lines are written [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<Format>,
    /// The least that is logged [default: info; without a file warn]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<Level>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Format {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl From<Format> for LogFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Text => Self::Text,
            Format::Json => Self::Json,
        }
    }
}

impl From<Level> for LogLevel {
    fn from(level: Level) -> Self {
        match level {
            Level::Error => Self::Error,
            Level::Warn => Self::Warn,
            Level::Info => Self::Info,
            Level::Debug => Self::Debug,
            Level::Trace => Self::Trace,
        }
    }
}

fn parse_links(text: &str) -> Result<EnvLinks, std::convert::Infallible> {
    Ok(match text {
        "all" => EnvLinks::All,
        "none" => EnvLinks::None,
        patterns => EnvLinks::Matching(patterns.split(',').map(str::to_owned).collect()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(args: &[&str]) -> Cli {
        Cli::understand(args.iter().map(OsString::from)).expect("valid arguments")
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_bare_double_dash_wraps_a_command() {
        for args in
            [&["ensign", "--", "a", "-b", "--", "c"][..], &["ensign", "run", "--", "a", "-b", "--", "c"]]
        {
            let cli = parse(args);
            let run = match cli.verb {
                Some(Verb::Run(run)) => run,
                Some(_) => panic!("another verb"),
                None => cli.run,
            };
            assert_eq!(run.command, ["a", "-b", "--", "c"]);
        }
    }

    #[test]
    fn a_command_named_like_a_verb_is_still_a_command() {
        let cli = parse(&["ensign", "--", "check", "run"]);
        assert!(cli.verb.is_none());
        assert_eq!(cli.run.command, ["check", "run"]);
    }

    #[test]
    fn likely_slips_get_an_answer() {
        for (typed, tip) in [
            ("sleep 1", "a command is given after `--`: `ensign -- sleep …`"),
            ("run web.toml", "a file is given with `-c`: `ensign run -c web.toml`"),
            ("links web.toml", "a file is given with `-c`: `ensign links -c web.toml`"),
            ("check -c web.toml", "the path is given as it is: `ensign check web.toml`"),
            ("-c web.toml links", "options go after the verb: `ensign links …`"),
            ("run --conf web.toml", "a similar argument exists: '--config'"),
        ] {
            let args = ["ensign"].into_iter().chain(typed.split(' ')).map(OsString::from);
            let error = Cli::understand(args).expect_err(typed).to_string();
            assert!(error.contains(&format!("tip: {tip}")), "{typed}: {error}");
        }
    }

    #[test]
    fn the_short_way_and_the_parser_agree() {
        let args = ["ensign", "--", "a", "--", "-b"];
        let parsed = Cli::try_parse_from(args).expect("valid arguments");
        assert_eq!(format!("{:?}", parse(&args)), format!("{parsed:?}"));
    }
}
