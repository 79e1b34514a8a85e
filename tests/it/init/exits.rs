//! What comes out is what main did: its exit code, 128+N for its death by signal N, 127 and 126 for what can't run.

use crate::support::namespace::{Place, Sandbox};
use crate::support::skip::{self, Need};
use crate::support::{acted, ensign, wrapped};

fn every_exit_code(place: Place) {
    for code in 0..=255 {
        let ended = Sandbox::new(place).run(wrapped(&["exit", &code.to_string()]));
        assert_eq!(ended.code, code, "{ended:?}");
    }
}

#[test]
fn every_exit_code_comes_out_as_pid_1() {
    if skip::without(Need::Namespaces) {
        return;
    }
    every_exit_code(Place::First);
}
