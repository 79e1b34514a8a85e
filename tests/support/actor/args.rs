//! The actor's own argument parsing: positions, `--flag` and `--option VALUE`, all of them bytes. Knows no sub-command.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::str::FromStr;

pub struct Args(VecDeque<OsString>);

impl Args {
    pub fn from_env() -> Args {
        Args(std::env::args_os().skip(1).collect())
    }

    pub fn next(&mut self) -> Option<OsString> {
        self.0.pop_front()
    }

    pub fn next_text(&mut self) -> Option<String> {
        self.next()?.into_string().ok()
    }

    /// The next position as a number; the actor ends with 2 where it is none.
    pub fn number<T: FromStr>(&mut self) -> T {
        number(&self.next().unwrap_or_default())
    }

    /// Takes `name` out, wherever it stands.
    pub fn flag(&mut self, name: &str) -> bool {
        let at = self.0.iter().position(|arg| arg == name);
        at.and_then(|at| self.0.remove(at)).is_some()
    }

    /// Takes `name` and its value out, wherever they stand.
    pub fn option(&mut self, name: &str) -> Option<OsString> {
        let at = self.0.iter().position(|arg| arg == name)?;
        self.0.remove(at);
        self.0.remove(at)
    }

    pub fn rest(self) -> Vec<OsString> {
        self.0.into()
    }
}

pub fn number<T: FromStr>(text: &OsStr) -> T {
    match text.to_string_lossy().parse() {
        Ok(number) => number,
        Err(_) => crate::fail(&format!("not a number: {text:?}")),
    }
}
