//! A value that must not be seen: passwords, and what is made of them.
//!
//! It has no `Display`, and its `Debug` says nothing, so that no log line, error or panic can show it by accident. Held
//! wherever a secret is.

use std::fmt;

#[derive(Clone, PartialEq, Eq)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The value, for the one place that sends it where it belongs.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_it_is_shown() {
        let shown = format!("{:?} {:#?}", Some(Secret::new("hunter2")), Secret::new(vec![7_u8]));
        assert_eq!(shown, "Some((secret)) (secret)");
    }
}
