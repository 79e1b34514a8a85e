//! Both ends of a link, from any text: an answer, and never a panic. A place to listen at is shown as it can be written
//! again, and is in its own way.
#![no_main]

use ensign::config::{ListenAt, UnixSocket, Upstream, units};
use libfuzzer_sys::fuzz_target;

fn listen(text: &str) -> Option<ListenAt> {
    units::listen(text, |path| UnixSocket { path, mode: 0o600, owner: None }).ok()
}

fuzz_target!(|text: &str| {
    if let Some(at) = listen(text) {
        assert_eq!(listen(&at.to_string()).as_ref(), Some(&at));
        assert!(at.is_in_the_way_of(&at));
        assert_ne!(at.port(), Some(0));
    }
    if let Ok(to) = units::upstream(text) {
        assert_ne!(to.port(), Some(0));
        if let Upstream::Unix(path) = to {
            assert!(path.is_absolute());
        }
    }
    if let Ok(mode) = units::mode(text) {
        assert!(mode <= 0o777);
    }
    if let Some((user, rest)) = text.split_once('\n')
        && let Some((passwd, group)) = rest.split_once("\n\n")
    {
        let _owner = units::owner(user, passwd, group);
    }
});
