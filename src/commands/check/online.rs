//! `ensign check --online`: what the files can't tell. Connects to the links' upstreams, reads the registry, and says
//! what would come of it; writes nothing anywhere, starts nothing, and ends in bounded time. Called by `check`, with a
//! configuration that is valid.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{links, records};
use crate::config::Config;
use crate::exit;
use crate::net::resolve::Resolver;

/// For all look-ups and attempts together.
pub const LIMIT: Duration = Duration::from_secs(10);

/// What one part of the world looks like, and what there is to say about it.
#[derive(Debug, Default)]
pub struct Section {
    /// Plain text, whole lines.
    pub text: String,
    pub findings: Vec<Finding>,
}

/// Something that the operator should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub weight: Weight,
    /// A lower-case fragment.
    pub text: String,
    pub hint: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// Something that is needed is out of reach, or would not be found.
    Error,
    Warning,
}

impl Finding {
    pub fn error(text: impl Into<String>) -> Self {
        Self { weight: Weight::Error, text: text.into(), hint: None }
    }

    pub fn warning(text: impl Into<String>) -> Self {
        Self { weight: Weight::Warning, text: text.into(), hint: None }
    }

    pub fn hint(self, hint: &'static str) -> Self {
        Self { hint: Some(hint), ..self }
    }
}

/// Writes what is there to `out`, errors and warnings to `err`; gives 0, or [`exit::UNAVAILABLE`] where there is an error.
pub fn run(config: &Config, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = writeln!(err, "error: cannot start: {error}");
            return exit::INTERNAL;
        }
    };
    let resolver = Arc::new(Resolver::system());
    let until = Instant::now() + LIMIT;
    let sections = runtime.block_on(async {
        let (links, records) = tokio::join!(
            links::look(config, std::env::vars_os(), &resolver, until),
            records::look(config, &resolver, until)
        );
        [links, records]
    });
    // A look-up or a file system that is stuck must not keep us.
    runtime.shutdown_background();
    for section in &sections {
        let _ = write!(out, "\n{}", section.text);
    }
    let _ = out.flush();
    let mut code = 0;
    for finding in sections.iter().flat_map(|section| &section.findings) {
        let level = match finding.weight {
            Weight::Error => {
                code = exit::UNAVAILABLE;
                "error"
            }
            Weight::Warning => "warning",
        };
        let _ = writeln!(err, "{level}: {}", finding.text);
        if let Some(hint) = finding.hint {
            let _ = writeln!(err, "hint: {hint}");
        }
    }
    code
}
